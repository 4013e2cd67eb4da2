"""The client's side of SignalWire's realtime protocol, as a state machine without I/O and clock.

Everything that decides what a realtime client sends, and what an answer means, is in this file. A `Gateway` outlives
its connections. Its methods take what has happened, and return what to do::

    method              when                                    returns
    -----------------   -------------------------------------   ------------------------------------------------
    connect(token)      a socket is open                        the first call: a resume, or a new connection
    receive(text)       a message has arrived                   acknowledgements, events, answers, or `Lost`
    present(token)      the session has another token           a reauthentication, unless one is under way
    call(method)        the app calls a method                  the call
    tick()              the time `next_at` has come             a ping, or `Lost` if an answer is overdue
    lost(cause)         the connection has ended                the window for the pause before the next connect

Times are in seconds by the session's clock.

**Resuming.** The gateway sends an `authorization_state` now and then. With it, a new connection continues the one
before, even if its token has expired. If that is refused, the state is forgotten, and the next connection is a new one.
Only the refusal of a new connection with -32002 says that a token is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, cast

import attrs

from .models import Token
from .secret import Secret
from .wire.answers import clean

__all__ = [
    "Answered",
    "Call",
    "Connected",
    "Deliver",
    "Gateway",
    "Invalidate",
    "LossCause",
    "Lost",
    "NotReauthenticated",
    "Output",
    "RealtimeEvent",
    "Reauthenticated",
    "Refused",
    "Send",
]

JsonObject: TypeAlias = dict[str, Any]
#: Why a connection was lost, or couldn't be made.
LossCause: TypeAlias = Literal[
    "unreachable",
    "closed",
    "disconnect",
    "no_answer",
    "refused",
    "resume_refused",
    "token_refused",
    "not_json_rpc",
    "no_token",
]

VERSION = {"major": 4, "minor": 0, "revision": 0}
CONNECT, REAUTHENTICATE, PING = "signalwire.connect", "signalwire.reauthenticate", "signalwire.ping"
EVENT, DISCONNECT = "signalwire.event", "signalwire.disconnect"
OWN_METHODS = frozenset((CONNECT, REAUTHENTICATE, PING))
STATE_EVENT = "signalwire.authorization.state"
AUTHENTICATION_FAILED, REQUESTER_REFUSED, INVALID_PARAMS, METHOD_NOT_FOUND = -32002, -32003, -32602, -32601
RESUME_REFUSED = (AUTHENTICATION_FAILED, REQUESTER_REFUSED, INVALID_PARAMS)

ANSWER_TIMEOUT = 10.0  # seconds until the answer to a call of the library's own is overdue
PING_EVERY = 20.0  # seconds between the last answer to a ping and the next ping
REPEAT_AFTER = 10.0  # seconds until a failed reauthentication is tried again
GRACE = 2.0  # seconds more for an overdue answer: if the process was stopped, it may have arrived, and not been read
SHORTEST_WINDOW, LONGEST_WINDOW = 3.0, 60.0  # seconds from which the pause before a connect is drawn
STABLE_AFTER = 60.0  # seconds after which a connection counts as a success, so that the window is short again
MOST_SEEN = 256  # events that are remembered, so that none is delivered twice


@attrs.frozen(kw_only=True)
class RealtimeEvent:
    """An event that SignalWire sent over a realtime connection.

    `type` is what happened, such as `"conversation.message"`, and `params` is what it consists of. `channel` names
    where the event comes from, `node_id` the server that has the call, and `timestamp` when it happened, as SignalWire
    writes them. Each may be None. `missed` is how many events were dropped right before this one, because your app
    didn't read them in time.

    `repr` doesn't show `params`, which may hold secrets of a call.
    """

    type: str
    params: JsonObject = attrs.field(repr=False)
    channel: str | None = None
    timestamp: float | str | None = None
    node_id: str | None = None
    missed: int = 0


@attrs.frozen
class Send:
    """Send a message. `call_id` is the id of your app's call, or None for a message of the library's own."""

    message: Secret[str]
    call_id: str | None = None


@attrs.frozen
class Connected:
    """The connection is made. `resumed` is whether it continues the one before."""

    resumed: bool
    ice_servers: tuple[JsonObject, ...] = attrs.field(repr=False)


@attrs.frozen
class Reauthenticated:
    """The gateway has accepted another token for the connection."""


@attrs.frozen
class NotReauthenticated:
    """The gateway has refused another token for the connection, which goes on. It is presented again."""

    reason: str


@attrs.frozen
class Deliver:
    """Deliver an event to the app."""

    event: RealtimeEvent


@attrs.frozen
class Answered:
    """The answer to a call of the app: its `result`, or the `code` and `message` of an error."""

    call_id: str
    result: Any = attrs.field(repr=False)
    code: int | None = None
    message: str = ""


@attrs.frozen
class Invalidate:
    """Report to the session that its token was refused."""

    token: Token


@attrs.frozen
class Lost:
    """End the connection, and call `lost`."""

    cause: LossCause
    reason: str


@attrs.frozen
class Refused:
    """Give up: two different tokens were refused one after the other."""

    reason: str


Output: TypeAlias = (
    Send | Connected | Reauthenticated | NotReauthenticated | Deliver | Answered | Invalidate | Lost | Refused
)


@attrs.frozen
class Resumable:
    """What it takes to continue a connection: its protocol, and the state that stands in for a valid token."""

    protocol: str
    state: Secret[str]


@attrs.frozen
class Call:
    """A call of the library's own that waits for its answer, and the token that it presents."""

    method: str
    due: float
    token: Token | None = None
    is_overdue: bool = False


