"""Readers of successful answers: they return pairs, tokens, addresses and subscribers, or raise `UnusableAnswer`.

A token's expiry is encrypted, so the readers calculate it. It must not be too late, because callers would then use an
expired token. These are the sources, and the earliest expiry counts:

======================  ===========================================  =====================================
token                   lifetime, from when the request was sent     function
======================  ===========================================  =====================================
without `expire_at`     the space's `Lifetimes`                      `lifetime_until`
with `expire_at`        until that time, by both clocks              `lifetime_until`
of a device             `expires_in` and `expires_at` of the answer  `read_bound`, `lifetime_to`
of a backend            until `expiry_at`, by the backend's clock    `lifetime_to`
signed (JWS)            at most its own `exp`                        `make_token`
======================  ===========================================  =====================================

An optional field that is missing or has another type becomes None or empty. The answer is broken only if it lacks what
makes it useful: a token, an expiry from a backend, an id, or a list of addresses.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import SplitResult, urljoin, urlsplit
from uuid import UUID

import attrs

from signalwire_tokens.models import LONGEST_LIFE, Address, SatClaims, SubscriberInfo, Token, TokenPair, is_misplaced
from signalwire_tokens.origins import write_origin
from signalwire_tokens.token_header import YEAR_10000, open_claims, read_header

from .checks import UUID_FORM, visible_ascii
from .exchange import Answer, UnusableAnswer

__all__ = [
    "Page",
    "json_object",
    "json_value",
    "lifetime_to",
    "read_address",
    "read_bound",
    "read_info",
    "read_page",
    "read_pair",
    "read_token",
    "single_token_pair",
]

Json = Mapping[str, object]
DECODE = json.JSONDecoder().decode  # `json.loads` detects other encodings first, which takes a third of its time
DATE_TOLERANCE = timedelta(seconds=2)  # `Date` and `expires_at` have whole seconds, so each may be off by one
MISPLACED = {
    "token": "with a refresh token in place of an access token",
    "refresh_token": "with an access token in place of a refresh token",
}
MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}", re.ASCII)


@attrs.frozen(kw_only=True)
class Page:
    """One page of a list. `next` is the path and query of the next page on the same origin, or None."""

    addresses: tuple[Address, ...]
    next: str | None


def json_value(answer: Answer) -> object:
    """Return the JSON value of a body.

    Raise `UnusableAnswer` if the body isn't JSON, is too large, or is compressed.
    """
    if answer.header("content-encoding").strip().lower() not in ("", "identity"):
        raise UnusableAnswer("with a compressed body, which the request forbade")
    if answer.body is None:
        raise UnusableAnswer("with a body larger than 64 KiB")
    try:
        value: object = DECODE(answer.body.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError):
        found = answer.header("content-type").partition(";")[0].strip().lower()
        what = found if MEDIA_TYPE.fullmatch(found) and "json" not in found else "something else"
        raise UnusableAnswer(f"with {what if answer.body else 'nothing'} where JSON was expected") from None
    return value


def json_object(value: object) -> Json:
    """Return a JSON value if it is an object, or raise `UnusableAnswer`."""
    if not isinstance(value, dict):
        raise UnusableAnswer("with JSON that isn't an object")
    return cast("Json", value)


def read_pair(
    answer: Answer, *, until: int | None = None, unbound: bool = False, span: timedelta | None = None
) -> TokenPair:
    """Return the pair of an answer.

    `until` is the `expire_at` of the request in unix seconds, or None for the space's standard lifetimes. `unbound`
    means that the pair has the scope `sat:refresh` and no fingerprint, so it may live for only a minute.

    After a refresh, `span` is the whole lifetime of the refresh token that was exchanged, or None if it is unknown. If
    it was as short as that of an unbound pair, the new pair counts as unbound, too. Otherwise a refreshed pair has the
    standard lifetimes.
    """
    data = json_object(json_value(answer))
    lifetimes = answer.lifetimes
    margin = lifetimes.refresh - lifetimes.access
    access = lifetime_until(answer, until, lifetimes.access)
    if unbound or (span is not None and span <= lifetimes.unbound + margin):
        access = min(access, lifetimes.unbound)
    id_, issued_at = data.get("subscriber_id"), answer.issued_at
    token = make_token(answer, data, "token", issued_at, access)
    refresh_token = make_token(answer, data, "refresh_token", issued_at, access + margin)
    if token.value == refresh_token.value:
        raise UnusableAnswer("with the same token as access token and as refresh token")
    return TokenPair(
        access_token=token,
        refresh_token=refresh_token,
        subscriber_id=UUID(id_) if isinstance(id_, str) and UUID_FORM.fullmatch(id_) else None,
    )


def read_token(answer: Answer, *, until: int | None = None, embed: bool = False) -> Token:
    """Return the token of an answer without a refresh token.

    `until` is the expiry that was asked for, in unix seconds, or None. `embed` means a click-to-call guest's token.
    """
    lifetime = answer.lifetimes.embed if embed else answer.lifetimes.access
    data = json_object(json_value(answer))
    return make_token(answer, data, "token", answer.issued_at, lifetime_until(answer, until, lifetime))


def lifetime_until(answer: Answer, until: int | None, lifetime: timedelta) -> timedelta:
    """Return how long a token lives, counted from when its request was sent.

    Without `until`, that is `lifetime`. With it, the token expires at that time by SignalWire's clock, which may differ
    from this machine's. Both clocks are read, and the shorter result counts.

    Example: `until` is 1000. This machine sent the request at 400 by its own clock, so 600 s are left. The answer's
    `Date` is 460. It has whole seconds, so SignalWire's clock may already be at 461, and 539 s are left. The result is
    539 s.
    """
    if until is None:
        return lifetime
    server_time = answer.server_time
    seconds = until - answer.sent
    if server_time is not None:
        seconds = min(seconds, until - server_time - 1)
    return timedelta(seconds=max(0.0, seconds))


def read_bound(answer: Answer, *, lifetime: timedelta) -> TokenPair:
    """Return the token of an answer that is bound to a device's key, as a pair.

    Its lifetime is the answer's `expires_in`, or the time to its `expires_at`, or else the `lifetime` that was asked
    for. If the answer has both fields, the shorter one counts. `DATE_TOLERANCE` is added to `expires_at`, so that
    rounding alone doesn't shorten the lifetime.
    """
    data = json_object(json_value(answer))
    seconds, end = finite_number(data.get("expires_in")), finite_number(data.get("expires_at"))
    span = lifetime if seconds is None else timedelta(seconds=seconds)
    if end is not None:
        left = lifetime_to(answer, end)
        span = left if seconds is None or not left else min(span, left + DATE_TOLERANCE)
    if not span:
        raise UnusableAnswer("with a token that has ended")
    return single_token_pair(answer, data, span)


def finite_number(value: object) -> float | None:
    """Return a JSON value if it is a plausible number of seconds, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < YEAR_10000:
        return value
    return None


