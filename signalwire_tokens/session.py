"""`SubscriberSession`: keeps a subscriber's token valid with the project's credentials.

The session renews a pair in one of two ways:

- It *refreshes*: it exchanges the refresh token for the next pair.
- It *reissues*: it issues a new pair for the subscriber's `reference`, as it did for the first one.

The policy and the lifecycle decide when to renew, and in which way. `SubscriberRenewal` sends the request and decides
what an error means for the session.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self, Unpack

import attrs

from . import wire
from .client import TokenClient, report_renewal
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
from .models import KINDS, LONGEST_LIFE, Token, TokenPair, is_misplaced
from .outcomes import Denied, IssueNew, Renewed, Spent
from .policy import CLOCK_TOLERANCE
from .secret import digest_of
from .stores import key_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from uuid import UUID

    from .clock import Clock
    from .durations import Duration
    from .keeper import RenewalRequest
    from .outcomes import Failure
    from .policy import RefreshPolicy
    from .stores import TokenStore

__all__ = ["EACH_ISSUE", "SubscriberRenewal", "SubscriberSession", "check_client"]

NO_FIELDS: Mapping[str, Any] = {}
# These fields shape the token, so each issue sends them. All others describe the subscriber, who keeps them, so they
# are sent only until a renewal succeeds. Sending them again could overwrite a later change of the profile.
EACH_ISSUE = ("application_id", "fingerprint", "scope", "region", "extra")


class SubscriberSession(TokenSession):
    """A session that keeps a subscriber's access token (SAT) valid.

    While the session is open, `await session.token()` returns a valid token.

    The session issues a pair when it is opened, and then renews it in the background. It refreshes the pair as long as
    it can. If SignalWire refuses the refresh token, or may have used it up, the session issues a new pair for
    `reference`. With `reissue=False`, it doesn't issue a second pair, and expires when it can't refresh any more.

    `lifetime` is how long access tokens should live; None means the space's standard lifetime. With a `lifetime`, each
    renewal issues a new pair, because a refresh returns a pair with the standard lifetime.

    In a `store`, the pair outlives the session. Sessions that ask for the same token share the pair, and only one of
    them renews it at a time. A session without a `store` keeps the pair in memory.

    `application_id`, `fingerprint`, `scope`, `region` and `extra` shape the token and are sent with each issue.
    `password` and the profile fields are sent only until the session's first renewal succeeds.

    The session sends its requests through `client` and doesn't close it. The token is valid for the space at
    `client.origin`.
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
        **token_fields: Unpack[wire.TokenFields],
    ) -> None:
        check_client("SubscriberSession", client)
        given = wire.with_secrets_hidden(token_fields, "SubscriberSession")
        fields = {name: value for name, value in given.items() if value is not None}
        token_fields.clear()  # type: ignore[attr-defined]  # this frame must not hold a password; it is a dict
        if lifetime is not None and not reissue:
            raise ConfigurationError(
                "a session with a lifetime can't use refresh tokens, because they bring tokens with the usual "
                "lifetime: leave out lifetime, or reissue=False"
            )
        span = None if lifetime is None else positive_span("lifetime", lifetime, longest=LONGEST_LIFE)
        renewal = SubscriberRenewal(client, reference, lifetime=span, fields=fields)
        renewal.check(is_kept=store is None)
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
        """Return a session that keeps a pair valid that was issued elsewhere.

        The session can refresh the pair, but can't issue a new one. It expires when it can't refresh any more.

        In a `store`, the later pairs are kept under a key that is made from this pair. To continue after a restart,
        pass the same pair again, even though it has expired by then.
        """
        check_client("SubscriberSession.from_pair", client)
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

        `expires_at` is a time in unix seconds, a datetime with a time zone, or a timedelta from now. If SignalWire
        refuses the session's token, the session renews it and repeats the request once, unless `report_unauthorized`
        returns False.
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
    """A `Renewal` that issues and refreshes a subscriber's pairs through a client.

    Without a `reference`, it can only refresh: use it in a session with `reissues=False`. Each request is sent without
    the client's retries, because the session's policy plans the next attempt.

    In two cases, an issue sends a second request within the same time limit:

    - SignalWire refuses `expire_at`, and the clocks differ by more than 2 s. This machine's wall clock may be wrong,
      so the second request calculates `expire_at` from SignalWire's clock.
    - The answer is a pair of another subscriber. It may belong to another request, for example because of a cache. Or
      the subscriber was deleted and created again. A second answer with the same new subscriber and another token shows
      that, so it is accepted.
    """

    __slots__ = ("_described", "_first", "_label", "_shape", "client", "reference")

    def __init__(
        self,
        client: TokenClient,
        reference: str = "",
        *,
        lifetime: timedelta | None = None,
        fields: Mapping[str, Any] = NO_FIELDS,
        label: str | None = None,
    ) -> None:
        self.client: TokenClient = client
        self.reference: str = reference
        self._label = label
        self._described: wire.Request[TokenPair] | None = None  # the request of the first issue
        shape = {name: value for name, value in fields.items() if name in EACH_ISSUE}
        if lifetime is not None:
            shape["expire_at"] = lifetime
        self._shape = shape or NO_FIELDS
        self._first = {name: value for name, value in fields.items() if name not in EACH_ISSUE} or NO_FIELDS

    @property
    def label(self) -> str:
        """The session's name in logs and errors: a digest, because a reference may be an email address."""
        return self._label or f"#{digest_of(self.reference)}"

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields that the next issue sends, besides `reference`."""
        return {**self._shape, **self._first}

    @property
    def key(self) -> str:
        """The pair's key in a store.

        It contains all that decides which token a session gets, so sessions with equal keys can share a pair. The
        profile and the password don't count, because they change the subscriber and not the token.
        """
        shape = self._shape
        application, extra, lifetime = shape.get("application_id"), shape.get("extra"), shape.get("expire_at")
        if extra is not None:  # the round trip turns nested keys into strings, which can be sorted
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
        """Return the request for a new pair, or raise `InvalidRequest` if an argument is wrong.

        `now` is the time from which `expire_at` is calculated, in unix seconds. None means this machine's wall clock.
        """
        return wire.create_subscriber_token(
            self.reference,
            now=self.client.clock.wall() if now is None else now,
            **self.fields,
        )

    def check(self, *, is_kept: bool) -> None:
        """Raise `InvalidRequest` now, rather than in the background, if an argument is wrong.

        If `is_kept`, the request is kept for the first issue. With a store, that issue may never come.
        """
        described = self.describe_issue()
        self._described = described if is_kept and "expire_at" not in self._shape else None

    async def renew(self, request: RenewalRequest) -> Renewed:
        """Return a new pair, by a refresh or an issue as `request.step` demands, or raise the client's error."""
        pair, seen = request.pair, set(request.current.seen)
        replaced = pair or request.current.pair
        if isinstance(request.step, IssueNew) or pair is None:
            answer = await self._issue(replaced, seen, request.timeout)
        else:
            refresh = wire.accepting_only_successor(wire.refresh_subscriber_token(pair.refresh_token), pair, seen)
            answer = await self.client.send(refresh, retries=0, limit=request.timeout)
        self._first, self._described = NO_FIELDS, None
        if answer.subscriber_id is None and replaced is not None:
            answer = attrs.evolve(answer, subscriber_id=replaced.subscriber_id)
        return Renewed(answer, request.asked)

    def adopted(self, left: float) -> None:
        """Report to the client's observers that a token with `left` more seconds to live was replaced."""
        report_renewal(self.client, left)

    def meaning(self, error: SignalWireTokenError, request: RenewalRequest) -> Failure:
        """Return the failure that an error stands for.

        A refused issue ends the session (`Spent`). A refused `expire_at` doesn't, because a wrong wall clock may be the
        reason and may be corrected. It counts as `Denied`, and the session tries again later.
        """
        meaning = failure_of(error, request.step)
        if isinstance(meaning, Spent) and isinstance(request.step, IssueNew) and isinstance(error, ValidationFailed):
            return Denied(error) if self._may_be_about_lifetime(error) else meaning
        return meaning

    async def _issue(self, replaced: TokenPair | None, seen: set[int], limit: float | None) -> TokenPair:
        """Return an issued pair. Send a second request in the two cases that the class describes.

        `replaced` is the pair before, or None. `seen` holds the hashes of earlier access tokens, which no answer may
        repeat. `limit` is in seconds, and covers both requests; None means the client's `timeout`.
        """
        request, clock = self._described or self.describe_issue(), self.client.clock
        began = clock.now()
        try:
            return await self.client.send(
                wire.accepting_only_successor(request, replaced, seen), retries=0, limit=limit
            )
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
        # `other` is None unless the first answer named another subscriber. That subscriber is accepted now. The token
        # must be another one: the first answer's token is in `seen`.
        request = wire.accepting_only_successor(request, replaced, seen, or_of=other)
        left = (self.client.timeout if limit is None else limit) - (clock.now() - began)
        return await self.client.send(request, retries=0, limit=left)

    def _is_off(self, server_time: float) -> bool:
        """Return whether SignalWire's time differs from this machine's wall clock by more than rounding explains."""
        return abs(server_time - self.client.clock.wall()) > CLOCK_TOLERANCE

    def _may_be_about_lifetime(self, error: ValidationFailed) -> bool:
        """Return whether SignalWire may have refused `expire_at`, which depends on this machine's wall clock.

        Without a `lifetime`, no `expire_at` is sent. With one, the answer may name `expire_at`. If it names no
        attribute, `expire_at` counts as refused unless SignalWire's time shows that the clocks agree.
        """
        may_be_off = error.server_time is None or self._is_off(error.server_time)
        attributes = {one.attribute for one in error.errors} or {None}
        return "expire_at" in self._shape and ("expire_at" in attributes or (None in attributes and may_be_off))


def check_client(taker: str, client: object) -> None:
    """Raise `ConfigurationError` unless `client` is a `TokenClient`. `taker` is what needs it."""
    if not isinstance(client, TokenClient):
        raise ConfigurationError(
            f"{taker} needs a TokenClient, not {type(client).__name__}: open one with "
            '`async with TokenClient("acme", …) as client`, and pass client'
        )


def refuse_swapped(pair: TokenPair) -> None:
    """Raise an error if `pair` isn't a `TokenPair`, or if its tokens are in each other's place."""
    if not isinstance(pair, TokenPair):
        raise ConfigurationError(f"pair must be a TokenPair, not {type(pair).__name__}")
    halves = (("access_token", "token", pair.access_token), ("refresh_token", "refresh_token", pair.refresh_token))
    problems = [
        Problem(code="invalid_parameter", attribute=name, message=f"must be a {KINDS[half]} token, not {token.kind}")
        for name, half, token in halves
        if is_misplaced(half, token.kind)
    ]
    if problems:
        raise InvalidRequest(
            "the tokens of the pair are in each other's place", operation="from_pair", errors=tuple(problems)
        )
