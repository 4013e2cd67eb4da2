"""The rules of the token endpoint for browsers: from a request to its answer, without a web framework and without I/O.

A page of another site must not get the token of a user who visits it, although the browser may send the user's cookie
with that page's requests. Two things prevent that:

- Browsers state a request's origin in `Origin` and `Sec-Fetch-Site`, which pages can't set. `may_ask` decides by these.
- The body must be declared as JSON. A page of another origin can't send that without a preflight, and a form can't.

`may_ask` decides by the first line that applies:

====================================  =========================  =============================================
`Origin`                              `Sec-Fetch-Site`           answer
====================================  =========================  =============================================
one of `allowed_origins`              any, or none               yes
"null"                                any, or none               no: a sandboxed frame, or a local file
any other, or none                    "same-origin"              yes: a page of the app
any other, or none                    anything else              no: a page of another site
none                                  none                       yes: the client isn't a browser
any other                             none                       only if it equals `public_origin`
====================================  =========================  =============================================
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import attrs

from signalwire_tokens.durations import MINUTE, shown
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
    "LARGEST_REQUEST",
    "EndpointAnswer",
    "IssueLimit",
    "RequestHead",
    "Rules",
    "TokenRequest",
    "admit",
    "admit_health",
    "answer_detail",
    "answer_for",
    "answer_with",
    "ask_later",
    "parse_body",
    "pause_before_bound_token",
    "problem_answer",
    "read_request",
    "with_headers",
]

LARGEST_REQUEST = 4096  # bytes
FINGERPRINT_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # an RFC 7638 thumbprint
PAUSE = 5.0  # seconds for `Retry-After` if the error has no `retry_after`
SHORTEST_PAUSE = 1.0  # seconds

MOST_ISSUES = 1_000_000  # a minute
FLOAT_ERROR = 1e-6  # seconds by which calculated times may be off
MOST_BOUND_REQUESTS = 32  # requests under way for tokens bound to a key: the fleet's limits don't apply to these
WITHOUT_LENGTH = frozenset((*range(100, 200), 204, 304))  # statuses without `Content-Length`; RFC 9110, section 8.6
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
NO_HEADERS: Headers = {}


def check_allowed_origins(origins: object) -> frozenset[str]:
    """Return `allowed_origins` in their exact form. Raise `ConfigurationError` if one isn't an origin."""
    return check_origins("allowed_origins", origins)


def check_public_origin(origin: object) -> str | None:
    """Return `public_origin` in its exact form, or None. Raise `ConfigurationError` if it isn't an origin."""
    return None if origin is None else next(iter(check_origins("public_origin", (origin,))))


@attrs.frozen(kw_only=True)
class Rules:
    """Which pages may request tokens, and which tokens.

    Pages of `allowed_origins` may do so from other sites. `public_origin` is the app's own origin, for browsers that
    don't send `Sec-Fetch-Site`. `allow_device_tokens` allows tokens that are bound to a device's key.
    """

    allowed_origins: frozenset[str] = attrs.field(default=frozenset(), converter=check_allowed_origins)
    public_origin: str | None = attrs.field(default=None, converter=check_public_origin)
    allow_device_tokens: bool = False


@attrs.frozen
class RequestHead:
    """The head of a request: its method, and its headers with names in lower case."""

    method: str
    headers: Headers = attrs.field(repr=False)


@attrs.frozen
class TokenRequest:
    """The content of a request's body. With a `fingerprint`, the device's key with that thumbprint binds the token."""

    fingerprint: str | None = None


@attrs.frozen(kw_only=True)
class EndpointAnswer:
    """An answer for a browser. It holds no secret, except a requested token."""

    status: int
    headers: Headers = attrs.field(factory=dict[str, str])
    body: bytes = attrs.field(default=b"", repr=False)


def read_request(method: str, headers: Iterable[tuple[str, str]]) -> RequestHead:
    """Return a request's head. Repeated headers become one value, joined by ", ".

    So a repeated `Origin` doesn't equal an allowed one. Cookies are joined by "; ", since HTTP/2 may split them into
    several headers (RFC 9113, section 8.2.3).
    """
    joined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        between = "; " if key == "cookie" else ", "
        joined[key] = f"{joined[key]}{between}{value}" if key in joined else value
    return RequestHead(method, joined)


