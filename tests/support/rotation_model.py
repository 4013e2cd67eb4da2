"""A model of processes that renew a shared pair, and a search through every order of events with a number of faults.

The search is our own, because its 60 lines let the steps decide with the library's own `choose`, `find_better` and
`Lifecycle`. `spin` can't call these, and `minicheck` (a beta) would be a dependency for little more than those lines.

`python tests/support/rotation_model.py` prints what the search finds, with all defences and without each of them.

Processes take the steps of `SharedRenewal`. Each access to the store, and each event at SignalWire, is one move, and
anything else may happen between two moves. Pairs are numbered in the order of their requests, so a larger number is a
later pair. Only that order counts, so states that differ in other ways are one, and the number of pairs has no limit.

There is no clock. A process may renew at any time, and may find that a stored token has expired. A process that holds
no lease may be slow at any time. These are the faults, of which a history has a limited number::

    kill      a process is killed, and starts again with what the store holds
    pause     a lease expires before its holder goes on; or a process is too slow for its request, or for the others
    lose      an answer is lost, before or after the effect of the request, which may come at any later time
    refuse    SignalWire rejects a request unprocessed, as with a connection that is refused, or a 429
    store     a call fails; if it was a save, it may have its effect at any later time, or never

If the store never fails, a pair that another process was faster to replace is saved before it is due again.
"""

from __future__ import annotations

import sys
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from signalwire_tokens import RefreshPolicy, SignalWireTokenError
from signalwire_tokens.keeper.sharing_rules import TimedReading, choose, find_better
from signalwire_tokens.lifecycle import Lifecycle
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import Ambiguous, Expire, IssueNew, Renewed, Spent, UseRefreshToken
from signalwire_tokens.stores import Reading, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

REUSE = "P20: a process that can issue sends no refresh token that may be used up"
ALONE = "P32: one process at a time renews"
ORDER = "P33: a later pair in the store isn't replaced by an earlier one"
COSTS = "P33: an interruption costs at most one issue"
STUCK = "P33: another process takes over"
PROPERTIES = (REUSE, ALONE, ORDER, COSTS, STUCK)
FAULTS = frozenset({"kill", "pause", "lose", "refuse", "store"})
STORED = FAULTS - {"store"}  # the faults of which each costs at most one issue
UNPAUSED = STORED - {"pause"}  # the faults under which one process at a time renews


class Rules(NamedTuple):
    """The defences that are on, which processes can issue again, the faults that may happen, and how many of them."""

    marks: bool = True
    compares: bool = True
    leases: bool = True
    reads_under_lease: bool = True
    chooses_under_lease: bool = True
    expires: bool = True
    checks_time: bool = True
    keeps_mark: bool = True
    marks_first: bool = True
    reissues: tuple[bool, ...] = (True, True)
    faults: frozenset[str] = FAULTS
    most: int = 2

    @property
    def properties(self) -> tuple[str, ...]:
        """The properties that hold with these faults and these processes."""
        is_undisturbed, can_all_issue = not self.faults - UNPAUSED, all(self.reissues)
        needed = {
            ORDER: True,
            REUSE: can_all_issue or is_undisturbed,
            COSTS: "store" not in self.faults,
            ALONE: is_undisturbed,
            STUCK: can_all_issue,
        }
        return tuple(name for name, is_needed in needed.items() if is_needed)


# By name: a defence that is off.
WITHOUT = {
    "the mark": {"marks": False},
    "the lease": {"leases": False},
    "compare-and-set": {"compares": False},
    "the lease and compare-and-set": {"leases": False, "compares": False},
    "the mark's place before the request": {"marks_first": False},
    "the mark's stay after a lost answer": {"keeps_mark": False},
    "the choice under the lease": {"chooses_under_lease": False},
    "the read under the lease": {"reads_under_lease": False},
    "the lease's expiry": {"expires": False},
    "the time check before the request": {"checks_time": False},
}

# A record: the number of its pair, and its mark; 0 stands for no mark. () stands for no record.
Stored = tuple[int, ...]


