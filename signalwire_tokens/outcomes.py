"""What a renewal is asked for, and what it can answer.

A renewal answers `Renewed`, or a failure: `NotSent` (it did nothing), `NotYet` (there is no later token yet),
`Ambiguous` (it may have done something), `Throttled` (turned away), `Spent` (refused for good), `Misconfigured` (the
settings are at fault) or `Denied` (SignalWire refuses this session). The policy and the lifecycle know only these.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Self, TypeAlias

import attrs

from .durations import Duration, seconds_of
from .errors import SignalWireTokenError, UnexpectedResponse
from .models import LONGEST_LIFE, Token, TokenPair

__all__ = [
    "Ambiguous",
    "Denied",
    "IssueNew",
    "Misconfigured",
    "NotSent",
    "NotYet",
    "Renewed",
    "Spent",
    "Throttled",
    "UseRefreshToken",
]


# Its subclasses, and those of `Timed`, need no decorator: they have no fields of their own.
@attrs.frozen
class Answered:
    """What came of an attempt that failed."""

    error: SignalWireTokenError = attrs.field()

    @error.validator
    def _check(self, _: object, error: object) -> None:
        if not isinstance(error, SignalWireTokenError):  # the text of any other may hold a secret, and stands nowhere
            raise TypeError(f"error must be a SignalWireTokenError, and is {type(error).__name__}")


class NotSent(Answered):
    """It never left: the same again is safe."""


class NotYet(Answered):
    """It did nothing, because there is no later token yet. That is no fault unless the current token is ending."""


class Ambiguous(Answered):
    """Nobody knows what it did: a refresh token that was sent may be used up."""


class Throttled(Answered):
    """It was turned away before anything was done."""


class Spent(Answered):
    """It was refused, and would be again."""


class Misconfigured(Answered):
    """The settings are at fault: no session of the project gets a token until someone corrects them."""


class Denied(Answered):
    """SignalWire refuses this session alone, until something changes there."""


@attrs.frozen
class Renewed:
    """A new pair. Without `asked`, the times of its tokens are those of the wall clock.

    `asked` is when it was asked for, by the session's clock: from then on, each token is valid for as long as its times
    are apart. `math.inf` stands for when the renewal began. `unsaved` is why the store doesn't have the pair.
    """

    pair: TokenPair = attrs.field()
    asked: float = -math.inf
    unsaved: SignalWireTokenError | None = None

    @pair.validator
    def _check(self, _: object, pair: object) -> None:
        if not isinstance(pair, TokenPair):  # the text of a token stands in no message
            raise TypeError(f"pair must be a TokenPair, and is {type(pair).__name__}: see Renewed.valid_for()")
        for token in (pair.access_token, pair.refresh_token):
            fault = find_fault(token.value)
            if fault is not None:
                raise UnexpectedResponse(f"a token that was given {fault}")

    @classmethod
    def valid_for(cls, token: str, duration: Duration) -> Self:
        """Return an access token without a refresh token, which is valid for so many seconds from when `renew` began.

        A token that never expires is valid for `math.inf` seconds.
        """
        seconds = seconds_of(duration)
        fault = find_fault(token, seconds)
        if fault is not None:
            raise UnexpectedResponse(f"the token that was given {fault}")
        now, longest = datetime.now(UTC), LONGEST_LIFE.total_seconds()
        ends = now + timedelta(seconds=max(-longest, min(seconds, longest)))
        lone = Token(value=token, issued_at=now, expires_at=ends)
        return cls(TokenPair(access_token=lone, refresh_token=lone), math.inf)


def find_fault(token: object, seconds: object = 0) -> str | None:
    """Return what is wrong with a token that is valid for so many seconds, without the token."""
    if not isinstance(token, str):
        return f"must be a string, and is {type(token).__name__}"
    if not token or token.strip() != token or not token.isprintable():
        return "is empty, has a line break or a character that can't be printed, or has spaces around it"
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:  # noqa: PLR0124 - NaN
        return "must come with a number of seconds"
    if LONGEST_LIFE.total_seconds() < seconds < math.inf:
        return "would be valid for more than ten years: give the seconds from now, not a time"
    return None


Failure: TypeAlias = NotSent | NotYet | Ambiguous | Throttled | Spent | Misconfigured | Denied
Outcome: TypeAlias = Renewed | Failure


@attrs.frozen
class Timed:
    """Something to be done, and when."""

    at: float


class UseRefreshToken(Timed):
    """Exchange the refresh token for a new pair."""


class IssueNew(Timed):
    """Issue a pair anew."""


class Look(Timed):
    """Look whether another process has renewed the pair."""


class Expire(Timed):
    """Give up: there is no way left, and the token has come to its end."""


RenewalStep: TypeAlias = UseRefreshToken | IssueNew
Step: TypeAlias = RenewalStep | Expire
