"""An application's backend that hands out tokens: it answers by a script, and remembers who asked."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import format_datetime

import attrs
from aiohttp import web


@attrs.frozen
class Answer:
    """What is answered in place of a token."""

    status: int = 200
    body: object = None
    text: str | None = None
    headers: dict = attrs.field(factory=dict)


class Desk:
    """Answers `POST /token` with what `give` returns, a token and its end, unless its script has something else.

    Its clock is another one's, and `ahead` of it by so many seconds; without one, it does not say the time.
    """

    def __init__(self, give, clock, *, context=None):
        self.give, self.clock, self.ahead, self.says_time = give, clock, 0.0, True
        self.script, self.asked, self.bodies = [], [], []
        self._context, self._stack = context, AsyncExitStack()
        self._port = 0

    @property
    def url(self):
        return f"http{'s' if self._context else ''}://127.0.0.1:{self._port}/token"

    async def __aenter__(self):
        await self.open()
        return self

    async def __aexit__(self, *_):
        await self.close()

    async def open(self):
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._answer)
        app.on_response_prepare.append(self._date)
        runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
        self._stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=self._context).start()
        self._port = runner.addresses[0][1]

    async def close(self):
        await self._stack.aclose()

    async def _date(self, request, response):
        told = datetime.fromtimestamp(int(self.clock.wall() + self.ahead), UTC)
        # aiohttp adds the date where there is none: what cannot be read is as good as none.
        response.headers["Date"] = format_datetime(told, usegmt=True) if self.says_time else "today"

    async def _answer(self, request):
        self.asked.append(request)
        self.bodies.append(await request.json())
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Answer):
            if answer.text is not None:
                return web.Response(status=answer.status, text=answer.text, headers=answer.headers)
            return web.json_response(answer.body, status=answer.status, headers=answer.headers)
        token, ends = answer or await self.give()
        return web.json_response({"token": token, "expiry_at": int((ends + self.ahead) * 1000)})
