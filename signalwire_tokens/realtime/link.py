"""The inner side of a realtime connection: its state, its task, and what it does for the gateway's state machine."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import aiohttp
import attrs

from signalwire_tokens.client.observing import tolerate
from signalwire_tokens.client.reasons import network_reason, system_error
from signalwire_tokens.clock import moment_in, timer_of
from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import (
    CallInterrupted,
    CallRefused,
    RealtimeError,
    SessionClosed,
    SessionError,
    SessionExpired,
    SignalWireTokenError,
)
from signalwire_tokens.gateway import (
    Answered,
    Connected,
    Deliver,
    Gateway,
    Invalidate,
    LossCause,
    Lost,
    NotReauthenticated,
    RealtimeEvent,
    Reauthenticated,
    Refused,
    Send,
)
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.policy import SessionState

from .sockets import OPEN_TIMEOUT, Line, open_session
from .values import RealtimeChange, RealtimeState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from signalwire_tokens.clock import Alarm, Clock
    from signalwire_tokens.gateway import Output
    from signalwire_tokens.keeper import SessionEvent, TokenSession
    from signalwire_tokens.keeper.events import Listener
    from signalwire_tokens.models import Token

    from .sockets import Route
    from .values import RealtimeObserver

__all__ = ["Inbox", "Link", "PendingCall", "interrupted"]

UNEXPECTED = "%s: an exception was raised; the connection is made again. Please report this"
ENDED = (SessionState.EXPIRED, SessionState.CLOSED)

logger: logging.Logger = logging.getLogger("signalwire_tokens.realtime")


@attrs.define(eq=False)
class PendingCall:
    """A call of the app that waits for its answer. `was_sent` is whether any of it may have left this machine."""

    method: str
    answer: asyncio.Future[Any] = attrs.field(repr=False)
    was_sent: bool = False

    def interrupt(self, why: str) -> None:
        """Raise `CallInterrupted` to the caller, unless it has its answer."""
        if not self.answer.done():
            self.answer.set_exception(interrupted(self.method, why, sent=self.was_sent))

    def settle(self, answered: Answered) -> None:
        """Set the answer, unless the caller has given up."""
        if self.answer.done():
            return
        if answered.code is None:
            self.answer.set_result(answered.result)
        else:
            error = CallRefused(f"the gateway refused the call: {answered.message}", operation=self.method)
            error.code = answered.code
            self.answer.set_exception(error)


def interrupted(method: str, why: str, *, sent: bool) -> CallInterrupted:
    """Return the error for a call that has no answer."""
    error = CallInterrupted(why, operation=method)
    error.sent = sent
    return error


def refusal(reason: str) -> RealtimeError:
    """Return the error of a connection whose tokens are refused."""
    return RealtimeError(
        f"the gateway refused two different access tokens, one after the other: {reason}",
        advice="check that host belongs to the space of the tokens, and that the subscriber may connect",
    )


class Inbox:
    """The events that the app hasn't read yet. If there are too many, the oldest ones are dropped."""

    def __init__(self, size: int) -> None:
        self._size, self._missed = size, 0
        self._is_behind = False  # since the buffer was last empty, events were dropped
        self._events: deque[RealtimeEvent] = deque()

    @property
    def is_full(self) -> bool:
        """Return whether the next event takes the place of the oldest one."""
        return len(self._events) >= self._size

    def put(self, event: RealtimeEvent) -> None:
        """Add an event, and drop the oldest one if there are too many."""
        if self.is_full:
            self._events.popleft()
            self._missed += 1
            if not self._is_behind:
                self._is_behind = True
                logger.warning("events are dropped, since the app hasn't read the latest %d", self._size)
        self._events.append(event)

    def take(self) -> RealtimeEvent | None:
        """Return the next event, with the number of those that were dropped before it; None if there is none."""
        if not self._events:
            self._is_behind = False
            return None
        event, missed = self._events.popleft(), self._missed
        self._missed = 0
        return attrs.evolve(event, missed=missed) if missed else event


