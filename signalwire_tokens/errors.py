"""All errors of the library, in one tree with `SignalWireTokenError` at its root.

::

    SignalWireTokenError
    ├── ConfigurationError        a setting is missing, or does not fit the others
    ├── InvalidRequest            an argument is wrong; nothing was sent      (ValueError)
    ├── TransportError            no complete answer arrived
    │   ├── ConnectionFailed      refused, reset, unresolved, TLS             (ConnectionError)
    │   └── TimedOut              not within the client's timeout             (TimeoutError)
    ├── ApiError                  SignalWire refused the request
    │   ├── Unauthorized          401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── ValidationFailed      422, with every item in `errors`
    │   ├── RateLimited           429, with `retry_after` where SignalWire gave it
    │   ├── TemporarilyRefused    SignalWire can't do it at this moment, or for this account; try later
    │   └── ServerError           5xx
    ├── UnexpectedResponse        an answer that isn't SignalWire's: HTML, a redirect, broken JSON
    ├── SessionError              a session can't do what it was asked
    │   ├── SessionClosed         used before it was opened, or after it was closed
    │   ├── SessionExpired        no way left to renew; terminal
    │   └── TokenUnavailable      no valid token now; try again later
    ├── RealtimeError             a realtime connection can't be made, was given up, or isn't open
    │   ├── CallRefused           the gateway answered a call with an error
    │   └── CallInterrupted       a call has no answer; `sent` says whether it may have had an effect
    └── StoreError                a token store failed
        └── UnreadableRecord      the store has a record that this process can't read

SignalWire's error codes decide which `ApiError` an answer becomes. The status decides only if the answer has no known
code. `wire.codes` lists the codes and explains why they come first.

An error keeps its facts in attributes, and `str(error)` puts them into one line. An error of a session includes the
error that is its cause. No error holds a secret or the body of an answer, because a body may contain a token. So errors
are safe to log.

Two functions group the errors by what a caller can do: `is_transient` (the same request may succeed later) and
`is_throttle` (SignalWire asked for a pause).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from .duration_text import spoken

if TYPE_CHECKING:
    from uuid import UUID

__all__ = [
    "ApiError",
    "CallInterrupted",
    "CallRefused",
    "ConfigurationError",
    "ConnectionFailed",
    "Forbidden",
    "InvalidRequest",
    "NotFound",
    "Problem",
    "RateLimitHint",
    "RateLimited",
    "RealtimeError",
    "ServerError",
    "SessionClosed",
    "SessionError",
    "SessionExpired",
    "SignalWireTokenError",
    "StoreError",
    "TemporarilyRefused",
    "TimedOut",
    "TokenUnavailable",
    "TransportError",
    "Unauthorized",
    "UnexpectedResponse",
    "UnreadableRecord",
    "ValidationFailed",
    "is_throttle",
    "is_transient",
]


MOST_SHOWN = 20


@attrs.frozen(kw_only=True)
class Problem:
    """One thing that is wrong with a request, in the vocabulary of SignalWire's error bodies.

    SignalWire's answers and the library's own checks use the same form. `code` is an error code such as
    `invalid_parameter`. `attribute` names the argument or field, or is None if the problem isn't about a single one.
    `url` links to SignalWire's page about the code, if the answer has one.
    """

    code: str
    message: str
    attribute: str | None = None
    type: str = "validation_error"
    url: str | None = None

    def __str__(self) -> str:
        about = self.attribute or ""
        if self.message.startswith(f"{about} "):  # some of SignalWire's messages begin with the attribute's name
            about = ""
        elif about:  # the library's messages continue the name ("must be a UUID"); SignalWire's are whole sentences
            about += ": " if self.message[:1].isupper() else " "
        return f"{about}{self.message} ({self.code})"


@attrs.frozen(kw_only=True)
class RateLimitHint:
    """What an answer reports about the account's rate limit.

    It is a hint for dashboards and logs: the library bases no decision on it. `limit` is how many requests the account
    may send in a window, `remaining` how many are left, and `reset_at` when the window ends. Each is None if the answer
    doesn't report it, or reports it in a form that can't be read.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_at: datetime | None = None


