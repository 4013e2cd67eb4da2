"""Checks of a `TokenClient`'s settings, before anything is sent."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any, cast

from signalwire_tokens.durations import seconds_of
from signalwire_tokens.errors import Problem
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.origins import HTTP_ALLOWED, Place, is_loopback, read_place, write_origin
from signalwire_tokens.secret import Secret

from .checks import raise_if_any, visible_ascii
from .codes import INVALID, MISSING

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["basic_authorization", "check_client_settings", "is_api_token", "is_credential"]

LONGEST_TIMEOUT = 1e9
API_TOKEN = re.compile(r"\bPT[0-9a-f]{20,}", re.IGNORECASE)


def check_client_settings(
    space: Secret[Any],
    project_id: object,
    api_token: Secret[Any],
    *,
    embed_origin: Secret[Any],
    timeout: object,
    retries: object,
    lifetimes: object,
) -> tuple[str, str]:
    """Return the space's origin and the embed origin, or raise `InvalidRequest` with all problems of the settings.

    The embed origin is the space's if `embed_origin` holds None.
    """
    problems: list[Problem] = []
    for name, is_swapped in (("space", is_api_token(space.value)), ("project_id", is_api_token(project_id))):
        if is_swapped:  # a secret in the wrong place, which no message may show
            message = "looks like an API token: check that no two settings are swapped"
            problems.append(Problem(code=INVALID, attribute=name, message=message))
    raise_if_any("TokenClient", problems)
    origin = space_origin(problems, space.value)
    embeds = origin if embed_origin.value is None else embeds_origin(problems, embed_origin.value)
    if project_id is not None and not (is_credential(project_id) and ":" not in str(project_id)):
        message = "must be visible ASCII characters, without a colon"
        problems.append(Problem(code=INVALID, attribute="project_id", message=message))
    if api_token.value is not None and not callable(api_token.value) and not is_credential(api_token.value):
        message = "must be visible ASCII characters, or a function that returns them"
        problems.append(Problem(code=INVALID, attribute="api_token", message=message))
    seconds: object = seconds_of(cast("timedelta", timeout))
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < LONGEST_TIMEOUT:
        problems.append(
            Problem(code=INVALID, attribute="timeout", message="must be seconds or a timedelta, more than 0")
        )
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        problems.append(Problem(code=INVALID, attribute="retries", message="must be a whole number, 0 or more"))
    if not isinstance(lifetimes, Lifetimes):
        problems.append(Problem(code=INVALID, attribute="lifetimes", message="must be a Lifetimes"))
    raise_if_any("TokenClient", problems)
    assert origin is not None and embeds is not None  # noqa: S101, PT018 - there are no problems
    return origin, embeds


def is_api_token(value: object) -> bool:
    """Return whether a value looks like one of SignalWire's API tokens: "PT" and at least 20 hex digits."""
    return isinstance(value, str) and API_TOKEN.search(value) is not None


def is_credential(value: object) -> bool:
    """Return whether a value is a string of visible ASCII characters, so that it can't break out of a header."""
    return isinstance(value, str) and value != "" and visible_ascii(value)


def space_origin(problems: list[Problem], space: object) -> str | None:
    """Return a space's origin from its name, host or origin, or add a problem and return None."""
    if space is None or (isinstance(space, str) and not space.strip()):
        problems.append(Problem(code=MISSING, attribute="space", message="must be a space's name, host or origin"))
        return None
    forms = (
        "must be a space's name ('acme'), its host ('acme.signalwire.com') or its origin "
        "('https://acme.signalwire.com'), without user, path or query"
    )
    place = place_of(problems, "space", space, forms)
    if place is None:
        return None
    return origin_at(place._replace(host=f"{place.host}.signalwire.com") if is_name(place) else place)


def embeds_origin(problems: list[Problem], embed_origin: object) -> str | None:
    """Return the embed origin from a host or an origin, or None. Add a problem, also if the value is a name alone."""
    forms = (
        "must be a host ('embeds.signalwire.com') or an origin ('https://embeds.signalwire.com'), "
        "without user, path or query"
    )
    place = place_of(problems, "embed_origin", embed_origin, forms)
    if place is not None and is_name(place):
        problems.append(Problem(code=INVALID, attribute="embed_origin", message=forms))
    return None if place is None else origin_at(place)


def place_of(problems: list[Problem], name: str, value: object, forms: str) -> Place | None:
    """Return the scheme, host and port of a setting, or None if it has none of the `forms`. Add problems.

    Plain http is a problem unless the host is this machine, because requests and answers carry credentials and tokens.
    The place is still returned then.
    """
    place = read_place(value) if isinstance(value, str) else None
    if place is None:
        problems.append(Problem(code=INVALID, attribute=name, message=forms))
    elif place.scheme == "http" and not is_loopback(place.host):
        message = f"must be reached by https; {HTTP_ALLOWED}"
        problems.append(Problem(code=INVALID, attribute=name, message=message))
    return place


def is_name(place: Place) -> bool:
    """Return whether a place is a name alone, such as "acme", and not a host."""
    is_bare = place.scheme is None and place.port is None
    return is_bare and not is_loopback(place.host) and "." not in place.host and ":" not in place.host


def origin_at(place: Place) -> str:
    """Return the origin of a place. Without a scheme, it is http for this machine and https for any other host."""
    return write_origin(place.scheme or ("http" if is_loopback(place.host) else "https"), place.host, place.port)


def basic_authorization(project_id: str, api_token: Secret[str]) -> Secret[str]:
    """Return the `Authorization` header that carries the project's credentials."""
    return Secret(f"Basic {b64encode(f'{project_id}:{api_token.value}'.encode()).decode()}")
