"""Who looks on while a client works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Observer"]


class Observer(Protocol):
    """Is told of what a client and its sessions do. It neither waits nor raises."""

    def asking(self, operation: str, origin: str) -> AbstractContextManager[object]:
        """Look on while an operation is asked for, and learn with which error it ended, if with one."""
        ...

    def renewed(self, runway: float) -> None:
        """Learn that a session got its next pair, with so many seconds left of the one before."""
        ...
