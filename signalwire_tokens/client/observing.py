"""Observers: how metrics and traces follow what a client and its sessions do.

`integrations.opentelemetry.Telemetry` is one. An observer that raises an exception is logged and doesn't disturb the
client.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from signalwire_tokens.errors import RateLimitHint

    from .operations import TokenClient

__all__ = ["Observer", "observe", "report_renewal", "show_hint", "tolerate"]

logger: logging.Logger = logging.getLogger("signalwire_tokens.client")


class Observer(Protocol):
    """An object whose methods a client calls while it works, on the event loop. The methods must not block."""

    def operation_started(self, operation: str, origin: str) -> AbstractContextManager[object]:
        """Return a context manager that the client enters before an operation and exits after it.

        One operation may send several requests. `__exit__` gets the error with which the operation failed, if it
        failed. It can't suppress that error. `origin` is where the requests go.
        """
        ...

    def rate_limit_reported(self, operation: str, origin: str, hint: RateLimitHint) -> None:
        """Record what an answer reports about the account's rate limit, if it reports anything."""
        ...

    def renewed(self, left: float) -> None:
        """Record that a session got its next pair, when the token before was valid for `left` more seconds."""
        ...


@contextmanager
def tolerate() -> Iterator[None]:
    """Log an exception of an observer instead of raising it.

    Raised in the middle of a call, it would lose the answer, and with it perhaps the only valid refresh token.
    """
    try:
        yield
    except Exception:  # an observer is foreign code, and may raise any exception
        logger.exception("an observer raised an exception; the operation isn't affected")


def report_renewal(client: TokenClient, left: float) -> None:
    """Report to a client's observers that a session renewed a token that was valid for `left` more seconds."""
    for observer in client.observers:
        with tolerate():
            observer.renewed(left)


@contextmanager
def observe(observers: tuple[Observer, ...], operation: str, origin: str) -> Iterator[None]:
    """Enter each observer's context around an operation, and exit it with the operation's error, if there is one."""
    entered: list[AbstractContextManager[object]] = []
    for observer in observers:
        with tolerate():
            context = observer.operation_started(operation, origin)
            context.__enter__()
            entered.append(context)
    try:
        yield
    except BaseException as error:
        leave(entered, error)
        raise
    leave(entered, None)


def show_hint(observers: tuple[Observer, ...], operation: str, origin: str, hint: RateLimitHint) -> None:
    """Pass what an answer reports about the rate limit to each observer."""
    for observer in observers:
        with tolerate():
            observer.rate_limit_reported(operation, origin, hint)


def leave(entered: list[AbstractContextManager[object]], error: BaseException | None) -> None:
    """Exit the observers' contexts in reverse order, with the error of the operation, or None after a success."""
    kind, traceback = (None, None) if error is None else (type(error), error.__traceback__)
    for context in reversed(entered):
        with tolerate():
            context.__exit__(kind, error, traceback)
