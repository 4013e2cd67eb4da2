"""What the tests of keeping share: a keeper that renews by a script."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count

from signalwire_tokens import RateLimited, RefreshPolicy, SignalWireTokenError
from signalwire_tokens.keeper import Keeper
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.policy import Ambiguous, Misconfigured, NotSent, Present, Renewed, Spent, Throttled
from signalwire_tokens.throttle import Throttle

LIFE, WINDOW = 7200.0, 300.0
NUMBERS = count(1)


def refused(kind, text="because", **facts):
    return kind(SignalWireTokenError(text, **facts))


NOT_SENT, AMBIGUOUS, SPENT, MISCONFIGURED = (refused(kind) for kind in (NotSent, Ambiguous, Spent, Misconfigured))


def throttled(seconds):
    return Throttled(RateLimited("because", retry_after=seconds))


def make_pair(life=LIFE, window=WINDOW):
    number = next(NUMBERS)
    issued = datetime(2030, 1, 1, tzinfo=UTC)
    halves = [
        Token(value=f"{name}-{number}", issued_at=issued, expires_at=issued + timedelta(seconds=seconds), kind=kind)
        for name, kind, seconds in (("access", "SAT", life), ("refresh", "Refresh", life + window))
    ]
    return TokenPair(token=halves[0], refresh_token=halves[1])


async def start_badly(session, clock):
    """Begin to open a session; give the task once the first attempt has failed, and before the next."""
    starting = asyncio.create_task(session.start())
    await asyncio.sleep(0)
    while session.last_error is None:
        await clock.advance(0)
    return starting


class Scripted(Keeper):
    """Renews as its script says, an outcome for each attempt, and with success once that is at an end.

    Before an outcome may stand an event to wait for, or seconds to take; in its place an exception to raise.
    """

    def __init__(
        self, clock, *script, life=LIFE, policy=None, presents=True, reissues=True, held=None, held_for=0, share=None
    ):
        super().__init__(
            policy=policy or RefreshPolicy(), clock=clock, life=life, presents=presents, reissues=reissues, share=share
        )
        self.script, self.life, self.held, self.held_for = list(script), life, held, held_for
        self.attempts, self.steps, self.presented = [], [], []
        self.throttle = Throttle()

    def _begin(self):
        if self.held is not None and self._share is None:
            self._lifecycle.begin_with(self.held, self._brought_at(self.held), self._now())

    def _brought_at(self, pair):
        return self._now() - self.held_for

    @property
    def _label(self):
        return "#scripted"

    @property
    def _throttled(self):
        return self.throttle.asked_at, self.throttle.until

    async def _ask(self, step, pair, limit):
        asked = self._now()
        self.attempts.append(asked)
        self.steps.append(type(step).__name__)
        if isinstance(step, Present):
            self.presented.append(pair.refresh_token.value)
        outcome = self.script.pop(0) if self.script else None
        while isinstance(outcome, asyncio.Event | int):
            await (outcome.wait() if isinstance(outcome, asyncio.Event) else self._clock.sleep(outcome))
            outcome = self.script.pop(0) if self.script else None
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, Throttled):
            self.throttle.note(outcome.error, sent=asked, now=self._now())
        return Renewed(make_pair(self.life), asked) if outcome is None else outcome
