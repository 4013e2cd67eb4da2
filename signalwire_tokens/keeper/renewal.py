"""What renews a token: a `Renewal`, which is asked for the next pair, and what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from signalwire_tokens.errors import (
    ConfigurationError,
    ServerError,
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
from signalwire_tokens.models import TokenPair
from signalwire_tokens.policy import (
    Ambiguous,
    Denied,
    Misconfigured,
    NotSent,
    Present,
    Reissue,
    Renewed,
    Spent,
    Throttled,
)
from signalwire_tokens.wire import About, about

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from signalwire_tokens.policy import Failure, Outcome

__all__ = ["Current", "Renewal", "RenewalRequest", "attempt", "failure_of"]


class Current(Protocol):
    """How the session stands while a renewal is under way: a live view, to read only."""

    @property
    def pair(self) -> TokenPair | None:
        """The current pair."""
        ...

    @property
    def value(self) -> str:
        """The text of the current access token."""
        ...

    @property
    def seen(self) -> Sequence[int]:
        """The hashes of the last access tokens."""
        ...

    @property
    def access_until(self) -> float:
        """When the current access token expires."""
        ...

    def left(self, now: float) -> float:
        """Return how long the current token is still valid."""
        ...


@attrs.frozen(kw_only=True)
class RenewalRequest:
    """What a `Renewal` is asked for.

    `step` says whether to present the refresh token of `pair`, or to issue a new pair. `asked` is the time, by the
    session's clock. The renewal must answer within `timeout` seconds, if that isn't None.
    """

    step: Present | Reissue
    pair: TokenPair | None
    current: Current
    asked: float
    timeout: float | None


class Renewal(Protocol):
    """Brings the next pair of a session.

    It may also have `adopted(left)`, which is called when a new pair has replaced one that was still valid for so many
    seconds, and `aclose()`, which is awaited at the end of the session's own.
    """

    async def renew(self, request: RenewalRequest) -> Outcome:
        """Return a new pair, or why there is none."""
        ...


Meaning: TypeAlias = "Callable[[SignalWireTokenError, RenewalRequest], Failure]"


async def attempt(answer: Awaitable[TokenPair], request: RenewalRequest, meaning: Meaning) -> Outcome:
    """Return what came of asking for a pair; `meaning` turns an error into a failure."""
    try:
        return Renewed(await answer, request.asked)
    except SignalWireTokenError as error:
        return meaning(error.with_traceback(None), request)


def failure_of(error: SignalWireTokenError, step: Present | Reissue) -> Failure:
    """Return what an error means for the renewal: by the codes of the answer first, then by its kind.

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
            return Spent(error) if isinstance(step, Present) else Misconfigured(error)
        case _ if subject is About.SUBSCRIBER:
            return Spent(error) if isinstance(step, Present) else Denied(error)
        case TransportError() | ServerError() | UnexpectedResponse():
            return Ambiguous(error)
        case ConfigurationError() | Unauthorized():
            return Misconfigured(error)
        case ValidationFailed():
            return Spent(error)
        case _:
            return Denied(error)