def lifetime_to(answer: Answer, end: float) -> timedelta:
    """Return how long a token lives that expires at `end`, in unix seconds, counted from when its request was sent.

    The answerer wrote `end`, so its clock counts, which the answer's `Date` shows. One second is taken off, because a
    `Date` has whole seconds. Without a `Date`, this machine's wall clock is used.
    """
    server_time = answer.server_time
    return timedelta(seconds=max(0.0, end - answer.sent if server_time is None else end - server_time - 1))


def single_token_pair(answer: Answer, data: Json, span: timedelta) -> TokenPair:
    """Return a pair of an answer that has only one token. Both fields of the pair hold that token."""
    token = make_token(answer, data, "token", answer.issued_at, min(span, LONGEST_LIFE))
    return TokenPair(access_token=token, refresh_token=token)


def make_token(answer: Answer, data: Json, name: str, issued_at: datetime, span: timedelta) -> Token:
    """Return the token in the field `name` of an answer, which lives for `span` from `issued_at`.

    Raise `UnusableAnswer` if the token is missing, cut off, or of the other kind. If the token is signed, its own `exp`
    can shorten the lifetime. It can't extend it, because the signature isn't verified.
    """
    value = data.get(name)
    if not isinstance(value, str) or not value or not visible_ascii(value):
        raise UnusableAnswer(f"without a usable {name}")
    header = read_header(value)
    if header is None:
        raise UnusableAnswer(f"with a {name} that was cut off")
    kind, channel, is_encrypted = header
    if is_misplaced(name, kind):
        raise UnusableAnswer(MISPLACED[name])
    if not is_encrypted and "exp" in (claims := open_claims(value)):
        server_time = answer.server_time
        start = claims.get("iat", answer.sent if server_time is None else server_time)
        span = min(span, timedelta(seconds=max(0.0, claims["exp"] - start)))
    return Token(value=value, issued_at=issued_at, expires_at=issued_at + span, kind=kind, channel=channel)


