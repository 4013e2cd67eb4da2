"""The guarantees of a realtime connection, as what passes over its sockets shows them.

Each connection of an app has a `Client`, which repeats what the messages mean, as far as a rule needs it.
"""

import weakref
from collections import Counter

import attrs

from signalwire_tokens.realtime import RealtimeState

from .gateway import COUNT, Observer, read

CONNECT, REAUTHENTICATE, PING = "signalwire.connect", "signalwire.reauthenticate", "signalwire.ping"
ABOUT_RESUMES = (-32002, -32003, -32602)
LOOKS_EVERY = 5.0  # seconds
ANSWERS_WITHIN = 12.0  # seconds in which the gateway must answer
CONNECTED_WITHIN = 90.0  # seconds once faults are over
FIRST_WINDOW, LAST_WINDOW, STABLE = 3.0, 60.0, 60.0  # seconds
CLOSES_WITHIN = 5.0  # seconds
TOKEN_WITHIN = 11.0  # seconds in which a session returns a token, or raises
PRESENTED_WITHIN = 40.0  # seconds: two attempts fail, and the third one succeeds
SHORT_PAUSES = 6  # so many times in a row, a pause from the longest window isn't shorter than the first one
ROUNDING = 0.5
ENDED = (RealtimeState.CLOSED, RealtimeState.FAILED)


@attrs.define(eq=False)
class Client:
    """What a judge knows of a connection.

    - `wire` is the open one; None if there is none. `asked` has the calls of the library on it, by id: method, time and
      token. `unacknowledged` has the times of the events that weren't acknowledged, by id.
    - `protocols` and `state` are what the next connection must present, and `accepted` is the gateway's token.
    - `newest` is the latest token of the session when the connection last heard of one, and `replaced_at` when each
      earlier one was replaced.
    - `refused` are the tokens that were refused for new connections, one after the other.
    - `failures` are the losses since the last stable connection, and `closed_at` when the last attempt ended. Both are
      None if they can't be known.
    - `received` are the numbers of the events to deliver, and `delivered` those that the app got, with `missed`.
    - `calm_since` is since when nothing is wrong; None if something is.
    """

    process: object
    link: object  # a weak reference
    engine: object  # a weak reference
    opened_at: float
    wire: object = None
    asked: dict = attrs.field(factory=dict)
    reasons: list = attrs.field(factory=list)  # for which the client may close the socket
    unacknowledged: dict = attrs.field(factory=dict)
    protocols: list = attrs.field(factory=list)
    state: str | None = None
    accepted: str | None = None
    newest: str | None = None
    replaced_at: dict = attrs.field(factory=dict)  # by token
    heard_at: float = 0.0
    refused: list = attrs.field(factory=list)
    failures: int | None = 0
    window: float = 0.0
    tokenless: int = 0  # attempts that had no token, as far as they were counted
    closed_at: float | None = None
    connected_at: float | None = None
    short_pauses: int = 0
    seen: set = attrs.field(factory=set)  # the ids of all events
    received: list = attrs.field(factory=list)
    optional: set = attrs.field(factory=set)  # events that came before the connection was made
    delivered: list = attrs.field(factory=list)
    calm_since: float | None = None
    is_closing: bool = False
    wires: list = attrs.field(factory=list)

    def earlier_protocol(self):
        """Return the protocol before the current one; None if there is none."""
        return self.protocols[-2] if len(self.protocols) > 1 else None


class SeenSession:
    """A session, as a connection sees it. The judge sees what the connection does with it."""

    def __init__(self, session, judge, client):
        self._session, self._judge, self._client = session, judge, client

    def __getattr__(self, name):
        return getattr(self._session, name)

    def subscribe(self, callback):
        def hear(event):
            if event.pair is not None:
                self._judge.hears(self._client, self._session._engine.cycle.value)
            return callback(event)

        return self._session.subscribe(hear)

    def invalidate(self, token):
        self._judge.invalidates(self._client, self._session, token.value)
        self._session.invalidate(token)


