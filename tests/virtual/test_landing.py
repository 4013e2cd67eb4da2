"""In which order the result of a renewal takes effect: other parts see the session at each step."""

import asyncio

import pytest

from signalwire_tokens import MemoryStore, SessionFleet
from signalwire_tokens.clock import Timer
from signalwire_tokens.fleet.gate import FleetGate
from signalwire_tokens.keeper.events import Listener
from support.fake_transport import make_client, settle

LIFE = 7200.0


class Recorder:
    """Records calls with the generation of a session at that time."""

    def __init__(self):
        self.session, self.steps = None, []

    def note(self, name):
        if self.session is not None:
            self.steps.append((name, self.session.generation))

    def wrap(self, method, name):
        def noted(caller, *args):
            if not (name == "planned" and isinstance(args[0], FleetGate)):  # which has a deadline of its own
                self.note(name)
            return method(caller, *args)

        return noted


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    for owner, method, name in (
        (MemoryStore, "save", "saved"),
        (Listener, "emit", "emitted"),
        (FleetGate, "ended", "gate left"),
        (Timer, "set", "planned"),
    ):
        monkeypatch.setattr(owner, method, recorder.wrap(getattr(owner, method), name))
    return recorder


async def test_a_pair_is_saved_and_adopted_before_it_is_published_and_the_next_renewal_is_planned(clock, recorder):
    """Callers that wait are woken last, when all of it has happened."""
    client, _ = make_client(clock)
    async with SessionFleet(client, store=MemoryStore(clock=clock)) as fleet:
        await fleet.token("alice")
        session = fleet.session("alice")
        session.subscribe(lambda _: None)

        async def wait():
            async for _ in session.rotations():
                recorder.note("woken")

        waiter = asyncio.create_task(wait())
        await settle()
        recorder.session = session
        await clock.advance(LIFE * 0.8)
        await settle()
        recorder.session = None
        waiter.cancel()
    names = [name for name, _ in recorder.steps]
    last_save = len(names) - names[::-1].index("saved") - 1
    assert recorder.steps[last_save:] == [
        ("saved", 1),
        ("emitted", 2),
        ("gate left", 2),
        ("planned", 2),
        ("woken", 2),
    ]
