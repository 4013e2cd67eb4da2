"""Examines how a space behaves, with tokens of one subscriber, and fills a report with what it observes."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from secrets import token_hex, token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import attrs

from signalwire_tokens import wire
from signalwire_tokens.errors import ApiError, SignalWireTokenError, is_transient
from signalwire_tokens.secret import Secret

from .diagnosis import Finding, failure_finding
from .space_report import CHANNEL, STEP, Report, describe_refusal, private_words, public_word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.models import TokenPair

__all__ = ["A_WHILE", "Reaction", "Space", "examine_space"]

A_WHILE = 12.0  # seconds, after which no service is expected to accept a used refresh token again
SHORT = 600  # seconds, of tokens that are issued with an `expire_at`
# Headers about limits. Their names have only such words, so they can't hold anything private.
LIMIT_HEADER = re.compile(
    r"(?:x-)?(?:rate-?limit|limit|quota)(?:-(?:limit|remaining|reset|used|window|[0-9]{1,5}[smhd]?))*", re.ASCII
)
NOT_VISIBLE = {
    "lifetime_refresh_token": "nothing shows when a refresh token expires",
    "lifetime_embed": "nothing shows when an embed token expires",
    "refresh_expired_token": "a refresh token would have to expire first",
}
NEEDS_ADDRESS = (
    *("status_create_guest_token", "lifetime_guest", "guest_ch", "guest_repeated_address"),
    *("status_create_invite_token", "lifetime_invite"),
)


@attrs.frozen
class Reaction:
    """How a space answered a request: with a success at a time by SignalWire's clock, or with a refusal."""

    status: int
    at: float = 0.0
    refusal: ApiError | None = None
    _value: Any = attrs.field(default=None, repr=False)

    @property
    def value(self) -> Any:  # noqa: ANN401 - as the operation has it
        """What a success holds. A refusal is raised."""
        if self.refusal is not None:
            raise self.refusal
        return self._value

    @property
    def verdict(self) -> str:
        """Whether the request was accepted, in a word."""
        return "accepted" if self.refusal is None else "refused"

    @property
    def reason(self) -> str | None:
        """Why a refusal leaves a question open; None for a success."""
        return None if self.refusal is None else f"{self.refusal.operation} answered {self.status}"


class Space:
    """A space that is examined: sends it one request after the other, each once, and has the report about it."""

    def __init__(self, client: TokenClient, reference: str, report: Report) -> None:
        self.client: TokenClient = client
        self.reference: str = reference
        self.report: Report = report
        hosts = [urlsplit(one).hostname or "" for one in (client.origin, client.embed_origin)]
        names = [host.removesuffix(".signalwire.com") for host in hosts]
        self.private: set[str] = private_words(reference, client.project_id or "", *names)
        self.limits: dict[str, set[int | str]] = {}  # the values of each header that is about a limit
        self.has_retry_after: bool | None = None  # before any answer
        self._ahead = 0.0  # seconds that this machine's clock is ahead of SignalWire's

    @property
    def now(self) -> float:
        """SignalWire's time."""
        return self.client.clock.wall() - self._ahead

    async def send(self, request: wire.Request[Any]) -> Reaction:
        """Send a request once, and return its outcome, which may be a refusal.

        Raise an error if SignalWire throttles or fails, or if another server answers: send nothing more then.
        """
        read = request.read
        try:
            noted = attrs.evolve(request, read=lambda answer: (read(answer), answer))
            value, answer = await self.client.send(noted, retries=0)
        except ApiError as error:
            self.has_retry_after = bool(self.has_retry_after) or error.retry_after is not None
            if is_transient(error) or error.status is None or error.status >= 500:  # noqa: PLR2004 - any 5xx
                raise
            return Reaction(error.status, refusal=error)
        self.has_retry_after = bool(self.has_retry_after) or answer.header("retry-after") != ""
        for name, text in answer.headers.items():
            if LIMIT_HEADER.fullmatch(name.lower()):
                number = int(text) if re.fullmatch("[0-9]{1,7}", text) else "not a number"
                self.limits.setdefault(name.lower(), set()).add(number)
        at = answer.sent if answer.server_time is None else answer.server_time
        self._ahead = answer.sent - at
        return Reaction(answer.status, at, value=value)

    def issue(self, **fields: Any) -> wire.Request[TokenPair]:  # noqa: ANN401 - as the operation has them
        """Return the request for a pair of the subscriber."""
        return wire.create_subscriber_token(self.reference, now=self.now, **fields)

    def describe(self, outcome: Reaction) -> dict[str, object]:
        """Return how the space answered a request, without anything private."""
        if outcome.refusal is None:
            return {"status": outcome.status, "body": "success"}
        return describe_refusal(outcome.status, outcome.refusal.errors, self.private)


