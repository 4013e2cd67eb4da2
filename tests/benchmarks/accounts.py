"""A million sessions in hours of virtual time: in one process, and in twenty processes that share a governor."""

import asyncio
import json
import logging
import math
import time

import attrs

from signalwire_tokens import SessionFleet, SessionState
from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.secret import Secret
from signalwire_tokens.testing import VirtualClock

from .crowds import resident
from .days import HOUR, LIFE, MINUTE, OUTAGE, Service, client_of
from .figures import Figure

TOKEN = 640  # characters of a token
HEADROOM = 1.4  # the rate, to the least one with which all sessions could renew
NEEDED = 0.7 * LIFE  # seconds from a token to the next, on average


class Long(Service):
    """A service whose tokens are as long as SignalWire's."""

    async def send(self, request, progress):
        status, headers, _ = await super().send(request, progress)
        token, refresh_token = (f"{kind}-{self.number}".ljust(TOKEN, "x") for kind in ("access", "refresh"))
        return status, headers, Secret(json.dumps({"token": token, "refresh_token": refresh_token}).encode())


@attrs.define
class Account:
    """The processes of an account, which share a service and a governor."""

    clock: VirtualClock
    service: Service
    governor: LocalGovernor
    processes: dict = attrs.Factory(dict)  # fleets, by number

    @classmethod
    def make(cls, rate):
        clock = VirtualClock()
        return cls(clock, Long(clock), LocalGovernor(rate, clock=clock))

    async def start(self, number, sessions, *, first=0):
        """Start a process, which opens its sessions, or open more of them."""
        if number not in self.processes:
            self.processes[number] = await SessionFleet(client_of(self.service), governor=self.governor).start()
        for one in range(first, sessions):
            self.processes[number].session(f"user-{number}-{one}")

    async def lose(self, number):
        """Lose a process with all it had. It leaves its part of the line to the others."""
        await self.processes.pop(number).aclose()

    def unavailable(self):
        return sum(fleet.snapshot().sessions[SessionState.UNAVAILABLE] for fleet in self.processes.values())

    async def until_none_waits(self):
        """Advance until no session waits for its turn, or two hours have passed; return how many seconds that took."""
        began = self.clock.now()
        await self.clock.advance(1)
        while any(fleet.snapshot().waiting for fleet in self.processes.values()) and self.clock.now() < began + LIFE:
            await self.clock.advance(10)
        return self.clock.now() - began


def busiest_minute(service, since, until):
    """Return the requests of the busiest minute, and those of a minute on average."""
    minutes = {}
    for tenth, number in service.seconds.items():
        if since <= tenth / 10 < until:
            minutes[int(tenth // 600)] = minutes.get(int(tenth // 600), 0) + number
    return max(minutes.values()), sum(minutes.values()) / ((until - since) / MINUTE)


async def million(sessions):
    """Open so many sessions in one process, and keep them for eight hours."""
    rate = HEADROOM * sessions / NEEDED
    before, account = resident(), Account.make(rate)
    used, started, first = time.process_time(), 0.0, 0
    sizes, starts = {}, {}
    for count in (sessions // 1000, sessions // 100, sessions // 10, sessions):
        began = time.process_time()
        await account.start(0, count, first=first)
        started += await account.until_none_waits()
        starts[count] = 1e6 * (time.process_time() - began) / (count - first)
        sizes[count] = (resident() - before) / count
        first = count
    begun = account.clock.now()
    late = 0
    while account.clock.now() < begun + 8 * HOUR:
        await account.clock.advance(10 * MINUTE)
        late = max(late, account.unavailable())
    used = time.process_time() - used
    peak, mean = busiest_minute(account.service, begun, account.clock.now())
    requests = account.service.number
    await account.lose(0)
    return rate, started, sizes, starts, late, peak / mean, account.service.busiest(), 1e6 * used / requests


async def processes(number, sessions):
    """Run processes for eight hours, with an outage; two of them are lost and replaced."""
    rate = HEADROOM * number * sessions / NEEDED
    account = Account.make(rate)
    for one in range(number):
        await account.start(one, sessions)
    started = await account.until_none_waits()
    begun, late = account.clock.now(), 0
    service = account.service
    for ten_minutes in range(48):
        await account.clock.advance(10 * MINUTE)
        late = max(late, account.unavailable())
        if ten_minutes == 12:
            service.down, down = True, account.clock.now()
            await account.clock.advance(OUTAGE)
            asked = sum(count for tenth, count in service.seconds.items() if tenth >= down * 10)
            service.down, back = False, account.clock.now()
            late = max(late, account.unavailable())
            recovery = await account.until_none_waits()
            first = sum(service.seconds.get(int(back * 10) + tenth, 0) for tenth in range(60))
        if ten_minutes == 30:
            for one in (0, 1):
                await account.lose(one)
                await account.start(number + one, sessions)
            replaced = await account.until_none_waits()
    peak, mean = busiest_minute(service, begun, account.clock.now())
    for one in tuple(account.processes):
        await account.lose(one)
    return rate, started, late, asked, recovery, first, replaced, service.busiest(), peak / mean


def measure(*, quick):
    logging.disable(logging.CRITICAL)
    sessions = 2000 if quick else 1_000_000
    rate, started, sizes, starts, late, peak, busiest, cost = asyncio.run(million(sessions))
    what, limit = f"{sessions:,} sessions", {"floor": f"max_rate {rate:.1f}", "most": math.ceil(rate)}
    for count, size in sizes.items():
        most = 3100 if count == 1_000_000 else None
        yield Figure(what=f"memory of a session, of {count:,} in one process", values=(size,), unit="B", most=most)
    for count, cost_of_start in starts.items():
        yield Figure(what=f"processor time of a start, up to {count:,}", values=(cost_of_start,), unit="us")
    yield Figure(what=f"{what}: without a token in 8 h", values=(late,), most=0)
    yield Figure(what=f"{what}: busiest minute to the mean", values=(peak,), most=None if quick else 1.5)
    yield Figure(what=f"{what}: busiest second", values=(busiest,), unit="requests", **limit)
    start = f"all had tokens after {started:.0f} s"
    yield Figure(what=f"{what}: processor time of a renewal", values=(cost,), unit="us", floor=start)
    number, each = (4, 100) if quick else (20, 50_000)
    rate, started, late, asked, recovery, first, replaced, busiest, peak = asyncio.run(processes(number, each))
    what, limit = f"{number} processes of {each:,}", {"floor": f"max_rate {rate:.1f}", "most": math.ceil(rate)}
    start = f"the start of all took {started:.0f} s"
    yield Figure(what=f"{what}: without a token in 8 h", values=(late,), floor="an outage of 20 minutes", most=0)
    yield Figure(what=f"{what}: busiest second", values=(busiest,), unit="requests", **limit)
    yield Figure(what=f"{what}: busiest minute to the mean", values=(peak,), floor="the outage included")
    yield Figure(what=f"{what}: requests in the outage", values=(asked,), most=10 + 32 * number + OUTAGE / 2.5)
    yield Figure(
        what=f"{what}: requests in the 6 s after the outage", values=(first,), floor=f"at the full rate {6 * rate:.0f}"
    )
    yield Figure(what=f"{what}: time until no session waits", values=(recovery,), unit="s", floor="after the outage")
    yield Figure(what=f"{what}: time until two lost processes are replaced", values=(replaced,), unit="s", floor=start)