class Process(NamedTuple):
    """One process: its next step, and what it remembers.

    `pair` is its current pair, 0 after a start. `ways` is how it may renew: R for refresh, I for issue. `mark` is its
    last mark. `held` is the record that it has read. `token` is the pair whose refresh token it presents, 0 for an
    issue, and `ticket` is the pair that its request brings. `lone` is True without the store. `saving` is what it saves
    in the background: () for nothing, (0,) before the read, and then the pair and the record to replace.
    """

    reissues: bool
    at: str = "look"
    pair: int = 0
    ways: str = "I"
    mark: int = 0
    leased: bool = False
    held: Stored = ()
    token: int = 0
    ticket: int = 0
    lone: bool = False
    saving: tuple[int, ...] = ()


class State(NamedTuple):
    """The processes, the store, and SignalWire.

    `lost` is True while no running process holds the lease, which hasn't expired yet. `late` has saves that may have
    their effect later, as (record to replace, record). `sent` has the refresh tokens that may be used up, `used` those
    that are, and `adrift` those in requests whose senders don't wait any more: whether and when these have an effect
    shows only in the answer to a second use. `left` is how many faults may still happen, and `credit` how many more
    interruptions than issues there were.
    """

    processes: tuple[Process, ...]
    record: Stored = (1, 0)
    lost: bool = False
    late: tuple[tuple[Stored, Stored], ...] = ()
    sent: frozenset[int] = frozenset()
    used: frozenset[int] = frozenset()
    adrift: frozenset[int] = frozenset()
    left: int = 0
    credit: int = 0


class Move(NamedTuple):
    """What happens next: in words, in which `{…}` are fields, the state after it, and the property that it breaks."""

    text: str
    state: State
    who: int | None = None
    breaks: str = ""
    is_fault: bool = False


# The decisions, which are the library's.

LIFE, WINDOW, NOW, STEP = 7200.0, 300.0, 100_000.0, 100.0


def make_pair(number: int) -> TokenPair:
    issued = datetime.fromtimestamp(0, UTC)
    access, refresh = (
        Token(value=f"{kind}-{number}", issued_at=issued, expires_at=issued + timedelta(seconds=life), kind=kind)
        for kind, life in (("SAT", LIFE), ("Refresh", LIFE + WINDOW))
    )
    return TokenPair(access_token=access, refresh_token=refresh)


def cycle_of(own: int, ways: str, *, reissues: bool, asked: float) -> Lifecycle:
    """Return the lifecycle of a session whose current pair has a number, and was requested at a time."""
    cycle = Lifecycle(RefreshPolicy(), lifetime=LIFE, draw=0.5, reissues=reissues)
    cycle.open(asked, Renewed(make_pair(own), asked) if own else None)
    cycle.can_refresh, cycle.can_issue = "R" in ways, "I" in ways
    return cycle


def ways_of(cycle: Lifecycle) -> str:
    return "R" * cycle.can_refresh + "I" * cycle.can_issue


def case_of(own: int, stored: Stored, *, has_expired: bool) -> tuple[int, int, bool]:
    """Return what matters for a decision: the order of the own and the stored pair, and whether that has expired."""
    order = (stored[0] > own) - (stored[0] < own)
    return (2 if own else 0), (2 + order if own else 1), has_expired


@cache
def decide(case: tuple[int, int, bool], ways: str, is_marked: bool, reissues: bool) -> tuple[bool, str]:
    """Return whether the stored pair is better, and otherwise which refresh token to present: "own", "record" or ""."""
    own, stored, has_expired = case
    begin = NOW - (LIFE if has_expired else LIFE - 4 * STEP) - STEP * stored
    asked = {number: begin + STEP * number for number in (own, stored)}
    cycle = cycle_of(own, ways, reissues=reissues, asked=asked[own])
    mark = "mark" if is_marked else None
    record = Record(pair=make_pair(stored), asked_at=asked[stored], asked_wall=asked[stored], presenting=mark)
    timed = TimedReading(Reading(record=record, at=NOW), before=NOW, after=NOW, wall=NOW, gained=0.0, leap=60.0)
    is_better = find_better(timed, cycle, now=NOW, wall=NOW) is not None
    step = cycle.policy.step_at(cycle, NOW)
    if isinstance(step, Expire):
        return is_better, ""
    way, presented = choose(timed, cycle, step, brought=None, ahead=0.0)
    if presented is None:
        assert isinstance(way, IssueNew)
        return is_better, ""
    return is_better, "record" if presented.pair == record.pair else "own"


@cache
def ways_after(failure: type[Ambiguous | Spent], own: int, ways: str, is_issue: bool, reissues: bool) -> str:
    """Return which ways a session has left after a failure of a refresh or an issue."""
    cycle = cycle_of(own and 1, ways, reissues=reissues, asked=NOW)
    step = IssueNew(NOW) if is_issue else UseRefreshToken(NOW)
    cycle.land(step, failure(SignalWireTokenError("failed")), NOW, 0.5)
    return ways_of(cycle)


