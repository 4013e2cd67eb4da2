"""Finds out how a space behaves, with tokens of one subscriber. `facts` compares that with what is published."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from contextlib import aclosing
from functools import partial
from secrets import token_hex, token_urlsafe
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import attrs

from signalwire_tokens import wire
from signalwire_tokens.errors import ApiError, SignalWireTokenError, is_transient
from signalwire_tokens.models import Secret, SubscriberInfo, Token, TokenPair

from .facts import PUBLISHED, Fact, answered, observed, rounded, unobserved
from .scrubbing import scrubber, variants

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from uuid import UUID

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.models import Address

__all__ = ["A_WHILE", "PLAN", "examine_service"]

A_WHILE = 12.0  # seconds, after which no service is expected to accept a used refresh token again
SHORT = 600  # seconds, of tokens that are asked for with an `expire_at`
CLOSE = 2.0  # seconds that an expiry time may be off from the one that was asked for
MOST = 20  # items of an answer that are reported
SERVER_ERROR = 500
CHANNEL = "us-central"
TOO_MANY = 11  # addresses of a guest
# Of these words alone, so that a name can't hold anything private.
LIMIT_WORDS = (
    "account api burst calls concurrency count current day hour limit limits max minute period policy project quota "
    "rate ratelimit remaining request requests reset retry second seconds signalwire space sw usage used user window x"
)
PART = rf"(?:{LIMIT_WORDS.replace(' ', '|')}|[0-9]{{1,5}}[smhd]?)"
LIMIT_HEADER = re.compile(rf"(?=.*(?:rate|limit|quota))(?:{PART}-)*{PART}", re.ASCII)
NUMBER = re.compile(r"[0-9]{1,7}", re.ASCII)
# How often each operation is asked, at most.
PLAN: Mapping[str, int] = {
    "create_subscriber_token": 12,
    "refresh_subscriber_token": 10,
    "create_guest_token": 5,
    "create_invite_token": 2,
    "create_embed_token": 1,
    "subscriber_info": 10,
    "subscriber_addresses": 2,
}


@attrs.frozen
class Outcome:
    """What a request led to: a success with its answer and what it holds, or a refusal."""

    answer: wire.Answer | None = None
    value: Any = attrs.field(default=None, repr=False)
    refusal: ApiError | None = None

    @property
    def status(self) -> int:
        """The status of the answer."""
        if self.refusal is not None:
            return self.refusal.status or 0
        return cast("wire.Answer", self.answer).status

    @property
    def at(self) -> float:
        """The service's time when it answered, or else this machine's."""
        answer = cast("wire.Answer", self.answer)
        return answer.sent if answer.server_time is None else answer.server_time

    @property
    def verdict(self) -> str:
        """Whether the request was accepted, in a word."""
        return "accepted" if self.refusal is None else "refused"


class Asker:
    """Sends one request after the other, each once, and notes what all answers have in common.

    A refusal is an outcome. It raises an error if SignalWire throttles or fails, or if something else answers: then
    nothing more may be sent.
    """

    def __init__(self, client: TokenClient, reference: str) -> None:
        self.client = client
        self.reference = reference
        words = {client.project_id, *variants(reference)}
        for place in (urlsplit(client.origin), urlsplit(client.embed_origin)):
            words |= {place.netloc, place.hostname, (place.hostname or "").partition(".")[0]}
        self.scrub: Callable[[object], str] = scrubber(words, known=PUBLISHED)
        self.limits: dict[str, set[str]] = {}  # the values of each header that is about a limit
        self.has_retry_after: bool | None = None  # before any answer
        self._ahead = 0.0  # seconds that this machine's clock is ahead of the service's

    @property
    def now(self) -> float:
        """The service's time."""
        return self.client.clock.wall() - self._ahead

    async def ask(self, request: wire.Request[Any]) -> Outcome:
        """Send a request once, and return what it led to."""
        read = request.read
        secrets = (*request.secrets, Secret(self.reference))
        noted = attrs.evolve(request, read=lambda answer: (read(answer), answer), secrets=secrets)
        try:
            value, answer = await self.client.send(noted, retries=0)
        except ApiError as error:
            self.has_retry_after = bool(self.has_retry_after) or error.retry_after is not None
            if is_transient(error) or (error.status or 0) >= SERVER_ERROR:
                raise
            return Outcome(refusal=error)
        outcome = Outcome(answer, value)
        self._ahead = answer.sent - outcome.at
        self._note_headers(answer)
        return outcome

    def _note_headers(self, answer: wire.Answer) -> None:
        self.has_retry_after = bool(self.has_retry_after) or answer.header("retry-after") != ""
        for name, value in answer.headers.items():
            if LIMIT_HEADER.fullmatch(name.lower()):
                self.limits.setdefault(name.lower(), set()).add(value)

    async def demand(self, request: wire.Request[Any]) -> Outcome:
        """Send a request once, and return what it led to, or raise the refusal."""
        outcome = await self.ask(request)
        if outcome.refusal is not None:
            raise outcome.refusal
        return outcome

    async def issue(self, **fields: Any) -> Outcome:  # noqa: ANN401 - as the operation has them
        """Issue a pair, or raise."""
        return await self.demand(self.describe_issue(**fields))

    async def renew(self, pair: TokenPair) -> Outcome:
        """Refresh a pair, or raise."""
        return await self.demand(wire.refresh_subscriber_token(Secret(pair.refresh_token.value)))

    async def refresh(self, token: Token) -> Outcome:
        """Present a refresh token."""
        return await self.ask(wire.refresh_subscriber_token(Secret(token.value)))

    async def inform(self, token: Token) -> Outcome:
        """Ask whom an access token is for: the way to see whether it is valid, and until when."""
        return await self.ask(wire.subscriber_info(Secret(token.value)))

    def describe_issue(self, **fields: Any) -> wire.Request[TokenPair]:  # noqa: ANN401 - as the operation has them
        """Return the request for a pair."""
        return wire.create_subscriber_token(self.reference, now=self.now, **fields)

    async def answer_to(self, name: str, request: wire.Request[Any]) -> Fact:
        """Send a request, and return a fact: how it is answered."""
        return observed(name, self.describe(await self.ask(request)))

    def describe(self, outcome: Outcome) -> dict[str, object]:
        """Return how an answer looks, without anything private."""
        errors = () if outcome.refusal is None else outcome.refusal.errors[:MOST]
        return answered(
            outcome.status,
            [self.scrub(one.code) for one in errors],
            [self.scrub(one.attribute or "") for one in errors],
            [self.scrub(one.message) for one in errors],
        )