async def examine_space(space: Space) -> list[Finding]:
    """Fill the report about a space. Return a finding about the error that ends it early, if there is one."""
    report = space.report
    for name, hidden in NOT_VISIBLE.items():
        report.observe(name, None, unless=hidden)
    try:
        await see_refreshing(space)
        pair = await see_issuing(space)
        await see_addresses(space, pair)
        for name, request in wrong_requests(space, pair).items():
            outcome = await space.send(request)
            in_a_word = name in ("guest_without_addresses", "unknown_member")
            report.observe(name, outcome.verdict if in_a_word else space.describe(outcome))
        report.stopped = None
    except SignalWireTokenError as error:
        report.stopped = f"{error.operation} failed: {type(error).__name__}, status {error.status}"
        return [failure_finding("examination", error)]
    finally:
        reason = "no request was answered" if space.has_retry_after is None else None
        limits = {name: "varies" if len(seen) > 1 else next(iter(seen)) for name, seen in sorted(space.limits.items())}
        report.observe("rate_limit_headers", limits, unless=reason)
        report.observe("retry_after", space.has_retry_after, unless=reason)
    return []


async def see_token(
    space: Space, lifetime: str, request: wire.Request[Any], since: float | None = None
) -> tuple[Reaction, Reaction]:
    """Issue a token, and observe the status and how long the token is valid, from its issue or another time.

    Return the outcome, and that of `subscriber_info` about the token.
    """
    issued = info = await space.send(request)
    end = None
    if issued.refusal is None:
        info = await space.send(wire.subscriber_info(getattr(issued.value, "access_token", issued.value)))
        claims = info.value.sat_claims if info.refusal is None else None
        end = None if claims is None else claims.expires_at
    space.report.observe(f"status_{request.operation}", issued.status, unless=issued.reason)
    if end is None:
        reason = info.reason or "subscriber_info doesn't report when the token expires"
        space.report.observe(lifetime, None, unless=reason)
    else:
        seconds = end.timestamp() - (since or issued.at)
        space.report.observe(lifetime, STEP * round(seconds / STEP))
    return issued, info


async def see_refreshing(space: Space) -> None:
    """Refresh a pair, and use its refresh token again: at once, and later."""
    report = space.report
    issued, info = await see_token(space, "lifetime_fresh", space.issue())
    first: TokenPair = issued.value
    report.observe("status_subscriber_info", info.status)
    refresh = wire.refresh_subscriber_token(first.refresh_token)
    renewed, _ = await see_token(space, "lifetime_refreshed", refresh)
    second: TokenPair = renewed.value
    now = await space.send(wire.subscriber_info(first.access_token))
    report.observe("refresh_revokes_access", now.refusal is not None, unless=info.reason)
    again = await space.send(refresh)
    report.observe("reuse_at_once", again.verdict)
    await space.client.clock.sleep(A_WHILE)
    later = await space.send(refresh)
    successor = await space.send(wire.refresh_subscriber_token(second.refresh_token))
    lifetime, reason = report.facts["lifetime_fresh"].observed, None
    if lifetime is not None and lifetime < 2 * A_WHILE:  # a refusal may mean that the token has expired
        later, reason = again, "tokens of this space expire too soon"
    report.observe("reuse_later", later.verdict, unless=reason)
    report.observe("reuse_successor", "valid" if successor.refusal is None else "revoked", unless=reason)
    refused = later if again.refusal is None else again
    reason = "a used refresh token was accepted each time" if refused.refusal is None else None
    report.observe("reuse_refusal", space.describe(refused), unless=reason)


async def see_issuing(space: Space) -> TokenPair:
    """Issue tokens with an expiry time, and observe what an issue does to an earlier pair. Return the last pair."""
    await see_token(space, "lifetime_unbound", space.issue(expire_at=int(space.now) + SHORT, scope="sat:refresh"))
    now = int(space.now)
    short, _ = await see_token(space, "lifetime_expire_at", space.issue(expire_at=now + SHORT), now)
    refresh = wire.refresh_subscriber_token(short.value.refresh_token)
    renewed, info = await see_token(space, "lifetime_expire_at_refreshed", refresh)
    earlier: TokenPair = renewed.value
    last: TokenPair = (await space.send(space.issue())).value
    reused = await space.send(wire.subscriber_info(earlier.access_token))
    space.report.observe("issue_revokes_access", reused.refusal is not None, unless=info.reason)
    reused = await space.send(wire.refresh_subscriber_token(earlier.refresh_token))
    space.report.observe("issue_revokes_refresh", reused.refusal is not None)
    return last


