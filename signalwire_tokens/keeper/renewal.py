"""What renews a token: a `Renewal`, which is asked for the next pair, and what its errors mean."""

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
from signalwire_tokens.wire import About, about

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from signalwire_tokens.clock import Clock
    from signalwire_tokens.outcomes import Failure

__all__ = ["Current", "Renewal", "RenewalRequest", "RenewalResult", "asked_at", "failure_of", "only_later", "result_of"]

RenewalResult: TypeAlias = tuple[RenewalStep, Outcome | None]  # the way that was taken, and what came of it


class Current(Protocol):
    """A live view of the session, to read only. The text of its token is `value`, which expires at `access_until`."""

    pair: TokenPair | None
    value: str
    access_until: float

    @property
    def seen(self) -> tuple[int, ...]:
        """The hashes of the last access tokens."""

    def left(self, now: float) -> float:
        """Return how long the current token is still valid."""


@attrs.frozen(kw_only=True)
class RenewalRequest:
    """What a `Renewal` is asked for.

    `step` says whether to present the refresh token of `pair`, or to issue a new pair. `asked` is the time, by the
    session's clock. The renewal must answer within `timeout` seconds, if that isn't None.
    """

    step: RenewalStep
    pair: TokenPair | None
    current: Current
    asked: float
    timeout: float | None


class Renewal(Protocol):
    """Brings the next pair of a session.

    It may also have `label`, which names the session in logs and errors; `meaning(error, request)`, which returns the
    failure that a `SignalWireTokenError` of `renew()` is; `adopted(left)`, which is called when a new pair has replaced
    one that was still valid for so many seconds; and `aclose()`, which is awaited at the end of the session's own.
    """

    def renew(self, request: RenewalRequest) -> Outcome | Awaitable[Outcome]:
        """Return a new pair, or why there is none; or raise an error. It is usually async."""


def asked_at(pair: TokenPair, clock: Clock) -> float:
    """Return when a pair from elsewhere was asked for. Only the wall clock shows that."""
    return clock.now() - max(0.0, clock.wall() - pair.access_token.issued_at.timestamp())


def only_later(renewed: Renewed, current: Current, now: float, *, margin: float = 0.0) -> Outcome:
    """Return a pair if its token is another than the current one, and doesn't expire sooner than `margin` after it."""
    token, until = renewed.pair.access_token, renewed.asked + life_of(renewed.pair.access_token)
    if until <= now:
        return NotYet(UnexpectedResponse("the token that was given has expired already: check both machines' clocks"))
    if token.value == current.value or until < current.access_until + margin:
        return NotYet(UnexpectedResponse("there is no later token yet"))
    return renewed


def failure_of(error: SignalWireTokenError, step: RenewalStep) -> Failure:
    """Return what an error means for a renewal: by the codes of the answer first, then by its kind.

    A refresh sends nothing but a token, so a code about the request means that token. After a code about the
    subscriber, that token is of no use, either: only the answer to an issue decides about the subscriber.
    """
    if is_throttle(error):
        return Throttled(error)
    subject = about(error.errors)
    match error:
        case TransportError(sent=False) | TokenUnavailable() | StoreError() | TemporarilyRefused():
            return NotSent(error)
        case _ if subject is About.API_TOKEN:
            return Misconfigured(error)
        case _ if subject is About.TOKEN:  # where none was presented, it is about the credentials
            return Spent(error) if isinstance(step, UseRefreshToken) else Misconfigured(error)
        case _ if subject is About.SUBSCRIBER:
            return Spent(error) if isinstance(step, UseRefreshToken) else Denied(error)
        case ConfigurationError() | Unauthorized():
            return Misconfigured(error)
        case ValidationFailed():
            return Spent(error)
        case ApiError() | InvalidRequest() | SessionError() if not isinstance(error, ServerError):
            return Denied(error)
        case _:
            return Ambiguous(error)


def result_of(flight: asyncio.Task[RenewalResult], step: RenewalStep | Look) -> RenewalResult:
    """Return what a task came to, or a failure if it said nothing. A look that said nothing has found nothing."""
    error = None if flight.cancelled() else flight.exception()
    if error is None and not flight.cancelled():
        return flight.result()
    if isinstance(step, Look):
        return UseRefreshToken(step.at), None
    what = "was cancelled from outside"
    if error is not None:  # its text isn't shown, since it may hold a secret
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        what = f"failed with {type(error).__name__}, {Path(frame.f_code.co_filename).name}, line {line}"
    return step, Ambiguous(SignalWireTokenError(f"the renewal {what}"))
