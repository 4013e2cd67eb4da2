"""Turns an answer into a model or an error, and decides whether to repeat the request.

An answer with a 2xx status is read by the request's reader. A 4xx or 5xx becomes an `ApiError`, by its code first and
then by its status. Everything else, and a 2xx that can't be used, becomes an `UnexpectedResponse`.

Error texts quote what SignalWire wrote, and SignalWire may quote the request. So every text is cleaned: secrets of the
request are replaced by "***", and so is anything that looks like a token.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from signalwire_tokens.errors import (
    ApiError,
    Forbidden,
    NotFound,
    Problem,
    RateLimited,
    ServerError,
    SignalWireTokenError,
    TemporarilyRefused,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    is_throttle,
    is_transient,
)

from .codes import SUBJECTS, Subject, about
from .exchange import Answer, Auth, Request, UnusableAnswer, parse_http_date
from .hints import read_hint
from .readers import json_object, json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from signalwire_tokens.models import Token
    from signalwire_tokens.secret import Secret

__all__ = ["pause_before_retry", "read"]

T = TypeVar("T")

FIRST_RETRY = 0.25  # seconds
DOUBLINGS = 5  # of the limit above, which is 8 s then
LONGEST_TEXT = 300  # characters
LONGEST_RETRY_AFTER = 1e9  # seconds
SHORTEST_SECRET = 6  # characters; shorter ones may be part of ordinary words, so only whole words are replaced
# SignalWire's names of codes and fields. They are shown even if a secret, such as a password "scope", equals one.
VOCABULARY = frozenset(
    [
        *SUBJECTS,
        "validation_error",
        "reference",
        "expire_at",
        "expires_at",
        "application_id",
        "password",
        "first_name",
        "last_name",
        "display_name",
        "job_title",
        "time_zone",
        "country",
        "region",
        "company_name",
        "fingerprint",
        "scope",
        "refresh_token",
        "allowed_addresses",
        "ch",
        "address_id",
        "token",
        "dpop_token",
        "expire_in",
    ]
)
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,80}", re.ASCII)
# A compact token (JWS or JWE), whole or cut off after its first part.
TOKEN_FORM = re.compile(r"\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*", re.ASCII)


def read(
    request: Request[T], answer: Answer, *, secrets: Callable[[], Sequence[Secret[str] | Token]] = tuple
) -> T | SignalWireTokenError:
    """Return what a request's answer holds, or an error.

    The error is returned, not raised, because the frames of a traceback from here would hold the whole answer.
    `secrets` returns credentials of the client that the error's text must not repeat, besides `request.secrets`. It is
    a function, since only failures need them.
    """
    subscriber_id = None
    if answer.status // 100 == 2:  # noqa: PLR2004 - any 2xx is a success
        try:
            return request.read(answer)
        except UnusableAnswer as error:
            reason, subscriber_id = str(error), error.subscriber_id
    elif answer.status // 100 == 3:  # noqa: PLR2004 - any 3xx is a redirect
        reason = "a redirect, which the client never follows"
    elif answer.status // 100 in (4, 5):
        return refusal(request, answer, (*request.secrets, *secrets()))
    else:
        reason = "which isn't a final HTTP status"
    unexpected = UnexpectedResponse(
        f"{request.peer} answered {answer.status}, {reason}",
        operation=request.operation,
        status=answer.status,
        request_id=request_id(answer, (*request.secrets, *secrets())),
        advice=f"check {request.address_setting}, and any proxy or cache in between",
    )
    unexpected.subscriber_id = subscriber_id
    return unexpected


def refusal(request: Request[T], answer: Answer, secrets: Sequence[Secret[str] | Token]) -> ApiError:
    """Return the error for a 4xx or 5xx answer: by the codes in its body first, then by its status."""
    errors, pause = problems(answer, secrets), retry_after(answer)
    kind, message, advice = kind_of(request, answer.status, about(errors))
    if advice is LATER and pause is not None:
        advice = None  # the error has the pause
    detail = detail_of(answer, secrets)
    error = kind(
        message.format(peer=request.peer, status=answer.status) + (f": {detail}" if detail else ""),
        operation=request.operation,
        status=answer.status,
        errors=errors,
        request_id=request_id(answer, secrets),
        retry_after=pause,
        advice=None if advice is None else advice.format(setting=request.address_setting),
    )
    error.server_time, error.rate_limit = answer.server_time, read_hint(answer)
    return error


def kind_of(request: Request[T], status: int, subject: Subject | None) -> Kind:
    """Return the class of the error for a refusal, and the templates of its message and of what to check.

    `subject` is what the answer's code is about. If it is None, no code is known and the status decides.
    """
    if subject is Subject.TOKEN:  # the token in the body if the request has one, or else the credentials
        return PRESENTED[request.for_embeds] if request.presents_token else BY_CREDENTIALS[request.auth][401]
    if subject is not None:
        return BY_CODE[subject]
    if status in BY_CREDENTIALS[request.auth]:
        return BY_CREDENTIALS[request.auth][status]
    return FAILED if status // 100 == 5 else BY_STATUS.get(status, REFUSED)  # noqa: PLR2004 - any 5xx


Kind: TypeAlias = tuple[type[ApiError], str, str | None]
LATER = "try again later"
REFUSED: Kind = (ApiError, "{peer} refused the request ({status})", None)
FAILED: Kind = (ServerError, "{peer} failed ({status})", LATER)
NOT_ALLOWED = "{peer} doesn't allow this ({status})"
LACKS_SCOPE: Kind = (Forbidden, NOT_ALLOWED, "check the scopes of the API token")
# 401 and 403, by what the request was authorized with. Without credentials of the client, the caller's headers count.
BY_CREDENTIALS: Mapping[Auth, Mapping[int, Kind]] = {
    Auth.PROJECT: {
        401: (
            Unauthorized,
            "{peer} refused the credentials ({status})",
            "check the project id and the API token for this space",
        ),
        403: LACKS_SCOPE,
    },
    Auth.SUBSCRIBER: {
        401: (
            Unauthorized,
            "{peer} refused the access token ({status})",
            "check that it is valid and from this space",
        ),
        403: (Forbidden, NOT_ALLOWED, "check the scope of the access token"),
    },
    Auth.NONE: {
        401: (
            Unauthorized,
            "{peer} refused the credentials ({status})",
            "check the headers of the request, or its click-to-call token",
        ),
        403: (Forbidden, NOT_ALLOWED, "check the headers of the request, or its click-to-call token"),
    },
}
INVALID_REQUEST: Kind = (ValidationFailed, "{peer} refused the request ({status})", None)
# By whether the token in the body is a click-to-call token.
PRESENTED: Mapping[bool, Kind] = {
    False: (ValidationFailed, "{peer} refused the refresh token ({status})", "issue a new pair"),
    True: (ValidationFailed, "{peer} refused the click-to-call token ({status})", "check the token"),
}
THROTTLED: Kind = (RateLimited, "{peer} got too many requests ({status})", LATER)
BY_STATUS: Mapping[int, Kind] = {
    404: (NotFound, "not found ({status})", "check {setting}, and any id in the request"),
    422: INVALID_REQUEST,
    429: THROTTLED,
}
BY_CODE: Mapping[Subject, Kind] = {
    Subject.THROTTLE: THROTTLED,
    Subject.ACCOUNT: (
        TemporarilyRefused,
        "{peer} allows no more for this account at the moment ({status})",
        "check the limits of the SignalWire account",
    ),
    Subject.MOMENT: (TemporarilyRefused, "{peer} can't process the request at the moment ({status})", LATER),
    Subject.API_TOKEN: LACKS_SCOPE,
    Subject.SUBSCRIBER: (
        Forbidden,
        NOT_ALLOWED,
        "check that the subscriber exists and hasn't expired",
    ),
    Subject.REQUEST: INVALID_REQUEST,
}


def problems(answer: Answer, secrets: Sequence[Secret[str] | Token]) -> tuple[Problem, ...]:
    """Return the items of an error's body, cleaned, or () if the body isn't in SignalWire's form."""
    try:
        items = json_object(json_value(answer)).get("errors")
    except UnusableAnswer:
        return ()
    if not isinstance(items, list):
        return ()
    return tuple(
        Problem(
            type=word(item.get("type"), secrets) or "unknown",
            code=word(item.get("code"), secrets) or "unknown",
            message=clean(item.get("message"), secrets) or "is refused",
            attribute=word(item.get("attribute"), secrets),
            url=clean(item.get("url"), secrets),
        )
        for item in cast("list[object]", items)
        if isinstance(item, dict)
    )