def admit(asked: RequestHead, rules: Rules) -> EndpointAnswer | None:
    """Return a rejection or the answer to a CORS preflight, or None to proceed. The body isn't read yet."""
    if asked.method == "OPTIONS" and "access-control-request-method" in asked.headers:
        return answer_preflight(asked, rules)
    if asked.method != "POST":
        return problem_answer(405, "This endpoint answers only POST.", headers={"Allow": "POST, OPTIONS"})
    if not may_ask(asked.headers, rules):
        return problem_answer(
            403,
            "This origin may not request tokens. Add it to allowed_origins, or set public_origin if it is your app's.",
        )
    if not is_json(asked.headers.get("content-type")):
        return problem_answer(415, "The Content-Type must be application/json.")
    if asked.headers.get("content-encoding", "identity").strip().lower() != "identity":
        return problem_answer(415, "The body must not be compressed.")
    if is_too_long(asked.headers.get("content-length", "")):
        return problem_answer(413, f"The body is longer than {LARGEST_REQUEST} bytes.")
    return None


def admit_health(method: str) -> EndpointAnswer | None:
    """Return a rejection of any method other than GET and HEAD, or None to proceed."""
    if method in ("GET", "HEAD"):
        return None
    return problem_answer(405, "This endpoint answers only GET and HEAD.", headers={"Allow": "GET, HEAD"})


def answer_preflight(asked: RequestHead, rules: Rules) -> EndpointAnswer:
    """Return the answer to a CORS preflight. `with_headers` adds the headers that name the allowed origin."""
    if asked.headers.get("origin") not in rules.allowed_origins:
        return problem_answer(403, "This origin may not request tokens. Add it to allowed_origins.")
    return EndpointAnswer(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Max-Age": "600",
        },
    )


def may_ask(headers: Headers, rules: Rules) -> bool:
    """Return whether a request comes from an allowed page, or from no browser. The module explains the rules."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin in rules.allowed_origins:
        return True
    if site is not None:
        return site == "same-origin" and origin != "null"  # the origin of sandboxed frames and local files
    return origin is None or origin == rules.public_origin


def is_json(content_type: str | None) -> bool:
    """Return whether the body is declared to be JSON, by a header that isn't repeated."""
    return (
        content_type is not None
        and "," not in content_type
        and content_type.partition(";")[0].strip().lower() == "application/json"
    )


def is_too_long(content_length: str) -> bool:
    """Return whether `Content-Length` exceeds the limit. The server checks that it is a number at all."""
    digits = content_length.strip().lstrip("0")
    is_number = digits.isascii() and digits.isdigit()
    return is_number and (len(digits) > len(str(LARGEST_REQUEST)) or int(digits) > LARGEST_REQUEST)


def parse_body(body: bytes, rules: Rules) -> TokenRequest | EndpointAnswer:
    """Return what a body asks for, or a rejection."""
    if len(body) > LARGEST_REQUEST:
        return problem_answer(413, f"The body is longer than {LARGEST_REQUEST} bytes.")
    try:
        wish: object = json.loads(body)
    except (ValueError, RecursionError):
        return problem_answer(400, "The body isn't valid JSON.")
    if not isinstance(wish, dict):
        return problem_answer(400, "The body must be a JSON object: {} asks for the usual token.")
    if "fingerprint" not in wish:
        return TokenRequest()
    fingerprint = cast("dict[str, object]", wish)["fingerprint"]
    if not isinstance(fingerprint, str) or not FINGERPRINT_FORM.fullmatch(fingerprint):
        return problem_answer(422, "fingerprint must be the 43 characters of a key's RFC 7638 thumbprint.")
    if not rules.allow_device_tokens:
        return problem_answer(422, "This endpoint issues no tokens for devices: omit fingerprint.")
    return TokenRequest(fingerprint)


def answer_with(body: Mapping[str, object]) -> EndpointAnswer:
    """Return an answer with the status 200 and a JSON body."""
    return EndpointAnswer(
        status=200,
        headers={"Content-Type": "application/json"},
        body=json.dumps(body, separators=(",", ":")).encode(),
    )


def problem_answer(status: int, detail: str, *, headers: Headers = NO_HEADERS) -> EndpointAnswer:
    """Return a rejection whose body is a problem in the form of RFC 9457. `detail` is for the page's developer."""
    problem = {"type": "about:blank", "title": TITLES[status], "status": status, "detail": detail}
    return EndpointAnswer(
        status=status,
        headers={"Content-Type": "application/problem+json", **headers},
        body=json.dumps(problem).encode(),
    )