class SignalWireTokenError(Exception):
    """The base class of all errors of this library.

    `message` is what failed, without the other facts. `operation` is the client's method, such as
    `create_subscriber_token`, and `status` the HTTP status of the answer. `errors` holds the problems that the answer
    or the library's own checks list. `request_id` is SignalWire's id for the exchange, to quote to its support.
    `retry_after` is how many seconds to wait before the next attempt. `advice` is what to check or to do, unless
    `message` has it already. Facts that are unknown or don't apply are None, or an empty tuple for `errors`.

    `str(error)` joins all of them, with at most 20 of the problems.
    """

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        status: int | None = None,
        errors: tuple[Problem, ...] = (),
        request_id: str | None = None,
        retry_after: float | timedelta | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.status = status
        self.errors = errors
        self.request_id = request_id
        self.retry_after: float | None = (
            retry_after.total_seconds() if isinstance(retry_after, timedelta) else retry_after
        )
        self.advice = advice

    def __str__(self) -> str:
        return line_of(self, pause="retry after", advice=self.advice)


class ConfigurationError(SignalWireTokenError):
    """A setting is missing or doesn't fit the others. The message names it.

    The error is also raised if a closed client is used, or a client on another event loop than its first one.
    """


class InvalidRequest(SignalWireTokenError, ValueError):
    """At least one argument is wrong, and nothing was sent. `problems` lists every wrong argument, not just the first.

    The error is a `ValueError`, too.
    """

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems of the arguments; the same as `errors`."""
        return self.errors


class TransportError(SignalWireTokenError):
    """No complete answer arrived.

    `sent` is how far the request came:

    - False: it didn't leave this machine. To repeat it is safe.
    - None: it may have left. SignalWire may have done what it asked for.
    - True: SignalWire received it and began to answer. `status` is the status of that answer.

    After a refresh, a refresh token may be used up unless `sent` is False. Issuing a new pair is then the safe way on.
    """

    def __init__(
        self,
        message: str,
        *,
        sent: bool | None = None,
        operation: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(message, operation=operation, status=status, request_id=request_id, advice=advice)
        self.sent = sent


class ConnectionFailed(TransportError, ConnectionError):
    """The connection couldn't be made, or broke: refused, reset, unresolved name, TLS, proxy.

    The error is a `ConnectionError`, too. `__cause__` is the operating system's error, if there is one.
    """


class TimedOut(TransportError, TimeoutError):
    """The call, or a function that a session was given, didn't end within the client's `timeout`.

    The operating system's own timeouts for connections also become this error. It is a `TimeoutError`, too.
    """


class ApiError(SignalWireTokenError):
    """SignalWire, or the backend of a `BackendSession`, answered with a refusal (4xx or 5xx).

    The codes in `errors` decide which subclass is raised, then `status`. A refusal without a known code and without a
    subclass for its status is an `ApiError` itself. `server_time` is the time by the answerer's clock, in unix seconds,
    or None if the answer has no `Date`. `rate_limit` is what the answer reports about the account's rate limit, or
    None.
    """

    server_time: float | None = None
    rate_limit: RateLimitHint | None = None


class Unauthorized(ApiError):
    """The credentials of the request were not accepted: 401, or a code about a token.

    The credentials are an access token or the project's API token. If the request presented a refresh token or a
    click-to-call token in its body, a code about a token raises `ValidationFailed` instead.
    """


class Forbidden(ApiError):
    """The credentials are valid but don't allow this: 403, or a code about the API token's scopes or the subscriber.

    The codes are `invalid_auth_token_permissions`, `authblock_is_invalid` and `authblock_is_expired`.
    """


class NotFound(ApiError):
    """The space, the subscriber or the operation doesn't exist: 404 without a known code."""


class ValidationFailed(ApiError):
    """SignalWire found the request invalid: 422, or a code about the request or the token in its body.

    `errors` holds every item of the answer. Codes about the request are `missing_required_parameter`,
    `invalid_parameter`, `must_belong_to_project` and `allowed_address_limit_exceeded`. Codes about the refresh token or
    click-to-call token that was presented are `token_expired`, `token_invalid`, `not_a_refresh_token` and
    `invalid_token_format`.
    """


class RateLimited(ApiError):
    """Too many requests: the code `rate_limit_exceeded`, or 429 without another known code.

    `retry_after` is the pause that SignalWire asks for, in seconds, or None if it gave none.
    """


class TemporarilyRefused(ApiError):
    """SignalWire can't do this now: the code `cannot_process` or `account_limit_exceeded`. Try later."""


class ServerError(ApiError):
    """SignalWire failed: 5xx without a known code. It may have done what the request asked for."""


class UnexpectedResponse(SignalWireTokenError):
    """The answer can't be SignalWire's answer to this request, or its token can't be used.

    Usually a proxy or a wrong host answered instead: with HTML, a redirect, incomplete JSON, or an answer to another
    request. A session also reports this error if a new token has already expired or doesn't live long enough.
    `subscriber_id` is the subscriber that the answer names, if the session keeps a token of another one. Otherwise it
    is None.
    """

    subscriber_id: UUID | None = None