def life(name: str, seen: Outcome, at: float, *, asked: float | None = None) -> Fact:
    """Return a fact: how long a token lives that was issued at this time. `asked` is the expiry time in the request."""
    if seen.refusal is not None:
        return unobserved(name, f"not visible: subscriber_info answered {seen.status}")
    claims = cast("SubscriberInfo", seen.value).sat_claims
    if claims is None or claims.expires_at is None:
        return unobserved(name, "not visible: subscriber_info doesn't say when the token expires")
    end = claims.expires_at.timestamp()
    return observed(name, SHORT if asked is not None and abs(end - asked) <= CLOSE else rounded(end - at))


async def examine_service(client: TokenClient, reference: str) -> AsyncGenerator[Fact, None]:
    """Yield one fact after the other. Raise the error that ends the examination early, if there is one."""
    asker = Asker(client, reference)
    failure: SignalWireTokenError | None = None
    try:
        for part in (see_refreshing, see_issuing, see_addresses, see_refresh_tokens, see_bodies, see_credentials):
            async with aclosing(part(asker)) as facts:
                async for fact in facts:
                    yield fact
    except SignalWireTokenError as error:
        failure = error
    if asker.has_retry_after is not None:
        values = {name: steady(values) for name, values in sorted(asker.limits.items())}
        yield observed("rate_limit_headers", values)
        yield observed("retry_after", asker.has_retry_after)
    if failure is not None:
        raise failure


def steady(values: set[str]) -> int | str:
    """Return the number that a header always had, or a text if there is none or it is too long to be a limit."""
    if len(values) > 1:
        return "varies"
    (value,) = values
    return int(value) if NUMBER.fullmatch(value) else "not a number"


async def see_refreshing(asker: Asker) -> AsyncGenerator[Fact, None]:
    """Yield facts about refreshing a pair, and about using its refresh token again: at once, and later."""
    yield unobserved("lifetime_refresh_token", "not visible: nothing shows when a refresh token expires")
    issued = await asker.issue()
    first: TokenPair = issued.value
    yield observed("status_create_subscriber_token", issued.status)
    seen = await asker.inform(first.access_token)
    yield observed("status_subscriber_info", seen.status)
    fresh = life("lifetime_fresh", seen, issued.at)
    yield fresh
    renewed = await asker.renew(first)
    second: TokenPair = renewed.value
    yield observed("status_refresh_subscriber_token", renewed.status)
    yield life("lifetime_refreshed", await asker.inform(second.access_token), renewed.at)
    yield revoked("refresh_revokes_access", await asker.inform(first.access_token), seen)
    again = await asker.refresh(first.refresh_token)
    yield observed("reuse_at_once", again.verdict)
    await asker.client.clock.sleep(A_WHILE)
    later = await asker.refresh(first.refresh_token)
    successor = await asker.refresh(second.refresh_token)
    if fresh.observed is not None and fresh.observed < 2 * A_WHILE:
        for name in ("reuse_later", "reuse_successor"):
            yield unobserved(name, "tokens of this space expire too soon")
        later = again
    else:
        yield observed("reuse_later", later.verdict)
        yield observed("reuse_successor", "valid" if successor.refusal is None else "revoked")
    refused = next((one for one in (again, later) if one.refusal is not None), None)
    if refused is None:
        yield unobserved("reuse_refusal", "a used refresh token was accepted each time")
    else:
        yield observed("reuse_refusal", asker.describe(refused))


