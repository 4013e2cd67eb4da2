"""What comes back: (status, headers, body) in, a model or an error out, and whether to ask once more."""

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

from .codes import ABOUT, About, about
from .exchange import Answer, BrokenError, Request, http_date
from .hints import read_hint
from .readers import json_object, json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from signalwire_tokens.models import Secret, Token

__all__ = ["pause_before_retry", "read"]

T = TypeVar("T")

SLOWEST_RETRY = 8.0
FIRST_RETRY = 0.25
LONGEST_TEXT = 300
LONGEST_PAUSE = 1e9
SHORTEST_SECRET = 6
# What the service is known to call faults and fields.
VOCABULARY = frozenset(
    [
        *ABOUT,
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
# A compact token, signed or encrypted, whole or cut short after its first part.
TOKEN_FORM = re.compile(r"\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*", re.ASCII)


def read(
    request: Request[T], answer: Answer, *, secrets: Callable[[], Sequence[Secret[str] | Token]] = tuple
) -> T | SignalWireTokenError:
    """Turn an answer into what was asked for, or into an error, which is returned and never raised from here.

    An error raised among these frames would carry what they hold: the whole answer. `secrets` tells what else was
    sent that must not come back in the error's text.
    """
    subscriber_id = None
    if answer.status // 100 == 2:  # noqa: PLR2004 - any 2xx is a success
        try:
            return request.read(answer)
        except BrokenError as error:
            reason, subscriber_id = str(error), error.subscriber_id
    elif answer.status // 100 == 3:  # noqa: PLR2004 - any 3xx is a redirect
        reason = "a redirect, which is never followed; is this the right address?"
    elif answer.status // 100 in (4, 5):
        return refusal(request, answer, (*request.secrets, *secrets()))
    else:
        reason = "which is no final answer"
    unexpected = UnexpectedResponse(
        f"answered {answer.status}, {reason}",
        operation=request.operation,
        status=answer.status,
        request_id=request_id(answer, (*request.secrets, *secrets())),
    )
    unexpected.subscriber_id = subscriber_id
    return unexpected


def refusal(request: Request[T], answer: Answer, secrets: Sequence[Secret[str] | Token]) -> ApiError:
    """Return the error for an answer that isn't a success: by the codes in its body first, then by its status."""
    errors = problems(answer, secrets)
    kind, message = kind_of(request, answer.status, about(errors))
    detail = detail_of(answer, secrets)
    error = kind(
        message.format(peer=request.peer, status=answer.status) + (f": {detail}" if detail else ""),
        operation=request.operation,
        status=answer.status,
        errors=errors,
        request_id=request_id(answer, secrets),
        retry_after=retry_after(answer),
    )
    error.server_time, error.rate_limit = answer.server_time, read_hint(answer)
    return error


def kind_of(request: Request[T], status: int, subject: About | None) -> Kind:
    """Return which error a refusal is, and the text of its message. Without a known code, the status decides."""
    if subject is About.TOKEN:  # of the one in the body, or else of the one that was sent as credentials
        return INVALID if request.presents_token else UNAUTHORIZED
    if subject is not None:
        return BY_CODE[subject]
    return FAILED if status // 100 == 5 else BY_STATUS.get(status, REFUSED)  # noqa: PLR2004 - any 5xx


Kind: TypeAlias = tuple[type[ApiError], str]
REFUSED: Kind = (ApiError, "{peer} answered {status}")
FAILED: Kind = (ServerError, "{peer} failed with {status}")
UNAUTHORIZED: Kind = (Unauthorized, "the credentials were not accepted ({status})")
FORBIDDEN: Kind = (Forbidden, "{peer} does not allow this ({status})")
INVALID: Kind = (ValidationFailed, "{peer} refused the request ({status})")
THROTTLED: Kind = (RateLimited, "too many requests ({status})")
BY_STATUS: Mapping[int, Kind] = {
    401: UNAUTHORIZED,
    403: FORBIDDEN,
    404: (NotFound, "not found ({status}); is this the right address?"),
    422: INVALID,
    429: THROTTLED,
}
BY_CODE: Mapping[About, Kind] = {
    About.THROTTLE: THROTTLED,
    About.ACCOUNT: (TemporarilyRefused, "{peer} allows no more for this account at the moment ({status})"),
    About.MOMENT: (TemporarilyRefused, "{peer} cannot process the request at the moment ({status})"),
    About.API_TOKEN: FORBIDDEN,
    About.SUBSCRIBER: FORBIDDEN,
    About.REQUEST: INVALID,
}


def problems(answer: Answer, secrets: Sequence[Secret[str] | Token]) -> tuple[Problem, ...]:
    """Read every item of an error's body, as far as it has any."""
    try:
        items = json_object(json_value(answer)).get("errors")
    except BrokenError:
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
    """Read what a backend says of its refusal, where it says it as RFC 9457 has it."""
    if not answer.header("content-type").startswith("application/problem+json"):
        return None
    try:
        return clean(json_object(json_value(answer)).get("detail"), secrets)
    except BrokenError:
        return None


def word(value: object, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Take a word of the service's own vocabulary as it is, whatever secret it may resemble."""
    return value if isinstance(value, str) and value in VOCABULARY else clean(value, secrets)


def clean(value: object, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Make a text of the service's fit for a log: one line, not long, and none of what was sent in secret."""
    if not isinstance(value, str):
        return None
    for secret in secrets:
        if secret.value and len(secret.value) >= SHORTEST_SECRET:
            value = value.replace(secret.value, "***")
        elif secret.value:  # as a word of its own: elsewhere, it would be given away by what is left of the text
            value = re.sub(rf"(?<!\w){re.escape(secret.value)}(?!\w)", "***", value)
    value = TOKEN_FORM.sub("***", value)
    value = "".join(letter if letter.isprintable() else " " for letter in value)
    return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"


def request_id(answer: Answer, secrets: Sequence[Secret[str] | Token]) -> str | None:
    """Read the service's name for this exchange, where it looks like one."""
    found = answer.header("x-request-id")
    return clean(found, secrets) if REQUEST_ID.fullmatch(found) else None


def retry_after(answer: Answer) -> float | None:
    """Read how long the service asks to be left alone, in either of the two forms, as seconds from now."""
    found = answer.header("retry-after").strip()
    if found.isascii() and found.isdigit():
        return min(float(found[:20]), LONGEST_PAUSE)
    until = http_date(found)
    if until is None:
        return None
    server_time = answer.server_time
    return min(max(0.0, until - (answer.sent if server_time is None else server_time)), LONGEST_PAUSE)


def pause_before_retry(
    request: Request[T], error: SignalWireTokenError, *, failures: int, draw: float, left: float, quiet: float = 0.0
) -> float | None:
    """Return how long to wait before the request is sent again, or None if it must not be, or not in time.

    `failures` counts those so far, `draw` is uniform in 0 to 1, `left` the seconds that the whole call still has, and
    `quiet` those for which SignalWire wants to be left alone.
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
        pause = quiet + draw * min(SLOWEST_RETRY, FIRST_RETRY * 2.0 ** min(failures, 10))
    pause = max(pause, quiet)
    return pause if pause < left else None
