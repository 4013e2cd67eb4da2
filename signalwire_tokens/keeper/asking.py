"""What sessions have in common that ask through a client: its quiet, its observers, and what its errors mean."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

from signalwire_tokens.client import ClientSettings, TokenClient, ask_caller, tolerate
from signalwire_tokens.errors import (
    ConfigurationError,
    ServerError,
    SignalWireTokenError,
    StoreError,
    TemporarilyRefused,
    TimedOut,
    TokenUnavailable,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    is_throttle,
)
from signalwire_tokens.policy import (
    Ambiguous,
    Denied,
    Failure,
    Misconfigured,
    NotSent,
    Outcome,
    Present,
    RefreshPolicy,
    Reissue,
    Renewed,
    Spent,
    Throttled,
)
from signalwire_tokens.wire import About, about

from .keeping import Keeper

if TYPE_CHECKING:
    from datetime import timedelta

    from signalwire_tokens.clock import Clock, Timer
    from signalwire_tokens.lifecycle import Adopted
    from signalwire_tokens.models import Secret, TokenPair
    from signalwire_tokens.policy import Quiet

    from .share import Share

__all__ = ["Asking", "failure_of"]

DEFAULT_POLICY = RefreshPolicy()
LIFT_SPREAD = 1.0  # seconds


class Asking(Keeper):
    """Keep a pair that is asked for through a client."""

    __slots__ = ("_asking", "client")
    _owns_client: ClassVar[bool] = False
    client: TokenClient

    def _make_client(self, place: Secret[str], settings: Secret[ClientSettings]) -> None:
        """Make a client of the session's own."""
        unknown = settings.value.keys() - ClientSettings.__annotations__.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {min(unknown)!r}")
        self.client = TokenClient(place.value, **settings.value)

    def _keep(
        self,
        life: timedelta,
        policy: RefreshPolicy | None,
        clock: Clock | None,
        share: Share | None = None,
        *,
        presents: bool,
        reissues: bool,
    ) -> None:
        """Be set up, for tokens of a certain life and the ways there are to renew them."""
        self._asking: asyncio.Task[tuple[Secret[Any], Exception | None]] | None = None
        policy = DEFAULT_POLICY if policy is None else policy
        if self._has_least_life:
            policy.check_life(life.total_seconds())
        super().__init__(
            policy=policy,
            clock=self.client.clock if clock is None else clock,
            life=life.total_seconds(),
            presents=presents,
            reissues=reissues,
            share=share,
        )

    @abstractmethod
    async def _request(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> TokenPair:
        """Ask for a pair, with `pair` or anew, within so many seconds; raise what went wrong."""

    def _meaning_of(self, error: SignalWireTokenError, way: Present | Reissue) -> Failure:
        """Return what an error means for the renewal in a certain way."""
        return failure_of(error, way)

    async def _ask(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> Outcome:
        asked = self._now()
        try:
            answer = await self._request(way, pair, limit)
        except SignalWireTokenError as error:
            return self._meaning_of(error.with_traceback(None), way)
        return Renewed(answer, asked)

    async def _ask_caller(self, function: Secret[Any], name: str) -> Secret[Any]:
        """Ask a caller's function, in no more time than a request gets; what it raises may pass."""
        limit, asking = self.client.timeout, self._asking
        if asking is None or asking.done():
            # In a task of its own: it may refuse to end, and is not asked again until it has.
            asking = cast("Timer", self._timer).begin(ask_caller(function), f"ask {name} of {self._label}")
        self._asking = asking
        try:
            await asyncio.wait([asking], timeout=limit)
        finally:
            asking.cancel()
        if not asking.done():
            raise TimedOut(f"the function given as {name} has not answered within {limit:g} s", sent=False)
        self._asking = None
        if asking.cancelled():
            raise TransportError(f"the function given as {name} was cancelled from within", sent=False)
        answer, failure = asking.result()
        if isinstance(failure, SignalWireTokenError):
            raise failure
        if failure is not None:
            what = type(failure).__name__
            raise TransportError(f"the function given as {name} raised {what}", sent=False) from failure
        return answer

    async def aclose(self) -> None:
        """Close the session. A renewal under way is not cancelled, but waited for, up to the policy's `drain`."""
        if self._timer is not None:
            self._check_place(self._timer)
        try:
            await super().aclose()
        finally:
            if self._owns_client:
                await self.client.aclose()

    def _brought_at(self, pair: TokenPair) -> float:
        """Say when a pair from elsewhere was asked for: that, only the wall clock can tell."""
        return self._now() - max(0.0, self._clock.wall() - pair.token.issued_at.timestamp())

    @property
    def _throttled(self) -> Quiet:
        throttle, apart = self.client.throttle, self._apart()
        return throttle.asked_at + apart, throttle.until + apart

    @property
    def _reason(self) -> SignalWireTokenError | None:
        return self.last_error or (None if self._may_renew() else self.client.throttle.error)

    def throttle_lifted(self) -> None:
        """Plan the next attempt without the throttle: within a second, so that not all sessions come at once."""
        if self._timer is not None and self._lifecycle.is_at_rest:
            self._timer.set(self, self._now() + self._lifecycle.draw * LIFT_SPREAD)

    def _plan(self) -> None:
        super()._plan()
        if self._throttled[1] > self._now():
            self.client.throttle.watch(self)

    def _apart(self) -> float:
        """Tell how far the session's clock is ahead of the client's, if that is another."""
        return 0.0 if self._clock is self.client.clock else self._now() - self.client.clock.now()

    def _adopted(self, adopted: Adopted) -> None:
        super()._adopted(adopted)
        if adopted.left is None:
            return
        for observer in self.client.observers:
            with tolerate():
                observer.renewed(adopted.left)


def failure_of(error: SignalWireTokenError, way: Present | Reissue) -> Failure:
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
            return Spent(error) if isinstance(way, Present) else Misconfigured(error)
        case _ if subject is About.SUBSCRIBER:
            return Spent(error) if isinstance(way, Present) else Denied(error)
        case TransportError() | ServerError() | UnexpectedResponse():
            return Ambiguous(error)
        case ConfigurationError() | Unauthorized():
            return Misconfigured(error)
        case ValidationFailed():
            return Spent(error)
        case _:
            return Denied(error)
