"""Who looks on while a client works."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from signalwire_tokens.errors import RateLimitHint

    from .operations import TokenClient

__all__ = ["Observer", "look_on", "report_renewal", "show_hint"]

logger: logging.Logger = logging.getLogger("signalwire_tokens.client")


class Observer(Protocol):
    """Is told of what a client and its sessions do, while they do it: it must not wait."""

    def asking(self, operation: str, origin: str) -> AbstractContextManager[object]:
        """Look on while an operation is asked for, and learn with which error it ended, if with one."""
        ...

    def hinted(self, operation: str, origin: str, hint: RateLimitHint) -> None:
        """Note what an answer reports about the account's rate limit. Not every answer does."""
        ...

    def renewed(self, left: float) -> None:
        """Learn that a session got its next pair, with so many seconds left of the one before."""
        ...


@contextmanager
def tolerate() -> Iterator[None]:
    """Let an observer fail, and nothing with it: an answer that is lost may be a refresh token that is."""
    try:
        yield
    except Exception:  # whatever it is: an observer is anybody's code
        logger.exception("an observer failed")


def report_renewal(client: TokenClient, left: float) -> None:
    """Report to a client's observers that a token was renewed that was still valid for so many seconds."""
    for observer in client.observers:
        with tolerate():
            observer.renewed(left)


@contextmanager
def look_on(observers: tuple[Observer, ...], operation: str, origin: str) -> Iterator[None]:
    """Have observers look on while an operation is asked for."""
    entered: list[AbstractContextManager[object]] = []
    for observer in observers:
        with tolerate():
            context = observer.asking(operation, origin)
            context.__enter__()
            entered.append(context)
    try:
        yield
    except BaseException as error:
        leave(entered, error)
        raise
    leave(entered, None)


def show_hint(observers: tuple[Observer, ...], operation: str, origin: str, hint: RateLimitHint) -> None:
    """Show observers what an answer reports about the rate limit."""
    for observer in observers:
        with tolerate():
            observer.hinted(operation, origin, hint)


def leave(entered: list[AbstractContextManager[object]], error: BaseException | None) -> None:
    """Tell observers how it ended; the last that came is the first to go."""
    kind, traceback = (None, None) if error is None else (type(error), error.__traceback__)
    for context in reversed(entered):
        with tolerate():
            context.__exit__(kind, error, traceback)