async def see_addresses(space: Space, pair: TokenPair) -> None:
    """Look up the subscriber's addresses, and issue tokens for the first one: to a guest, and to an invitee."""
    report = space.report
    request: wire.Request[Any] = wire.subscriber_addresses(pair.subscriber_id or uuid4(), origin=space.client.origin)
    read = request.read
    page = await space.send(attrs.evolve(request, read=lambda answer: (read(answer).addresses, *form_of(answer))))
    addresses, form, links = page.value if page.refusal is None else ((), "", ())
    report.observe("status_subscriber_addresses", page.status, unless=page.reason)
    report.observe("page_form", form, unless=page.reason)
    report.observe("page_links", [public_word(name, space.private) for name in links], unless=page.reason)
    if not addresses:
        for name in NEEDS_ADDRESS:
            report.observe(name, None, unless="the subscriber has no address")
        return
    address = addresses[0].id
    guest = wire.create_guest_token([address], now=space.now, ch=CHANNEL)
    issued, _ = await see_token(space, "lifetime_guest", guest)
    channel = "" if issued.refusal else issued.value.access_token.channel or ""
    report.observe("guest_ch", public_word(channel, space.private), unless=issued.reason)
    twice = await space.send(with_body(guest, {"allowed_addresses": [str(address)] * 2}))
    report.observe("guest_repeated_address", twice.verdict)
    invite = wire.create_invite_token(address, subscriber_token=pair.access_token, now=space.now)
    await see_token(space, "lifetime_invite", invite)


def form_of(answer: wire.Answer) -> tuple[str, list[str]]:
    """Return whether a page is an object or an array that wraps one, and the names of its links."""
    value = json.loads(answer.body or b"")
    form, page = ("object", value) if isinstance(value, dict) else ("array", value[0])
    links = page.get("links")
    return form, sorted(links) if isinstance(links, dict) else []


def wrong_requests(space: Space, pair: TokenPair) -> Mapping[str, wire.Request[Any]]:
    """Return requests that are wrong on purpose, by the facts that the answers show."""
    issue, now = space.issue(), space.now
    guest = wire.create_guest_token([uuid4()], now=now)
    renewal = wire.refresh_subscriber_token(Secret("unused"))
    reference = json.dumps(space.reference)
    wrong = {"expire_at": "soon", "application_id": "none", "fingerprint": "short"}
    basic = wire.basic_authorization(space.client.project_id or "", Secret(f"PT{token_hex(24)}"))
    headers, secret = Secret[Any]({"Authorization": basic.value}), Secret(basic.value.partition(" ")[2])
    unknown = attrs.evolve(renewal, auth=wire.Auth.NONE, headers=headers, secrets=(secret,))
    return {
        "guest_without_addresses": with_body(guest, {"allowed_addresses": []}),
        "guest_foreign_addresses": with_body(guest, {"allowed_addresses": [str(uuid4()) for _ in range(3)]}),
        "guest_too_many_addresses": with_body(guest, {"allowed_addresses": [str(uuid4()) for _ in range(11)]}),
        "invite_unknown_address": wire.create_invite_token(uuid4(), subscriber_token=pair.access_token, now=now),
        "embed_made_up_token": wire.create_embed_token(Secret(f"c2c_{token_hex(16)}")),
        "refresh_malformed_token": with_body(renewal, {"refresh_token": "not-a-token"}),
        "refresh_foreign_token": with_body(renewal, {"refresh_token": made_up("Refresh")}),
        "refresh_access_token": with_body(renewal, {"refresh_token": pair.access_token.value}),
        "missing_parameter": with_body(issue, {}),
        "invalid_parameters": with_body(issue, {"reference": space.reference, **wrong}),
        "malformed_json": with_body(issue, f'{{"reference": {reference}'),
        "json_nan": with_body(issue, f'{{"reference": {reference}, "expire_at": NaN}}'),
        "json_repeated_member": with_body(issue, f'{{"reference": {reference}, "reference": {reference}}}'),
        "unknown_member": with_body(issue, {"reference": space.reference, "made_up": "1"}),
        "wrong_api_token": with_body(unknown, {"refresh_token": "not-a-token"}),
        "wrong_access_token": wire.subscriber_info(Secret(made_up("SAT"))),
        "unknown_subscriber": wire.subscriber_addresses(uuid4(), origin=space.client.origin),
    }


def with_body(request: wire.Request[Any], body: object) -> wire.Request[Any]:
    """Return a request with another body, as text or JSON, which the client itself would refuse to send."""
    text = body if isinstance(body, str) else json.dumps(body)
    return attrs.evolve(request, body=text.encode(), read=lambda answer: answer.status)


def made_up(kind: str) -> str:
    """Return a made-up text in the form of a SignalWire token."""
    header = b64encode(json.dumps({"alg": "dir", "enc": "A256GCM", "typ": kind}).encode()).decode().rstrip("=")
    return f"{header}..{token_urlsafe(12)}.{token_urlsafe(300)}.{token_urlsafe(16)}"
