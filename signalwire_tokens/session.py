"""The session that renews through the project's credentials."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import attrs

from . import wire
from .client import report_renewal
from .durations import positive_span
from .errors import (
    ConfigurationError,
    InvalidRequest,
    Problem,
    SignalWireTokenError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from .keeper import TokenSession, failure_of
from .models import KINDS, LONGEST_LIFE, Secret, Token, TokenPair, digest_of, is_misplaced
from .outcomes import Denied, IssueNew, Renewed, Spent
from .policy import ROUNDING
from .stores import key_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from uuid import UUID

    from .client import TokenClient
    from .clock import Clock
    from .durations import Duration
    from .keeper import RenewalRequest
    from .outcomes import Failure
    from .policy import RefreshPolicy
    from .stores import TokenStore

__all__ = ["SHAPING", "SubscriberRenewal", "SubscriberSession", "TokenFields", "masked"]

NOTHING: Mapping[str, Any] = {}
# What shapes the token, and is sent with every issue; everything else is written to the subscriber by the first.
SHAPING = ("application_id", "fingerprint", "scope", "region", "extra")


class TokenFields(TypedDict, total=False):
    """The fields of `create_subscriber_token` that a session takes too."""

    application_id: UUID | str | None
    password: str | None
    first_name: str | None
    last_name: str | None
    display_name: str | None
    job_title: str | None
    time_zone: str | None
    country: str | None
    region: str | None
    company_name: str | None
    fingerprint: str | None
    scope: str | None
    extra: Mapping[str, object] | None


class SubscriberSession(TokenSession):
    """A subscriber's token, kept alive: while the session is open, `await session.token()` gives a live one.

    A pair is issued when the session is opened, and refreshed in the background from then on. Where its refresh token
    was lost or refused, a new pair is issued by `reference`, unless `reissue` is False. `lifetime` is how long the
    access token is to live; such a pair is issued anew each time, since a refresh would give two hours again.

    `client` is the one that it was given, and `client.origin` where its token is good for.

    In a `store`, the pair outlives the session, and is shared by all sessions that want the same.

    `password` and the fields that describe the person are sent with the first issue only. `application_id`,
    `fingerprint`, `scope`, `region` and `extra` shape the token, and are sent with each.
    """

    __slots__ = ("client",)

    def __init__(
        self,
        client: TokenClient,
        reference: str,
        *,
        lifetime: Duration | None = None,
        policy: RefreshPolicy | None = None,
        store: TokenStore | None = None,
        reissue: bool = True,
        clock: Clock | None = None,
        **token_fields: Unpack[TokenFields],
    ) -> None:
        fields = {name: value for name, value in masked(token_fields).items() if value is not None}
        token_fields.clear()  # type: ignore[attr-defined]  # a password must not stand in this frame; it is a dict
        if lifetime is not None and not reissue:
            raise ConfigurationError(
                "a session with a lifetime can't use refresh tokens, because they bring tokens with the usual "
                "lifetime: leave out lifetime, or reissue=False"
            )
        span = None if lifetime is None else positive_span("lifetime", lifetime, longest=LONGEST_LIFE)
        renewal = SubscriberRenewal(client, reference, lifetime=span, fields=fields)
        renewal.describe_issue()  # refuses what is wrong with the arguments now, and not when it is too late
        life = client.lifetimes.access
        if span is not None:
            life = span
        elif "scope" in fields and "fingerprint" not in fields:
            life = min(life, client.lifetimes.unbound)
        window = client.lifetimes.refresh - client.lifetimes.access
        self.client: TokenClient = client
        super().__init__(
            renewal,
            lifetime=life,
            policy=policy,
            store=store,
            store_key="" if store is None else renewal.key,
            clock=client.clock if clock is None else clock,
            presents=span is None,
            reissues=reissue,
            keeps_all=False,
            throttle=(client.throttle, client.clock),
            longest=(life, life + window),
        )

    @classmethod
    def from_pair(
        cls,
        client: TokenClient,
        pair: TokenPair,
        *,
        policy: RefreshPolicy | None = None,
        store: TokenStore | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Keep a pair alive that was issued elsewhere. It can be refreshed, but not issued anew.

        In a `store`, its successors are kept under this very pair: begin with the same one after a restart.
        """
        refuse_swapped(pair)
        session = cls.__new__(cls)
        session.client, refresh = client, pair.refresh_token.value
        super(SubscriberSession, session).__init__(
            SubscriberRenewal(client, label=f"of {pair.subscriber_id or 'a pair from elsewhere'}"),
            lifetime=pair.access_token.expires_at - pair.access_token.issued_at,
            policy=policy,
            pair=pair,
            store=store,
            store_key="" if store is None else key_of(("pair", client.origin, client.project_id, refresh)),
            clock=client.clock if clock is None else clock,
            presents=True,
            reissues=False,
            keeps_all=False,
            throttle=(client.throttle, client.clock),
            longest=(client.lifetimes.access, client.lifetimes.refresh),
        )
        return session

    async def create_invite_token(self, address_id: UUID | str, *, expires_at: wire.When | None = None) -> Token:
        """Return a token that invites its holder to an address, in the subscriber's name.

        If SignalWire refuses the session's token, the session renews it and repeats the request once, by the rule of
        `report_unauthorized`.
        """
        await self.token()
        token = self.pair.access_token
        try:
            return await self.client.create_invite_token(address_id, subscriber_token=token, expires_at=expires_at)
        except Unauthorized:
            if not self.report_unauthorized(token):
                raise
        await self.token()
        return await self.client.create_invite_token(
            address_id, subscriber_token=self.pair.access_token, expires_at=expires_at
        )