@cache
def ways_at(own: int, reissues: bool) -> str:
    """Return which ways a session has at its start, or after it has adopted a pair."""
    cycle = Lifecycle(RefreshPolicy(), lifetime=LIFE, draw=0.5, reissues=reissues)
    cycle.open(NOW, Renewed(make_pair(1), NOW) if own else None)
    return ways_of(cycle)


# The moves.


def started(reissues: bool) -> Process:
    return Process(reissues, ways=ways_at(0, reissues))


def left_by(process: Process, **changes: object) -> Process:
    """Return the process at the end of an attempt: it releases the lease if it holds it."""
    mark = 0 if process.reissues else process.mark
    at = "release" if process.leased else "look"
    return process._replace(at=at, held=(), token=0, ticket=0, lone=False, **{"mark": mark, **changes})


def adopted(process: Process, pair: int, saving: tuple[int, ...] = ()) -> Process:
    """Return the process after it has adopted a pair, which it saves later if `saving` is (0,)."""
    if len(process.saving) > 1:  # the task is about to save the pair before, and then looks again
        saving = process.saving
    return left_by(process, pair=pair, ways=ways_at(1, process.reissues), saving=saving)


def failed(process: Process, failure: type[Ambiguous | Spent]) -> Process:
    own = 1 if process.pair else 0
    return process._replace(ways=ways_after(failure, own, process.ways, not process.token, process.reissues))


def without_store(process: Process) -> Iterator[tuple[str, Process]]:
    """Yield what a process may do after the store failed: wait, or renew alone if its token is about to expire."""
    ended = left_by(process)
    if process.pair:
        yield "and waits", ended
    token = 0 if "I" in process.ways else process.pair
    at = "release, then send" if process.leased else "send"
    yield "and goes on without the store", ended._replace(at=at, token=token, lone=True)


