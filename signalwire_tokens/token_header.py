"""The parts of a token that can be read without a key: its header, and the times of a signed token.

A compact token consists of Base64 parts with dots between them. The first part is the header, a JSON object.

=====  =====  ====================================================  ===========================
form   parts  layout                                                what can be read
=====  =====  ====================================================  ===========================
JWE    5      header . key . vector . ciphertext . tag              the header
JWS    3      header . claims . signature                           the header and the claims
=====  =====  ====================================================  ===========================

SignalWire's tokens are usually JWEs. The header shows the kind of token, and the host to connect to. It also shows how
many parts there must be, which reveals a token that was cut off when it was copied. Nothing of this is verified. So
the times of a signed token can shorten the lifetime that the library calculates, but never extend it.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from functools import lru_cache
from typing import NamedTuple, cast

__all__ = ["SIGNED", "YEAR_10000", "Header", "TokenShape", "open_claims", "read_form", "read_header"]

YEAR_10000 = 253402300800  # unix seconds; Python's dates end before it
SIGNED, ENCRYPTED = 3, 5  # the number of parts of a token
# How many characters the last part of a token has, by its `enc` or else its `alg`. Algorithms whose last part varies in
# length are missing.
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
HOST_FORM = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?(?::[0-9]{1,5})?", re.ASCII)
# Turns URL-safe Base64 into standard Base64. "+", "/" and "=" are invalid in a token, so they become "_", which is
# invalid in standard Base64.
URL_SAFE = str.maketrans("-_+/=", "+/___")
KNOWN_KINDS = frozenset(["SAT", "Refresh"])
START = re.compile(r"[A-Za-z0-9_-]+")
REST = {parts: re.compile(rf"(?:\.[A-Za-z0-9_-]*){{0,{parts - 1}}}") for parts in (SIGNED, ENCRYPTED)}


class Header(NamedTuple):
    """The members of a token's header that a client needs. They are unverified."""

    kind: str | None
    channel: str | None
    is_encrypted: bool = False


NO_HEADER = Header(None, None)


class HeaderInfo(NamedTuple):
    """A token's header, and what follows from it.

    `parts` is how many parts the token must have. `last` is how many characters the last part must have, or None if
    that varies.
    """

    header: Header
    parts: int
    last: int | None


class TokenShape(NamedTuple):
    """The token at the beginning of a text, which may be cut off or followed by other text."""

    header: Header
    parts: int  # how many parts the header calls for
    found: int  # how many parts there are
    is_whole: bool
    end: int  # the index in the text where the token ends


def read_header(value: str) -> Header | None:
    """Return the kind and the channel of a token, each None if it is missing or can't be read.

    The result is None if the token was cut off: it has fewer parts than its header calls for. PyJWT isn't used for
    this, because it doesn't accept tokens of five parts.
    """
    opening = opening_of(value.partition(".")[0])
    if opening is None:
        return NO_HEADER
    parts = value.count(".") + 1
    if parts == opening.parts:
        return opening.header
    return None if parts < opening.parts else NO_HEADER


def read_form(text: str) -> TokenShape | None:
    """Return the form of the token at the beginning of a text, or None if the text doesn't begin with one.

    If the last part has more characters than its algorithm produces, the surplus isn't part of the token.
    """
    start = START.match(text)
    if start is None or (opening := opening_of(start[0])) is None:
        return None
    rest = REST[opening.parts].match(text, start.end())
    assert rest is not None  # noqa: S101 - the pattern also matches an empty text
    found, end = rest[0].count(".") + 1, rest.end()
    is_whole = found == opening.parts
    if is_whole:
        length = len(rest[0].rpartition(".")[2])
        surplus = length - (max(1, length) if opening.last is None else opening.last)
        is_whole, end = surplus >= 0, end - max(0, surplus)
    return TokenShape(opening.header, opening.parts, found, is_whole, end)


def opening_of(first: str) -> HeaderInfo | None:
    """Return the header in the first part of a token and what follows from it, or None if the part isn't a header."""
    # JSON objects begin with "{" and a quote or white space, whose Base64 begins with "ey" or "ew". Any other text may
    # be a secret, and `decode_header` would keep it in its cache.
    return decode_header(first) if first.startswith(("ey", "ew")) else None


@lru_cache(maxsize=64)  # a space's tokens share a few headers, which aren't secret
def decode_header(first: str) -> HeaderInfo | None:
    """Return the decoded header, or None if the text isn't Base64 of a JSON object with an `alg`."""
    encoded = first.translate(URL_SAFE)
    try:
        members = cast(
            "dict[str, object]", json.loads(a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=True))
        )
    except (ValueError, RecursionError):
        return None
    if "alg" not in members:  # every token's header has it
        return None
    kind, channel, encryption = members.get("typ"), members.get("ch"), members.get("enc")
    is_encrypted = encryption is not None
    sized = encryption if is_encrypted else members["alg"]
    return HeaderInfo(
        Header(
            kind if isinstance(kind, str) and kind in KNOWN_KINDS else None,
            channel if isinstance(channel, str) and HOST_FORM.fullmatch(channel) else None,
            is_encrypted,
        ),
        ENCRYPTED if is_encrypted else SIGNED,
        LAST_PART_LENGTHS.get(sized) if isinstance(sized, str) else None,
    )


def open_claims(value: str) -> dict[str, float]:
    """Return `exp` and `iat` of a signed token, in unix seconds, without those that are missing or implausible.

    The signature isn't verified. If the token isn't signed, the result is empty.
    """
    if value.count(".") != SIGNED - 1:
        return {}
    import jwt  # noqa: PLC0415 - slow to import, and SignalWire's usual tokens don't need it

    try:
        claims = cast("dict[str, object]", jwt.decode(value, options={"verify_signature": False}))
    except (jwt.PyJWTError, ValueError, RecursionError):
        return {}
    return {
        name: float(time)
        for name in ("exp", "iat")
        if isinstance(time := claims.get(name), int | float) and not isinstance(time, bool) and 0 <= time < YEAR_10000
    }