class SubscriberRenewal:
    """Issues and refreshes a subscriber's pairs.

    Without a `reference`, it can only refresh: use it with `reissues=False`.
    """

    __slots__ = ("_first", "_label", "_lifetime", "_shape", "client", "reference")

    def __init__(
        self,
        client: TokenClient,
        reference: str = "",
        *,
        lifetime: timedelta | None = None,
        fields: Mapping[str, Any] = NOTHING,
        label: str | None = None,
    ) -> None:
        self.client: TokenClient = client
        self.reference: str = reference
        self._label = label
        self._lifetime = lifetime
        self._shape = {name: value for name, value in fields.items() if name in SHAPING} or NOTHING
        self._first = {name: value for name, value in fields.items() if name not in SHAPING} or NOTHING

    @property
    def label(self) -> str:
        """How the session is named in logs and errors: by no reference."""
        return self._label or f"#{digest_of(self.reference)}"

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields that the next issue sends."""
        return {**self._shape, **self._first}

    @property
    def key(self) -> str:
        """What names the pair in a store: all sessions that want the same share it."""
        shape, lifetime = self._shape, self._lifetime
        application, extra = shape.get("application_id"), shape.get("extra")
        if extra is not None:  # JSON first makes strings of nested keys, so that they can be sorted
            extra = json.dumps(json.loads(json.dumps(dict(extra.value))), sort_keys=True)
        return key_of(
            (
                self.client.origin,
                self.client.project_id,
                self.reference,
                None if application is None else str(application).lower(),
                shape.get("scope"),
                shape.get("fingerprint"),
                shape.get("region"),
                None if lifetime is None else str(lifetime.total_seconds()),
                extra,
            )
        )

    def describe_issue(self, now: float | None = None) -> wire.Request[TokenPair]:
        """Return the request for a new pair."""
        return wire.create_subscriber_token(
            self.reference,
            now=self.client.clock.wall() if now is None else now,
            expire_at=self._lifetime,
            **self._shape,
            **self._first,
        )

    async def renew(self, request: RenewalRequest) -> Renewed:
        """Return a new pair."""
        pair, seen = request.pair, set(request.current.seen)
        replaced = pair or request.current.pair
        if isinstance(request.step, IssueNew) or pair is None:
            answer = await self._issue(replaced, seen, request.timeout)
        else:
            refresh = wire.replacing(wire.refresh_subscriber_token(pair.refresh_token), pair, seen)
            answer = await self.client.send(refresh, retries=0, limit=request.timeout)
        self._first = NOTHING
        if answer.subscriber_id is None and replaced is not None:
            answer = attrs.evolve(answer, subscriber_id=replaced.subscriber_id)
        return Renewed(answer, request.asked)

    def adopted(self, left: float) -> None:
        """Report that a token was replaced that was still valid for so many seconds."""
        report_renewal(self.client, left)

    def meaning(self, error: SignalWireTokenError, request: RenewalRequest) -> Failure:
        """Return what an error means: a refused `lifetime` never ends the session, since clocks are set right."""
        meaning = failure_of(error, request.step)
        if isinstance(meaning, Spent) and isinstance(request.step, IssueNew) and isinstance(error, ValidationFailed):
            return Denied(error) if self._may_be_about_lifetime(error) else meaning
        return meaning

    async def _issue(self, replaced: TokenPair | None, seen: set[int], limit: float | None) -> TokenPair:
        """Return a new pair; ask a second time where the first answer may be a mistake."""
        request, clock = self.describe_issue(), self.client.clock
        began = clock.now()
        try:
            return await self.client.send(wire.replacing(request, replaced, seen), retries=0, limit=limit)
        except (ValidationFailed, UnexpectedResponse) as error:
            refused = error.with_traceback(None)
        other = refused.subscriber_id if isinstance(refused, UnexpectedResponse) else None
        if isinstance(refused, ValidationFailed):
            there = refused.server_time
            if there is None or not self._is_off(there) or not self._may_be_about_lifetime(refused):
                raise refused
            request = self.describe_issue(there)
        elif other is None:
            raise refused
        # An answer with another subscriber belongs to another request, unless two answers name that one, with different
        # tokens: then the subscriber was created again.
        request = wire.replacing(request, replaced, seen, or_of=other)
        left = (self.client.timeout if limit is None else limit) - (clock.now() - began)
        return await self.client.send(request, retries=0, limit=left)

    def _is_off(self, server_time: float) -> bool:
        """Return whether this machine's wall clock and SignalWire's differ."""
        return abs(server_time - self.client.clock.wall()) > ROUNDING

    def _may_be_about_lifetime(self, error: ValidationFailed) -> bool:
        """Return whether `expire_at` may be what SignalWire refused: it depends on this machine's wall clock."""
        may_be_off = error.server_time is None or self._is_off(error.server_time)
        attributes = {one.attribute for one in error.errors} or {None}
        return self._lifetime is not None and ("expire_at" in attributes or (None in attributes and may_be_off))


