"""Token servers on 127.0.0.1, which count what they are asked and fail when told to."""

import asyncio
import secrets
from collections import deque
from itertools import repeat

from aiohttp import web

from .held import Fault

LONG = 3600.0


def now():
    """Return the event loop's time: it is real time, unless a test makes it another."""
    return asyncio.get_running_loop().time()


class Issuer:
    """What all of them have in common; a subclass says in `grant` what it answers.

    A token lives `life` seconds of the event loop's time. `resource` tells whoever asks which bearer token came.
    """

    def __init__(self):
        self.life = LONG
        self.requests = self.granted = 0
        self._delay = 0.0
        self._faults = deque()
        self._ends = {}
        self._app = web.Application()
        self._app.router.add_route("*", "/token", self._answer)
        self._app.router.add_get("/resource", self._show)
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self):
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    @property
    def origin(self):
        host, port = self._runner.addresses[0]
        return f"http://{host}:{port}"

    @property
    def url(self):
        return f"{self.origin}/token"

    def begin(self):
        """Count from here; tokens live long from now on."""
        self.requests = self.granted = 0
        self.life = LONG

    def accepts(self, token):
        return now() < self._ends.get(token, 0)

    def slow(self, seconds):
        self._delay = seconds

    def fail(self, fault, *, times):
        self._faults = deque([fault] * times) if times is not None else repeat(fault)

    def issue(self):
        """Make an access token."""
        token = secrets.token_urlsafe(24)
        self._ends[token] = now() + self.life
        return token

    async def grant(self, request):
        raise NotImplementedError

    def refuse(self, status):
        return web.json_response({"error": "server_error"}, status=status)

    def _next_fault(self):
        if isinstance(self._faults, deque):
            return self._faults.popleft() if self._faults else None
        return next(self._faults)

    async def _answer(self, request):
        self.requests += 1
        fault = self._next_fault()
        if fault in (Fault.ERROR, Fault.UNAVAILABLE):
            return self.refuse(int(fault.value))
        answer = await self.grant(request)  # from here on it has taken effect, whoever hears of it
        if fault is Fault.LOST:
            request.transport.abort()
            return answer
        if answer.status == 200:
            self.granted += 1
            await asyncio.sleep(self._delay)
        return answer

    async def _show(self, request):
        return web.json_response({"token": request.headers["Authorization"].removeprefix("Bearer ")})


class OAuth(Issuer):
    """The token endpoint of OAuth 2.0: a refresh token with all grants but the client's own.

    Refresh tokens are replaced and good for one use, as RFC 9700 wants it, unless `reusable`, as Google's are.
    """

    def __init__(self, *, reusable=False):
        super().__init__()
        self._reusable = reusable
        self._refresh_tokens = {"first"}

    async def grant(self, request):
        form = await request.post()
        kind, presented = form["grant_type"], form.get("refresh_token")
        body = {"access_token": self.issue(), "token_type": "Bearer", "expires_in": int(self.life)}
        if kind == "refresh_token" and presented not in self._refresh_tokens:
            return web.json_response({"error": "invalid_grant"}, status=400)
        if kind != "client_credentials" and not self._reusable:
            self._refresh_tokens.discard(presented)
            body["refresh_token"] = secrets.token_urlsafe(24)
            self._refresh_tokens.add(body["refresh_token"])
        return web.json_response(body)