class Moves:
    """All moves from one state."""

    def __init__(self, state: State, rules: Rules) -> None:
        self.state, self.rules = state, rules
        credit = state.credit + (COSTS in rules.properties)
        hit = state._replace(left=state.left - 1, credit=credit) if state.left else None
        self.hits = {kind: hit if kind in rules.faults else None for kind in FAULTS}

    def __iter__(self) -> Iterator[Move]:
        state = self.state
        for index, process in enumerate(state.processes):
            yield from STEPS[process.at](self, index, process)
            if process.saving:
                yield from self.saving(index, process)
            hit = self.hits["pause"]
            if hit is not None and process.leased and process.at[:7] != "release":
                paused = self.put(hit, index, process._replace(leased=False))
                yield Move("{name} is paused, and its lease expires", paused, index, is_fault=True)
            hit = self.hits["kill"]
            fresh = started(process.reissues)
            if hit is not None and process != fresh:
                gone, breaks = self.drift(hit, process.token) if process.at == "wait" else (hit, "")
                killed = self.put(gone._replace(lost=state.lost or process.leased), index, fresh)
                yield Move("{name} is killed, and starts again", killed, index, breaks, is_fault=True)
        if state.lost and self.rules.expires:
            yield Move("The lease that no process holds expires", state._replace(lost=False))
        for at, (replaces, record) in enumerate(state.late):
            rest = state._replace(late=state.late[:at] + state.late[at + 1 :])
            changed, _, breaks = self.save(rest, record, replaces)
            yield Move("The store processes a save that had failed", changed, None, breaks)

    # What others do for a process.

    def put(self, state: State, index: int, process: Process) -> State:
        processes = state.processes
        return state._replace(processes=(*processes[:index], process, *processes[index + 1 :]))

    def save(self, state: State, record: Stored, replaces: Stored) -> tuple[State, bool, str]:
        """Return the state after a save, whether it has saved, and the property that it breaks."""
        if self.rules.compares and state.record not in (replaces, record):
            return state, False, ""
        return state._replace(record=record), True, ORDER if record[0] < state.record[0] else ""

    def drift(self, state: State, token: int) -> tuple[State, str]:
        """Return the state after the sender of a request stopped waiting, and the property that breaks.

        An issue counts at once, since it may have its effect.
        """
        return self.issued(state) if not token else (state._replace(adrift=state.adrift | {token}), "")

    def issued(self, state: State) -> tuple[State, str]:
        if COSTS not in self.rules.properties:
            return state, ""
        return state._replace(credit=max(-1, state.credit - 1)), COSTS if state.credit < 1 else ""

    def is_better(self, process: Process, *, has_expired: bool = False) -> bool:
        record = self.state.record
        case = case_of(process.pair, record, has_expired=has_expired)
        return decide(case, process.ways, bool(record[1]), process.reissues)[0]

    def late(self, index: int, process: Process, save: tuple[Stored, Stored], text: str) -> Iterator[Move]:
        """Yield the move of a save that fails, and may have its effect later. `save` is (record to replace, record)."""
        if (hit := self.hits["store"]) is not None:
            state = hit._replace(late=(*hit.late, save))
            yield Move(text, self.put(state, index, process), index, is_fault=True)

    # The steps of a process, in order.

    def look(self, index: int, process: Process) -> Iterator[Move]:
        state, record = self.state, self.state.record
        if not process.ways:
            if self.is_better(process):
                found = self.put(state, index, adopted(process, record[0]))
                yield Move("{name} can't renew, looks, and adopts pair {record}", found, index)
            return
        if process.saving and "store" not in self.rules.faults:
            return  # it saves its pair first, which takes moments, and the pair is due later
        keeps = not (self.rules.chooses_under_lease and self.rules.reads_under_lease)
        forward = process._replace(at="lease", held=record if keeps else ())
        text = "{name} wants to renew, and reads pair {record}"
        if self.is_better(process):
            found = self.put(state, index, adopted(process, record[0]))
            yield Move("{name} reads and adopts pair {record}", found, index)
            text += ", whose token has expired"
        yield Move(text, self.put(state, index, forward), index)
        yield from self.fail(index, process, "{name} wants to renew, can't read the store,")

    def fail(self, index: int, process: Process, text: str, hit: State | None = None) -> Iterator[Move]:
        """Yield the moves of a call of the store that fails."""
        hit = hit or self.hits["store"]
        if hit is not None:
            for what, after in without_store(process):
                yield Move(f"{text} {what}", self.put(hit, index, after), index, is_fault=True)

    def lease(self, index: int, process: Process) -> Iterator[Move]:
        state = self.state
        is_free = not state.lost and not any(other.leased for other in state.processes)
        hit = self.hits["store"]
        if is_free or not self.rules.leases:
            taken = process._replace(leased=True, at="read")
            if self.rules.reads_under_lease:
                yield Move("{name} takes the lease", self.put(state, index, taken), index)
            else:
                yield from self.choice(index, taken, process.held, process.held, "takes the lease")
            if hit is not None:
                lost = hit._replace(lost=True)
                yield from self.fail(index, process, "{name} takes the lease without learning it,", lost)
        else:
            yield Move(
                "{name} finds the lease taken", self.put(state, index, process._replace(at="look", held=())), index
            )
            text = "{name} waits for the lease of another process for too long,"
            if (slow := self.hits["pause"]) is not None and "I" in process.ways:
                yield from self.fail(index, process, text, slow)
        yield from self.fail(index, process, "{name} can't ask for the lease,")

    def read(self, index: int, process: Process) -> Iterator[Move]:
        record = self.state.record
        text = "reads pair {record} under the lease"
        if self.is_better(process):
            found = self.put(self.state, index, adopted(process, record[0]))
            yield Move(f"{{name}} {text}, and adopts it", found, index)
            text += ", whose token has expired"
        yield from self.choice(index, process, process.held or record, record, text)
        yield from self.fail(index, process, "{name} can't read the store under the lease,")

    def choice(self, index: int, process: Process, record: Stored, replaces: Stored, text: str) -> Iterator[Move]:
        """Yield the moves of a choice by a record, for an attempt that replaces the record `replaces`."""
        case = case_of(process.pair, record, has_expired=True)
        presents = decide(case, process.ways, bool(record[1]), process.reissues)[1]
        token = {"": 0, "own": process.pair, "record": record[0]}[presents]
        is_first = token and self.rules.marks and self.rules.marks_first
        chosen = process._replace(at="mark" if is_first else "send", held=replaces, token=token)
        chosen = chosen if is_first else self.timely(chosen)
        is_foreign = presents == "record" and record[1] not in (0, process.mark)
        if is_foreign and process.pair:  # its own token may still be valid for long enough
            waits = self.put(self.state, index, left_by(process))
            yield Move(f"{{name}} {text}, finds a mark, and waits", waits, index)
        how = f"chooses the refresh token of pair {token}" if token else "chooses to issue"
        yield Move(f"{{name}} {text}, and {how}", self.put(self.state, index, chosen), index)

    def new_mark(self, process: Process) -> tuple[Process, Stored]:
        state = self.state
        mark = 1 + max(mark for _, mark in records_of(state))
        return process._replace(mark=mark), (process.token, mark)

    def mark(self, index: int, process: Process) -> Iterator[Move]:
        """Save the mark: before the request, or after it if that defence is off."""
        marking, record = self.new_mark(process)
        is_first = self.rules.marks_first
        changed, is_saved, breaks = self.save(self.state, record, process.held)
        if is_saved:
            after = self.timely(marking._replace(at="send")) if is_first else marking._replace(at="after")
            yield Move("{name} marks pair {token}", self.put(changed, index, after), index, breaks)
        else:
            lost = self.put(changed, index, left_by(process))
            yield Move("{name} can't mark pair {token}, since the record was changed", lost, index)
        for what, after in without_store(marking):
            text = f"{{name}} fails to save a mark of pair {{token}}, {what}"
            yield from self.late(index, after, (process.held, record), text)

    def timely(self, process: Process) -> Process:
        """Return the process after its time check, which it does at once: a pause after the check is the worse case."""
        return process if process.leased or not self.rules.checks_time else self.undone(process)

    def undone(self, process: Process) -> Process:
        """Return the process after a request that did nothing: it removes the mark."""
        is_marked = process.token and not process.lone and self.rules.marks and self.rules.marks_first
        return process._replace(at="unmark") if is_marked else left_by(process)

    def send(self, index: int, process: Process) -> Iterator[Move]:
        state, token, breaks = self.state, process.token, ""
        if not process.lone:
            hit = self.hits["pause"] if process.leased else state
            if hit is not None and self.rules.checks_time:
                late = self.put(hit, index, self.undone(process))
                yield Move("{name} finds that its time is up", late, index, is_fault=process.leased)
        if "I" in process.ways and token in state.sent:
            breaks = REUSE
        elif any(other.at in ("wait", "save", "spent") and not other.lone for other in state.processes):
            breaks = ALONE
        sent = state.sent | {token} if token else state.sent
        waits = process._replace(at="wait", ticket=largest(state) + 1)
        text = "{name} sends the refresh token of pair {token}" if token else "{name} asks for an issue"
        yield Move(text, self.put(state._replace(sent=sent), index, waits), index, breaks)

    def wait(self, index: int, process: Process) -> Iterator[Move]:
        state, token = self.state, process.token
        if token not in state.used:
            changed, breaks = (state._replace(used=state.used | {token}), "") if token else self.issued(state)
            answered = self.put(changed, index, process._replace(at="save"))
            yield Move("SignalWire makes pair {ticket} for {name}", answered, index, breaks)
        if token in state.used or token in state.adrift:
            refused = self.put(state, index, process._replace(at="spent"))
            yield Move("SignalWire refuses the refresh token of pair {token}, since it is used up", refused, index)
        hit = self.hits["refuse"]
        if hit is not None:
            undone = self.put(hit._replace(sent=state.sent - {token}), index, self.undone(process))
            yield Move("SignalWire doesn't process the request of {name}", undone, index, is_fault=True)
        hit = self.hits["lose"]
        if hit is not None:
            gone, breaks = self.drift(hit, token)
            given_up = self.put(gone, index, self.doubtful(process, Ambiguous))
            yield Move("{name} gives up its request, which is still on its way", given_up, index, breaks, is_fault=True)

    def doubtful(self, process: Process, failure: type[Ambiguous | Spent]) -> Process:
        """Return the process after a request with an unknown result, or a refused refresh token: the mark stays."""
        after = failed(process, failure)
        if not process.token or process.lone or not self.rules.marks:
            return left_by(after)
        if not self.rules.marks_first:
            return after._replace(at="mark")
        return after._replace(at="after" if self.rules.keeps_mark else "unmark")

    def spent(self, index: int, process: Process) -> Iterator[Move]:
        after = self.put(self.state, index, self.doubtful(process, Spent))
        yield Move("{name} gets the refusal", after, index)

    def after(self, index: int, process: Process) -> Iterator[Move]:
        is_better = self.is_better(process, has_expired=self.state.record[0] == process.held[0])
        after = adopted(process, self.state.record[0]) if is_better else left_by(process)
        text = "{name} reads and adopts pair {record}" if is_better else "{name} finds no later pair"
        yield Move(text, self.put(self.state, index, after), index)

    def replaced(self, process: Process) -> Stored:
        """Return the record that the process replaces with its new pair."""
        is_marked = process.token and self.rules.marks and self.rules.marks_first
        return (process.token, process.mark) if is_marked else process.held

    def saves(self, index: int, process: Process) -> Iterator[Move]:
        state, record, hit = self.state, (process.ticket, 0), self.hits["lose"]
        if hit is not None:
            lost = self.put(hit, index, self.doubtful(process, Ambiguous))
            yield Move("The answer to {name} is lost", lost, index, is_fault=True)
        alone = adopted(process, process.ticket, (0,))
        if process.lone:
            yield Move("{name} gets and adopts pair {ticket}", self.put(state, index, alone), index)
            return
        replaces = self.replaced(process)
        changed, is_saved, breaks = self.save(state, record, replaces)
        if is_saved:
            done = self.put(changed, index, adopted(process, process.ticket))
            yield Move("{name} gets, saves and adopts pair {ticket}", done, index, breaks)
        else:
            again = self.put(state, index, process._replace(at="read again"))
            yield Move("{name} gets pair {ticket}, and can't save it, since the record was changed", again, index)
        yield from self.late(index, alone, (replaces, record), "{name} gets pair {ticket}, and fails to save it")

    def read_again(self, index: int, process: Process) -> Iterator[Move]:
        record, alone = self.state.record, adopted(process, process.ticket, (0,))
        is_better = self.is_better(process, has_expired=record[0] == process.held[0])
        after = adopted(process, record[0]) if is_better else alone
        text = "{name} reads and adopts pair {record}" if is_better else "{name} adopts pair {ticket}, unsaved"
        yield Move(text, self.put(self.state, index, after), index)
        if (hit := self.hits["store"]) is not None:
            text = "{name} can't read the store, and adopts pair {ticket}, unsaved"
            yield Move(text, self.put(hit, index, alone), index, is_fault=True)

    def unmark(self, index: int, process: Process) -> Iterator[Move]:
        record, replaces = (process.token, 0), (process.token, process.mark)
        changed, is_saved, breaks = self.save(self.state, record, replaces)
        text = "{name} removes its mark" if is_saved else "{name} can't remove its mark, since the record was changed"
        yield Move(text, self.put(changed, index, left_by(process)), index, breaks)
        yield from self.late(index, left_by(process), (replaces, record), "{name} fails to remove its mark")

    def release(self, index: int, process: Process) -> Iterator[Move]:
        at = "look" if process.at == "release" else "send"
        released = process._replace(at=at, leased=False)
        yield Move("{name} releases the lease", self.put(self.state, index, released), index)
        if (hit := self.hits["store"]) is not None:
            lost = self.put(hit._replace(lost=True), index, released)
            yield Move("{name} fails to release the lease", lost, index, is_fault=True)

    def saving(self, index: int, process: Process) -> Iterator[Move]:
        """Yield the moves of the task that saves a pair in the background."""
        state, own, record = self.state, process.pair, self.state.record
        if len(process.saving) == 1:
            if record[0] == own:
                after, text = process._replace(saving=()), "finds its pair saved"
            elif record[0] > own:
                after, text = process._replace(saving=()), "finds pair {record} saved in place of its own"
                if process.at == "look":
                    after = adopted(after, record[0])
            else:
                after, text = process._replace(saving=(own, *record)), "is about to save pair {pair}"
            yield Move(f"{{name}} {text}", self.put(state, index, after), index)
            return
        pair, *replaces = process.saving
        again = process._replace(saving=(0,))
        changed, is_saved, breaks = self.save(state, (pair, 0), tuple(replaces))
        after = process._replace(saving=()) if is_saved and pair == own else again
        text = f"{{name}} saves pair {pair}" if is_saved else f"{{name}} can't save pair {pair} yet"
        yield Move(text, self.put(changed, index, after), index, breaks)
        yield from self.late(index, again, (tuple(replaces), (pair, 0)), f"{{name}} fails to save pair {pair}")


