"""Authlib, with a refresh token and without one."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial

from authlib.integrations.httpx_client import AsyncOAuth2Client

from .held import Client, Held
from .issuers import OAuth


@asynccontextmanager
async def opened(left, *, grant_type, **fields):
    async with OAuth() as service:
        service.life = left or 1
        async with AsyncOAuth2Client("id", "secret", token_endpoint=service.url, grant_type=grant_type) as client:
            await client.fetch_token(**fields)
            service.begin()

            async def ask():
                return (await client.get(f"{service.origin}/resource")).json()["token"]

            await asyncio.sleep(0 if left else 1.1)
            yield Held(ask, service)


CLIENTS = (
    Client(
        name="Authlib",
        variant=", refresh token",
        distribution="authlib",
        setup="`AsyncOAuth2Client` with the grant `password`, and nothing but the refresh token from then on, which is "
        "single-use; callers send a request that needs a token. It renews when 60 s are left.",
        windows=(45.0,),
        opened=partial(opened, grant_type="password", username="alice", password="secret"),
        reissues=False,
    ),
    Client(
        name="Authlib",
        variant=", client credentials",
        distribution="authlib",
        setup="the same with the grant `client_credentials`, where no refresh token is given.",
        windows=(45.0,),
        opened=partial(opened, grant_type="client_credentials"),
    ),
)
