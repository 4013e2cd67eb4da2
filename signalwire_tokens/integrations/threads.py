"""A fleet for synchronous code, such as Celery tasks and Django views. Its event loop runs in a thread of its own.

::

    tokens = FleetThread(open_fleet)
    token = tokens.token("alice@example.com")
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import attrs

from signalwire_tokens.errors import ConfigurationError, SessionClosed, SessionError
from signalwire_tokens.fleet import SessionFleet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from signalwire_tokens.durations import Duration
    from signalwire_tokens.models import Token

    FleetOpener: TypeAlias = Callable[[], AbstractAsyncContextManager[SessionFleet]]

__all__ = ["FleetThread"]

OPENER = "write it with @asynccontextmanager, and yield a SessionFleet from it"

T = TypeVar("T")


class FleetThread:
    """A fleet that synchronous code calls from any thread. It runs on an event loop in a thread of its own.

    `open_fleet` is a function that returns a context manager which yields a `SessionFleet`. Write it with
    `@asynccontextmanager`, so that it also opens the client and the store.

    The fleet opens with the first call in each process. So you can create the object in a module, before a server or a
    pool forks its workers: each of them opens a fleet of its own.

    Use `with FleetThread(open_fleet) as tokens`, or call `close()` before the process ends. Otherwise, Python's exit
    stops the thread without waiting for renewals under way. Functions of `atexit` are too late to close a store. A
    `FleetThread` doesn't work with greenlets (gevent, eventlet).
    """

    def __init__(self, open_fleet: FleetOpener) -> None:
        given: object = open_fleet
        if not callable(given):
            raise ConfigurationError(f"open_fleet must be a function, not {type(given).__name__}: {OPENER}")
        self._open_fleet: FleetOpener = open_fleet
        self._holders: dict[int, Holder] = {}  # by process: after a fork, the parent's must stay untouched

    def start(self) -> Self:
        """Open the fleet now, and not with the first call. Raise what keeps it from opening."""
        self._holder().opened()
        return self

    def token(self, reference: str, min_ttl: Duration | None = None) -> str:
        """Return a valid access token of a subscriber, as `SessionFleet.token` does, and raise what that raises.

        Raises `SessionClosed` if the fleet closes first.
        """
        return self.run(lambda fleet: fleet.token(reference, min_ttl))

    def report_unauthorized(self, reference: str, token: str | Token) -> bool:
        """Report that a request with a token got a 401. Return whether to repeat the request with the next token.

        The rules are those of `SubscriberSession.report_unauthorized`.
        """

        async def report(fleet: SessionFleet) -> bool:
            return fleet.session(reference).report_unauthorized(token)

        return self.run(report)

    def run(self, call: Callable[[SessionFleet], Awaitable[T]]) -> T:
        """Return what `await call(fleet)` returns. `call` is a coroutine function that runs on the fleet's event loop.

        For example, `tokens.run(lambda fleet: fleet.close_session("alice@example.com"))`. If an exception, such as a
        time limit, interrupts the wait, the call is cancelled.
        """
        asked = self._holder().submit(call)
        try:
            return asked.result()
        except CancelledError:
            raise SessionClosed("the call was cancelled, because the FleetThread was closed during it") from None
        except CallExit as exit_:
            raise exit_.error from None
        finally:
            asked.cancel()

    def close(self) -> None:
        """Close the fleet of this process and end the thread. Raise what `open_fleet` raises while it closes.

        Renewals under way aren't cancelled: this waits for them, up to the policy's limit (15 s).
        """
        self._holder().close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FleetThread {self._holder().state}>"

    def _holder(self) -> Holder:
        """Return what this process has. `setdefault` is atomic, so all threads get the same one."""
        return self._holders.setdefault(os.getpid(), Holder(self._open_fleet))


class CallExit(Exception):
    """Carries a `KeyboardInterrupt` or `SystemExit` of a call past asyncio, which would end the event loop."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@attrs.frozen
class OpenFleet:
    """An open fleet, the thread and the event loop that it runs on, and the event that has it closed."""

    fleet: SessionFleet
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    stop: asyncio.Event


class Holder:
    """The fleet of one process. A lock keeps calls from reaching an event loop that is about to end.

    A signal handler can close what the call that it interrupts opens: the lock is reentrant, and isn't held by waits.
    """

    def __init__(self, open_fleet: FleetOpener) -> None:
        self._open_fleet = open_fleet
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._opening: Future[OpenFleet] | None = None
        self._ended: Future[None] = Future()
        self._is_closed = False

    @property
    def state(self) -> str:
        """The state, for `repr`."""
        is_open = self._opening is not None and self._opening.done() and self._opening.exception() is None
        return "closed" if self._is_closed else "open" if is_open else "not open"

    def opened(self) -> OpenFleet:
        """Return the open fleet. Open it first if necessary."""
        self._check_thread()
        with self._lock:
            self._check_open()
            opening = self._opening
            if opening is None or (opening.done() and opening.exception() is not None):  # it failed
                opening = self._begin()
        return opening.result()  # an interrupted wait leaves the future to the next call

    def submit(self, call: Callable[[SessionFleet], Awaitable[T]]) -> Future[T]:
        """Start a call on the fleet's event loop."""
        opened = self.opened()

        async def asked() -> T:
            try:
                return await call(opened.fleet)
            except (KeyboardInterrupt, SystemExit) as error:
                raise CallExit(error) from None

        with self._lock:
            self._check_open()
            return asyncio.run_coroutine_threadsafe(asked(), opened.loop)

    def close(self) -> None:
        """Close the fleet, and wait until the thread has ended."""
        self._check_thread()
        with self._lock:
            self._is_closed = True
            opening = self._opening
        if opening is None or opening.exception() is not None:
            return
        opened = opening.result()
        with suppress(RuntimeError):  # another `close` has ended the event loop
            opened.loop.call_soon_threadsafe(opened.stop.set)
        opened.thread.join()
        self._ended.result()

    def _begin(self) -> Future[OpenFleet]:
        """Start the thread, and return the future of the open fleet."""
        opening = Future[OpenFleet]()
        thread = threading.Thread(target=self._serve, args=(opening,), name="signalwire-tokens", daemon=True)
        self._opening, self._thread = opening, thread
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no more threads
            opening.set_exception(error)
        return opening

    def _check_open(self) -> None:
        if self._is_closed:
            raise SessionClosed("the FleetThread is closed: make another one")

    def _check_thread(self) -> None:
        if self._thread is threading.current_thread():
            raise SessionError(
                "a FleetThread can't be called on its own event loop, which the call would block: await the methods of "
                "the fleet there"
            )

    def _serve(self, opening: Future[OpenFleet]) -> None:
        """Run the event loop, in the thread, until the fleet is closed."""
        try:
            asyncio.run(self._hold(opening))
        except BaseException as error:  # noqa: BLE001 - it is raised to the thread that opens or closes the fleet
            (self._ended if opening.done() else opening).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _hold(self, opening: Future[OpenFleet]) -> None:
        """Keep the fleet open until `stop` is set."""
        stop, source = asyncio.Event(), self._open_fleet()
        if not isinstance(source, AbstractAsyncContextManager):
            raise ConfigurationError(f"open_fleet() returned a {type(source).__name__}: {OPENER}")
        async with source as fleet:
            if not isinstance(fleet, SessionFleet):
                raise ConfigurationError(f"open_fleet() yielded a {type(fleet).__name__}: {OPENER}")
            opening.set_result(OpenFleet(fleet, asyncio.get_running_loop(), threading.current_thread(), stop))
            await stop.wait()
