"""What a fleet does to the service in hours of virtual time."""

import asyncio
import logging
import math
from datetime import UTC, datetime, timedelta

import attrs

from signalwire_tokens import ConnectionFailed, MemoryStore, SessionFleet, SessionState, Token, TokenClient, TokenPair
from signalwire_tokens.secret import Secret
from signalwire_tokens.stores import Record
from signalwire_tokens.testing import VirtualClock

from .figures import Figure

HOUR, MINUTE = 3600.0, 60.0
LIFE = 2 * HOUR
# From the birth of all: of what is due within an outage that begins then, the most is left for the least time after it.
OUTAGE_BEGINS, OUTAGE = 0.633 * LIFE, 20 * MINUTE


class Service:
    """Answer at once, or not at all; count the requests of each second."""

    closed = leaks = False

    def __init__(self, clock):
        self.clock, self.down, self.number = clock, False, 0
        self.seconds = {}

    def check(self):
        """It is open."""

    def stop(self):
        """Nothing is open."""

    async def aclose(self):
        """Nothing is open."""

    async def send(self, request, _progress):
        # Tenths, so that a second is looked at wherever it begins, give or take a tenth.
        tenth = int(self.clock.now() * 10)
        self.seconds[tenth] = self.seconds.get(tenth, 0) + 1
        if self.down:
            raise ConnectionFailed("refused", sent=False, operation=request.operation)
        self.number += 1
        return 201, {}, Secret(b'{"token": "access-%d", "refresh_token": "refresh-%d"}' % (self.number, self.number))

    def busiest(self, since=0.0):
        """Count the requests of the busiest second from then on."""
        tenths = self.seconds
        return max(sum(tenths.get(first + k, 0) for k in range(10)) for first in tenths if first >= since * 10)


def client_of(service):
    """Return a client whose requests this service answers."""
    client = TokenClient("fleet.example", "project", "PTbenchmark", clock=service.clock)
    client.sender = service
    return client


class Nursery(MemoryStore):
    """A store in which the first pairs of all sessions were issued in the same moment."""

    def __init__(self, clock):
        super().__init__(clock=clock)
        now = datetime.fromtimestamp(clock.wall(), UTC)
        halves = [
            Token(value=value, issued_at=now, expires_at=now + timedelta(seconds=life))
            for value, life in (("access-0", LIFE), ("refresh-0", LIFE + 5 * MINUTE))
        ]
        pair = TokenPair(access_token=halves[0], refresh_token=halves[1])
        self.first = Record(pair=pair, asked_at=clock.now(), asked_wall=clock.wall())

    async def load(self, key):
        reading = await super().load(key)
        return reading if reading.record else attrs.evolve(reading, record=self.first)


async def born_together(sessions, **figures):
    clock = VirtualClock()
    service = Service(clock)
    fleet = await SessionFleet(client_of(service), store=Nursery(clock), **figures).start()
    for number in range(sessions):
        fleet.session(f"user-{number}")
    await clock.advance(1)
    assert fleet.snapshot().sessions[SessionState.FRESH] == sessions
    assert not service.seconds
    return clock, service, fleet


async def eight_hours(sessions, rate):
    """Return the refreshes of the busiest second, those of all eight hours, and the sessions without a valid token."""
    clock, service, fleet = await born_together(sessions, max_rate=rate)
    await clock.advance(8 * HOUR)
    late = fleet.snapshot().sessions[SessionState.UNAVAILABLE]
    await fleet.aclose()
    return service.busiest(), service.number, late


async def outage(sessions, rate):
    """Return what an outage of twenty minutes does.

    These are the sessions without a valid token, the requests during the outage, those of the busiest second after it,
    and the seconds until no session waits.
    """
    clock, service, fleet = await born_together(sessions, max_rate=rate)
    await clock.advance(OUTAGE_BEGINS)
    service.down, begun = True, clock.now()
    await clock.advance(OUTAGE)
    asked = sum(count for tenth, count in service.seconds.items() if tenth >= begun * 10)
    service.down, back = False, clock.now()
    expired = fresh_after = 0
    while clock.now() < back + LIFE / 3:
        await clock.advance(10)
        counts = fleet.snapshot()
        expired = max(expired, counts.sessions[SessionState.UNAVAILABLE])
        if not fresh_after and not counts.waiting:
            fresh_after = clock.now() - back
    await fleet.aclose()
    return expired, asked, service.busiest(since=back), fresh_after or math.inf


def measure(*, quick):
    logging.disable(logging.CRITICAL)
    sessions = 200 if quick else 20_000
    limit = sessions * 150 / 100_000  # a hundred thousand are what a fleet's rate is made for
    peak, requests, late = asyncio.run(eight_hours(sessions, limit))
    yield Figure(
        what=f"busiest second in 8 h, {sessions:,} sessions with tokens of the same age",
        values=(peak,),
        unit="refreshes",
        floor=f"{requests / 8 / HOUR:.1f} on average",
        most=max(1, limit),
    )
    yield Figure(what=f"of {sessions:,} sessions, without a valid token after 8 h", values=(late,), most=0)
    expired, asked, peak, fresh_after = asyncio.run(outage(sessions, limit))
    what = f"of {sessions:,} sessions, without a valid token after an outage of 20 minutes"
    yield Figure(what=what, values=(expired,), most=0)
    yield Figure(what="requests during the outage", values=(asked,), most=10 + 32 + OUTAGE / 2.5)
    yield Figure(what="busiest second after the outage", values=(peak,), unit="requests", most=max(1, limit))
    yield Figure(what="time after the outage until no session waits", values=(fresh_after,), unit="s", most=0.2 * LIFE)
