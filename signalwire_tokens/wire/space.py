"""Where a space is, and what may be said there: settings, checked before anything is sent."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from signalwire_tokens.errors import Problem
from signalwire_tokens.models import Lifetimes, Secret
from signalwire_tokens.origins import is_loopback, read_place, write_origin

from .checks import refuse, visible_ascii
from .codes import INVALID, MISSING

__all__ = ["basic_authorization", "check_settings", "is_credential", "origin_of"]

LONGEST_TIMEOUT = 1e9


def check_settings(
    space: Secret[Any],
    project_id: object,
    api_token: Secret[Any],
    *,
    timeout: object,
    retries: object,
    lifetimes: object,
) -> str:
    """Return the origin of a space, or refuse settings that cannot be right: all of them at once."""
    problems: list[Problem] = []
    origin = origin_of(problems, space.value)
    if project_id is not None and not (is_credential(project_id) and ":" not in str(project_id)):
        message = "must be visible ASCII characters, without a colon"
        problems.append(Problem(code=INVALID, attribute="project_id", message=message))
    if api_token.value is not None and not callable(api_token.value) and not is_credential(api_token.value):
        message = "must be visible ASCII characters, or a function that returns them"
        problems.append(Problem(code=INVALID, attribute="api_token", message=message))
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < LONGEST_TIMEOUT:
        problems.append(Problem(code=INVALID, attribute="timeout", message="must be a positive number of seconds"))
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        problems.append(Problem(code=INVALID, attribute="retries", message="must be a whole number, 0 or more"))
    if not isinstance(lifetimes, Lifetimes):
        problems.append(Problem(code=INVALID, attribute="lifetimes", message="must be a Lifetimes"))
    refuse("TokenClient", problems)
    return origin


def is_credential(value: object) -> bool:
    """Tell whether a credential can stand in a header without splitting it."""
    return isinstance(value, str) and value != "" and visible_ascii(value)


def origin_of(problems: list[Problem], space: object) -> str:
    """Return the origin of a space that is given by its name, its host or its origin.

    A space that is not on this machine is reached by https alone: the API token travels with every request.
    """
    if not isinstance(space, str) or not space.strip():
        code = MISSING if space is None or isinstance(space, str) else INVALID
        problems.append(Problem(code=code, attribute="space", message="must be a space's name, host or origin"))
        return ""
    place = read_place(space)
    if place is None:
        message = (
            "must be a space's name ('acme'), its host ('acme.signalwire.com') or its origin "
            "('https://acme.signalwire.com'), without user, path or query"
        )
        problems.append(Problem(code=INVALID, attribute="space", message=message))
        return ""
    loopback = is_loopback(place.host)
    if place.scheme == "http" and not loopback:
        message = "must be reached by https: plain http is for this machine's own addresses alone"
        problems.append(Problem(code=INVALID, attribute="space", message=message))
    is_bare = place.scheme is None and place.port is None
    is_name = is_bare and not loopback and "." not in place.host and ":" not in place.host
    scheme = place.scheme or ("http" if loopback else "https")
    return write_origin(scheme, f"{place.host}.signalwire.com" if is_name else place.host, place.port)


def basic_authorization(project_id: str, api_token: Secret[str]) -> Secret[str]:
    """Write the header that the project's own operations send."""
    return Secret(f"Basic {b64encode(f'{project_id}:{api_token.value}'.encode()).decode()}")
