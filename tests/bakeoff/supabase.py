"""supabase_auth, against a server that treats refresh tokens as Supabase's does."""

import asyncio
import secrets
import time
from contextlib import asynccontextmanager

from aiohttp import web
from supabase_auth import AsyncGoTrueClient

from .held import Client, Held
from .issuers import Issuer

REUSE = 10.0  # seconds, as Supabase has it unless told otherwise
USER = {"id": "alice", "app_metadata": {}, "user_metadata": {}, "aud": "authenticated"}


class GoTrue(Issuer):
    """A used refresh token gives the active one for ten seconds, and for longer while it is that one's parent."""

    def __init__(self):
        super().__init__()
        self._active = self._parent = None
        self._used = {}

    async def grant(self, request):
        body = await request.json()
        if request.query["grant_type"] == "refresh_token" and not self._take(body["refresh_token"]):
            error = {"code": "refresh_token_already_used", "message": "Invalid Refresh Token: Already Used"}
            return web.json_response(error, status=400)
        if self._active is None:
            self._active = secrets.token_urlsafe(12)
        return web.json_response(
            {
                "access_token": self.issue(),
                "refresh_token": self._active,
                "token_type": "bearer",
                "expires_in": int(self.life),
                "expires_at": int(time.time() + self.life),
                "user": USER | {"created_at": "2026-01-01T00:00:00Z"},
            }
        )

    def refuse(self, status):
        return web.json_response({"code": "unexpected_failure", "message": "Unexpected failure"}, status=status)

    def _take(self, presented):
        if presented == self._active:
            self._parent, self._active = presented, secrets.token_urlsafe(12)
            self._used[presented] = time.monotonic()
            return True
        return presented == self._parent or time.monotonic() - self._used.get(presented, -REUSE) < REUSE


@asynccontextmanager
async def signed_in(life, *, timer):
    async with GoTrue() as service:
        service.life = life
        async with AsyncGoTrueClient(url=service.origin, auto_refresh_token=timer) as client:
            await client.sign_in_with_password({"email": "alice@example.com", "password": "secret"})
            service.begin()

            async def ask():
                return (await client.get_session()).access_token

            yield Held(ask, service)


@asynccontextmanager
async def opened(left):
    async with signed_in(left or 1, timer=False) as held:
        await asyncio.sleep(0 if left else 1.1)
        yield held


def timed():
    return signed_in(12, timer=True)


CLIENTS = (
    Client(
        name="supabase_auth",
        distribution="supabase-auth",
        setup="`AsyncGoTrueClient`, signed in with a password; callers await `get_session()`. It renews when 10 s are "
        "left. Its timer is on in the last probe, with a token of 12 s, and off in the others, where callers find a "
        "token that it did not renew, as after a suspend. The server forgives used refresh tokens for ten seconds, as "
        "Supabase's does.",
        windows=(8.0,),
        opened=opened,
        timed=timed,
    ),
)
