"""The protocol of a source of tokens, and the meaning of its errors."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from signalwire_tokens.errors import (
    ApiError,
    ConfigurationError,
    InvalidRequest,
    ServerError,
    SessionError,
    SignalWireTokenError,
    StoreError,
    TemporarilyRefused,
    TokenUnavailable,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    is_throttle,
)
from signalwire_tokens.models import TokenPair, life_of
from signalwire_tokens.outcomes import (
    Ambiguous,
    Denied,
    Look,
    Misconfigured,
    NotSent,
    NotYet,
    Outcome,
    RenewalStep,
    Renewed,
    Spent,
    Throttled,
    UseRefreshToken,
)
from signalwire_tokens.wire import Subject, about

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from signalwire_tokens.clock import Clock
    from signalwire_tokens.outcomes import Failure

__all__ = ["Current", "Renewal", "RenewalRequest", "RenewalResult", "asked_at", "failure_of", "only_later", "result_of"]

# The step that was taken, and its outcome. The outcome is None if a look has found nothing.
RenewalResult: TypeAlias = tuple[RenewalStep, Outcome | None]


class Current(Protocol):
    """A live, read-only view of the session.

    `value` is the text of its access token, which expires at `access_until`, in seconds by the session's clock. Before
    the first pair, `pair` is None, `value` is empty and `access_until` is -inf.
    """

    pair: TokenPair | None
    value: str
    access_until: float

    @property
    def seen(self) -> tuple[int, ...]:
        """The hashes of the last access tokens, the current one included."""

    def left(self, now: float) -> float:
        """Return for how many seconds the current token is still valid. A negative number means that it has expired."""


@attrs.frozen(kw_only=True)
class RenewalRequest:
    """The arguments of `Renewal.renew`.

    `step` is the way to take: exchange the refresh token of `pair`, or issue a new pair. `current` is a view of the
    session. `asked` is when the session called `renew`, in seconds by its clock. `timeout` is within how many seconds
    the renewal must answer. It is None without a store: the session then sets no limit, so set your own.
    """

    step: RenewalStep
    pair: TokenPair | None
    current: Current
    asked: float
    timeout: float | None


class Renewal(Protocol):
    """A source of tokens: an object that returns the next pair of a session.

    It may have these attributes, too:

    - `label` is the name of the session in logs and errors.
    - `meaning(error, request)` returns the failure that a `SignalWireTokenError` raised by `renew()` stands for.
    - `adopted(left)` is called when a new pair has replaced another one. `left` is for how many seconds the token
      before was still valid, or 0.0.
    - `aclose()` is called after the session has closed, and awaited if it is async.
    """

    def renew(self, request: RenewalRequest) -> Outcome | Awaitable[Outcome]:
        """Return a new pair, or a failure; or raise an error. It is usually async.

        The session never calls it while a call is under way, and never cancels it.
        """


def asked_at(pair: TokenPair, clock: Clock) -> float:
    """Return when a pair from elsewhere was requested, in seconds by the session's clock.

    Only the wall clock can show that, by the pair's `issued_at`. A pair that seems to be from the future counts as new.
    """
    return clock.now() - max(0.0, clock.wall() - pair.access_token.issued_at.timestamp())


def only_later(renewed: Renewed, current: Current, now: float, *, margin: float = 0.0) -> Outcome:
    """Return the new pair if its token is valid, isn't the current one, and doesn't expire sooner; `NotYet` otherwise.

    `margin` is by how many seconds it must expire later than the current one, where rounding may make equal times
    differ.
    """
    token, until = renewed.pair.access_token, renewed.asked + life_of(renewed.pair.access_token)
    if until <= now:
        return NotYet(UnexpectedResponse("the new token has already expired: check the clocks of both machines"))
    if token.value == current.value or until < current.access_until + margin:
        return NotYet(UnexpectedResponse("the source has no later token yet"))
    return renewed


def failure_of(error: SignalWireTokenError, step: RenewalStep) -> Failure:
    """Return which failure an error stands for: by the codes in the answer first, then by the error's class.

    A code about the token, such as `token_expired`, or about the subscriber decides by the step::

        a code about     in the answer to a refresh   in the answer to an issue
        --------------   --------------------------   -------------------------
        the API token    Misconfigured                Misconfigured
        the token        Spent                        Misconfigured
        the subscriber   Spent                        Denied

    An issue presents no token but the project's credentials, so there a code about a token means the settings. After a
    refresh, a code about the subscriber only ends the use of that refresh token. The answer to an issue decides about
    the subscriber.
    """
    if is_throttle(error):
        return Throttled(error)
    subject = about(error.errors)
    match error:
        case TransportError(sent=False) | TokenUnavailable() | StoreError() | TemporarilyRefused():
            return NotSent(error)
        case _ if subject is Subject.API_TOKEN:
            return Misconfigured(error)
        case _ if subject is Subject.TOKEN:
            return Spent(error) if isinstance(step, UseRefreshToken) else Misconfigured(error)
        case _ if subject is Subject.SUBSCRIBER:
            return Spent(error) if isinstance(step, UseRefreshToken) else Denied(error)
        case ConfigurationError() | Unauthorized():
            return Misconfigured(error)
        case ValidationFailed():
            return Spent(error)
        case ApiError() | InvalidRequest() | SessionError() if not isinstance(error, ServerError):
            return Denied(error)
        case _:
            return Ambiguous(error)


def result_of(task: asyncio.Task[RenewalResult], step: RenewalStep | Look) -> RenewalResult:
    """Return the result of the task of a renewal or a look. A task that raised or was cancelled counts as `Ambiguous`.

    A look changes nothing at SignalWire, so a look that raised has simply found nothing.
    """
    error = None if task.cancelled() else task.exception()
    if error is None and not task.cancelled():
        return task.result()
    if isinstance(step, Look):
        return UseRefreshToken(step.at), None
    what = "was cancelled from outside"
    if error is not None:  # shown without its text, which may hold a secret
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        what = f"failed with {type(error).__name__}, {Path(frame.f_code.co_filename).name}, line {line}"
    return step, Ambiguous(SignalWireTokenError(f"the renewal {what}"))
