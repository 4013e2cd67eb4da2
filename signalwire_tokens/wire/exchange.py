"""The two sides of an exchange: a request, with how its answer is read, and an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from signalwire_tokens.models import Lifetimes, Secret, Token

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Answer", "Auth", "BrokenError", "Request", "http_date"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Answer:
    """What the service sent, when the request had left, and how long its tokens are known to live."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes | None = attrs.field(repr=False)  # None: it was larger than is read
    sent: float
    lifetimes: Lifetimes

    @property
    def issued_at(self) -> datetime:
        """The moment that lifetimes are counted from."""
        return datetime.fromtimestamp(self.sent, UTC)

    def header(self, name: str) -> str:
        """Return a header's value, or nothing."""
        return next((value for key, value in self.headers.items() if key.lower() == name), "")

    @property
    def server_time(self) -> float | None:
        """The service's own clock at the time of the answer, where it said."""
        return http_date(self.header("date"))


class Auth(Enum):
    """The authentication that an operation sends: its own and nothing more."""

    PROJECT = "Basic"
    SUBSCRIBER = "Bearer"
    NONE = None


@attrs.frozen(kw_only=True)
class Request(Generic[T]):
    """What is to be sent, and how its answer is read."""

    operation: str
    method: str
    path: str = attrs.field(repr=False)  # a backend's may hold a secret
    auth: Auth
    read: Callable[[Answer], T] = attrs.field(repr=False)
    bearer: Secret[str] | Token | None = None
    headers: Secret[Mapping[str, str]] | None = None  # a caller's own, sent beside ours
    body: bytes | None = attrs.field(default=None, repr=False)
    # What must not come back in an error's text.
    secrets: tuple[Secret[str] | Token, ...] = ()
    # Who answers, as errors have it.
    peer: str = "the service"
    # Whether it goes to the origin of embeds, which may be another than the space's.
    for_embeds: bool = False
    # Whether it may be sent again when nobody knows what became of it.
    replayable: bool = True
    # Whether the body holds the token that is presented. If not, a code about a token is about the credentials.
    presents_token: bool = False


class BrokenError(Exception):
    """An answer of success that cannot be used. Never leaves this package: its frames hold the answer."""

    def __init__(self, reason: str, *, subscriber_id: UUID | None = None) -> None:
        super().__init__(reason)
        self.subscriber_id = subscriber_id  # of a pair for another subscriber than expected


def http_date(text: str) -> float | None:
    """Read a date of HTTP's as unix seconds."""
    try:
        found = parsedate_to_datetime(text)
        return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
