"""The values that the library returns: tokens, pairs, addresses, subscribers. They don't depend on JSON or HTTP.

`Token` hides its value from `repr`, as `Secret` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

import attrs

from .durations import Duration, positive_span, seconds_of, span_of
from .errors import ConfigurationError
from .secret import digest_of

__all__ = ["LONGEST_LIFE", "Address", "Lifetimes", "SatClaims", "SubscriberInfo", "Token", "TokenPair"]

LONGEST_LIFE = timedelta(days=3653)


def life_of(token: Token) -> float:
    """Return a token's whole lifetime in seconds, from its issue to its expiry."""
    return seconds_of(token.expires_at - token.issued_at)


@attrs.frozen(kw_only=True, repr=False)
class Token:
    """A token and its times. `repr` and `str` never show its value.

    `issued_at` and `expires_at` are by this machine's wall clock. SignalWire's tokens are encrypted, so the client
    calculates these times; it prefers an early expiry to a late one. `kind` is "SAT" (subscriber access token) for an
    access token and "Refresh" for a refresh token. `channel` is the host to connect to, from the token's header. Both
    are None if the header doesn't have them.
    """

    # Tracebacks that print attrs classes field by field don't call `__repr__`, so the field hides itself, too.
    value: str = attrs.field(repr=False)
    issued_at: datetime
    expires_at: datetime
    kind: str | None = None
    channel: str | None = None

    @property
    def digest(self) -> str:
        """The first 8 hex digits of the SHA-256 of `value`, which identify the token in logs."""
        return digest_of(self.value)

    def __repr__(self) -> str:
        until = self.expires_at.isoformat(" ", "seconds")
        return f"<Token {self.kind or 'of unknown kind'} #{self.digest}, expires {until}>"


@attrs.frozen(kw_only=True)
class TokenPair:
    """An access token (SAT), and the refresh token that is exchanged for the next pair.

    SignalWire's refresh tokens live a little longer than the access tokens that they come with. Device sessions,
    backend sessions and `Renewed.valid_for` have a single token, and both fields of their pairs hold it.
    `subscriber_id` is the subscriber that the pair is for, or None if SignalWire's answer doesn't name one.
    """

    access_token: Token = attrs.field()
    refresh_token: Token = attrs.field()
    subscriber_id: UUID | None = None

    @access_token.validator
    @refresh_token.validator
    def _check(self, field: attrs.Attribute[Token], token: object) -> None:
        if not isinstance(token, Token):  # a string may be a token, so the message doesn't show it
            raise TypeError(f"{field.name} must be a Token, not {type(token).__name__}")


# The kind that each token of a pair must have, if its header names a kind. The keys are the names in SignalWire's JSON.
KINDS = {"token": "SAT", "refresh_token": "Refresh"}


def is_misplaced(half: str, kind: str | None) -> bool:
    """Return whether a token's `kind` contradicts its place in a pair. A token of unknown kind fits both places.

    `half` is "token" or "refresh_token", as in SignalWire's JSON.
    """
    return kind not in (KINDS[half], None)


@attrs.frozen(kw_only=True)
class Lifetimes:
    """How long a space's tokens live.

    Tokens are encrypted, so their lifetimes can't be read from them. The defaults are SignalWire's standard lifetimes.

    `access` and `refresh` are the lifetimes of the two tokens of a pair. `access` also applies to an invite. `embed`
    applies to a click-to-call guest's token. `unbound` applies to an access token with the scope `sat:refresh` that
    isn't bound to a device's key yet. If your access tokens have another lifetime, `Lifetimes.of(access)` calculates
    the others.
    """

    access: timedelta = attrs.field(default=timedelta(hours=2), converter=span_of)
    refresh: timedelta = attrs.field(default=timedelta(hours=2, minutes=5), converter=span_of)
    embed: timedelta = attrs.field(default=timedelta(hours=1), converter=span_of)
    unbound: timedelta = attrs.field(default=timedelta(seconds=60), converter=span_of)

    @classmethod
    def of(cls, access: Duration) -> Self:
        """Return the lifetimes of a space whose access tokens live for `access`.

        Refresh tokens live longer than access tokens by `access / 24`, but by at most five minutes, and for at most ten
        years. The other lifetimes keep their defaults, but are at most `access`.
        """
        usual, span = cls(), positive_span("access", access, longest=LONGEST_LIFE)
        return cls(
            access=span,
            refresh=min(span + min(usual.refresh - usual.access, span / 24), LONGEST_LIFE),
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
    """An address in SignalWire, such as a room or a subscriber, that guests may call and invites lead to.

    `channels` maps the names of channels, such as "audio", to what to dial. Fields that SignalWire leaves out are None.
    """

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
    """What SignalWire reports about the SAT (subscriber access token) that `subscriber_info` was called with.

    `fingerprint` is the thumbprint of the device's key that the token is bound to, or None. `expires_at` is the expiry
    by SignalWire's clock, or None.
    """

    scope: tuple[str, ...] = ()
    fingerprint: str | None = None
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class SubscriberInfo:
    """The subscriber that an access token is for. Fields that SignalWire leaves out are None."""

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