@attrs.define(eq=False, repr=False)
class Gateway:
    """All that a client knows of its connections to the gateway.

    - `agent` names the client, and `prove(method)` returns a proof of possession for a call; None if there is none.
    - `token` is the token that the gateway has accepted last, or that the client presents to connect.
    - `newest` is the session's latest token.
    - `resumable` is what it takes to continue the connection; None if the next one is new.
    - `protocol` names the connection for the gateway. It is None before the first one.
    - `refused` is the last token that was refused for a new connection, unless another one was accepted since.
    - `losses` is the number of connections that were lost, one after the other, without a stable one in between.
    - `waiting` has the library's own calls that have no answer yet, by their id.
    - `ping_at` is when to send the next ping, and `repeat_at` when to present the newest token again; None if neither.
    - `connected_at` is when the current connection was made; None if there is none.
    - `complaint` is an error that the gateway has sent without being asked, which is why it closes the connection.
    """

    agent: str
    prove: Callable[[str], str | None] = lambda _: None
    token: Token | None = None
    newest: Token | None = None
    resumable: Resumable | None = None
    protocol: str | None = None
    refused: Token | None = None
    losses: int = 0
    waiting: dict[str, Call] = attrs.field(factory=dict[str, Call])
    ping_at: float | None = None
    repeat_at: float | None = None
    connected_at: float | None = None
    complaint: str = ""
    _project: str = ""
    _last_id: int = 0
    _is_later: bool = False  # whether the current protocol follows another one, whose events may still arrive
    _seen: dict[int, None] = attrs.field(factory=dict[int, None])

    # Connecting.

    def connect(self, token: Token, now: float) -> list[Output]:
        """Return the first call on a new socket. `token` is for a new connection; a resume presents its own again."""
        params: JsonObject = {"version": VERSION, "agent": self.agent, "event_acks": True}
        if self.resumable is not None:
            params |= {"protocol": self.resumable.protocol, "authorization_state": self.resumable.state.value}
        else:
            self.token = self.newest = token
        params["authentication"] = {"jwt_token": cast("Token", self.token).value}
        return [self._ask(CONNECT, params, now, self.token)]

    def _connected(self, result: JsonObject, now: float) -> Iterator[Output]:
        protocol, project = result.get("protocol"), members_of(result, "authorization").get("project_id")
        if not isinstance(protocol, str) or not isinstance(project, str):
            yield Lost("not_json_rpc", f"the answer to {CONNECT} lacks its protocol or its project_id")
            return
        resumed = self.resumable is not None and protocol == self.protocol
        if not resumed:
            self._is_later = self.protocol is not None
            self._seen.clear()
            self.resumable = None
        self.protocol, self._project = protocol, project
        self.refused = None
        self.connected_at, self.ping_at = now, now + PING_EVERY
        servers = result.get("ice_servers")
        yield Connected(resumed, tuple(servers) if isinstance(servers, list) else ())
        yield from self._present(now)

    def _connect_refused(self, code: object, reason: str) -> Iterator[Output]:
        """Yield what the refusal of a connect means. The only place that decides what is at fault: state or token."""
        if self.resumable is not None and code in RESUME_REFUSED:
            self.resumable = None
            yield Lost("resume_refused", reason)
        elif code == AUTHENTICATION_FAILED:
            token, before = cast("Token", self.token), self.refused
            self.refused = token
            if before is None or before.value == token.value:
                yield Invalidate(token)
                yield Lost("token_refused", reason)
            else:  # the tokens aren't at fault: your app can go on using the second one
                yield Refused(reason)
        else:
            yield Lost("refused", reason)

    # The token of a connection.

    def present(self, token: Token, now: float) -> list[Output]:
        """Return the call that presents the session's newest token, unless the gateway has it already.

        Only one is under way at a time. Of several tokens that come meanwhile, the newest one follows.
        """
        self.newest = token
        return [] if self.connected_at is None else list(self._present(now))

    def _present(self, now: float) -> Iterator[Output]:
        is_busy = any(call.method == REAUTHENTICATE for call in self.waiting.values())
        newest, token = cast("Token", self.newest), cast("Token", self.token)
        self.repeat_at = None
        if not is_busy and newest.value != token.value:
            authentication = {"project": self._project, "jwt_token": newest.value}
            yield self._ask(REAUTHENTICATE, {"authentication": authentication}, now, newest)

    # Messages.

    def receive(self, text: str, now: float) -> list[Output]:
        """Return what follows from a message of the gateway."""
        try:
            message: Any = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            return [Lost("not_json_rpc", "the gateway sent a message that isn't JSON-RPC")]
        message = cast("JsonObject", message)
        method, id_ = message.get("method"), message.get("id")
        if isinstance(method, str):
            self.complaint = ""
            return list(self._requested(method, id_, members_of(message, "params")))
        if not isinstance(id_, str):
            self.complaint = self._reason_in(message) if "error" in message else ""
            return []
        self.complaint = ""
        call = self.waiting.pop(id_, None)
        return [self._read_answer(id_, message)] if call is None else list(self._answered(call, message, now))

    def _requested(self, method: str, id_: object, params: JsonObject) -> Iterator[Output]:
        """Yield the answer to a request of the gateway, and what else follows from it."""
        if method == EVENT:
            yield from self._take_event(id_, params)
        if method in (EVENT, PING, DISCONNECT):
            yield answer_to(id_, result={"timestamp": params.get("timestamp")} if method == PING else {})
        else:
            error = {"code": METHOD_NOT_FOUND, "message": "this client doesn't have the method"}
            yield answer_to(id_, error=error)
        if method == DISCONNECT:
            if params.get("restart") is True:
                self.resumable = None
            yield Lost("disconnect", "the gateway asked to connect again")

    def _take_event(self, id_: object, params: JsonObject) -> Iterator[Output]:
        """Yield an event for the app, unless it came before, or is about the connection itself or an earlier one."""
        kind, channel, timestamp = params.get("event_type"), params.get("event_channel"), params.get("timestamp")
        if not isinstance(kind, str) or (isinstance(id_, str) and self._has_seen((id_, kind, repr(timestamp)))):
            return
        content = members_of(params, "params")
        state = content.get("authorization_state")
        if kind == STATE_EVENT:
            # Before the answer to a new connection, the protocol is that of an earlier one.
            is_known = self.connected_at is not None or self.resumable is not None
            if isinstance(state, str) and is_known:
                self.resumable = Resumable(str(self.protocol), Secret(state))
            return
        is_older = self._is_later and isinstance(channel, str) and str(self.protocol) not in channel
        if is_older and not kind.startswith("conversation."):
            return
        yield Deliver(
            RealtimeEvent(
                type=kind,
                params=content,
                channel=channel if isinstance(channel, str) else None,
                timestamp=timestamp if isinstance(timestamp, int | float | str) else None,
                node_id=node if isinstance(node := params.get("node_id"), str) else None,
            )
        )

    def _has_seen(self, event: tuple[str, ...]) -> bool:
        """Return whether an event came before, and remember it."""
        key = hash(event)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > MOST_SEEN:
            del self._seen[next(iter(self._seen))]
        return False

    def _answered(self, call: Call, message: JsonObject, now: float) -> Iterator[Output]:
        """Yield what follows from the answer to a call of the library's own."""
        error = members_of(message, "error") if "error" in message else None
        if call.method == PING:
            self.ping_at = now + PING_EVERY  # an error is an answer, too
        elif call.method == CONNECT:
            if error is None:
                yield from self._connected(members_of(message, "result"), now)
            else:
                yield from self._connect_refused(error.get("code"), self._reason_in(message))
        elif error is None:
            self.token = call.token
            yield Reauthenticated()
            yield from self._present(now)
        else:  # the gateway may end the connection now, or not: only a new connection shows what is at fault
            self.repeat_at = now + REPEAT_AFTER
            yield NotReauthenticated(self._reason_in(message))

    def _reason_in(self, message: JsonObject) -> str:
        """Return what an error of the gateway says, in one line without the secrets that the client has sent."""
        error = members_of(message, "error")
        secrets: list[Secret[str] | Token] = [one for one in (self.token, self.newest) if one is not None]
        if self.resumable is not None:
            secrets.append(self.resumable.state)
        return f"{clean(error.get('message'), secrets)!r} ({clean(str(error.get('code')), secrets)})"

    def _read_answer(self, call_id: str, message: JsonObject) -> Answered:
        """Return the answer to a call of the app."""
        if "error" not in message:
            return Answered(call_id, message.get("result"))
        code = members_of(message, "error").get("code")
        return Answered(call_id, None, code if isinstance(code, int) else 0, self._reason_in(message))

    # Calls.

    def call(self, method: str, params: JsonObject) -> Send:
        """Return a call of the app. Its answer comes as `Answered`."""
        id_ = self._next_id()
        return Send(Secret(write({"id": id_, "method": method, "params": params})), id_)

    def _ask(self, method: str, params: JsonObject, now: float, token: Token | None = None) -> Send:
        """Return a call of the library's own, and wait for its answer."""
        proof = None if token is None else self.prove(method)
        if proof is not None:
            params["dpop_token"] = proof
        id_ = self._next_id()
        self.waiting[id_] = Call(method, now + ANSWER_TIMEOUT, token)
        return Send(Secret(write({"id": id_, "method": method, "params": params})))

    def _next_id(self) -> str:
        self._last_id += 1
        return str(self._last_id)

    # Time.

    @property
    def next_at(self) -> float | None:
        """When `tick` is due; None if nothing is."""
        times = [call.due for call in self.waiting.values()]
        times += [at for at in (self.ping_at, self.repeat_at) if at is not None]
        return min(times, default=None)

    def tick(self, now: float, wall: float) -> list[Output]:
        """Return what is due: a ping, a reauthentication, or the end of a connection that doesn't answer."""
        for id_, call in [(id_, call) for id_, call in self.waiting.items() if call.due <= now]:
            if not call.is_overdue or now > call.due + GRACE:  # the process may have been stopped, or stopped again
                self.waiting[id_] = attrs.evolve(call, due=now + GRACE, is_overdue=True)
            elif call.method == REAUTHENTICATE:
                del self.waiting[id_]
                self.repeat_at = now
            else:
                limit = ANSWER_TIMEOUT + GRACE
                return [Lost("no_answer", f"the gateway didn't answer {call.method} within {limit:.0f} s")]
        due: list[Output] = []
        if self.repeat_at is not None and self.repeat_at <= now:
            due += self._present(now)
        if self.ping_at is not None and self.ping_at <= now:
            self.ping_at = None
            due.append(self._ask(PING, {"timestamp": wall}, now))
        return due

    def lost(self, cause: LossCause, now: float) -> float:
        """Note that the connection has ended, or couldn't be made.

        Return the window in seconds from which the pause before the next connect is drawn. After a refused resume, the
        next connect follows at once: the pause before the resume has spread the clients already.
        """
        if self.connected_at is not None and now - self.connected_at >= STABLE_AFTER:
            self.losses = 0
        self._end_connection()
        if cause == "not_json_rpc":  # after a resume, the gateway might send the same again
            self.resumable = None
        if cause == "resume_refused":
            return 0.0
        self.losses += 1
        return min(LONGEST_WINDOW, SHORTEST_WINDOW * 2.0 ** min(self.losses - 1, 10))

    def _end_connection(self) -> None:
        self.waiting.clear()
        self.ping_at = self.repeat_at = self.connected_at = None
        self.complaint = ""


def answer_to(id_: object, **answer: object) -> Send:
    """Return the answer to a request of the gateway."""
    return Send(Secret(write({"id": id_, **answer})))


def write(message: JsonObject) -> str:
    """Return a message as JSON-RPC text."""
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"), allow_nan=False)


def members_of(message: JsonObject, name: str) -> JsonObject:
    """Return a member of a message that must be an object; an empty one if it isn't."""
    value = message.get(name)
    return cast("JsonObject", value) if isinstance(value, dict) else {}