STEPS = {
    "look": Moves.look,
    "lease": Moves.lease,
    "read": Moves.read,
    "mark": Moves.mark,
    "send": Moves.send,
    "wait": Moves.wait,
    "spent": Moves.spent,
    "after": Moves.after,
    "save": Moves.saves,
    "read again": Moves.read_again,
    "unmark": Moves.unmark,
    "release": Moves.release,
    "release, then send": Moves.release,
}


# The search.


def records_of(state: State) -> list[Stored]:
    """Return all records that a state refers to."""
    found = [state.record]
    for process in state.processes:
        if process.held:
            found.append(process.held)
        if process.mark:
            found.append((process.token, process.mark))
        if len(process.saving) > 1:
            found.append(process.saving[1:])
    for both in state.late:
        found += both
    return found


def numbers_of(state: State) -> set[int]:
    """Return the numbers of all pairs that a state refers to, and 0."""
    numbers = {0}
    for number, _ in records_of(state):
        numbers.add(number)
    for process in state.processes:
        numbers |= {process.pair, process.token, process.ticket, *process.saving[:1]}
    return numbers


def normal(state: State) -> State:
    """Return a state that differs only in what can't matter: the names of pairs, marks and equal processes.

    This is why the search ends, although there is no limit to the number of pairs. A late save of a pair before the
    stored one is left out, too: it can have no effect any more, unless `ORDER` breaks.
    """
    processes, record, lost, late, *known, left, credit = state
    if late:
        late = tuple(sorted([both for both in late if both[0][0] >= record[0]]))
    processes = tuple(sorted(processes))
    state = State(processes, record, lost, late, *known, left, credit)
    new = {old: at for at, old in enumerate(sorted(numbers_of(state)))}
    marks = {0: 0}
    for _, mark in records_of(state):
        if mark not in marks:
            marks[mark] = len(marks)
    if known[0]:
        known = [frozenset([new[number] for number in numbers if number in new]) for numbers in known]
    if any(old != at for names in (new, marks) for old, at in names.items()):
        processes = tuple(sorted([renamed(process, new, marks) for process in processes]))
        record = new[record[0]], marks[record[1]]
        late = tuple(sorted([tuple([(new[pair], marks[mark]) for pair, mark in both]) for both in late]))
    return State(processes, record, lost, late, *known, left, credit)


