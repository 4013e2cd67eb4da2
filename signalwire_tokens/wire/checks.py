"""Checks of arguments, with problems in the vocabulary of SignalWire's own errors.

Each check returns the value in the form in which it is sent. If the value is wrong, the check adds a `Problem` to a
list instead of raising an error. `raise_if_any` then raises one `InvalidRequest` with all problems.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from signalwire_tokens.durations import span_of
from signalwire_tokens.errors import InvalidRequest, Problem
from signalwire_tokens.models import LONGEST_LIFE
from signalwire_tokens.token_header import YEAR_10000, read_header

from .codes import INVALID, MISSING, TOO_MANY_ADDRESSES

if TYPE_CHECKING:
    from signalwire_tokens.models import Token
    from signalwire_tokens.secret import Secret

__all__ = [
    "address_ids",
    "encode_json",
    "extra_fields",
    "given",
    "moment",
    "raise_if_any",
    "text",
    "token",
    "uuid",
    "whole_seconds",
]

MOST_ADDRESSES = 10
SCOPE = "sat:refresh"  # the only one that SignalWire documents
UUID_FORM = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
FINGERPRINT_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
SECOND = timedelta(seconds=1)
VISIBLE = bytes(range(0x21, 0x7F))
JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def raise_if_any(operation: str, problems: list[Problem]) -> None:
    """Raise `InvalidRequest` if there are problems."""
    if problems:
        raise InvalidRequest("invalid arguments; nothing was sent", operation=operation, errors=tuple(problems))


def text(problems: list[Problem], name: str, value: object, *, required: bool = False) -> str | None:
    """Check a string. A required one must not be None or blank."""
    if value is None and not required:
        return None
    if value is None or (required and isinstance(value, str) and not value.strip()):
        problems.append(Problem(code=MISSING, attribute=name, message="must not be empty"))
    elif not isinstance(value, str):
        kind = type(value).__name__
        message = f"must be a string, not {kind}" + (": pass str(…)" if isinstance(value, int | UUID) else "")
        problems.append(Problem(code=INVALID, attribute=name, message=message))
    elif not encodable(value):
        problems.append(Problem(code=INVALID, attribute=name, message="must be text that UTF-8 can encode"))
    else:
        return value
    return None


def encodable(value: str) -> bool:
    """Return whether UTF-8 can encode a string, which is impossible for a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def uuid(problems: list[Problem], name: str, value: object) -> str | None:
    """Check a UUID, or a string in the usual form with four hyphens. The result is in lower case."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str) and UUID_FORM.fullmatch(value):
        return value.lower()
    code = MISSING if value is None or value == "" else INVALID
    problems.append(Problem(code=code, attribute=name, message="must be a UUID"))
    return None


def address_ids(problems: list[Problem], name: str, value: object) -> list[str]:
    """Check the addresses that a guest may reach: 1 to 10 different UUIDs."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        code = MISSING if value is None else INVALID
        problems.append(Problem(code=code, attribute=name, message="must be a list of UUIDs"))
        return []
    given = list(islice(cast("Iterable[object]", value), MOST_ADDRESSES + 1))
    if not given:
        problems.append(Problem(code=MISSING, attribute=name, message="must have at least one address"))
    if len(given) > MOST_ADDRESSES:
        message = f"must have at most {MOST_ADDRESSES} addresses"
        problems.append(Problem(code=TOO_MANY_ADDRESSES, attribute=name, message=message))
    found = [uuid(problems, f"{name}[{place}]", item) for place, item in enumerate(given)]
    ids = [item for item in found if item is not None]
    if len(set(ids)) < len(ids):
        problems.append(Problem(code=INVALID, attribute=name, message="must not name an address twice"))
    return ids


def moment(problems: list[Problem], name: str, value: object, now: float) -> int | None:
    """Check a future time, and return it in whole unix seconds.

    It is given in unix seconds, as a datetime with a time zone, or as a timedelta from `now`. `now` is in unix seconds.
    """
    if value is None:
        return None
    seconds: float | None = None
    if isinstance(value, timedelta):
        seconds = now + value.total_seconds()
    elif isinstance(value, datetime):
        if value.utcoffset() is None:
            problems.append(
                Problem(code=INVALID, attribute=name, message="must have a time zone, such as datetime.now(UTC) has")
            )
            return None
        seconds = value.timestamp()
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        seconds = None if isinstance(value, bool) else value
    if seconds is None:
        message = "must be unix seconds, a datetime with a time zone, or a timedelta from now"
    elif not seconds < YEAR_10000:
        message = "is beyond the year 9999: it must be in seconds, not milliseconds"
    elif not int(seconds) > now:
        message = "must be in the future, by this machine's clock"
    else:
        return int(seconds)
    problems.append(Problem(code=INVALID, attribute=name, message=message))
    return None


