"""The steps of a session, and the outcomes of a renewal.

A renewal returns `Renewed` or one of seven failures. The policy and the lifecycle decide by these alone, and not by
status codes or exceptions. What separates the failures is what SignalWire, or your own source, may have done::

    failure         SignalWire has                           the refresh token    the next attempt
    -------------   --------------------------------------   ------------------   ------------------------------
    NotSent         done nothing: it got no request, or      is still good        the same step, growing pauses
                    can't process it at the moment
    NotYet          done nothing: it has no later token      isn't involved       the same step, a share of what
                                                                                  is left later
    Ambiguous       perhaps done it: the answer is missing   may be used up       an issue if allowed, growing
                                                                                  pauses
    Throttled       done nothing: it wants a pause           is still good        the same step, after the pause
    Spent           refused it, and always would             is given up          the other step, at once
    Misconfigured   refused the settings                     is still good        the same step, after minutes
    Denied          refused this session alone               is given up if the   an issue, after minutes
                                                             session may issue

`RefreshPolicy` has the lengths of the pauses. `keeper.failure_of` decides which failure an exception stands for.
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


# The subclasses of this class and of `Timed` need no decorator, because they add no fields.
@attrs.frozen
class FailedAttempt:
    """The base of all failures: an attempt that brought no pair. `error` is the reason."""

    error: SignalWireTokenError = attrs.field()

    @error.validator
    def _check(self, _: object, error: object) -> None:
        if not isinstance(error, SignalWireTokenError):  # the text of any other exception may hold a secret
            raise TypeError(f"error must be a SignalWireTokenError, not {type(error).__name__}")


class NotSent(FailedAttempt):
    """The failure of a request that was never sent, or that did nothing. Repeating it is safe."""


class NotYet(FailedAttempt):
    """The failure of a source that has no later token than the current one yet.

    It counts as a failure only once the current token is about to expire.
    """


class Ambiguous(FailedAttempt):
    """The failure of a request with an unknown result: a refresh token that was sent may be used up."""


class Throttled(FailedAttempt):
    """The failure of a request that SignalWire rejected unprocessed, because it wants a pause."""


class Spent(FailedAttempt):
    """The failure of a request that was refused, and would be refused again: this way to renew is closed."""


class Misconfigured(FailedAttempt):
    """The failure of wrong settings: no session of the project gets a token until you correct them."""


class Denied(FailedAttempt):
    """The failure of a request that SignalWire refuses to this session alone, until something changes at SignalWire."""


@attrs.frozen
class Renewed:
    """A new pair, returned by a renewal.

    `asked` is when the renewal requested it, by the session's clock. Each token is valid from then on, for the time
    between its `issued_at` and its `expires_at`. `math.inf` stands for the moment at which the session called `renew`.
    With the default, -inf, the session works out the age of the pair from its `issued_at` and the wall clock.

    `unsaved` is the error with which the store failed to save the pair; None if it was saved, or without a store.
    """

    pair: TokenPair = attrs.field()
    asked: float = -math.inf
    unsaved: SignalWireTokenError | None = None

    @pair.validator
    def _check(self, _: object, pair: object) -> None:
        if not isinstance(pair, TokenPair):  # the message names the type alone: the object may be a token's text
            raise TypeError(f"pair must be a TokenPair, not {type(pair).__name__}: see Renewed.valid_for()")
        for token in (pair.access_token, pair.refresh_token):
            fault = find_fault(token.value)
            if fault is not None:
                raise UnexpectedResponse(f"a token of the new pair {fault}")

    @classmethod
    def valid_for(cls, token: str, duration: Duration) -> Self:
        """Return the outcome for an access token that comes without a refresh token.

        The token is valid for `duration` from when the session called `renew`. Pass `math.inf` for a token that never
        expires. Raises `UnexpectedResponse` if `token` can't be a token or `duration` isn't a duration. The error never
        shows the token.
        """
        seconds = seconds_of(duration)
        fault = find_fault(token, seconds)
        if fault is not None:
            raise UnexpectedResponse(f"the new token {fault}")
        now, longest = datetime.now(UTC), LONGEST_LIFE.total_seconds()
        ends = now + timedelta(seconds=max(-longest, min(seconds, longest)))
        lone = Token(value=token, issued_at=now, expires_at=ends)
        return cls(TokenPair(access_token=lone, refresh_token=lone), math.inf)


def find_fault(token: object, seconds: object = 0) -> str | None:
    """Return what is wrong with a token or its seconds, in words that complete a message; None if both are fine.

    The text never shows the token.
    """
    if not isinstance(token, str):
        return f"must be a string, not {type(token).__name__}"
    if not token or token.strip() != token or not token.isprintable():
        return "is empty, has a line break or a character that can't be printed, or has spaces around it"
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:  # noqa: PLR0124 - NaN
        return "must come with a number of seconds"
    if LONGEST_LIFE.total_seconds() < seconds < math.inf:
        return "would be valid for more than ten years: pass the seconds from now, not a time"
    return None


Failure: TypeAlias = NotSent | NotYet | Ambiguous | Throttled | Spent | Misconfigured | Denied
Outcome: TypeAlias = Renewed | Failure


@attrs.frozen
class Timed:
    """The base of all steps. `at` is when to take the step, in seconds by the session's clock."""

    at: float


class UseRefreshToken(Timed):
    """The step to exchange the refresh token for a new pair."""


class IssueNew(Timed):
    """The step to issue a new pair without a refresh token."""


class Look(Timed):
    """The step to look for a pair that another process has saved in the store."""


class Expire(Timed):
    """The step to give up: no way to renew is left, and the access token expires at this time."""


RenewalStep: TypeAlias = UseRefreshToken | IssueNew
Step: TypeAlias = RenewalStep | Expire