def renamed(process: Process, new: dict[int, int], marks: dict[int, int]) -> Process:
    """Return a process with other names for its pairs and marks."""
    reissues, at, pair, ways, mark, leased, held, token, ticket, lone, saving = process
    if held:
        held = (new[held[0]], marks[held[1]])
    if len(saving) > 1:
        saving = (new[saving[0]], new[saving[1]], marks[saving[2]])
    return Process(reissues, at, new[pair], ways, marks[mark], leased, held, new[token], new[ticket], lone, saving)


def largest(state: State) -> int:
    return max(numbers_of(state))


def is_good(state: State) -> bool:
    """Return whether all processes have the pair that is stored, and its refresh token is good."""
    number, mark = state.record
    at_rest = all(one.at == "look" and one.pair == number and not one.saving for one in state.processes)
    return at_rest and not mark and number not in state.sent


class Report(NamedTuple):
    """What a search has found: by the name of each property that breaks, the shortest way to that."""

    states: int
    seconds: float
    broken: dict[str, list[str]]

    def __str__(self) -> str:
        return "\n\n".join(f"{name}. Broken by:\n{numbered(lines)}" for name, lines in self.broken.items()) or "holds"


def start_of(rules: Rules) -> State:
    """Return the first state: all processes have the stored pair, and it is due."""
    processes = tuple(Process(reissues, pair=1, ways=ways_at(1, reissues)) for reissues in rules.reissues)
    return State(processes, left=rules.most)


