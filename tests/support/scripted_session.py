"""What the tests of keeping share: a keeper that renews by a script."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count

import attrs

from signalwire_tokens import RateLimited, SignalWireTokenError, TokenSession
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import Ambiguous, Misconfigured, NotSent, Renewed, Spent, Throttled, UseRefreshToken
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
    return TokenPair(access_token=halves[0], refresh_token=halves[1])


async def start_badly(session, clock):
    """Begin to open a session; give the task once the first attempt has failed, and before the next."""
    starting = asyncio.create_task(session.start())
    await asyncio.sleep(0)
    while session.last_error is None:
        await clock.advance(0)
    return starting


class ScriptedRenewal:
    """Renews as it is written, an outcome for each attempt, and with success once it is at an end.

    Before an outcome may stand an event to wait for, seconds to take, or a function to call; in its place an exception
    to raise.
    """

    label = "#scripted"

    def __init__(self, clock, outcomes, life):
        self.clock, self.outcomes, self.life = clock, list(outcomes), life
        self.attempts, self.steps, self.presented = [], [], []
        self.throttle = Throttle()

    async def renew(self, request):
        self.attempts.append(request.asked)
        self.steps.append(type(request.step).__name__)
        if isinstance(request.step, UseRefreshToken):
            self.presented.append(request.pair.refresh_token.value)
        outcome = self.next()
        while isinstance(outcome, asyncio.Event | int) or callable(outcome):
            if isinstance(outcome, asyncio.Event):
                await outcome.wait()
            elif callable(outcome):
                outcome()
            else:
                await self.clock.sleep(outcome)
            outcome = self.next()
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, Throttled):
            self.throttle.note(outcome.error, sent=request.asked, now=self.clock.now())
        return Renewed(make_pair(self.life), request.asked) if outcome is None else outcome

    def next(self):
        return self.outcomes.pop(0) if self.outcomes else None


class ScriptedSession(TokenSession):
    """A session that renews by a `ScriptedRenewal`, and shows what that notes."""

    def __init__(self, clock, *outcomes, life=LIFE, held=None, held_for=0, **settings):
        script = self.script = ScriptedRenewal(clock, outcomes, life)
        brought = held and issued_at(held, clock.wall() - held_for)
        super().__init__(
            script,
            lifetime=timedelta(seconds=life),
            pair=brought,
            clock=clock,
            throttle=(script.throttle, clock),
            **{"presents": True, "keeps_all": False, **settings},
        )

    def __getattr__(self, name):
        if name in ("attempts", "steps", "presented", "throttle"):
            return getattr(self.script, name)
        if name in ("cycle", "shared"):
            return getattr(engine_of(self), name)
        raise AttributeError(name)


def issued_at(pair, time):
    """Return a pair that was issued at a time of the wall clock."""
    moment = datetime.fromtimestamp(time, UTC)
    halves = {
        name: attrs.evolve(half, issued_at=moment, expires_at=moment + (half.expires_at - half.issued_at))
        for name, half in (("access_token", pair.access_token), ("refresh_token", pair.refresh_token))
    }
    return attrs.evolve(pair, **halves)
