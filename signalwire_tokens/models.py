"""The values that the SDK hands out. They know nothing of JSON or HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Generic, NoReturn, Self, TypeVar
from uuid import UUID

import attrs

from .durations import Duration, positive_span, seconds_of, span_of
from .errors import ConfigurationError

__all__ = ["LONGEST_LIFE", "Address", "Lifetimes", "SatClaims", "SubscriberInfo", "Token", "TokenPair", "digest_of"]

T = TypeVar("T")
LONGEST_LIFE = timedelta(days=3653)


class Secret(Generic[T]):
    """A value that shows itself only where `value` is asked for, so that frames and tracebacks can hold it."""

    __slots__ = ("value",)
    value: T

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied, nor is what holds one")


def life_of(token: Token) -> float:
    """Return how long a token is valid in all, in seconds."""
    return seconds_of(token.expires_at - token.issued_at)


def digest_of(text: str) -> str:
    """Name a text that must not be shown: by the first 8 hex digits of its SHA-256."""
    return sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]


@attrs.frozen(kw_only=True, repr=False)
class Token:
    """A token and what can be known of it. `repr` and `str` never show the value."""

    # Not only `repr` is asked: pretty printers of tracebacks walk the fields by themselves.
    value: str = attrs.field(repr=False)
    issued_at: datetime
    expires_at: datetime
    kind: str | None = None
    channel: str | None = None

    @property
    def digest(self) -> str:
        """What names the token where its value must not be shown: the first 8 hex digits of its SHA-256."""
        return digest_of(self.value)

    def __repr__(self) -> str:
        until = self.expires_at.isoformat(" ", "seconds")
        return f"<Token {self.kind or 'of unknown kind'} #{self.digest}, expires {until}>"


@attrs.frozen(kw_only=True)
class TokenPair:
    """An access token, the token that is presented for the next pair, and whom they are for where the service said so.

    The second is a refresh token, which outlives the first. A token that a device's key binds is its own, and so is one
    that a backend gave.
    """

    access_token: Token = attrs.field()
    refresh_token: Token = attrs.field()
    subscriber_id: UUID | None = None

    @access_token.validator
    @refresh_token.validator
    def _check(self, field: attrs.Attribute[Token], token: object) -> None:
        if not isinstance(token, Token):  # its text stands in no message, nor in this pair's repr
            raise TypeError(f"{field.name} must be a Token, and is {type(token).__name__}")


# The kind that each token of a pair has, by its name in SignalWire's answers, if its header names a kind.
KINDS = {"token": "SAT", "refresh_token": "Refresh"}


def is_misplaced(half: str, kind: str | None) -> bool:
    """Return whether a token of that kind can't be that half of a pair; one of unknown kind can be either."""
    return kind not in (KINDS[half], None)


@attrs.frozen(kw_only=True)
class Lifetimes:
    """How long SignalWire's tokens live. It can't be read from the tokens.

    `access` and `refresh` are for the two tokens of a pair, and `access` also for an invite. `embed` is for a
    click-to-call guest's token, and `unbound` for an access token with the scope `sat:refresh` that isn't bound to a
    device's key yet. `Lifetimes.of(access)` makes the others fit an `access` of another length.
    """

    access: timedelta = attrs.field(default=timedelta(hours=2), converter=span_of)
    refresh: timedelta = attrs.field(default=timedelta(hours=2, minutes=5), converter=span_of)
    embed: timedelta = attrs.field(default=timedelta(hours=1), converter=span_of)
    unbound: timedelta = attrs.field(default=timedelta(seconds=60), converter=span_of)

    @classmethod
    def of(cls, access: Duration) -> Self:
        """Return the lifetimes of a space whose access tokens live for `access`.

        A refresh token lives longer by a twenty-fourth of that, and by five minutes at most. No other token lives
        longer than an access token.
        """
        usual, span = cls(), positive_span("access", access, longest=LONGEST_LIFE)
        return cls(
            access=span,
            refresh=span + min(usual.refresh - usual.access, span / 24),
            embed=min(usual.embed, span),
            unbound=min(usual.unbound, span),
        )

    def __attrs_post_init__(self) -> None:
        for name, lifetime in attrs.asdict(self).items():
            positive_span(name, lifetime, longest=LONGEST_LIFE)
        if self.refresh < self.access:
            raise ConfigurationError("a refresh token must live at least as long as its access token")


@attrs.frozen(kw_only=True)
class Address:
    """A place that can be reached: what guests are allowed to call and invitees are invited to."""

    id: UUID
    name: str | None = None
    display_name: str | None = None
    type: str | None = None
    cover_url: str | None = None
    preview_url: str | None = None
    locked: bool | None = None
    channels: Mapping[str, str] = attrs.field(factory=dict[str, str], hash=False)
    created_at: datetime | None = None


@attrs.frozen(kw_only=True)
class SatClaims:
    """What the service says of the subscriber access token that asked."""

    scope: tuple[str, ...] = ()
    fingerprint: str | None = None
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class SubscriberInfo:
    """Who a subscriber access token is for."""

    id: UUID
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    display_name: str | None = None
    job_title: str | None = None
    time_zone: str | None = None
    country: str | None = None
    region: str | None = None
    company_name: str | None = None
    push_notification_key: str | None = attrs.field(default=None, repr=False)
    app_settings: Mapping[str, object] = attrs.field(factory=dict[str, object], hash=False, repr=False)
    fabric_addresses: tuple[Address, ...] = ()
    sat_claims: SatClaims | None = None