def whole_seconds(problems: list[Problem], name: str, value: object) -> int | None:
    """Check a lifetime in whole seconds, from one second to `LONGEST_LIFE`, given as a number or a timedelta."""
    span: object = span_of(cast("timedelta", value))
    if isinstance(span, timedelta) and SECOND <= span <= LONGEST_LIFE and not span % SECOND:
        return span // SECOND
    problems.append(Problem(code=INVALID, attribute=name, message="must be whole seconds or a timedelta, 1 s or more"))
    return None


def fingerprint(problems: list[Problem], name: str, value: object) -> str | None:
    """Check the RFC 7638 thumbprint of a device's key: a SHA-256 in Base64, without padding."""
    if isinstance(value, str) and FINGERPRINT_FORM.fullmatch(value):
        return value
    message = "must be the 43 characters of a key's RFC 7638 thumbprint (A-Z, a-z, 0-9, _ and -)"
    problems.append(Problem(code=INVALID, attribute=name, message=message))
    return None


def given(problems: list[Problem], fields: Mapping[str, object]) -> dict[str, object]:
    """Check the optional fields that aren't None. `CHECKS` has the checks of those that aren't plain text."""
    return {name: CHECKS.get(name, text)(problems, name, value) for name, value in fields.items() if value is not None}


def scope(problems: list[Problem], name: str, value: object) -> str | None:
    """Check that SignalWire knows a scope."""
    if value == SCOPE:
        return SCOPE
    problems.append(Problem(code=INVALID, attribute=name, message=f"must be {SCOPE}"))
    return None


CHECKS: Mapping[str, Callable[[list[Problem], str, object], object]] = {
    "application_id": uuid,
    "fingerprint": fingerprint,
    "scope": scope,
}


def token(problems: list[Problem], name: str, value: Secret[Any] | Token, *, kind: str | None) -> None:
    """Check a token. `kind` is the kind that its header may have, or None for a click-to-call token.

    A token whose header can't be read, or has no kind, passes.
    """
    # No local variable holds the plain value, since the frame would be part of a later error's traceback.
    if not isinstance(value.value, str):
        code = MISSING if value.value is None else INVALID
        problems.append(Problem(code=code, attribute=name, message="must be a token, as a string or a Token"))
    elif not value.value:
        problems.append(Problem(code=MISSING, attribute=name, message="must not be empty"))
    elif not visible_ascii(value.value):
        message = "must be visible ASCII characters, with no spaces or line ends"
        problems.append(Problem(code=INVALID, attribute=name, message=message))
    elif (header := read_header(value.value)) is None:
        message = "must be a whole token: its end is missing"
        problems.append(Problem(code=INVALID, attribute=name, message=message))
    elif header.kind not in (None, kind):
        wanted = {"SAT": "an access token (SAT)", "Refresh": "a refresh token", None: "a click-to-call token"}[kind]
        message = f"must be {wanted}, but its header says {header.kind}"
        problems.append(Problem(code=INVALID, attribute=name, message=message))


def visible_ascii(value: str) -> bool:
    """Return whether a string has only visible ASCII characters, so that it fits into a header as it is."""
    return value.isascii() and not value.encode().translate(None, VISIBLE)


def extra_fields(problems: list[Problem], value: Secret[Any], known: Iterable[str]) -> None:
    """Check `extra`, which holds fields that are newer than this library.

    A name in `known` is a problem, because it is an argument of its own.
    """
    if not isinstance(value.value, Mapping) or not all(isinstance(key, str) for key in value.value):
        problems.append(Problem(code=INVALID, attribute="extra", message="must be a mapping with strings as keys"))
        return
    problems += [
        Problem(code=INVALID, attribute=f"extra.{key}", message="is an argument of its own: pass it by its name")
        for key in known
        if key in value.value
    ]
    if encode_json(dict(value.value)) is None:
        problems.append(
            Problem(code=INVALID, attribute="extra", message="must have only values that JSON can represent")
        )


def encode_json(body: Mapping[str, object]) -> bytes | None:
    """Return a body as JSON in UTF-8, or None if JSON can't represent it."""
    try:
        return JSON.encode(body).encode()
    except (TypeError, ValueError, RecursionError):
        return None