def revoked(name: str, now: Outcome, before: Outcome) -> Fact:
    """Return a fact: whether an access token was revoked. The outcomes are those of `subscriber_info`."""
    if before.refusal is not None:
        return unobserved(name, f"not visible: subscriber_info answered {before.status} for a valid token")
    return observed(name, now.refusal is not None)


async def see_issuing(asker: Asker) -> AsyncGenerator[Fact, None]:
    """Yield facts about expiry times in requests, and about what an issue does to an earlier pair."""
    until = int(asker.now) + SHORT
    short = await asker.issue(expire_at=until)
    yield life("lifetime_expire_at", await asker.inform(short.value.access_token), short.at, asked=until)
    renewed = await asker.renew(short.value)
    earlier: TokenPair = renewed.value
    seen = await asker.inform(earlier.access_token)
    yield life("lifetime_expire_at_refreshed", seen, renewed.at)
    await asker.issue()
    yield revoked("issue_revokes_access", await asker.inform(earlier.access_token), seen)
    outcome = await asker.refresh(earlier.refresh_token)
    yield observed("issue_revokes_refresh", outcome.refusal is not None)
    unbound = await asker.issue(expire_at=int(asker.now) + SHORT, scope="sat:refresh")
    yield life("lifetime_unbound", await asker.inform(unbound.value.access_token), unbound.at)


async def see_addresses(asker: Asker) -> AsyncGenerator[Fact, None]:
    """Yield facts about the subscriber's addresses, and about tokens to the first of them."""
    subscriber: TokenPair = (await asker.issue()).value
    origin = asker.client.origin
    page = await asker.ask(wire.subscriber_addresses(subscriber.subscriber_id or uuid4(), origin=origin))
    addresses: tuple[Address, ...] = ()
    if page.refusal is not None:
        for name in ("status_subscriber_addresses", "page_links", "page_form"):
            yield unobserved(name, f"subscriber_addresses answered {page.status}")
    else:
        addresses = page.value.addresses
        yield observed("status_subscriber_addresses", page.status)
        form, links = page_of(cast("wire.Answer", page.answer))
        yield observed("page_form", form)
        yield observed("page_links", [asker.scrub(name) for name in links])
    for see in (see_guests, see_invites):
        async with aclosing(see(asker, addresses[0].id if addresses else None, subscriber.access_token)) as facts:
            async for fact in facts:
                yield fact
    yield await asker.answer_to("embed_made_up_token", wire.create_embed_token(Secret(f"c2c_{token_hex(16)}")))
    yield unobserved("lifetime_embed", "not visible: nothing shows when an embed token expires")


def page_of(answer: wire.Answer) -> tuple[str, list[str]]:
    """Return whether a page is an object or an array that wraps one, and the names of its links."""
    value = json.loads(answer.body or b"")
    form = "object" if isinstance(value, dict) else "array"
    page = value if isinstance(value, dict) else value[0]
    links = page.get("links")
    return form, sorted(links)[:MOST] if isinstance(links, dict) else []


async def see_guests(asker: Asker, address: UUID | None, _: Token) -> AsyncGenerator[Fact, None]:
    """Yield facts about guests' tokens."""
    names = ("status_create_guest_token", "guest_ch", "lifetime_guest", "guest_repeated_address")
    base = wire.create_guest_token([uuid4()], now=asker.now)
    if address is None:
        for name in names:
            yield unobserved(name, "the subscriber has no address")
    else:
        outcome = await asker.ask(wire.create_guest_token([address], now=asker.now, ch=CHANNEL))
        if outcome.refusal is not None:
            for name in names[:-1]:
                yield unobserved(name, f"create_guest_token answered {outcome.status}")
        else:
            guest: Token = outcome.value.access_token
            yield observed("status_create_guest_token", outcome.status)
            yield observed("guest_ch", asker.scrub(guest.channel or ""))
            yield life("lifetime_guest", await asker.inform(guest), outcome.at)
        twice = await asker.ask(with_body(base, {"allowed_addresses": [str(address)] * 2}))
        yield observed("guest_repeated_address", twice.verdict)
    none = await asker.ask(with_body(base, {"allowed_addresses": []}))
    yield observed("guest_without_addresses", none.verdict)
    for name, count in (("guest_foreign_addresses", 3), ("guest_too_many_addresses", TOO_MANY)):
        yield await asker.answer_to(name, with_body(base, {"allowed_addresses": [str(uuid4()) for _ in range(count)]}))


