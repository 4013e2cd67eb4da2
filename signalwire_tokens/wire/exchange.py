"""`Request` and `Answer`: what the client sends, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
from multidict import CIMultiDictProxy

from signalwire_tokens.models import Lifetimes, Token
from signalwire_tokens.secret import Secret

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["SPACE_SETTING", "Answer", "Auth", "Request", "UnusableAnswer", "parse_http_date"]

T = TypeVar("T")
SPACE_SETTING = "the space (SIGNALWIRE_SPACE, or space=…)"


@attrs.frozen(kw_only=True, slots=False)  # frozen objects without slots are made in half of the time
class Answer:
    """An answer, with what is needed to calculate when its tokens expire.

    `body` is None if it was too large to be read. `sent` is when the request was sent, in unix seconds by this
    machine's wall clock. `lifetimes` is how long the space's tokens live.
    """

    status: int
    headers: CIMultiDictProxy[str] = attrs.field(repr=False)
    body: bytes | None = attrs.field(repr=False)
    sent: float
    lifetimes: Lifetimes

    @property
    def issued_at(self) -> datetime:
        """When the tokens of this answer count as issued: when the request was sent.

        SignalWire issued them a little later. So the calculated expiry is never too late.
        """
        return datetime.fromtimestamp(self.sent, UTC)

    def header(self, name: str) -> str:
        """Return the first value of a header, or "" if it is missing."""
        return self.headers.get(name, "")

    @property
    def server_time(self) -> float | None:
        """The time of the answer's `Date` header, in unix seconds by the server's clock, or None without one."""
        return parse_http_date(self.header("date"))


class Auth(Enum):
    """The credentials that an operation sends: the project's (`Basic`), a subscriber's token (`Bearer`), or none."""

    PROJECT = auto()
    SUBSCRIBER = auto()
    NONE = auto()


@attrs.frozen(kw_only=True, slots=False)
class Request(Generic[T]):
    """A request: what to send, and how to read its answer.

    `operation` is the name of the client's method, for errors and traces. `read` returns what a successful answer
    holds, or raises `UnusableAnswer`. `bearer` is the access token for `Auth.SUBSCRIBER`.
    """

    operation: str
    method: str
    # Path and query. They aren't in the repr, because those of a backend may hold a secret.
    path: str = attrs.field(repr=False)
    auth: Auth
    read: Callable[[Answer], T] = attrs.field(repr=False)
    bearer: Secret[str] | Token | None = None
    # A caller's own headers for its backend. They are sent in addition to the client's.
    headers: Secret[Mapping[str, str]] | None = None
    body: bytes | None = attrs.field(default=None, repr=False)
    # Strings that are removed from error texts, because an answer may quote its request.
    secrets: tuple[Secret[str] | Token, ...] = ()
    # The name of the server in error messages.
    peer: str = "SignalWire"
    # Where the server's address was set, for error messages that advise to check it.
    address_setting: str = SPACE_SETTING
    # Whether the request goes to the client's embed origin instead of its space.
    for_embeds: bool = False
    # Whether the request may be repeated when it is unknown whether the server carried it out.
    replayable: bool = True
    # Whether the body holds the presented token. If not, a code about a token is about the credentials.
    presents_token: bool = False


class UnusableAnswer(Exception):
    """A successful answer (2xx) that can't be used. `reason` continues the text "answered 200, …".

    It never leaves this package: `answers.read` turns it into an `UnexpectedResponse`, because its frames hold the
    answer with its tokens. `subscriber_id` is set if the pair is for another subscriber than expected.
    """

    def __init__(self, reason: str, *, subscriber_id: UUID | None = None) -> None:
        super().__init__(reason)
        self.subscriber_id = subscriber_id


def parse_http_date(text: str) -> float | None:
    """Return the time of an HTTP date as unix seconds, or None if it can't be read."""
    try:
        found = parsedate_to_datetime(text)
        return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