def explore(rules: Rules, properties: tuple[str, ...] = ()) -> Report:
    """Search all states breadth first, and return what breaks the properties; by default, those of the rules.

    The search ends early once all of them are broken.
    """
    begun, wanted = perf_counter(), set(properties or rules.properties)
    first = normal(start_of(rules))
    parents: dict[State, State | None] = {first: None}
    before: dict[State, list[State]] = {}  # by a state: those that lead to it without a fault
    broken: dict[str, list[str]] = {}
    queue = deque([first])
    while queue and wanted:
        state = queue.popleft()
        for move in Moves(state, rules):
            after = normal(move.state)
            if move.breaks in wanted:
                wanted.remove(move.breaks)
                broken[move.breaks] = trace(rules, [*path(parents, state), after], move.breaks)
            if after not in parents:
                parents[after] = state
                queue.append(after)
            if STUCK in wanted and not move.is_fault:
                before.setdefault(after, []).append(state)
    if STUCK in wanted:
        good = {state for state in parents if is_good(state)}
        queue = deque(good)
        while queue:
            new = [state for state in before.get(queue.popleft(), ()) if state not in good]
            good.update(new)
            queue.extend(new)
        stuck = next((state for state in parents if state not in good), None)
        if stuck is not None:
            broken[STUCK] = trace(rules, path(parents, stuck))
    return Report(len(parents), perf_counter() - begun, broken)