async def see_invites(asker: Asker, address: UUID | None, token: Token) -> AsyncGenerator[Fact, None]:
    """Yield facts about an invitee's token, issued in the subscriber's name."""
    describe = partial(wire.create_invite_token, subscriber_token=Secret(token.value), now=asker.now)
    names = ("status_create_invite_token", "lifetime_invite")
    if address is None:
        for name in names:
            yield unobserved(name, "the subscriber has no address")
    elif (outcome := await asker.ask(describe(address))).refusal is not None:
        for name in names:
            yield unobserved(name, f"create_invite_token answered {outcome.status}")
    else:
        yield observed("status_create_invite_token", outcome.status)
        yield life("lifetime_invite", await asker.inform(outcome.value), outcome.at)
    yield await asker.answer_to("invite_unknown_address", describe(uuid4()))


async def see_refresh_tokens(asker: Asker) -> AsyncGenerator[Fact, None]:
    """Yield facts about refused refresh tokens."""
    subscriber: TokenPair = (await asker.issue()).value
    tokens = {
        "refresh_malformed_token": Secret("not-a-token"),
        "refresh_foreign_token": Secret(made_up("Refresh")),
        "refresh_access_token": Secret(subscriber.access_token.value),
    }
    for name, token in tokens.items():
        base = wire.refresh_subscriber_token(Secret("unused"))
        yield await asker.answer_to(name, with_body(base, {"refresh_token": token.value}, token))
    yield unobserved("refresh_expired_token", "not asked: a refresh token would have to expire first")


async def see_bodies(asker: Asker) -> AsyncGenerator[Fact, None]:
    """Yield facts about refused bodies."""
    reference = json.dumps(asker.reference)
    bodies = {
        "missing_parameter": "{}",
        "invalid_parameters": (
            f'{{"reference": {reference}, "expire_at": "soon", "application_id": "none", "fingerprint": "short"}}'
        ),
        "malformed_json": f'{{"reference": {reference}',
        "json_nan": f'{{"reference": {reference}, "expire_at": NaN}}',
        "json_repeated_member": f'{{"reference": {reference}, "reference": {reference}}}',
    }
    for name, body in bodies.items():
        yield await asker.answer_to(name, with_body(asker.describe_issue(), body.encode()))
    outcome = await asker.ask(with_body(asker.describe_issue(), {"reference": asker.reference, "made_up": "1"}))
    yield observed("unknown_member", outcome.verdict)


async def see_credentials(asker: Asker) -> AsyncGenerator[Fact, None]:
    """Yield facts about refused credentials and an unknown subscriber."""
    basic = wire.basic_authorization(asker.client.project_id or "", Secret(f"PT{token_hex(24)}"))
    secret = Secret(basic.value.partition(" ")[2])
    base = with_body(wire.refresh_subscriber_token(Secret("unused")), {"refresh_token": "not-a-token"}, secret)
    headers = Secret[Any]({"Authorization": basic.value})
    yield await asker.answer_to("wrong_api_token", attrs.evolve(base, auth=wire.Auth.NONE, headers=headers))
    yield await asker.answer_to("wrong_access_token", wire.subscriber_info(Secret(made_up("SAT"))))
    yield await asker.answer_to("unknown_subscriber", wire.subscriber_addresses(uuid4(), origin=asker.client.origin))


def status_of(answer: wire.Answer) -> int:
    """Return an answer's status, whatever its body holds."""
    return answer.status


def with_body(
    request: wire.Request[Any], body: Mapping[str, object] | bytes, *secrets: Secret[str]
) -> wire.Request[Any]:
    """Return a request with another body, which the client itself would refuse to send."""
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    return attrs.evolve(request, body=written, read=status_of, secrets=(*request.secrets, *secrets))


def made_up(kind: str) -> str:
    """Return a made-up text in the form of a SignalWire token."""
    header = b64encode(json.dumps({"alg": "dir", "enc": "A256GCM", "typ": kind}).encode()).decode().rstrip("=")
    return f"{header}..{token_urlsafe(12)}.{token_urlsafe(300)}.{token_urlsafe(16)}"
