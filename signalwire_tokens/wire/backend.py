"""What an application's backend is asked for a token, and how its answer is read: `{token, expiry_at}`."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from signalwire_tokens.errors import Problem
from signalwire_tokens.models import Secret, TokenPair
from signalwire_tokens.origins import is_loopback, read_place, write_origin

from .checks import encode, refuse, visible_ascii
from .codes import INVALID, MISSING
from .exchange import Answer, Auth, BrokenError, Request
from .header import YEAR_10000
from .readers import json_object, json_value, lone_pair, time_to

__all__ = ["add_headers", "check_endpoint", "fetch_token"]

Headers = Mapping[str, str]

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*", re.ASCII)
# What a request says of its own body and way, and nobody else.
ITS_OWN = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "upgrade",
    ]
)
LONG = 16  # characters
LEAST_MILLISECONDS = 1e11  # of the year 1973: what is less was meant to be seconds


def check_endpoint(url: Secret[Any], headers: Secret[Any]) -> tuple[str, Secret[str]]:
    """Take a backend's URL apart, into its origin and what is asked for there, or refuse it and the headers."""
    problems: list[Problem] = []
    found = split_url(problems, url)
    note_bad_headers(problems, headers)
    refuse("BackendSession", problems)
    return found


def add_headers(headers: Secret[Headers], added: Secret[Any]) -> Secret[Headers]:
    """Set headers beside others and above them, or refuse those that cannot be sent."""
    problems: list[Problem] = []
    note_bad_headers(problems, added)
    refuse("BackendSession", problems)
    theirs = {name.lower() for name in added.value}
    kept = {name: value for name, value in headers.value.items() if name.lower() not in theirs}
    return Secret({**kept, **added.value})


def split_url(problems: list[Problem], url: Secret[Any]) -> tuple[str, Secret[str]]:
    """Return a URL's origin and its path. Blanks around the URL don't count.

    Plain http is for this machine's own addresses: each request carries the caller's credentials.
    """
    if not isinstance(url.value, str) or not url.value.strip():
        code = MISSING if url.value is None or isinstance(url.value, str) else INVALID
        problems.append(Problem(code=code, attribute="url", message="must be the URL of a backend"))
        return "", Secret("")
    text = url.value.strip()
    scheme, _, rest = text.partition("://")
    host = re.split(r"[/?]", rest, maxsplit=1)[0]
    place = read_place(f"{scheme}://{host}")
    if place is None or place.scheme is None or not visible_ascii(text) or "#" in text:
        message = "must be a URL such as 'https://app.example.com/token', in ASCII, without user or fragment"
        problems.append(Problem(code=INVALID, attribute="url", message=message))
        return "", Secret("")
    if place.scheme == "http" and not is_loopback(place.host):
        message = "must be https: plain http is for this machine's own addresses alone"
        problems.append(Problem(code=INVALID, attribute="url", message=message))
    target = urlsplit(text)
    path = target.path or "/"
    # The query may be a secret.
    whole = Secret(f"{path}?{target.query}" if target.query else path)
    return write_origin(place.scheme, place.host, place.port), whole


def note_bad_headers(problems: list[Problem], headers: Secret[Any]) -> None:
    """Check headers that a caller adds."""
    if not isinstance(headers.value, Mapping):
        problems.append(Problem(code=INVALID, attribute="headers", message="must be a mapping of names to values"))
        return
    for name in headers.value:
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            problems.append(Problem(code=INVALID, attribute="headers", message="must have names that HTTP allows"))
        elif name.lower() in ITS_OWN:
            problems.append(Problem(code=INVALID, attribute=f"headers.{name}", message="is the request's own"))
        elif not isinstance(headers.value[name], str) or not HEADER_VALUE.fullmatch(headers.value[name]):
            message = "must be a string of visible ASCII characters and spaces, on one line"
            problems.append(Problem(code=INVALID, attribute=f"headers.{name}", message=message))


def fetch_token(path: Secret[str], headers: Secret[Headers]) -> Request[TokenPair]:
    """Describe the question for a token. Nothing is used up by it, so it may be asked again."""
    return Request(
        operation="fetch_token",
        method="POST",
        path=path.value,
        auth=Auth.NONE,
        read=read_fetched,
        body=encode({}),
        headers=headers,
        peer="the backend",
        secrets=tuple(Secret(part) for part in (*secrets_of_place(path), *secrets_of_headers(headers)) if part),
    )


def secrets_of_place(path: Secret[str]) -> Iterator[str]:
    """Find what must not come back of a URL: a query's values, and parts of a path that are as long as secrets are."""
    place, _, query = path.value.partition("?")
    yield from (part for part in place.split("/") if len(part) >= LONG)
    for part in query.split("&"):
        name, is_pair, value = part.partition("=")
        yield value if is_pair else name
        yield unquote_plus(value if is_pair else name)


def secrets_of_headers(headers: Secret[Headers]) -> Iterator[str]:
    """Find what must not come back of headers: their values, and what these are made of."""
    for name, value in headers.value.items():
        yield value
        if name.lower() == "cookie":
            yield from (part.partition("=")[2] for part in value.split(";"))
        scheme, _, credentials = value.partition(" ")
        yield credentials
        if scheme.lower() == "basic":
            with suppress(ValueError):
                yield b64decode(credentials, validate=True).decode().partition(":")[2]


def read_fetched(answer: Answer) -> TokenPair:
    """Read a token and its end, which is in milliseconds, by the backend's clock where that is known."""
    data = json_object(json_value(answer))
    ends = data.get("expiry_at")
    if isinstance(ends, bool) or not isinstance(ends, int | float):
        raise BrokenError("without a usable expiry_at")
    if not LEAST_MILLISECONDS <= ends < YEAR_10000 * 1000:
        raise BrokenError("with an expiry_at that is not in milliseconds since the epoch")
    return lone_pair(answer, data, time_to(answer, ends / 1000))
