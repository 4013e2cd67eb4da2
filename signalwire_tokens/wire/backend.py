"""The request of a `BackendSession` to your app's backend, and its answer `{"token": …, "expiry_at": …}`.

The backend's URL and headers may hold secrets: a key in the query, a secret path, a cookie. They are wrapped in
`Secret`, and their parts are removed from error texts.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from signalwire_tokens.errors import Problem
from signalwire_tokens.origins import HTTP_ALLOWED, is_loopback, read_place, write_origin
from signalwire_tokens.secret import Secret
from signalwire_tokens.token_header import YEAR_10000

from .checks import encode_json, raise_if_any, visible_ascii
from .codes import INVALID, MISSING
from .exchange import Answer, Auth, Request, UnusableAnswer
from .readers import json_object, json_value, lifetime_to, single_token_pair

if TYPE_CHECKING:
    from signalwire_tokens.models import TokenPair

__all__ = ["add_headers", "check_endpoint", "fetch_token"]

Headers = Mapping[str, str]

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*", re.ASCII)
# Headers that describe the request's own body and connection, so callers can't set them.
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
LONG = 16  # characters: shorter parts of a path are taken for ordinary words, not secrets
LEAST_MILLISECONDS = 1e11  # in the year 1973; a smaller number was meant as seconds


def check_endpoint(url: Secret[Any], headers: Secret[Any]) -> tuple[str, Secret[str]]:
    """Return the origin of a backend's URL, and its path with the query, or raise `InvalidRequest`.

    The error lists the problems of both the URL and the headers.
    """
    problems: list[Problem] = []
    found = split_url(problems, url)
    note_bad_headers(problems, headers)
    raise_if_any("BackendSession", problems)
    assert found is not None  # noqa: S101 - without problems, the URL was split
    return found


def add_headers(headers: Secret[Headers], added: Secret[Any]) -> Secret[Headers]:
    """Return `headers` with `added`, which replace headers of the same name, or raise `InvalidRequest`.

    Names are compared without case. Only `added` is checked.
    """
    problems: list[Problem] = []
    note_bad_headers(problems, added)
    raise_if_any("BackendSession", problems)
    theirs = {name.lower() for name in added.value}
    kept = {name: value for name, value in headers.value.items() if name.lower() not in theirs}
    return Secret({**kept, **added.value})


def split_url(problems: list[Problem], url: Secret[Any]) -> tuple[str, Secret[str]] | None:
    """Return a URL's origin, and its path with the query, or None if it has none. Add what is wrong to `problems`.

    Blanks around the URL are ignored. Plain http is accepted only for this machine's own addresses, because each
    request carries the caller's credentials.
    """
    if not isinstance(url.value, str) or not url.value.strip():
        code = MISSING if url.value is None or isinstance(url.value, str) else INVALID
        problems.append(Problem(code=code, attribute="url", message="must be the URL of your app's backend"))
        return None
    text = url.value.strip()
    scheme, _, rest = text.partition("://")
    host = rest.partition("/")[0].partition("?")[0]
    place = read_place(f"{scheme}://{host}")
    if place is None or place.scheme is None or not visible_ascii(text) or "#" in text:
        message = "must be a URL such as 'https://app.example.com/token', in ASCII, without user or fragment"
        problems.append(Problem(code=INVALID, attribute="url", message=message))
        return None
    if place.scheme == "http" and not is_loopback(place.host):
        message = f"must be reached by https; {HTTP_ALLOWED}"
        problems.append(Problem(code=INVALID, attribute="url", message=message))
    target = urlsplit(text)
    path = target.path or "/"
    # The query may hold a secret.
    whole = Secret(f"{path}?{target.query}" if target.query else path)
    return write_origin(place.scheme, place.host, place.port), whole


def note_bad_headers(problems: list[Problem], headers: Secret[Any]) -> None:
    """Add to `problems` what is wrong with a caller's headers."""
    if not isinstance(headers.value, Mapping):
        problems.append(Problem(code=INVALID, attribute="headers", message="must be a mapping of names to values"))
        return
    for name in headers.value:
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            problems.append(Problem(code=INVALID, attribute="headers", message="must have names that HTTP allows"))
        elif name.lower() in ITS_OWN:
            problems.append(
                Problem(
                    code=INVALID,
                    attribute=f"headers.{name}",
                    message="can't be set: the client sets this header itself",
                )
            )
        elif not isinstance(headers.value[name], str) or not HEADER_VALUE.fullmatch(headers.value[name]):
            message = "must be a string of visible ASCII characters and spaces, on one line"
            problems.append(Problem(code=INVALID, attribute=f"headers.{name}", message=message))


def fetch_token(path: Secret[str], headers: Secret[Headers]) -> Request[TokenPair]:
    """Return the request for a token. It may be repeated, because it consumes nothing at the backend."""
    return Request(
        operation="fetch_token",
        method="POST",
        path=path.value,
        auth=Auth.NONE,
        read=read_fetched,
        body=encode_json({}),
        headers=headers,
        peer="the backend",
        address_setting="the backend's url",
        secrets=tuple(Secret(part) for part in (*secrets_of_place(path), *secrets_of_headers(headers)) if part),
    )


def secrets_of_place(path: Secret[str]) -> Iterator[str]:
    """Yield the parts of a path and query that may be secrets: long path segments, and the query's values.

    Query values are yielded as they are written and decoded, because an answer may quote either form.
    """
    place, _, query = path.value.partition("?")
    yield from (part for part in place.split("/") if len(part) >= LONG)
    for part in query.split("&"):
        name, is_pair, value = part.partition("=")
        yield value if is_pair else name
        yield unquote_plus(value if is_pair else name)


def secrets_of_headers(headers: Secret[Headers]) -> Iterator[str]:
    """Yield the parts of headers that may be secrets.

    They are each value, the value after its first word (as in `Bearer …`), each cookie, and the password of `Basic …`.
    """
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
    """Return a backend's token as a pair. Its expiry is in milliseconds since the epoch, by the backend's clock."""
    data = json_object(json_value(answer))
    ends = data.get("expiry_at")
    if isinstance(ends, bool) or not isinstance(ends, int | float):
        raise UnusableAnswer("without a usable expiry_at")
    if not LEAST_MILLISECONDS <= ends < YEAR_10000 * 1000:
        raise UnusableAnswer("with an expiry_at that isn't in milliseconds since the epoch")
    return single_token_pair(answer, data, lifetime_to(answer, ends / 1000))