def answer_detail(answer: EndpointAnswer) -> str:
    """Return the detail of an answer that `problem_answer` made."""
    return cast("dict[str, str]", json.loads(answer.body))["detail"]


def answer_for(error: SignalWireTokenError) -> EndpointAnswer:
    """Return the answer to a browser whose token request failed with an error.

    ==========================================================  =================================================
    error                                                       answer
    ==========================================================  =================================================
    transient (`is_transient`), `SessionClosed`, `StoreError`,  503 with `Retry-After`: the same request may succeed
    `UnexpectedResponse`                                        later
    `ConfigurationError`, `InvalidRequest`                      500: the app is set up incorrectly
    any other                                                   502: SignalWire refuses the app's request
    ==========================================================  =================================================

    The error's text is for the app's log. The answer doesn't contain it.
    """
    if is_transient(error) or isinstance(error, SessionClosed | StoreError | UnexpectedResponse):
        pause = PAUSE if error.retry_after is None else error.retry_after
        return ask_later(503, "No token is available now: retry after the time in Retry-After.", pause)
    if isinstance(error, ConfigurationError | InvalidRequest):
        return problem_answer(
            500, "The app's token endpoint is misconfigured: see its log (signalwire_tokens.backend)."
        )
    return problem_answer(502, "SignalWire refused the app's request: see the app's log (signalwire_tokens.backend).")


def ask_later(status: int, detail: str, pause: float) -> EndpointAnswer:
    """Return a rejection with a `Retry-After` of `pause` seconds: rounded up, and from 1 to 60."""
    seconds = max(SHORTEST_PAUSE, min(pause, LONGEST_THROTTLE))
    return problem_answer(status, detail, headers={"Retry-After": str(math.ceil(seconds - FLOAT_ERROR))})


def pause_before_bound_token(throttle: Throttle, *, now: float, under_way: int) -> float | None:
    """Return how many seconds to wait before the next request for a token bound to a key. None: send it now.

    `under_way` is the number of such requests that aren't answered yet. `now` is by the client's clock.
    """
    quiet = throttle.left(now, longest=LONGEST_THROTTLE)
    return max(SHORTEST_PAUSE, quiet) if quiet > 0 or under_way >= MOST_BOUND_REQUESTS else None


class IssueLimit:
    """Limits how many tokens each reference may have issued: `most` at once, restored evenly within a minute.

    With `most` = 20, each token uses 3 seconds of a minute. A reference can have 20 tokens at once, and then one more
    every 3 seconds. After 60 seconds without a token, it can have 20 at once again.

    Only references that had a token issued in the last minute take up memory.
    """

    def __init__(self, most: object) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_ISSUES:
            raise ConfigurationError(
                f"issues_per_minute must be a whole number from 1 to {MOST_ISSUES}: got {shown(most)}"
            )
        self.most: int = most
        # When each reference has its whole allowance again, which is a minute after its last token at the latest. The
        # order is that of the last tokens, so `take` finds references to remove at the start.
        self._restored: OrderedDict[str, float] = OrderedDict()

    def take(self, reference: str, *, now: float) -> float | None:
        """Count a token and return None, or return the seconds until the reference can have another one.

        `now` is in seconds, by the same clock for all calls.
        """
        while self._restored and next(iter(self._restored.values())) <= now:
            self._restored.popitem(last=False)
        restored = max(now, self._restored.get(reference, now)) + MINUTE / self.most
        pause = restored - now - MINUTE
        if pause > FLOAT_ERROR:
            return pause
        self._restored[reference] = restored
        self._restored.move_to_end(reference)
        return None


def with_headers(answer: EndpointAnswer, asked: RequestHead, rules: Rules) -> EndpointAnswer:
    """Return an answer with the common headers: its length, no caching, and CORS for an allowed origin."""
    headers = {**answer.headers, "Cache-Control": "no-store", "Vary": "Origin", "X-Content-Type-Options": "nosniff"}
    if answer.status not in WITHOUT_LENGTH:
        headers["Content-Length"] = str(len(answer.body))
    if asked.headers.get("origin") in rules.allowed_origins:
        headers |= {
            "Access-Control-Allow-Origin": asked.headers["origin"],
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "Retry-After",
        }
    return attrs.evolve(answer, headers=headers)