class SessionError(SignalWireTokenError):
    """A session can't do what was asked of it.

    The class itself is raised, for example, if a session or a fleet is opened twice, used on another event loop, or
    used in another process after a fork.

    `str(error)` includes the reason, which is the text of `cause`. For an error that isn't transient, it also includes
    what to check.
    """

    def __str__(self) -> str:
        cause, advice = self.__cause__, self.advice
        if advice is None and isinstance(cause, SignalWireTokenError) and not is_transient(cause):
            advice = cause.advice
        return line_of(self, pause="next attempt in", advice=advice)

    @property
    def cause(self) -> BaseException | None:
        """The error of the last attempt to renew, if that is the reason, or None. It is the same as `__cause__`."""
        return self.__cause__


class SessionClosed(SessionError):
    """The session isn't open: it wasn't opened yet, or it was closed."""


class SessionExpired(SessionError):
    """No way to renew the token is left. This is final: open a new session instead.

    `token()` raises this error once the current token has expired. `refresh()` raises it even before that.
    """


class TokenUnavailable(SessionError):
    """The session has no valid token now, or `refresh()` brought no new one. The session keeps trying.

    `retry_after` is how many seconds remain until the session tries next, or None if no attempt is planned. `cause` is
    the error of the last attempt, if one failed.
    """


class RealtimeError(SignalWireTokenError):
    """A realtime connection can't be made in time, was given up, or isn't open.

    `__cause__` is the reason, if there is one, and `str(error)` includes it.
    """

    def __str__(self) -> str:
        cause = self.__cause__
        text = super().__str__()
        return f"{text}: {cause}" if isinstance(cause, SignalWireTokenError) else text


class CallRefused(RealtimeError):
    """The gateway answered a call with an error. `code` is its JSON-RPC code, and `operation` the called method."""

    code: int = 0


class CallInterrupted(RealtimeError):
    """A call has no answer: the connection isn't there, was lost, or the answer didn't come in time.

    `sent` is False if the call certainly hasn't left this machine, so it is safe to repeat. Otherwise, SignalWire may
    have done what the call asked for. `operation` is the called method.
    """

    sent: bool = True


class StoreError(SignalWireTokenError):
    """A token store failed. The message names the store and the key."""


class UnreadableRecord(StoreError):
    """The store has a record that this process can't read.

    For example, a newer version of the library has written it, or a process with another encryption key. The record
    stays as it is.
    """


def line_of(error: SignalWireTokenError, *, pause: str, advice: str | None) -> str:
    """Return all facts of an error as one line. `pause` introduces its `retry_after`."""
    text = f"{error.operation}: {summary(error)}" if error.operation else summary(error)
    if error.retry_after is not None:
        text += f"; {pause} {spoken(error.retry_after)}"
    if advice:
        text += f"; {advice}"
    if error.request_id:
        text += f" [request id {error.request_id}]"
    return text


def summary(error: SignalWireTokenError) -> str:
    """Return what failed and why: the message, the problems, and the cause of a session's error with its request id.

    The result lacks the error's own operation, pause, advice and request id.
    """
    text = error.message
    if error.errors:
        shown = [str(problem) for problem in error.errors[:MOST_SHOWN]]
        if len(error.errors) > MOST_SHOWN:
            shown.append(f"and {len(error.errors) - MOST_SHOWN} more")
        text += ": " + "; ".join(shown)
    cause = error.__cause__
    if isinstance(error, SessionError) and isinstance(cause, SignalWireTokenError):
        text += f": {summary(cause)}" + (f" [request id {cause.request_id}]" if cause.request_id else "")
    return text


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later, with nothing changed.

    That doesn't mean that a repetition is safe. After a `ServerError`, or a `TransportError` whose `sent` isn't False,
    SignalWire may have done what the request asked for.
    """
    return isinstance(
        error,
        TransportError | RateLimited | TemporarilyRefused | ServerError | TokenUnavailable | CallInterrupted,
    )


def is_throttle(error: BaseException) -> bool:
    """Return whether SignalWire did nothing and asked for a pause.

    This function is the only place that decides what counts as throttling:

    - `RateLimited`: always.
    - `TemporarilyRefused`: with status 429, or with `retry_after`.
    - `ServerError`: with status 503 and `retry_after`.
    - Any other error: never. A 429 with a code about a token, the subscriber or the request is such an error.
    """
    match error:
        case RateLimited() | TemporarilyRefused(status=429):
            return True
        case TemporarilyRefused() | ServerError(status=503):
            return error.retry_after is not None
        case _:
            return False
