"""What an answer of success holds: pairs, tokens, addresses and subscribers, read with care."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import SplitResult, urljoin, urlsplit
from uuid import UUID

import attrs

from signalwire_tokens.models import LONGEST_LIFE, Address, SatClaims, SubscriberInfo, Token, TokenPair, is_misplaced
from signalwire_tokens.origins import write_origin

from .checks import UUID_FORM, visible_ascii
from .exchange import Answer, BrokenError
from .header import YEAR_10000, is_cut, open_claims, read_header

__all__ = [
    "Page",
    "json_object",
    "json_value",
    "lone_pair",
    "read_bound",
    "read_info",
    "read_page",
    "read_pair",
    "read_token",
    "time_to",
]

Json = Mapping[str, object]
ROUNDING = timedelta(seconds=2)  # that both a Date and a token's end may be off
MISPLACED = {
    "token": "with a refresh token in place of an access token",
    "refresh_token": "with an access token in place of a refresh token",
}
MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}", re.ASCII)


@attrs.frozen(kw_only=True)
class Page:
    """One page of a list, and where the next one is: a path on the same origin."""

    addresses: tuple[Address, ...]
    next: str | None


def json_value(answer: Answer) -> object:
    """Return the body's JSON, whatever it holds; raise `BrokenError` if it isn't JSON, too large, or compressed."""
    if answer.header("content-encoding").strip().lower() not in ("", "identity"):
        raise BrokenError("with a compressed body, which the request forbade")
    if answer.body is None:
        raise BrokenError("with a body larger than 64 KiB")
    try:
        return cast("object", json.loads(answer.body))
    except (ValueError, RecursionError):
        found = answer.header("content-type").partition(";")[0].strip().lower()
        what = found if MEDIA_TYPE.fullmatch(found) and "json" not in found else "something else"
        raise BrokenError(f"with {what if answer.body else 'nothing'} where JSON was expected") from None


def json_object(value: object) -> Json:
    """Take a value as a JSON object."""
    if not isinstance(value, dict):
        raise BrokenError("with JSON that is not an object")
    return cast("Json", value)


def read_pair(
    answer: Answer, *, until: int | None = None, unbound: bool = False, span: timedelta | None = None
) -> TokenPair:
    """Return a pair that lives until a time asked for, or as long as the settings say.

    An `unbound` pair has the scope `sat:refresh` and no fingerprint. A refreshed pair has the standard lifetimes. But
    if the replaced refresh token lived for a `span` no longer than that of an unbound pair, the new pair counts as one.
    """
    data = json_object(json_value(answer))
    lifetimes = answer.lifetimes
    margin = lifetimes.refresh - lifetimes.access
    access = life(answer, until, lifetimes.access)
    if unbound or (span is not None and span <= lifetimes.unbound + margin):
        access = min(access, lifetimes.unbound)
    id_, issued_at = data.get("subscriber_id"), answer.issued_at
    token = make_token(answer, data, "token", issued_at, access)
    refresh_token = make_token(answer, data, "refresh_token", issued_at, access + margin)
    if token.value == refresh_token.value:
        raise BrokenError("with one token for both halves of a pair")
    return TokenPair(
        access_token=token,
        refresh_token=refresh_token,
        subscriber_id=UUID(id_) if isinstance(id_, str) and UUID_FORM.fullmatch(id_) else None,
    )


def read_token(answer: Answer, *, until: int | None = None, embed: bool = False) -> Token:
    """Read a token that comes alone."""
    lifetime = answer.lifetimes.embed if embed else answer.lifetimes.access
    data = json_object(json_value(answer))
    return make_token(answer, data, "token", answer.issued_at, life(answer, until, lifetime))


def life(answer: Answer, until: int | None, lifetime: timedelta) -> timedelta:
    """Say how long after it was sent for a token lives: by this machine's clock or the service's, whichever is less."""
    if until is None:
        return lifetime
    server_time = answer.server_time
    seconds = until - answer.sent
    if server_time is not None:
        seconds = min(seconds, until - server_time - 1)
    return timedelta(seconds=max(0.0, seconds))


def read_bound(answer: Answer, *, lifetime: timedelta) -> TokenPair:
    """Read a token that a key binds, and that lives for as long as was asked unless the answer says otherwise."""
    data = json_object(json_value(answer))
    seconds, end = number(data.get("expires_in")), number(data.get("expires_at"))
    span = lifetime if seconds is None else timedelta(seconds=seconds)
    if end is not None:
        left = time_to(answer, end)
        span = left if seconds is None or not left else min(span, left + ROUNDING)
    if not span:
        raise BrokenError("with a token that has ended")
    return lone_pair(answer, data, span)


def number(value: object) -> float | None:
    """Take a number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < YEAR_10000:
        return value
    return None


