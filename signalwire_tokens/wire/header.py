"""What a token says openly: the protected header of its compact form, and a signed token's times."""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from functools import lru_cache
from typing import NamedTuple, cast

__all__ = ["SIGNED", "YEAR_10000", "Form", "Header", "is_cut", "open_claims", "read_form", "read_header"]

YEAR_10000 = 253402300800  # unix seconds beyond which Python has no dates
SIGNED, ENCRYPTED = 3, 5  # the parts that a token has
# The characters of a token's last part, by its encryption or else its algorithm, where they have one length.
LAST_PART_LENGTHS = {
    **dict.fromkeys(("A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256"), 22),
    **dict.fromkeys(("A256CBC-HS512", "HS256"), 43),
    **dict.fromkeys(("HS512", "ES256"), 86),
    "none": 0,
    "A192CBC-HS384": 32,
    "HS384": 64,
    "ES384": 128,
    "ES512": 176,
}
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?(?::[0-9]{1,5})?", re.ASCII)
URL_SAFE = str.maketrans("-_+/", "+/__")  # the standard alphabet's own two are not in the URL-safe one
START = re.compile(r"[A-Za-z0-9_-]+")
REST = {parts: re.compile(rf"(?:\.[A-Za-z0-9_-]*){{0,{parts - 1}}}") for parts in (SIGNED, ENCRYPTED)}


class Header(NamedTuple):
    """The members of a token's protected header that concern a client. Not to be trusted."""

    kind: str | None
    channel: str | None


NOTHING = Header(None, None)


class Opening(NamedTuple):
    """A header, the parts that it calls for, and the length of the last one, or None if that can vary."""

    header: Header
    parts: int
    last: int | None


class Form(NamedTuple):
    """How much of a token a text begins with."""

    header: Header
    parts: int  # that the header calls for
    found: int  # parts that are there
    is_whole: bool
    end: int  # where the token ends in the text


def read_header(value: str) -> Header:
    """Return kind and channel of a token; each is None if it can't be read.

    PyJWT can't read them: it refuses a token of five parts.
    """
    parts = value.split(".", ENCRYPTED)
    opening = opening_of(parts[0])
    return opening.header if opening is not None and len(parts) == opening.parts else NOTHING


def is_cut(value: str) -> bool:
    """Return whether a token has fewer parts than its header calls for."""
    first, *others = value.split(".", ENCRYPTED)
    opening = opening_of(first)
    return opening is not None and len(others) + 1 < opening.parts


def read_form(text: str) -> Form | None:
    """Return the form of the token that a text begins with, or None if it begins with none."""
    start = START.match(text)
    opening = None if start is None else opening_of(start[0])
    if start is None or opening is None:
        return None
    rest = REST[opening.parts].match(text, start.end())
    assert rest is not None  # noqa: S101 - it matches nothing as well
    found, end = rest[0].count(".") + 1, rest.end()
    is_whole = found == opening.parts
    if is_whole:
        length = end - text.rindex(".", 0, end) - 1
        surplus = length - (max(1, length) if opening.last is None else opening.last)
        is_whole, end = surplus >= 0, end - max(0, surplus)
    return Form(opening.header, opening.parts, found, is_whole, end)


def opening_of(first: str) -> Opening | None:
    """Return what the first part of a token says, or None if it isn't a header."""
    # Every JSON object with members begins like this. Anything else may be a secret.
    return decode(first) if first.startswith(("ey", "ew")) else None


@lru_cache(maxsize=64)  # a space's tokens share a handful of headers, and those are no secret
def decode(first: str) -> Opening | None:
    """Return what a JSON object says, or None if it can't be read or isn't a header."""
    encoded = first.translate(URL_SAFE)
    try:
        members = cast(
            "dict[str, object]", json.loads(a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=True))
        )
    except (ValueError, RecursionError):
        return None
    if "alg" not in members:  # which every token's header has
        return None
    kind, channel, encryption = members.get("typ"), members.get("ch"), members.get("enc")
    sized = members["alg"] if encryption is None else encryption
    return Opening(
        Header(
            kind if kind in ("SAT", "Refresh") and isinstance(kind, str) else None,
            channel if isinstance(channel, str) and HOST.fullmatch(channel) else None,
        ),
        SIGNED if encryption is None else ENCRYPTED,
        LAST_PART_LENGTHS.get(sized) if isinstance(sized, str) else None,
    )


def open_claims(value: str) -> dict[str, float]:
    """Read `exp` and `iat` of a signed token, unverified and where they are plausible; an encrypted one hides them."""
    if value.count(".") != SIGNED - 1:
        return {}
    import jwt  # noqa: PLC0415 - slow to import, and the service's usual tokens never need it

    try:
        claims = cast("dict[str, object]", jwt.decode(value, options={"verify_signature": False}))
    except (jwt.PyJWTError, ValueError, RecursionError):
        return {}
    return {
        name: float(time)
        for name in ("exp", "iat")
        if isinstance(time := claims.get(name), int | float) and not isinstance(time, bool) and 0 <= time < YEAR_10000
    }