def read_page(answer: Answer, *, url: str) -> Page:
    """Return a page of addresses. `url` is the URL of the request, which relative links refer to."""
    value = json_value(answer)
    if isinstance(value, list) and len(cast("list[object]", value)) == 1:
        (value,) = cast("list[object]", value)  # the published schema wraps the page in an array
    page = json_object(value)
    addresses = read_addresses(page.get("data"))
    links = page.get("links")
    following = cast("Json", links if isinstance(links, dict) else {}).get("next")
    # An empty page ends the list, even if it links to a next one. Otherwise a faulty server could cause endless
    # requests.
    return Page(addresses=addresses, next=path_within(url, following) if addresses and following else None)


def path_within(url: str, link: object) -> str:
    """Return the path and query of a link, or raise `UnusableAnswer` if it leads to another origin than `url`.

    The next request carries the same credentials, which must not be sent to another server.
    """
    try:
        if not isinstance(link, str) or not visible_ascii(link):
            raise UnusableAnswer("with a link to the next page that isn't a URL")
        target = urlsplit(urljoin(url, link))
        elsewhere = "@" in target.netloc or url_origin(target) != url_origin(urlsplit(url))
    except ValueError:
        raise UnusableAnswer("with a link to the next page that isn't a URL") from None
    if elsewhere:
        raise UnusableAnswer("with a link to the next page on another origin")
    return f"{target.path}?{target.query}" if target.query else target.path


def url_origin(url: SplitResult) -> str:
    """Return the origin of a URL, in the form that can be compared."""
    return write_origin(url.scheme, url.hostname or "", url.port)


def read_addresses(value: object) -> tuple[Address, ...]:
    """Return a list of addresses. Raise `UnusableAnswer` if the value isn't a list, or an item has no id."""
    if not isinstance(value, list):
        raise UnusableAnswer("without a list of addresses")
    return tuple(make_address(json_object(item)) for item in cast("list[object]", value))


def read_address(answer: Answer) -> Address:
    """Return the one address of an answer."""
    return make_address(json_object(json_value(answer)))


def make_address(data: Json) -> Address:
    """Return an address. Only its id is required."""
    locked, channels = data.get("locked"), data.get("channels")
    return Address(
        id=required_id(data),
        locked=locked if isinstance(locked, bool) else None,
        channels={
            name: place
            for name, place in cast("dict[str, object]", channels if isinstance(channels, dict) else {}).items()
            if isinstance(place, str)
        },
        created_at=instant(data.get("created_at")),
        **texts(data, "name", "display_name", "type", "cover_url", "preview_url"),
    )


def read_info(answer: Answer) -> SubscriberInfo:
    """Return the subscriber that an access token is for. Only the id is required."""
    data = json_object(json_value(answer))
    settings, claims = data.get("app_settings"), data.get("sat_claims")
    return SubscriberInfo(
        id=required_id(data),
        app_settings=cast("Json", settings) if isinstance(settings, dict) else {},
        fabric_addresses=read_addresses(data.get("fabric_addresses") or []),
        sat_claims=read_sat_claims(cast("Json", claims)) if isinstance(claims, dict) else None,
        **texts(data, *INFO_TEXTS),
    )


INFO_TEXTS = (
    "email",
    "first_name",
    "last_name",
    "display_name",
    "job_title",
    "time_zone",
    "country",
    "region",
    "company_name",
    "push_notification_key",
)


def read_sat_claims(data: Json) -> SatClaims:
    """Return what SignalWire reports about an access token's claims."""
    scope, binding = data.get("scope"), data.get("cnf")
    return SatClaims(
        scope=tuple(str(item) for item in cast("list[object]", scope)) if isinstance(scope, list) else (),
        fingerprint=texts(cast("Json", binding), "jkt")["jkt"] if isinstance(binding, dict) else None,
        expires_at=instant(data.get("expires_at")),
    )


def required_id(data: Json) -> UUID:
    """Return the id of an object, or raise `UnusableAnswer` without one."""
    id_ = data.get("id")
    if not isinstance(id_, str) or not UUID_FORM.fullmatch(id_):
        raise UnusableAnswer("without a usable id")
    return UUID(id_)


def texts(data: Json, *names: str) -> dict[str, Any]:
    """Return the named members of an object. One that isn't a string becomes None."""
    return {name: value if isinstance(value := data.get(name), str) else None for name in names}


def instant(value: object) -> datetime | None:
    """Return a time that is given in unix seconds or in ISO 8601, or None. Without a time zone, UTC is assumed."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
        return found.replace(tzinfo=found.tzinfo or UTC)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < YEAR_10000:
        return datetime.fromtimestamp(value, UTC)
    return None
