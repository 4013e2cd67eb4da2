"""What shows a held token to where it goes: at each event, and once a second."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from .waiting import wait_for

if TYPE_CHECKING:
    from signalwire_tokens.models import Token
    from signalwire_tokens.session import SubscriberSession

    from .telling import Teller

__all__ = ["SLIVER", "Feed", "Outlet", "greet", "pause_of"]

GLANCE = 1.0  # seconds between two looks
LEAST = 0.05
SLIVER = 0.5  # seconds: a token with less left is not worth reading


class Outlet(Protocol):
    """Where a token goes."""

    async def put(self, token: Token | None, left: float, teller: Teller) -> bool:
        """Take the token at hand, which is live for so many seconds; tell whether it is where it is to be."""
        ...


def pause_of(left: float) -> float:
    """Say how long to wait before the next look, where nothing happens: not beyond a token's last moment."""
    return max(LEAST, min(GLANCE, left - SLIVER)) if left > SLIVER else GLANCE


class Feed:
    """Shows an outlet the token of a session, from before that is open to when it is closed."""

    def __init__(self, outlet: Outlet, teller: Teller) -> None:
        self._outlet, self._teller = outlet, teller
        self._session: SubscriberSession | None = None
        self._news = asyncio.Event()
        self._over = False
        self._failure: type[Exception] | None = None
        self.shown: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    def follow(self, session: SubscriberSession) -> None:
        """Show the token of this session from now on."""
        self._session = session
        session.subscribe(lambda _: self._news.set())
        self._news.set()

    def finish(self) -> None:
        """Show what there is once more, and be done."""
        self._over = True
        self._news.set()

    async def _run(self) -> None:
        over = False
        while not over:
            over = self._over
            self._news.clear()
            session = self._session
            token, left = (
                (None, 0.0) if session is None else (session.pair.access_token, session.expires_in.total_seconds())
            )
            if await self._put(token if left > SLIVER else None, left):
                self.shown.set()
            if not over:
                await wait_for(self._news, pause_of(left))

    async def _put(self, token: Token | None, left: float) -> bool:
        try:
            is_there = await self._outlet.put(token, left, self._teller)
        except Exception as error:  # noqa: BLE001 - no descriptors, no threads: it may pass, and is tried again
            if type(error) is not self._failure:
                kind = type(error).__name__
                self._teller.note("failed", f"{kind}: it is tried again", error=kind)
            self._failure = type(error)
            return False
        self._failure = None
        return is_there


async def greet(feeds: list[Feed]) -> None:
    """Tell systemd that the command is ready, once the first token is where it is to be."""
    for feed in feeds:
        await feed.shown.wait()
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.sendto(b"READY=1", place.replace("@", "\0", 1) if place.startswith("@") else place)