def path(parents: dict[State, State | None], state: State | None) -> list[State]:
    """Return the states from the first one to a state."""
    found = []
    while state is not None:
        found.append(state)
        state = parents[state]
    return found[::-1]


def trace(rules: Rules, states: list[State], breaks: str = "") -> list[str]:
    """Return the moves through some states in words. The last one breaks a property, if it is given.

    The moves are taken again from the start without renaming, so each process and each pair keeps its name.
    """
    raw, lines = start_of(rules), []
    for at, target in enumerate(states[1:], 2):
        wanted = breaks if at == len(states) else ""
        move = next(
            move for move in Moves(raw, rules) if normal(move.state) == target and (not wanted or move.breaks == wanted)
        )
        facts: dict[str, object] = {"record": raw.record[0]}
        if move.who is not None:
            then, now = raw.processes[move.who], move.state.processes[move.who]
            facts |= {name: getattr(then, name) or getattr(now, name) for name in ("pair", "token", "ticket")}
            facts["name"] = "ABC"[move.who]
        lines.append(move.text.format(**facts) + ".")
        raw = move.state
    return lines


def numbered(lines: list[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


# What `python tests/support/rotation_model.py` prints.

TWO, THREE = (True,) * 2, (True,) * 3
NEITHER = (False,) * 2
QUICK = (Rules(most=1), Rules(faults=STORED), Rules(faults=UNPAUSED), Rules(faults=UNPAUSED, reissues=NEITHER, most=1))
LONG = (
    Rules(),
    Rules(faults=STORED, most=3),
    Rules(most=1, reissues=THREE),
    Rules(faults=STORED, reissues=THREE, most=1),
    Rules(faults=UNPAUSED, reissues=THREE),
    Rules(faults=UNPAUSED, reissues=NEITHER, most=3),
    Rules(faults=UNPAUSED, reissues=(False, True)),
)


def without(name: str, properties: tuple[str, ...] = PROPERTIES) -> dict[str, list[str]]:
    """Return which properties break without a defence, with one fault at most: for each, the shortest way to that."""
    found: dict[str, list[str]] = {}
    for faults, checked in ((FAULTS, (REUSE, ORDER)), (STORED, (COSTS, STUCK)), (UNPAUSED, (ALONE,))):
        for most in (0, 1):
            rest = tuple(one for one in checked if one in properties and one not in found)
            if rest:
                found |= explore(Rules(faults=faults, most=most, **WITHOUT[name]), rest).broken
    return found


def described(rules: Rules) -> str:
    """Return the processes and the faults of a search in words."""
    cannot = rules.reissues.count(False)
    who = f"{len(rules.reissues)}" + (f", of which {cannot} can't issue" if cannot else "")
    missing = ", ".join(sorted(FAULTS - rules.faults))
    return f"{who}; {rules.most} fault{'s' * (rules.most > 1)}" + (f" (no {missing})" if missing else "")


def lines() -> Iterator[str]:
    yield f"{'processes and faults':58} {'states':>8} {'seconds':>8}  result"
    for rules in (*QUICK, *LONG, Rules(faults=STORED, reissues=THREE), Rules(faults=UNPAUSED, reissues=THREE, most=3)):
        report = explore(rules)
        yield f"{described(rules):58} {report.states:8,} {report.seconds:8.1f}  {report}"
    yield f"\n{'without':38} breaks (moves of the shortest way)"
    for name in WITHOUT:
        broken = [f"{what} ({len(moves)})" for what, moves in without(name).items()] or ["nothing"]
        yield f"{name:38} {broken[0]}"
        yield from (f"{'':38} {more}" for more in broken[1:])


if __name__ == "__main__":
    for line in lines():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