class Link:
    """The parts of a connection that its tasks need.

    - `line` is the open socket; None if there is none.
    - `calls` are the app's calls without an answer, by their id.
    - `news` is set, and replaced, when an event arrives or the state changes.
    - `losses` counts the lost connections and failed attempts by their cause.
    - `observers` count each loss and reauthentication, too.
    """

    def __init__(self, session: TokenSession, gateway: Gateway, route: Route, inbox: Inbox) -> None:
        self.session: TokenSession = session
        self.gateway: Gateway = gateway
        self.route: Route = route
        self.inbox: Inbox = inbox
        self.clock: Clock = engine_of(session).clock
        self.state: RealtimeState = RealtimeState.CLOSED
        self.last_error: SignalWireTokenError | None = None
        self.line: Line | None = None
        self.calls: dict[str, PendingCall] = {}
        self.listeners: tuple[Listener[RealtimeChange], ...] = ()
        self.news: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.ice_servers: tuple[dict[str, Any], ...] = ()
        self.connected_since: datetime | None = None
        self.reauthenticated: int = 0
        self.losses: Counter[LossCause] = Counter()
        self.observers: tuple[RealtimeObserver, ...] = ()
        self._alarm: Alarm | None = None
        self._rings_at: float | None = None

    @property
    def label(self) -> str:
        """The name of the connection in logs and errors."""
        return f"realtime connection of session {engine_of(self.session).label}"

    # The state.

    def change(self, change: RealtimeChange) -> None:
        """Set the state, and report it to all that wait for it."""
        self.last_error = change.error
        if change.state is not self.state:
            self.state = change.state
            for listener in self.listeners:
                listener.emit(change, timer_of(self.clock))
        self.wake()

    def wake(self) -> None:
        """Wake all that wait for news."""
        self.news.set()
        self.news = asyncio.Event()

    # Connecting.

    async def run(self, given: aiohttp.ClientSession | None) -> None:
        """Keep the connection until it is cancelled, or given up, or the session ends."""
        http = open_session(given)
        unsubscribe = self.session.subscribe(self._session_changed)
        change = RealtimeChange(state=RealtimeState.CLOSED)
        try:
            while True:
                window = await self._attempt(http)
                await self.clock.sleep(window * random.random())  # noqa: S311 - spread, not secrecy
        except RealtimeError as error:
            change = RealtimeChange(state=RealtimeState.FAILED, cause="token_refused", error=error.with_traceback(None))
        except SessionExpired as error:
            change = RealtimeChange(state=RealtimeState.FAILED, error=error.with_traceback(None))
        except SessionClosed as error:
            change = RealtimeChange(state=RealtimeState.CLOSED, error=error.with_traceback(None))
        finally:
            unsubscribe()
            if change.state is RealtimeState.FAILED:
                logger.error("%s: given up: %s", self.label, change.error)
            self.change(change)
            await http.close()

    async def _attempt(self, http: aiohttp.ClientSession) -> float:
        """Make a connection, and use it until it is lost. Raise `RealtimeError` to give up.

        Return the window in seconds from which the pause before the next attempt is drawn.
        """
        try:
            token = await self._token()
            line = Line(await self.route.open(http, self.route.url_for(token)))
        except (SessionClosed, SessionExpired):
            raise
        except SignalWireTokenError as error:
            return self._lose(Lost("no_token", str(error)))
        except aiohttp.WSServerHandshakeError as error:
            return self._lose(Lost("unreachable", f"the handshake was answered with status {error.status}"))
        except TimeoutError:
            return self._lose(Lost("unreachable", f"no connection within {spoken(OPEN_TIMEOUT)}"))
        except (aiohttp.ClientError, OSError) as error:
            return self._lose(Lost("unreachable", network_reason(error, system_error(error)).text))
        except Exception as error:  # of any kind: a bot runs for weeks
            logger.exception(UNEXPECTED, self.label)
            return self._lose(Lost("unreachable", f"{type(error).__name__}: see the log"))
        tasks = [asyncio.create_task(self._read(line)), asyncio.create_task(self._write(line))]
        self.line = line
        try:
            self._handle(self._begin)
            lost = await line.lost
            if isinstance(lost, Refused):
                self._count("token_refused")
                raise refusal(lost.reason)
            return self._lose(lost)
        finally:
            self._hang_up("the connection was closed")
            await line.close(tasks)

    async def _token(self) -> Token:
        """Return the token that leads to the gateway: the one to resume with, or else a valid one."""
        token = self.gateway.token
        if token is not None and self.gateway.resumable is not None and self.session.state not in ENDED:
            return token
        await self.session.token()
        return self.session.pair.access_token

    def _begin(self) -> list[Output]:
        """Begin the connection on the open socket. The session may have got another token while that was opened."""
        return self.gateway.connect(self.session.pair.access_token, self.clock.now())

    def _lose(self, lost: Lost) -> float:
        """Report that the connection was lost, or couldn't be made. Return the window of the pause that follows."""
        window = self.gateway.lost(lost.cause, self.clock.now())
        self._count(lost.cause)
        again = f"within {spoken(window)}" if window else "at once"
        is_news = self.state is RealtimeState.CONNECTED or self.last_error is None
        level = logging.WARNING if is_news else logging.INFO  # an outage may take hours
        logger.log(level, "%s: %s (%s); connects again %s", self.label, lost.reason, lost.cause, again)
        error = RealtimeError(f"{self.label}: {lost.reason}")
        is_first = self.state is RealtimeState.CONNECTING
        state = RealtimeState.CONNECTING if is_first else RealtimeState.RECONNECTING
        self._hang_up(lost.reason)
        self.change(RealtimeChange(state=state, cause=lost.cause, error=error))
        return window

    def _count(self, cause: LossCause) -> None:
        """Count a loss, or a failed attempt."""
        self.losses[cause] += 1
        for observer in self.observers:
            with tolerate():
                observer.connection_lost(cause)

    def stop(self) -> None:
        """Close the connection: it isn't used from now on, and its task ends soon."""
        if self.task is not None and self.state not in (RealtimeState.CLOSED, RealtimeState.FAILED):
            self.task.cancel()
            self._hang_up("the connection was closed")
            self.change(RealtimeChange(state=RealtimeState.CLOSED))

    def drop(self) -> None:
        """Close the connection, from any thread."""
        if self.task is not None and not self.task.get_loop().is_closed():
            self.task.get_loop().call_soon_threadsafe(self.stop)

    def _hang_up(self, why: str) -> None:
        """Stop using the socket, and interrupt all calls."""
        self.line = self.connected_since = None
        self._arm()
        for call in self.calls.values():
            call.interrupt(why)
        self.calls.clear()

    # One socket.

    async def _read(self, line: Line) -> None:
        """Handle the messages of the gateway until the socket ends."""
        lost = Lost("closed", "the connection broke")
        try:
            async for message in line.socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    lost = Lost("not_json_rpc", "the gateway sent something that isn't text, or is longer than 16 MiB")
                    break
                self._handle(partial(self.gateway.receive, message.data, self.clock.now()))
                if line.lost.done():
                    break
                if self.inbox.is_full:
                    await asyncio.sleep(0)  # the app may only need a turn to read
            else:
                code = line.socket.close_code
                if code not in (None, aiohttp.WSCloseCode.ABNORMAL_CLOSURE):
                    reason = f"the gateway closed the connection (code {code})"
                    complaint = self.gateway.complaint
                    lost = Lost("closed", f"{reason}: {complaint}" if complaint else reason)
        finally:
            line.end(lost)

    async def _write(self, line: Line) -> None:
        """Send messages until the socket ends."""
        try:
            await line.write(self._may_send)
        except (ConnectionError, aiohttp.ClientError):
            pass
        finally:
            line.end(Lost("closed", "the connection broke while sending"))

    def _may_send(self, call_id: str) -> bool:
        """Return whether a caller still waits for the answer to a call. If so, the call is about to be sent."""
        call = self.calls.get(call_id)
        if call is None or call.answer.done():
            return False
        call.was_sent = True
        return True

    def _handle(self, decide: Callable[[], list[Output]]) -> None:
        """Do what the state machine returns. An exception ends the socket."""
        try:
            self._carry_out(decide())
        except Exception:  # of any kind: the connection is lost then, and made again
            logger.exception(UNEXPECTED, self.label)
            self._end(Lost("closed", "an exception was raised: see the log"))

    def _carry_out(self, outputs: Iterable[Output]) -> None:
        """Do what the state machine returns."""
        for output in outputs:
            match output:
                case Send():
                    self.send(output)
                case Deliver(event):
                    self.inbox.put(event)
                    self.wake()
                case Answered():
                    self._settle(output)
                case Connected(resumed, ice_servers):
                    self.ice_servers, self.connected_since = ice_servers, moment_in(self.clock, 0.0)
                    logger.info("%s: %s", self.label, "resumed" if resumed else "connected")
                    self.change(RealtimeChange(state=RealtimeState.CONNECTED, resumed=resumed))
                case Reauthenticated():
                    self._reauthenticated()
                case NotReauthenticated(reason):
                    logger.warning("%s: the new token isn't accepted, and is presented again: %s", self.label, reason)
                case Invalidate(token):
                    self._report(token)
                case Lost() | Refused():
                    self._end(output)
                case _:
                    assert_never(output)
        self._arm()

    def _settle(self, answered: Answered) -> None:
        """Pass an answer to the call that waits for it. A late one is ignored."""
        call = self.calls.pop(answered.call_id, None)
        if call is not None:
            call.settle(answered)

    def _reauthenticated(self) -> None:
        """Count a token that the gateway has accepted."""
        self.reauthenticated += 1
        logger.debug("%s: has the session's new token", self.label)
        for observer in self.observers:
            with tolerate():
                observer.reauthenticated()

    def send(self, message: Send) -> None:
        """Send a message on the open socket, if there is one."""
        if self.line is not None:
            self.line.send(message)

    def _end(self, lost: Lost | Refused) -> None:
        """End the open socket, if there is one."""
        if self.line is not None:
            self.line.end(lost)

    def _report(self, token: Token) -> None:
        """Report to the session that its token was refused. The next attempt then has another one."""
        with suppress(SessionError):  # it ends, which the next attempt finds out
            self.session.invalidate(token)

    # Time, and the session.

    def _arm(self) -> None:
        """Set the alarm for the next thing that is due, and none without a socket."""
        at = None if self.line is None else self.gateway.next_at
        if at == self._rings_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._rings_at = None, at
        if at is not None:
            self._alarm = self.clock.call_later(max(0.0, at - self.clock.now()), self._ring)

    def _ring(self) -> None:
        """Do what is due."""
        self._alarm = self._rings_at = None
        self._handle(partial(self.gateway.tick, self.clock.now(), self.clock.wall()))

    def _session_changed(self, event: SessionEvent) -> None:
        """Present the session's new token, or close with the session. Without a new token, the connection goes on."""
        if event.kind == "closed":
            self.stop()
        elif event.pair is not None:
            self._handle(partial(self.gateway.present, self.session.pair.access_token, self.clock.now()))
