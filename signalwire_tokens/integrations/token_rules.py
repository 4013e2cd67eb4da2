"""The rules of the token endpoint that browsers ask: requests in, answers out, without a framework and without I/O.

Only the application's own pages may fetch a user's token. Browsers report where a request comes from, in `Origin` and
`Sec-Fetch-Site`, which no page can forge. A page of another origin can't send JSON without a preflight.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import attrs

from signalwire_tokens.errors import (
    ConfigurationError,
    InvalidRequest,
    SessionClosed,
    SignalWireTokenError,
    StoreError,
    UnexpectedResponse,
    is_transient,
)
from signalwire_tokens.origins import check_origins
from signalwire_tokens.throttle import LONGEST_THROTTLE, Throttle

__all__ = [
    "LARGEST_BODY",
    "Answer",
    "Asked",
    "IssueLimit",
    "Rules",
    "Wish",
    "admit",
    "admit_look",
    "answer_for",
    "answer_with",
    "ask_later",
    "finish",
    "pause_before_binding",
    "read_request",
    "read_wish",
    "refuse",
]

LARGEST_BODY = 4096
FINGERPRINT_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # an RFC 7638 thumbprint
PAUSE = 5.0  # seconds after which to ask again, where nobody knows better
SHORTEST_PAUSE = 1.0  # seconds
MINUTE = 60.0  # seconds
MOST_ISSUES = 1_000_000  # a minute
ROUNDING = 1e-6  # seconds
MOST_BINDING = 32  # tokens at a time that keys bind: such requests are not the fleet's to govern
WITHOUT_LENGTH = frozenset((*range(100, 200), 204, 304))  # statuses; RFC 9110, section 8.6
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    405: "Method Not Allowed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
Headers: TypeAlias = Mapping[str, str]


def check_allowed_origins(origins: object) -> frozenset[str]:
    """Take the origins whose pages may ask."""
    return check_origins("allowed_origins", origins)


def check_public_origin(origin: object) -> str | None:
    """Take the application's own origin, if it is known."""
    return None if origin is None else next(iter(check_origins("public_origin", (origin,))))


@attrs.frozen(kw_only=True)
class Rules:
    """Who may ask, and for what.

    `allowed_origins` may ask from other sites; `public_origin` is the application's own, for browsers that do not say
    whether a request comes from the same origin; `allow_device_tokens` allows tokens that are bound to a device's key.
    """

    allowed_origins: frozenset[str] = attrs.field(default=frozenset(), converter=check_allowed_origins)
    public_origin: str | None = attrs.field(default=None, converter=check_public_origin)
    allow_device_tokens: bool = False


@attrs.frozen
class Asked:
    """What a request says before its body: its method, and its headers by their names in lower case."""

    method: str
    headers: Headers = attrs.field(repr=False)


@attrs.frozen
class Wish:
    """What a request's body asks for."""

    fingerprint: str | None = None


@attrs.frozen(kw_only=True)
class Answer:
    """What is answered: never more of a secret than the one token that was asked for."""

    status: int
    headers: Headers = attrs.field(factory=dict[str, str])
    body: bytes = attrs.field(default=b"", repr=False)


def read_request(method: str, headers: Iterable[tuple[str, str]]) -> Asked:
    """Take a request's head. What is said twice is joined, and so equals nothing that is allowed.

    Cookies alone may come in several lines (RFC 9113, section 8.2.3).
    """
    joined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        between = "; " if key == "cookie" else ", "
        joined[key] = f"{joined[key]}{between}{value}" if key in joined else value
    return Asked(method, joined)


def admit(asked: Asked, rules: Rules) -> Answer | None:
    """Refuse who may not ask, and answer who asks whether it may; None lets a request go on."""
    if asked.method == "OPTIONS" and "access-control-request-method" in asked.headers:
        return answer_preflight(asked, rules)
    if asked.method != "POST":
        return refuse(405, "Only POST is answered here.", headers={"Allow": "POST, OPTIONS"})
    if not may_ask(asked.headers, rules):
        return refuse(403, "Pages of this origin may not ask: it is neither this server's own nor an allowed one.")
    if media_type(asked.headers) != "application/json":
        return refuse(415, "The body must be declared as application/json.")
    if asked.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return refuse(415, "The body must not be compressed.")
    if is_too_long(asked.headers.get("content-length", "")):
        return refuse(413, f"The body must not be longer than {LARGEST_BODY} bytes.")
    return None


def admit_look(method: str) -> Answer | None:
    """Refuse who wants something else than to look; None lets a request go on."""
    if method in ("GET", "HEAD"):
        return None
    return refuse(405, "Only GET is answered here.", headers={"Allow": "GET, HEAD"})


def answer_preflight(asked: Asked, rules: Rules) -> Answer:
    """Tell a browser whether pages of an origin may ask; `finish` adds what concerns that origin."""
    if asked.headers.get("origin") not in rules.allowed_origins:
        return refuse(403, "Pages of this origin may not ask: it is not an allowed one.")
    return Answer(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Max-Age": "600",
        },
    )


