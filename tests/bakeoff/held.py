"""What a probe needs of a client, whoever wrote it."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol

import attrs


class Fault(Enum):
    """What a request for a token meets in place of an answer."""

    ERROR = "500"
    UNAVAILABLE = "503"
    LOST = "lost answer"  # it took effect, refresh tokens are used up, and then the connection was reset


class Service(Protocol):
    """The server that a client has its tokens from, on a socket of 127.0.0.1."""

    @property
    def requests(self) -> int:
        """How many requests for a token there were since the first token."""

    @property
    def granted(self) -> int:
        """How many of them were answered with a token."""

    def accepts(self, token: str) -> bool:
        """Tell whether a token is live."""

    def slow(self, seconds: float) -> None:
        """Give tokens later from now on."""

    def fail(self, fault: Fault, *, times: int | None) -> None:
        """Let the next so many requests meet a fault; None means all of them."""


@attrs.frozen
class Held:
    """A client that holds its first token: what gives a caller one, and the server."""

    ask: Callable[[], Awaitable[str]]
    service: Service


@attrs.frozen(kw_only=True)
class Client:
    """A client, and how it is brought to where a probe begins.

    `opened(left)` gives it with a token that lives so many seconds more, 0 for one that is dead. `timed()` gives it
    shortly before it renews with nobody asking, and is None where it does not do that. `windows` are how much is left
    of tokens that it wants to renew, though they live. `reissues` is False where it holds nothing but a refresh token.
    `variant` is what the name is followed by where one client is set up in two ways.
    """

    name: str
    distribution: str
    setup: str
    windows: tuple[float, ...]
    opened: Callable[[float], AbstractAsyncContextManager[Held]]
    timed: Callable[[], AbstractAsyncContextManager[Held]] | None = None
    reissues: bool = True
    variant: str = ""
