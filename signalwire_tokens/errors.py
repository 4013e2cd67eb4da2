"""Everything that can go wrong, one tree.

::

    SignalWireTokenError
    ├── ConfigurationError        a setting is missing, or does not fit the others
    ├── InvalidRequest            an argument is wrong; nothing was sent      (ValueError)
    ├── TransportError            no complete answer arrived
    │   ├── ConnectionFailed      refused, reset, unresolved, TLS             (ConnectionError)
    │   └── TimedOut              not within the client's timeout             (TimeoutError)
    ├── ApiError                  the service answered with a refusal
    │   ├── Unauthorized          401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── ValidationFailed      422, with every item in `errors`
    │   ├── RateLimited           429, with `retry_after` where SignalWire gave it
    │   ├── TemporarilyRefused    SignalWire can't do it at this moment, or for this account; try later
    │   └── ServerError           5xx
    ├── UnexpectedResponse        an answer that is not the service's: HTML, a redirect, broken JSON
    ├── SessionError              the keeping alive of a token
    │   ├── SessionClosed         used before it was opened, or after it was closed
    │   ├── SessionExpired        no way left to renew; terminal
    │   └── TokenUnavailable      no live token at this moment; try again
    └── StoreError                a token store failed

SignalWire's codes decide which `ApiError` an answer becomes, whatever its status. The statuses above are those of
answers without a known code. `wire.codes` lists the codes.

Errors hold facts and speak in `__str__`. None holds a secret, nor a body that might.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from uuid import UUID

__all__ = [
    "ApiError",
    "ConfigurationError",
    "ConnectionFailed",
    "Forbidden",
    "InvalidRequest",
    "NotFound",
    "Problem",
    "RateLimitHint",
    "RateLimited",
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
    "ValidationFailed",
    "is_throttle",
    "is_transient",
]


MOST_SHOWN = 20


@attrs.frozen(kw_only=True)
class Problem:
    """One thing that is wrong with a request, in the service's own vocabulary."""

    code: str
    message: str
    attribute: str | None = None
    type: str = "validation_error"
    url: str | None = None

    def __str__(self) -> str:
        about = self.attribute or ""
        if self.message.startswith(f"{about} "):  # as some of SignalWire's do
            about = ""
        elif about:  # our own messages continue the name, SignalWire's are sentences
            about += ": " if self.message[:1].isupper() else " "
        return f"{about}{self.message} ({self.code})"


@attrs.frozen(kw_only=True)
class RateLimitHint:
    """What an answer reports about the account's rate limit: a hint to show. No decision of this library depends on it.

    `limit` is how many requests the account may send in a window, `remaining` how many are left, and `reset_at` when
    the window ends. Each is None if the answer doesn't have it in a form that can be read.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_at: datetime | None = None


class SignalWireTokenError(Exception):
    """Base of all errors of this library."""

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        status: int | None = None,
        errors: tuple[Problem, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.status = status
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = f"{self.operation}: {self.message}" if self.operation else self.message
        if self.errors:
            shown = [str(problem) for problem in self.errors[:MOST_SHOWN]]
            if len(self.errors) > MOST_SHOWN:
                shown.append(f"and {len(self.errors) - MOST_SHOWN} more")
            text += ": " + "; ".join(shown)
        if self.retry_after is not None:
            text += f"; retry after {self.retry_after:g} s"
        if self.request_id:
            text += f" [request id {self.request_id}]"
        return text


class ConfigurationError(SignalWireTokenError):
    """A setting is missing or does not fit the others; the message names it."""


class InvalidRequest(SignalWireTokenError, ValueError):
    """An argument is wrong. `problems` lists everything that is, and nothing was sent."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong with the arguments."""
        return self.errors


class TransportError(SignalWireTokenError):
    """No complete answer arrived.

    `sent` tells whether the request left: False, it did not, so repeating it is safe; None, it may have;
    True, the service had begun to answer it.
    """

    def __init__(
        self,
        message: str,
        *,
        sent: bool | None = None,
        operation: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, operation=operation, status=status, request_id=request_id)
        self.sent = sent


class ConnectionFailed(TransportError, ConnectionError):
    """The connection could not be made, or broke."""


class TimedOut(TransportError, TimeoutError):
    """The call did not end within the client's timeout."""


class ApiError(SignalWireTokenError):
    """SignalWire answered with a refusal. The codes in `errors` decide which one it is, then `status`.

    `server_time` is the time of its clock, in unix seconds, if the answer has it. `rate_limit` is what the answer
    reports about the account's rate limit, if anything.
    """

    server_time: float | None = None
    rate_limit: RateLimitHint | None = None


class Unauthorized(ApiError):
    """The credentials that were sent are not accepted: 401, or a code about a token.

    Here, a code about a token, such as `token_expired`, means an access token or the API token. If the request
    presented a refresh token or a click-to-call token, such a code raises `ValidationFailed`.
    """


class Forbidden(ApiError):
    """The credentials are good, but not for this: 403, or a code about the API token's scopes or the subscriber.

    The codes are `invalid_auth_token_permissions`, `authblock_is_invalid` and `authblock_is_expired`.
    """


class NotFound(ApiError):
    """404 without a known code: no such space, subscriber or operation."""


class ValidationFailed(ApiError):
    """SignalWire found fault with the request: 422, or a code about it. `errors` holds every item of the answer.

    Codes about the request are `missing_required_parameter`, `invalid_parameter`, `must_belong_to_project` and
    `allowed_address_limit_exceeded`. Codes about the refresh token or click-to-call token that was presented are
    `token_expired`, `token_invalid`, `not_a_refresh_token` and `invalid_token_format`.
    """


class RateLimited(ApiError):
    """Too many requests: the code `rate_limit_exceeded`, or 429 without another known code.

    `retry_after` is the wait in seconds, if known.
    """


class TemporarilyRefused(ApiError):
    """The code `cannot_process` or `account_limit_exceeded`: the same request may succeed later."""


class ServerError(ApiError):
    """5xx without a known code: SignalWire failed."""


class UnexpectedResponse(SignalWireTokenError):
    """The answer can't be SignalWire's answer to this request: something in between may have spoken in its place.

    `subscriber_id` is the subscriber that the answer names, if that is another than the session's.
    """

    subscriber_id: UUID | None = None


class SessionError(SignalWireTokenError):
    """The keeping alive of a token went wrong."""

    @property
    def cause(self) -> BaseException | None:
        """What the last attempt to renew failed with, where that is why."""
        return self.__cause__


class SessionClosed(SessionError):
    """The session is not open: not yet, or no longer."""


class SessionExpired(SessionError):
    """No way to renew is left. Terminal."""


class TokenUnavailable(SessionError):
    """There is no live token at this moment; the session goes on trying."""


class StoreError(SignalWireTokenError):
    """A token store failed."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later with nothing changed."""
    return isinstance(error, TransportError | RateLimited | TemporarilyRefused | ServerError | TokenUnavailable)


def is_throttle(error: BaseException) -> bool:
    """Return whether SignalWire did nothing and wants to be left alone: the one rule for what counts as throttling.

    If a code about a token, the subscriber or the request decides which error it is, it isn't a throttle, whatever its
    status.
    """
    match error:
        case RateLimited() | TemporarilyRefused(status=429):
            return True
        case TemporarilyRefused() | ServerError(status=503):
            return error.retry_after is not None
        case _:
            return False