def may_ask(headers: Headers, rules: Rules) -> bool:
    """Tell whether a request comes from the application's own pages, or from no page at all."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and origin in rules.allowed_origins:
        return True
    if origin == "null":  # a sandboxed frame, a local file: anybody's
        return False
    if site is not None:
        return site == "same-origin"
    return origin is None or origin == rules.public_origin


def media_type(headers: Headers) -> str:
    """Name what a body is declared to be; nothing, where that is said twice."""
    declared = headers.get("content-type", "")
    return "" if "," in declared else declared.partition(";")[0].strip().lower()


def is_too_long(content_length: str) -> bool:
    """Tell whether a body is announced to be longer than any that is read."""
    digits = content_length.strip().lstrip("0")
    if not (digits.isascii() and digits.isdigit()):
        return False
    return len(digits) > len(str(LARGEST_BODY)) or int(digits) > LARGEST_BODY


def read_wish(body: bytes, rules: Rules) -> Wish | Answer:
    """Read what a body asks for, or refuse it."""
    if len(body) > LARGEST_BODY:
        return refuse(413, f"The body must not be longer than {LARGEST_BODY} bytes.")
    try:
        wish: object = json.loads(body)
    except (ValueError, RecursionError):
        return refuse(400, "The body must be JSON.")
    if not isinstance(wish, dict):
        return refuse(400, "The body must be a JSON object; {} asks for nothing in particular.")
    if "fingerprint" not in wish:
        return Wish()
    fingerprint = cast("dict[str, object]", wish)["fingerprint"]
    if not isinstance(fingerprint, str) or not FINGERPRINT_FORM.fullmatch(fingerprint):
        return refuse(422, "fingerprint must be the 43 characters of a key's RFC 7638 thumbprint.")
    if not rules.allow_device_tokens:
        return refuse(422, "Tokens that a key binds are not given out here: leave fingerprint out.")
    return Wish(fingerprint)


def answer_with(body: Mapping[str, object]) -> Answer:
    """Answer with JSON."""
    return Answer(
        status=200,
        headers={"Content-Type": "application/json"},
        body=json.dumps(body, separators=(",", ":")).encode(),
    )


def refuse(status: int, detail: str, *, headers: Headers | None = None) -> Answer:
    """Answer with a problem, as RFC 9457 has it."""
    problem = {"type": "about:blank", "title": TITLES[status], "status": status, "detail": detail}
    return Answer(
        status=status,
        headers={"Content-Type": "application/problem+json", **(headers or {})},
        body=json.dumps(problem).encode(),
    )


def answer_for(error: SignalWireTokenError) -> Answer:
    """Say what an error means to a browser. What the service said is the application's affair, and is not passed on."""
    if is_transient(error) or isinstance(error, SessionClosed | StoreError | UnexpectedResponse):
        pause = PAUSE if error.retry_after is None else error.retry_after
        return ask_later(503, "There is no token at this moment: ask again.", pause)
    if isinstance(error, ConfigurationError | InvalidRequest):
        return refuse(500, "The application is not set up for this: its log says why.")
    return refuse(502, "The token service refuses what the application asks of it.")


def ask_later(status: int, detail: str, pause: float) -> Answer:
    """Return a refusal with a `Retry-After`: whole seconds, one at least, and a minute at most."""
    seconds = max(SHORTEST_PAUSE, min(pause, LONGEST_THROTTLE))
    return refuse(status, detail, headers={"Retry-After": str(math.ceil(seconds - ROUNDING))})


def pause_before_binding(throttle: Throttle, *, now: float, under_way: int) -> float | None:
    """Return for how long SignalWire isn't asked for a token that a device's key binds, or None to ask now.

    `under_way` is how many such tokens are being asked for.
    """
    quiet = throttle.left(now, longest=LONGEST_THROTTLE)
    return max(SHORTEST_PAUSE, quiet) if quiet > 0 or under_way >= MOST_BINDING else None


class IssueLimit:
    """Limit how many tokens each reference may have issued: `most` at once, restored evenly within a minute.

    It keeps only references that had a token issued in the last minute.
    """

    def __init__(self, most: object) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_ISSUES:
            raise ConfigurationError(f"issues_per_minute must be a whole number from 1 to {MOST_ISSUES}")
        self.most: int = most
        # When each reference has its whole allowance again. The reference that used some of it last comes last.
        self._restored: OrderedDict[str, float] = OrderedDict()

    def take(self, reference: str, *, now: float) -> float | None:
        """Count a token and return None, or return the seconds until the reference may have another."""
        while self._restored and next(iter(self._restored.values())) <= now:
            self._restored.popitem(last=False)
        restored = max(now, self._restored.get(reference, now)) + MINUTE / self.most
        pause = restored - now - MINUTE
        if pause > ROUNDING:
            return pause
        self._restored[reference] = restored
        self._restored.move_to_end(reference)
        return None


def finish(answer: Answer, asked: Asked, rules: Rules) -> Answer:
    """Return an answer with the headers that each carries: its length, no caching, and CORS for an allowed origin."""
    headers = {**answer.headers, "Cache-Control": "no-store", "Vary": "Origin", "X-Content-Type-Options": "nosniff"}
    if answer.status not in WITHOUT_LENGTH:
        headers["Content-Length"] = str(len(answer.body))
    origin = asked.headers.get("origin")
    if origin is not None and origin in rules.allowed_origins:
        headers |= {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
        headers["Access-Control-Expose-Headers"] = "Retry-After"
    return attrs.evolve(answer, headers=headers)
