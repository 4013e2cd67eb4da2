"""What a token says openly: the protected header of its compact form, and a signed token's times."""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from functools import lru_cache
from typing import NamedTuple, cast

__all__ = ["ENCRYPTED", "SIGNED", "YEAR_10000", "Header", "open_claims", "read_header"]

YEAR_10000 = 253402300800  # unix seconds beyond which Python has no dates
SIGNED, ENCRYPTED = 3, 5  # the parts that a token has
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?(?::[0-9]{1,5})?", re.ASCII)
URL_SAFE = str.maketrans("-_+/", "+/__")  # the standard alphabet's own two are not in the URL-safe one


class Header(NamedTuple):
    """The members of a token's protected header that concern a client. Not to be trusted."""

    kind: str | None
    channel: str | None


NOTHING = Header(None, None)


def read_header(value: str) -> Header:
    """Read kind and channel from a token; each is None where it cannot be read.

    By hand, since PyJWT refuses a token of five parts, its header included.
    """
    parts = value.split(".", ENCRYPTED)
    return decode(parts[0]) if len(parts) in (SIGNED, ENCRYPTED) else NOTHING


@lru_cache(maxsize=64)  # a space's tokens share a handful of headers, and those are no secret
def decode(first: str) -> Header:
    """Read a header as it stands in a token."""
    encoded = first.translate(URL_SAFE)
    try:
        header = json.loads(a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=True))
    except (ValueError, RecursionError):
        return NOTHING
    if not isinstance(header, dict):
        return NOTHING
    members = cast("dict[str, object]", header)
    kind, channel = members.get("typ"), members.get("ch")
    return Header(
        kind if kind in ("SAT", "Refresh") and isinstance(kind, str) else None,
        channel if isinstance(channel, str) and HOST.fullmatch(channel) else None,
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
