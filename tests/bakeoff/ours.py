"""This library, against its emulator."""

from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from signalwire_tokens import Lifetimes, RefreshPolicy, SubscriberSession
from signalwire_tokens.clock import SystemClock
from signalwire_tokens.emulator import Delay, Emulator, Reset, Status

from .held import Client, Fault, Held
from .issuers import now

FAULTS = {Fault.ERROR: Status(500), Fault.UNAVAILABLE: Status(503), Fault.LOST: Reset(applied=True)}
LIFE = 7200.0
EPOCH = 1_900_000_000.0
SHORT = Lifetimes(access=timedelta(seconds=3), refresh=timedelta(seconds=6))


class LoopClock(SystemClock):
    """The event loop's time, by which the servers of the other clients go as well."""

    now = staticmethod(now)

    def wall(self):
        return EPOCH + now()


class Watched:
    """An emulator, as a probe looks at it."""

    def __init__(self, emulator):
        self._emulator, self._begun = emulator, len(emulator.requests)
        self.accepts = emulator.accepts

    @property
    def requests(self):
        return len(self._entries())

    @property
    def granted(self):
        return sum(entry.fault in (None, "Delay") and entry.status in (200, 201) for entry in self._entries())

    def slow(self, seconds):
        self._emulator.fail(Delay(seconds), times=None)

    def fail(self, fault, *, times):
        self._emulator.fail(FAULTS[fault], times=times)

    def _entries(self):
        return self._emulator.requests[self._begun :]


async def with_project(client, **settings):
    return SubscriberSession(client, "alice@example.com", **settings)


async def with_pair(client, **settings):
    return SubscriberSession.from_pair(client, await client.create_subscriber_token("alice@example.com"), **settings)


@asynccontextmanager
async def opened(left, *, make):
    async with Emulator(clock=LoopClock()) as emulator, emulator.client() as client, await make(client) as session:
        service = Watched(emulator)
        emulator.advance(LIFE - left)
        yield Held(session.token, service)


@asynccontextmanager
async def timed(*, make):
    policy = RefreshPolicy(min_lifetime=1)
    async with (
        Emulator(lifetimes=SHORT, clock=LoopClock()) as emulator,
        emulator.client() as client,
        await make(client, policy=policy) as session,
    ):
        yield Held(session.token, Watched(emulator))


CLIENTS = (
    Client(
        name="signalwire-tokens",
        distribution="signalwire-tokens",
        setup="`SubscriberSession` with its defaults and the project's credentials; callers await `token()`. It renews "
        "behind callers when 24 to 48 minutes are left, and callers wait for it when 30 s are. The emulator's refresh "
        "tokens are single-use; its tokens of two hours age with `advance()`. In the last probe tokens live 3 s of "
        "real time, which `RefreshPolicy(min_lifetime=1)` allows.",
        windows=(180.0, 20.0),
        opened=partial(opened, make=with_project),
        timed=partial(timed, make=with_project),
    ),
    Client(
        name="signalwire-tokens",
        variant=", from_pair",
        distribution="signalwire-tokens",
        setup="the same with `SubscriberSession.from_pair`, which has nothing but the pair to renew with.",
        windows=(180.0, 20.0),
        opened=partial(opened, make=with_pair),
        timed=partial(timed, make=with_pair),
        reissues=False,
    ),
)