def masked(token_fields: TokenFields, taker: str = "SubscriberSession") -> Mapping[str, Any]:
    """Return the fields with those that are secret in a `Secret`; raise an error for unknown ones."""
    unknown = token_fields.keys() - TokenFields.__annotations__.keys()
    if unknown:
        name = min(unknown)
        token_fields.clear()  # type: ignore[attr-defined]  # a password must not stand in a frame; it is a dict
        raise TypeError(f"{taker} got an unexpected keyword argument {name!r}")
    return {
        name: Secret(value) if name in ("password", "extra") and not isinstance(value, Secret) else value
        for name, value in token_fields.items()
    }


def refuse_swapped(pair: TokenPair) -> None:
    """Refuse a pair whose halves are not what they stand for."""
    if not isinstance(pair, TokenPair):
        raise ConfigurationError("what is to be kept alive must be a TokenPair")
    halves = (("access_token", "token", pair.access_token), ("refresh_token", "refresh_token", pair.refresh_token))
    problems = [
        Problem(code="invalid_parameter", attribute=name, message=f"must be a {KINDS[half]} token, not {token.kind}")
        for name, half, token in halves
        if is_misplaced(half, token.kind)
    ]
    if problems:
        raise InvalidRequest("this pair cannot be kept alive", operation="from_pair", errors=tuple(problems))