def time_to(answer: Answer, end: float) -> timedelta:
    """Say how long after it was sent for a token lives: by the clock of whoever answered, where that is known."""
    server_time = answer.server_time
    return timedelta(seconds=max(0.0, end - answer.sent if server_time is None else end - server_time - 1))


def lone_pair(answer: Answer, data: Json, span: timedelta) -> TokenPair:
    """Read a token that nothing else comes with: where it is presented for the next one, it stands for itself."""
    token = make_token(answer, data, "token", answer.issued_at, min(span, LONGEST_LIFE))
    return TokenPair(access_token=token, refresh_token=token)


def make_token(answer: Answer, data: Json, name: str, issued_at: datetime, span: timedelta) -> Token:
    """Return the token of an answer's member, or refuse one that is cut or of the other kind.

    What the token says openly of its own end can only bring that forward.
    """
    value = data.get(name)
    if not isinstance(value, str) or not value or not visible_ascii(value):
        raise BrokenError(f"without a usable {name}")
    if is_cut(value):
        raise BrokenError(f"with a {name} that was cut off")
    header = read_header(value)
    if is_misplaced(name, header.kind):
        raise BrokenError(MISPLACED[name])
    claims = open_claims(value)
    if "exp" in claims:
        server_time = answer.server_time
        start = claims.get("iat", answer.sent if server_time is None else server_time)
        span = min(span, timedelta(seconds=max(0.0, claims["exp"] - start)))
    return Token(
        value=value, issued_at=issued_at, expires_at=issued_at + span, kind=header.kind, channel=header.channel
    )


def read_page(answer: Answer, *, url: str) -> Page:
    """Read a page of addresses."""
    value = json_value(answer)
    if isinstance(value, list) and len(cast("list[object]", value)) == 1:
        (value,) = cast("list[object]", value)  # the published schema wraps the page in an array
    page = json_object(value)
    addresses = read_addresses(page.get("data"))
    links = page.get("links")
    following = cast("Json", links).get("next") if isinstance(links, dict) else None
    # A page with nothing on it ends the list, whatever it says of a next one.
    return Page(addresses=addresses, next=path_within(url, following) if addresses and following else None)


def path_within(url: str, link: object) -> str:
    """Take a link as a path on a URL's origin: the API token that travels with it must not be led elsewhere."""
    try:
        if not isinstance(link, str) or not visible_ascii(link):
            raise BrokenError("with a next page that is not a link")
        target = urlsplit(urljoin(url, link))
        elsewhere = "@" in target.netloc or origin_of(target) != origin_of(urlsplit(url))
    except ValueError:
        raise BrokenError("with a next page that is not a link") from None
    if elsewhere:
        raise BrokenError("with a next page on another origin")
    return f"{target.path}?{target.query}" if target.query else target.path


def origin_of(url: SplitResult) -> str:
    """Name where a URL leads."""
    return write_origin(url.scheme, url.hostname or "", url.port)


def read_addresses(value: object) -> tuple[Address, ...]:
    """Read a list of addresses."""
    if not isinstance(value, list):
        raise BrokenError("without a list of addresses")
    return tuple(read_address(json_object(item)) for item in cast("list[object]", value))


def read_address(data: Json) -> Address:
    """Read an address; only its id must be there."""
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
    """Read who an access token is for."""
    data = json_object(json_value(answer))
    settings, claims = data.get("app_settings"), data.get("sat_claims")
    return SubscriberInfo(
        id=required_id(data),
        app_settings=cast("Json", settings) if isinstance(settings, dict) else {},
        fabric_addresses=read_addresses(data.get("fabric_addresses") or []),
        sat_claims=read_claims(cast("Json", claims)) if isinstance(claims, dict) else None,
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


def read_claims(data: Json) -> SatClaims:
    """Read what the service says of a token's claims."""
    scope, binding = data.get("scope"), data.get("cnf")
    return SatClaims(
        scope=tuple(str(item) for item in cast("list[object]", scope)) if isinstance(scope, list) else (),
        fingerprint=texts(cast("Json", binding), "jkt")["jkt"] if isinstance(binding, dict) else None,
        expires_at=instant(data.get("expires_at")),
    )


def required_id(data: Json) -> UUID:
    """Read the id without which a thing is nothing."""
    id_ = data.get("id")
    if not isinstance(id_, str) or not UUID_FORM.fullmatch(id_):
        raise BrokenError("without a usable id")
    return UUID(id_)


def texts(data: Json, *names: str) -> dict[str, Any]:
    """Read members that are text where they are anything."""
    return {name: value if isinstance(value := data.get(name), str) else None for name in names}


def instant(value: object) -> datetime | None:
    """Read a time, given as unix seconds or as ISO 8601 writes it."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
        return found.replace(tzinfo=found.tzinfo or UTC)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < YEAR_10000:
        return datetime.fromtimestamp(value, UTC)
    return None
