"""The steps of the model of rotation are those of the library: both go through the same attempts."""

from contextlib import asynccontextmanager, suppress

import attrs
import pytest

from signalwire_tokens import MemoryStore, StoreError, TokenUnavailable
from support.rotation_model import STEPS, Moves, Process, Rules, State, ways_at
from support.scripted_session import AMBIGUOUS, NOT_SENT, SPENT, ScriptedSession, make_pair

KEY = "0123456789abcdef"
# By the answer to a request: what the script of a session returns, and the words of the model's move.
ANSWERS = {
    "a pair": (None, "makes pair"),
    "nothing": (AMBIGUOUS, "gives up"),
    "rejected": (NOT_SENT, "doesn't process"),
    "used up": (SPENT, "refuses"),
}
# The record when the attempt begins: as the session has left it, marked by another process, or a later pair.
RECORDS = ("own", "marked", "later")
CALLS = {
    "look": "load",
    "lease": "lease",
    "read": "load",
    "mark": "mark",
    "after": "load",
    "save": "save",
    "read again": "load",
    "unmark": "unmark",
    "release": "release",
    "send": "send",
}


class Recorded(MemoryStore):
    """A store that lists its calls, and fails at one of them, by its place in the list. It sends no news."""

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.calls, self.fails_at = [], None

    def note(self, name):
        self.calls.append(name)
        if len(self.calls) == self.fails_at:
            raise StoreError("the store is down")

    def watch(self, key, callback):
        return lambda: None

    async def load(self, key):
        self.note("load")
        return await super().load(key)

    async def save(self, key, record, replaces):
        stored = self.records[KEY].record.pair if KEY in self.records else None
        self.note("mark" if record.presenting else "unmark" if record.pair == stored else "save")
        return await super().save(key, record, replaces)

    @asynccontextmanager
    async def lease(self, key, ttl):
        self.note("lease")
        async with super().lease(key, ttl) as held:
            yield held
            self.note("release")


async def attempt(clock, answer, record, fails_at):
    """Return the calls of an attempt of a session, the record after it, and which ways to renew are left."""
    store = Recorded(clock)
    script = (None, lambda: store.calls.append("send"), ANSWERS[answer][0])
    async with ScriptedSession(clock, *script, store=store, store_key=KEY) as session:
        clock.suspend(1)
        first = own = (await store.load(KEY)).record
        if record == "marked":
            own = attrs.evolve(first, presenting="another")
        elif record == "later":
            own = attrs.evolve(first, pair=make_pair(), asked_at=first.asked_at + 1)
        store.records[KEY] = attrs.evolve(store.records[KEY], record=own)
        store.calls.clear()
        store.fails_at = fails_at
        with suppress(TokenUnavailable):
            await session.refresh()
        calls, store.fails_at = store.calls[:], None
        after = store.records[KEY].record
        kind = "unchanged" if after == own else "marked" if after.presenting else "new"
        return calls, kind, "R" * session.cycle.can_refresh + "I" * session.cycle.can_issue


def modelled(answer, record, fails_at):
    """Return the same for the model's only process, whose token isn't about to expire."""
    begin = {"own": (1, 0), "marked": (1, 9), "later": (2, 0)}[record]
    used = frozenset({1} if answer == "used up" else ())
    state, calls = (
        State((Process(reissues=True, pair=1, ways=ways_at(1, reissues=True)),), begin, used=used, left=2),
        [],
    )
    while True:
        process = state.processes[0]
        if process.at in CALLS:
            calls.append(CALLS[process.at])
        is_failing = process.at in CALLS and len(calls) == fails_at
        faults = {"store"} if is_failing else {"lose", "refuse"} if process.at == "wait" else set()
        moves = STEPS[process.at](Moves(state, Rules(reissues=(True,), faults=frozenset(faults))), 0, process)
        words = ANSWERS[answer][1] if process.at == "wait" else ""
        is_allowed = (
            move
            for move in moves
            if words in move.text and (words or move.is_fault == is_failing) and not move.state.processes[0].lone
        )
        state = next(is_allowed).state
        if state.processes[0].at == "look":
            kind = "unchanged" if state.record == begin else "marked" if state.record[1] else "new"
            return calls, kind, state.processes[0].ways


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_the_model_takes_the_steps_of_a_session(clock, answer, record):
    """It uses the store and SignalWire in the same order, and ends with the same record and the same ways to renew."""
    if answer == "used up" and record == "marked":
        answer = "a pair"  # SignalWire refuses no issue as used up
    real = await attempt(clock, answer, record, None)
    assert modelled(answer, record, None) == real


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 6, 7])  # the fifth is the request
@pytest.mark.parametrize("answer", ["a pair", "rejected"])
async def test_the_model_takes_the_steps_of_a_session_whose_store_fails(clock, answer, fails_at):
    """It does so at whichever call the store fails."""
    real = await attempt(clock, answer, "own", fails_at)
    assert modelled(answer, "own", fails_at) == real
