"""The public interface of a realtime connection."""

from __future__ import annotations

import asyncio
import os
import warnings
from contextlib import suppress
from contextvars import copy_context
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from signalwire_tokens._version import __version__
from signalwire_tokens.clock import timer_of
from signalwire_tokens.durations import Duration, positive_seconds, spoken
from signalwire_tokens.errors import ConfigurationError, InvalidRequest, RealtimeError
from signalwire_tokens.gateway import OWN_METHODS, Gateway
from signalwire_tokens.keeper import TokenSession, engine_of
from signalwire_tokens.keeper.closing import wait_for_subscribers
from signalwire_tokens.keeper.events import Listener
from signalwire_tokens.secret import Secret

from .link import Inbox, Link, PendingCall, interrupted
from .sockets import Route
from .values import RealtimeChange, RealtimeState

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime

    from signalwire_tokens.errors import SignalWireTokenError

    from .values import LossCause, RealtimeEvent, RealtimeObserver

__all__ = ["RealtimeConnection", "observe"]

AGENT = f"signalwire-tokens/{__version__}"


class RealtimeConnection:
    """A connection to SignalWire's realtime gateway, which outlives the tokens of its session.

    ::

        async with RealtimeConnection(session) as connection:
            print(await connection.call("subscriber.online"))
            async for event in connection.events():
                print(event.type)

    While it is open, it presents each new token of the session, answers pings, acknowledges events, and connects again
    when it was lost. If the session can't renew its token, the connection goes on as long as the gateway lets it.

    `session` is an open session of any kind. The connection doesn't close it, and closes when the session does.
    `host` is the gateway's host or URL; None means the host that the token names. `ssl` and `proxy` are as for
    `TokenClient`. Many connections can share the connector of an `http_session`, which isn't closed. Give it
    `limit=0`, since each connection takes one of its places. `agent` names your app to SignalWire; None names this
    library.

    `call_timeout` is how long a call waits for its answer, and `connect_timeout` how long `start` waits for the first
    connection. `events()` has the latest `buffer_size` events that your app hasn't read.

    Raises `ConfigurationError` if an argument is wrong.
    """

    __slots__ = ("__weakref__", "_call_timeout", "_connect_timeout", "_http", "_link", "_process")

    def __init__(
        self,
        session: TokenSession,
        *,
        host: str | None = None,
        ssl: tls.SSLContext | None = None,
        proxy: str | None = None,
        http_session: aiohttp.ClientSession | None = None,
        agent: str | None = None,
        call_timeout: Duration = 10.0,
        connect_timeout: Duration = 30.0,
        buffer_size: int = 1000,
    ) -> None:
        hidden_proxy = Secret(proxy)
        del proxy
        if not isinstance(session, TokenSession):
            raise ConfigurationError(f"session must be a session, not {type(session).__name__}")
        if http_session is not None and not isinstance(http_session, aiohttp.ClientSession):
            raise ConfigurationError(
                f"http_session must be an aiohttp.ClientSession, not {type(http_session).__name__}"
            )
        check_size(buffer_size)
        route = Route.of(host, ssl, hidden_proxy)
        self._call_timeout: float = positive_seconds("call_timeout", call_timeout)
        self._connect_timeout: float = positive_seconds("connect_timeout", connect_timeout)
        self._http = http_session
        self._process: int = os.getpid()
        prove: Callable[[str], str | None] = getattr(session, "rpc_proof", lambda _: None)
        self._link: Link = Link(session, Gateway(AGENT if agent is None else agent, prove), route, Inbox(buffer_size))

    @property
    def session(self) -> TokenSession:
        """The session whose tokens the connection presents."""
        return self._link.session

    @property
    def state(self) -> RealtimeState:
        """The state of the connection at this moment."""
        return self._link.state

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """Why the connection was lost, couldn't be made, or was given up; None while it works, or if it was closed."""
        return self._link.last_error

    @property
    def connected_since(self) -> datetime | None:
        """When the current connection was made; None if there is none."""
        return self._link.connected_since

    @property
    def reauthenticated(self) -> int:
        """The number of new tokens that the gateway has accepted on open connections."""
        return self._link.reauthenticated

    @property
    def losses(self) -> Mapping[LossCause, int]:
        """The number of lost connections and failed attempts, by their cause."""
        return MappingProxyType(self._link.losses)

    @property
    def ice_servers(self) -> tuple[dict[str, Any], ...]:
        """The servers for WebRTC that the gateway named when the connection was made. They hold credentials."""
        return self._link.ice_servers

    async def start(self) -> Self:
        """Open the connection, and return once it is connected. `async with` calls this.

        Raises `RealtimeError` if it isn't connected in time, and closes it. If you cancel the call, it closes, too. A
        connection can be opened only once.
        """
        link = self._link
        engine_of(link.session).check_place()
        if link.task is not None:
            raise RealtimeError(f"{link.label}: opened before: create another RealtimeConnection")
        if self._http is not None and self._http.closed:
            raise ConfigurationError("the aiohttp.ClientSession given as http_session is closed: keep it open")
        link.change(RealtimeChange(state=RealtimeState.CONNECTING))
        work = link.run(self._http)
        link.task = timer_of(link.clock).run(work, f"keep the {link.label}", copy_context())
        try:
            await self.wait_connected(self._connect_timeout)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Close the connection. `async with` calls this. The session stays open.

        From the first moment on, calls raise `RealtimeError`, and those under way are interrupted. This waits until the
        gateway has confirmed the end, for four seconds at most, and then as long for your callbacks.
        """
        link = self._link
        if link.task is not None:
            engine_of(link.session).check_place()
            link.stop()
            await asyncio.wait([link.task])
            tasks = {one.task for one in link.listeners if one.task is not None}
            await wait_for_subscribers(tasks - {asyncio.current_task()})

    async def wait_connected(self, timeout: Duration | None = None) -> None:  # noqa: ASYNC109 - by the session's clock
        """Return once the connection is connected.

        Raises `RealtimeError` if it isn't within `timeout`, or if it is closed or given up. Its cause is the reason.
        """
        link = self._link
        engine_of(link.session).check_place()
        seconds = None if timeout is None else positive_seconds("timeout", timeout)
        over = asyncio.Event()

        def end() -> None:
            over.set()
            link.wake()

        alarm = None if seconds is None else link.clock.call_later(seconds, end)
        try:
            while link.state is not RealtimeState.CONNECTED:
                self._check_open()
                if over.is_set():
                    error = RealtimeError(f"{link.label}: not connected within {spoken(seconds or 0.0)}")
                    error.__cause__ = link.last_error
                    raise error
                await link.news.wait()
        finally:
            if alarm is not None:
                alarm.cancel()

    async def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109 - by the session's clock
    ) -> Any:  # noqa: ANN401 - any JSON
        """Call a method of the gateway, and return its result.

        Raises `CallRefused` if the gateway answers with an error. Raises `CallInterrupted` if no answer arrives within
        `timeout`, or if the connection is lost or isn't there. Its `sent` says whether the call may have had an effect.
        Nothing is sent again by itself. If you cancel the call, a late answer is ignored.
        """
        link, clock = self._link, self._link.clock
        content = Secret(params)
        del params
        check_call(method, content)
        seconds = self._call_timeout if timeout is None else positive_seconds("timeout", timeout)
        message = None
        with suppress(TypeError, ValueError, RecursionError):
            message = link.gateway.call(method, content.value or {})
        if message is None:
            raise InvalidRequest("params must be JSON: strings, finite numbers, lists and dicts")
        self._check_open()
        if link.state is not RealtimeState.CONNECTED or link.line is None:
            raise interrupted(method, "not connected; await wait_connected() first", sent=False)
        call = PendingCall(method, asyncio.get_running_loop().create_future())
        link.calls[str(message.call_id)] = call
        late = f"no answer within {spoken(seconds)}"
        alarm = clock.call_later(seconds, lambda: call.interrupt(late))
        link.send(message)
        try:
            return await call.answer
        finally:
            alarm.cancel()
            link.calls.pop(str(message.call_id), None)

    async def _events(self) -> AsyncIterator[RealtimeEvent]:
        link = self._link
        while True:
            engine_of(link.session).check_place()
            event = link.inbox.take()
            if event is not None:
                yield event
            elif link.state is RealtimeState.CLOSED and link.task is not None:
                return
            else:
                self._check_open()
                await link.news.wait()

    def events(self) -> AsyncIterator[RealtimeEvent]:
        """Yield each event once, in the order of its arrival. This includes those that came before the call.

        The connection buffers events that your app hasn't read. If the buffer is full, the oldest event is dropped, and
        the next one says how many are `missed`. The iteration ends when the connection is closed. It raises
        `RealtimeError` if the connection is given up; `__cause__` is the reason. Several iterations share the events.
        """
        return self._events()

    def subscribe(self, callback: Callable[[RealtimeChange], object]) -> Callable[[], None]:
        """Call `callback` with each `RealtimeChange` from now on, and return a function that ends the subscription.

        The callback may be async. It gets the changes in order, one at a time. If it raises, the exception is logged.
        """
        link = self._link
        if not callable(callback):
            raise TypeError(f"callback must be a function that takes a RealtimeChange, not {type(callback).__name__}")
        listener = Listener(callback)
        link.listeners = (*link.listeners, listener)

        def unsubscribe() -> None:
            link.listeners = tuple(one for one in link.listeners if one is not listener)
            listener.forget(lambda: None)

        return unsubscribe

    def _check_open(self) -> None:
        """Raise if the connection isn't open, was given up, or belongs to another process or event loop."""
        link = self._link
        engine_of(link.session).check_place()
        if link.state is RealtimeState.FAILED and link.last_error is not None:
            raise RealtimeError(f"{link.label}: given up") from link.last_error
        if link.task is None:
            raise RealtimeError(f"{link.label}: not open: use `async with`, or call start()")
        if link.state is RealtimeState.CLOSED:
            raise RealtimeError(f"{link.label}: closed: create another RealtimeConnection") from link.last_error

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<RealtimeConnection of session {engine_of(self._link.session).label} {self.state.value}>"

    def __del__(self) -> None:
        link = getattr(self, "_link", None)  # the constructor may have raised
        if link is None or link.task is None or link.task.done() or self._process != os.getpid():
            return
        warnings.warn(
            f"unclosed {self!r}: use `async with`, or await its aclose()", ResourceWarning, stacklevel=2, source=self
        )
        link.drop()


def check_size(buffer_size: object) -> None:
    """Raise `ConfigurationError` if a buffer can't have this size."""
    if not isinstance(buffer_size, int) or buffer_size < 1:
        raise ConfigurationError("buffer_size must be a whole number, and at least 1")


def check_call(method: object, params: Secret[Any]) -> None:
    """Raise `InvalidRequest` if a call can't be sent."""
    if not isinstance(method, str) or not method:
        raise InvalidRequest("method must be the name of a method, such as 'subscriber.online'")
    if method in OWN_METHODS:
        raise InvalidRequest(f"{method} is sent by the connection itself")
    if params.value is not None and not isinstance(params.value, dict):
        raise InvalidRequest(f"params must be a dict, not {type(params.value).__name__}")


def observe(connection: RealtimeConnection, observer: RealtimeObserver) -> None:
    """Call an observer's methods from now on, unless the connection calls them already."""
    link = connection._link  # noqa: SLF001 - the one place outside of the class that reads it
    if observer not in link.observers:
        link.observers = (*link.observers, observer)