def detail_of(answer: Answer, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Return the detail of an answer in the form of RFC 9457, as a backend may send it, or None."""
    if not answer.header("content-type").startswith("application/problem+json"):
        return None
    try:
        return clean(json_object(json_value(answer)).get("detail"), secrets)
    except UnusableAnswer:
        return None


def word(value: object, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Return a code or a field's name as it is if SignalWire is known to use it, or cleaned otherwise."""
    return value if isinstance(value, str) and value in VOCABULARY else clean(value, secrets)


def clean(value: object, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Return a text of an answer that is safe to log, or None if it isn't a string.

    It is one line of printable characters, limited to `LONGEST_TEXT`. Secrets and tokens in it are replaced by "***".
    """
    if not isinstance(value, str):
        return None
    for secret in secrets:
        if secret.value and len(secret.value) >= SHORTEST_SECRET:
            value = value.replace(secret.value, "***")
        elif secret.value:  # whole words only: "***" inside a known word would reveal the letters that it replaces
            value = re.sub(rf"(?<!\w){re.escape(secret.value)}(?!\w)", "***", value)
    value = TOKEN_FORM.sub("***", value)
    value = "".join(letter if letter.isprintable() else " " for letter in value)
    return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"


def request_id(answer: Answer, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Return the answer's `X-Request-Id`, or None if it is missing or has an unusual form."""
    found = answer.header("x-request-id")
    return clean(found, secrets) if REQUEST_ID.fullmatch(found) else None


def retry_after(answer: Answer) -> float | None:
    """Return the pause in seconds that `Retry-After` asks for, or None if the header is missing or can't be read.

    The header has either a number of seconds or a date. A date is compared with the answer's own `Date`, so a wrong
    clock on this machine doesn't matter. Without a `Date`, it is compared with this machine's wall clock.
    """
    found = answer.header("retry-after").strip()
    if found.isascii() and found.isdigit():
        return min(float(found), LONGEST_RETRY_AFTER)
    until = parse_http_date(found)
    if until is None:
        return None
    server_time = answer.server_time
    return min(max(0.0, until - (answer.sent if server_time is None else server_time)), LONGEST_RETRY_AFTER)


def pause_before_retry(
    request: Request[T], error: SignalWireTokenError, *, failures: int, draw: float, left: float, quiet: float = 0.0
) -> float | None:
    """Return how many seconds to wait before a request is repeated, or None if it must not be repeated.

    Whether it may be repeated depends on what SignalWire may have done:

    ===============================================  ===================  ==============================
    error                                            SignalWire did it?   repeat?
    ===============================================  ===================  ==============================
    `TransportError` with `sent=False`               no                   yes
    throttled, `TemporarilyRefused`                  no                   yes
    `TransportError` with another `sent`             unknown              only if `request.replayable`
    other `ServerError`                              unknown              only if `request.replayable`
    any other error                                  doesn't matter       no: it isn't transient
    ===============================================  ===================  ==============================

    The pause is what `Retry-After` asks for, and at least `quiet`. Without `Retry-After`, it is `quiet` plus a random
    time. The limit of that time is 0.25 s after the first failure, doubles with each further one, and ends at 8 s.

    `failures` is the number of failures before this one, and `draw` a random number from 0 to 1. `left` is how many
    seconds the whole call still has; None is returned if the pause doesn't fit. `quiet` is how many seconds remain of
    a pause that SignalWire asked for, perhaps in the answer to another request.
    """
    if not is_transient(error):
        return None
    if isinstance(error, TransportError):
        unknown = error.sent is not False
    else:
        unknown = isinstance(error, ServerError) and not is_throttle(error)
    if unknown and not request.replayable:
        return None
    pause = error.retry_after
    if pause is None:
        pause = quiet + draw * FIRST_RETRY * 2 ** min(failures, DOUBLINGS)
    pause = max(pause, quiet)
    return pause if pause < left else None