class SeenSocket(Observer):
    """Passes on what happens to the socket of a connection."""

    def __init__(self, judge, client, wire):
        self._judge, self._client, self._wire = judge, client, wire

    def sends(self, text):
        self._judge.sends(self._client, self._wire, read(text))

    def reads(self, kind, data):
        self._judge.reads(self._client, self._wire, kind, data)

    def closes(self):
        self._judge.closes(self._client, self._wire)

    def shuts(self):
        self._judge.shuts(self._client, self._wire)


class RealtimeJudge:
    """Judges the realtime connections of a world. `judge` judges their sessions."""

    def __init__(self, world, judge):
        self.world, self._judge = world, judge
        self.executed = Counter()  # by number: how many times the gateway has executed a call
        self.never = {}  # the calls that were reported as not sent, by number
        self.clients = []
        self.made = []  # weak references
        self.quiet_at = Counter()  # by process: when all faults of its lines are over
        self.connected = self.calls = self.events = 0
        self.longest_wait = 0.0

    @property
    def space(self):
        return self._judge.space

    def fail(self, guarantee, client, text):
        self.world.fail(guarantee, f"{client.process.name}: {text}")

    # What goes wrong.

    def line_troubled(self, process, seconds=0.0):
        """Note that something is wrong between a process and the gateway, or between all of them and the gateway."""
        for one in [process] if process is not None else self.world.processes:
            self.quiet_at[one] = max(self.quiet_at[one], self.world.time + seconds)

    def revoked(self, token):
        """Note that a token isn't accepted any more, for whatever reason."""
        for client in self.clients:
            engine = client.engine()
            if engine is not None and engine.cycle.value == token:
                self._judge.reasons[engine.label] += 1
                self._judge.unsure.add(engine.label)

    def _is_undisturbed(self, client, since):
        """Return whether a process has run all the time, as far as one can tell, and its lines were well."""
        process = client.process
        return process.may_run and not process.is_dead and self._judge.held_up_until.get(process, -1e9) < since

    # Connecting.

    def watch(self, process, connection):
        """Return the `Client` of a new connection, which is judged from now on."""
        link, session = connection._link, connection.session
        client = Client(process, weakref.ref(link), weakref.ref(session._engine), self.world.time)
        link.session = SeenSession(session, self, client)
        self.clients.append(client)
        self.made += [weakref.ref(link), weakref.ref(connection)]
        return client

    def hears(self, client, token):
        """Note that a connection hears of the session's new token."""
        if token != client.newest:
            client.replaced_at[client.newest] = self.world.time
            client.newest = token

    def attempts(self, client):
        """Judge the pause before an attempt to connect. (R7)"""
        now, link = self.world.time, client.link()
        if len(set(client.refused[-2:])) > 1:
            self.fail("R6", client, "connects after two different tokens were refused")
        if client.closed_at is None:
            return
        pause, window = now - client.closed_at, client.window
        tokenless = link.losses["no_token"] - client.tokenless
        client.tokenless += tokenless
        if tokenless:
            window = LAST_WINDOW * (tokenless + 1)
            client.failures = None if client.failures is None else client.failures + tokenless
        is_known = self._is_undisturbed(client, client.closed_at)
        if pause > window + TOKEN_WITHIN * (tokenless + 1) + ROUNDING and is_known:
            self.fail("R7", client, f"connects {pause:.1f} s after a loss, {client.failures} losses in a row")
        if client.failures is not None and window >= LAST_WINDOW and not tokenless:
            client.short_pauses = client.short_pauses + 1 if pause < FIRST_WINDOW else 0
            if client.short_pauses == SHORT_PAUSES:
                self.fail("R7", client, f"connects after less than 3 s, {client.failures} losses in a row")

    def not_opened(self, client):
        self._lost(client)

    def opened(self, client, wire):
        client.wire = wire
        client.wires.append(wire)
        client.asked, client.reasons, client.unacknowledged = {}, [], {}
        client.connected_at = None
        client.heard_at = self.world.time

    def sees(self, wire):
        return SeenSocket(self, wire.known(), wire)

    def _lost(self, client, *, is_refused_resume=False):
        """Note that a connection was lost, or couldn't be made, and from which window the next pause is drawn."""
        now, since = self.world.time, client.connected_at
        client.closed_at, client.connected_at, client.wire = now, None, None
        lasted = 0.0 if since is None else now - since
        if since is not None and any(at >= since for at, _ in client.process.machine.pauses):
            client.failures = None
        elif lasted > STABLE + CLOSES_WITHIN:
            client.failures = 0
        elif lasted > STABLE - CLOSES_WITHIN:
            client.failures = None
        if is_refused_resume:
            client.window = 0.0
            return
        if client.failures is not None:
            client.failures += 1
        exponent = 10 if client.failures is None else min(client.failures - 1, 10)
        client.window = min(LAST_WINDOW, FIRST_WINDOW * 2.0**exponent)

    # Messages.

    def sends(self, client, wire, message):
        """Judge a message that the client sends."""
        method, id_ = message.get("method"), message.get("id")
        self.world.note(f"{client.process.name} sends {method or 'an answer'}")
        if method is None:
            client.unacknowledged.pop(id_, None)
            return
        token = None
        if method in (CONNECT, REAUTHENTICATE):
            token = message["params"]["authentication"]["jwt_token"]
        if method == CONNECT:
            self._judge_connect(client, message["params"], token)
        elif method == REAUTHENTICATE:
            self._judge_presented(client, wire, token)
            client.asked = {one: asked for one, asked in client.asked.items() if asked[0] != REAUTHENTICATE}
        if method in (CONNECT, REAUTHENTICATE, PING):
            client.asked[id_] = (method, self.world.time, token, "authorization_state" in message["params"])

    def _judge_connect(self, client, params, token):
        """Judge what a new connection presents. (R1) (R5)"""
        state = params.get("authorization_state")
        if state != client.state:
            what = "forgets" if state is None else "presents"
            self.fail("R5", client, f"{what} a state, in place of {'another one' if client.state else 'none'}")
        engine = client.engine()
        if state is None and engine is not None and token != engine.cycle.value and client.newest not in (None, token):
            self.fail("R1", client, "connects with a token that isn't the session's newest")
        if state is not None and token != client.accepted:
            self.fail("R5", client, "resumes with another token than the one that the gateway has accepted last")

    def _judge_presented(self, client, wire, token):
        """Judge a token that is presented on an open connection. (R1)"""
        now = self.world.time
        if not wire.is_fluent(now - 30.0) or not self._is_undisturbed(client, now - 30.0):
            return
        if token != client.newest and now > client.replaced_at.get(token, now) + ROUNDING:
            self.fail("R1", client, "presents a token that isn't the session's newest")
        for method, at, _, _ in client.asked.values():
            if method == REAUTHENTICATE and now - at < ANSWERS_WITHIN - ROUNDING:
                self.fail("R1", client, f"presents two tokens at a time, {now - at:.1f} s apart")

    def reads(self, client, wire, kind, data):
        """Note what the client reads."""
        if kind != "text":
            self.world.note(f"{client.process.name} reads: {kind}")
            client.reasons.append(kind)
            if kind == "binary":
                client.state = None
            return
        message = read(data)
        what = "an answer" if message is None else message.get("method", message.get("error", "a result"))
        self.world.note(f"{client.process.name} reads: {what}")
        if message is None:
            client.reasons.append("not JSON-RPC")
            client.state = None
        elif "method" in message:
            self._requested(client, message)
        elif (asked := client.asked.pop(message.get("id"), None)) is not None:
            self._answered(client, wire, asked, message)

    def _requested(self, client, message):
        method, params = message["method"], message["params"]
        if method == "signalwire.disconnect":
            client.reasons.append(method)
            if params.get("restart"):
                client.state = None
        if method != "signalwire.event":
            return
        client.unacknowledged[message["id"]] = self.world.time
        content = params["params"]
        if message["id"] in client.seen:
            return
        client.seen.add(message["id"])
        is_known = client.connected_at is not None or client.state is not None  # what comes before has no reader yet
        if "authorization_state" in content:
            client.state = content["authorization_state"] if is_known else None
        elif not content["stale"]:
            client.received.append(content["number"])
            if not is_known or client.link().state in ENDED:
                client.optional.add(content["number"])

    def _answered(self, client, wire, asked, message):
        method, _, token, is_resume = asked
        code = message["error"]["code"] if "error" in message else None
        if method == PING or code is None:
            client.heard_at = self.world.time
        if method == REAUTHENTICATE and code is None:
            client.accepted = token
        elif method == CONNECT and code is None:
            client.accepted = token
            client.refused.clear()
            client.connected_at = self.world.time
            self.connected += 1
            protocol = message["result"]["protocol"]
            if not client.protocols or client.protocols[-1] != protocol:
                client.protocols.append(protocol)
                client.state = None
        elif method == CONNECT:
            client.reasons.append("refused")
            if is_resume and code in ABOUT_RESUMES:
                client.state = None
                client.reasons.append("refused resume")
            elif not is_resume and code == -32002:
                client.refused.append(token)

    def invalidates(self, client, session, token):
        """Judge that a connection reports only a token that was refused for a new connection. (R5)"""
        if not client.refused or client.refused[-1] != token or "refused" not in client.reasons:
            self.fail("R5", client, "invalidates a token that wasn't refused for a new connection")
        judge, engine = self._judge, session._engine
        judge.reports(session, token)
        judge.forces(session)
        judge.reasons[engine.label] += 1
        judge.unsure.add(engine.label)
        judge.troubled(client.process, 0.0, "outage", kind="end")

    # Closing.

    def closes(self, client, wire):
        """Judge that the client has a reason to close a socket. (R2)"""
        now = self.world.time
        is_sure = self._is_undisturbed(client, now - 40.0) and wire.is_fluent(now - 40.0)
        waits = any(
            method != REAUTHENTICATE for method, at, _, _ in client.asked.values() if now - at > ANSWERS_WITHIN - 1.0
        )
        is_asked_to = client.is_closing or client.link().task.cancelling()
        if not (is_asked_to or client.reasons or waits) and is_sure and not wire.client.is_shut:
            self.fail("R2", client, "closes a connection that works")

    def shuts(self, client, wire):
        """Note that the client has done with a socket."""
        if wire is client.wire:
            self._lost(client, is_refused_resume="refused resume" in client.reasons)

    def ends(self, client):
        """Note that the app closes the connection, or that its session has closed."""
        client.is_closing = True

    def gives_up(self, client, error):
        """Judge that a connection that was given up has a reason. (R6)"""
        engine = client.engine()
        is_expired = engine is not None and not engine.cycle.reissues
        if len(set(client.refused[-2:])) < 2 and not is_expired:
            self.fail("R6", client, f"was given up: {error!r} {error.__cause__!r}")

    def closed(self, client, connection):
        """Judge that nothing is left of a connection that has closed. (R12)"""
        link, process = connection._link, client.process
        if any(not wire.client.is_shut for wire in client.wires):
            self.fail("R12", client, "has a socket open after it has closed")
        left = [task for task in process.tasks() if of_link(task) is link]
        if left:
            self.fail("R12", client, f"has tasks left after it has closed: {left}")
        self._judge_events(client)
        self.clients.remove(client)

    def judge_leftovers(self):
        """Judge that nothing is left of connections whose processes have ended. The world has collected the garbage."""
        kept = [reference() for reference in self.made]
        for one in kept:
            link = getattr(one, "_link", one)
            if link is not None and link.clock._process in self.world.ended:
                self.world.fail("R12", f"{link.clock._process.name}: {one!r} is kept in memory after it was closed")

    def judge_listeners(self, process, engine):
        """Judge that no connection listens to a session any more. (R12)"""
        if engine.listeners:
            self.world.fail("R12", f"{process.name}: a connection that was closed listens to {engine.label}")

    # Events.

    def delivers(self, client, event):
        """Judge an event that the app gets. (R3) (R4)"""
        self.events += 1
        if event.params.get("stale"):
            self.fail("R4", client, f"delivers an event of an earlier protocol, {event.channel}")
            return
        number = event.params["number"]
        if client.delivered and number <= client.delivered[-1][0]:
            self.fail("R3", client, f"delivers event {number} after event {client.delivered[-1][0]}")
        client.delivered.append((number, event.missed))

    def _judge_events(self, client):
        """Judge that each event was delivered, or counted as missed, once the app has read all of them. (R3)"""
        rest = list(reversed(client.received))
        for number, missed in client.delivered:
            skipped = []
            while rest and rest[-1] != number:
                skipped.append(rest.pop())
            least = sum(one not in client.optional for one in skipped)
            if not rest or not least <= missed <= len(skipped):
                self.fail("R3", client, f"event {number} says that {missed} were dropped before it, and not {skipped}")
                return
            rest.pop()
        if not set(rest) <= client.optional:
            self.fail("R3", client, f"doesn't deliver the last {len(rest)} events")

    # Calls.

    def next_call(self):
        self.calls += 1
        return self.calls

    def result(self, client, number, result):
        """Judge the result of a call. (R8) (R9)"""
        if result != {"number": number}:
            self.fail("R9", client, f"call {number} of {COUNT} has the result of another one: {result}")
        if self.executed[number] != 1:
            self.fail("R8", client, f"call {number} has a result, and was executed {self.executed[number]} times")

    def interrupted(self, client, number, error):
        """Note that a call was interrupted. If it wasn't sent, it must not be executed. (R8)"""
        if not error.sent:
            self.never[number] = f"call {number} was executed, though {error!r} says that it wasn't sent"

    def judge_calls(self):
        """Judge what the gateway has executed in all. (R8)"""
        for number, times in self.executed.items():
            if times > 1:
                self.world.fail("R8", f"call {number} was executed {times} times")
            if number in self.never:
                self.world.fail("R8", self.never[number])

    # Liveness.

    def look_again_and_again(self):
        def look():
            for client in self.clients:
                if client.process in self.world.processes and not client.is_closing:
                    self._look(client)
            self.world.after(LOOKS_EVERY, look)

        self.world.after(LOOKS_EVERY, look)

    def _look(self, client):
        link, engine, now = client.link(), client.engine(), self.world.time
        if link is None or engine is None or link.task is None or link.task.done():
            return
        is_connected = link.state is RealtimeState.CONNECTED
        self._judge_answers(client, link)
        token = engine.cycle.value
        is_calm = (
            self._is_undisturbed(client, now)
            and self.quiet_at[client.process] < now
            and self._judge.has_valid_token(engine)
        )
        if not is_calm:
            client.calm_since = None
            return
        began = now if client.calm_since is None else client.calm_since
        held_up_until = self._judge.held_up_until.get(client.process, -1e9)
        since = client.calm_since = max(began, self.quiet_at[client.process], held_up_until)
        if not is_connected and now - since > CONNECTED_WITHIN:
            self.fail("R11", client, f"is {link.state.value} {now - since:.0f} s after all trouble was over")
        if not is_connected:
            self.longest_wait = max(self.longest_wait, now - since)
            return
        asked_at = now - (client.process.machine.boot_time() - engine.cycle.asked)
        since = max(since, client.connected_at or now, asked_at)
        if now - since > PRESENTED_WITHIN and client.accepted != token:
            self.fail("R1", client, f"hasn't presented the session's token for {now - since:.0f} s")
        late = [at for at in client.unacknowledged.values() if now - max(at, since) > 5.0]
        if late and client.wire is not None and client.wire.is_fluent(now - 10.0):
            self.fail("R3", client, f"hasn't acknowledged an event for {now - min(late):.0f} s")

    def _judge_answers(self, client, link):
        """Judge that a connection counts as lost if the gateway doesn't answer. (R10)"""
        now, wire = self.world.time, client.wire
        if wire is None or not self._is_undisturbed(client, now - 60.0):
            return
        limit = ANSWERS_WITHIN if client.connected_at is None else 20.0 + ANSWERS_WITHIN
        late = now - client.heard_at - limit - CLOSES_WITHIN
        if late > 0 and link.line is not None and link.line.socket._end.wire is wire:
            self.fail("R10", client, f"counts as open, {late:.0f} s after an answer was due")


def of_link(task):
    """Return the link whose coroutine a task runs; None if it is none's."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return None if frame is None else frame.f_locals.get("self")
