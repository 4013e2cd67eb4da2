"""The realtime gateway: JSON-RPC over WebSockets. A connection stays open only while its token is valid.

A connection has two states:

| state | the client can call | the gateway closes the connection |
| --- | --- | --- |
| waiting | `signalwire.connect`, `signalwire.ping` | 10 s after it was opened; if connecting fails |
| connected | everything but `signalwire.connect` | see below |

The gateway closes a connected connection for one of these reasons:

- The token expires. A client prevents that with `signalwire.reauthenticate` and a newer token of the same subscriber. A
  connection that was resumed with an expired token is closed 10 s later, unless the client reauthenticates. In both
  cases the session ends, too.
- Reauthenticating fails.
- A ping is not answered. The gateway pings at once after connecting, and then every 15 seconds. When the next ping is
  due, all earlier ones must have been answered.
- An event is not acknowledged, by a client that connected with `event_acks`. It has until the next ping but one is due.
- Another connection resumes its session.
- A test calls `Emulator.disconnect`, and the client has answered, or 5 s have passed.
- The client doesn't read what the gateway sends, or sends a message that isn't text. Both also count while waiting.

Other wrong calls get an error, and the connection stays open. It also stays open if the token is revoked, because the
gateway checks for that only when the client presents a token.

When a connection is lost, its session in `sessions` stays. The connection that resumes it first sends the events again
that were not acknowledged.

Each connection has two tasks. `GatewayConnection.listen` reads and answers messages. `GatewayConnection.watch` sends
events and pings, and sleeps until there is one to send, or a reason to close. Timers go by `Clock.now`, which setting
the wall clock doesn't change. Tokens expire at a date, so their expiry goes by `Clock.wall`. `Emulator.advance` moves
both readings, and wakes every `watch`. A third task exists while a message waits in a `Delay`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import attrs
from aiohttp import WSCloseCode, WSMsgType, web

from signalwire_tokens.durations import spoken

from .faults import Delay, Reset, RpcFailure, Stall
from .replies import reset_connection
from .rpc import (
    ACKNOWLEDGEMENT,
    AUTHENTICATING,
    CONNECT,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    NOT_AUTHENTICATED,
    REAUTHENTICATE,
    REQUESTER_INVALID,
    RPC_INVALID_REQUEST,
    JsonObject,
    Outgoing,
    RpcError,
    check_message,
    check_timestamp,
    is_acknowledgement,
    make_request,
    read_message,
)
from .sessions import Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from signalwire_tokens.clock import Clock

    from .faults import RpcFault
    from .sealing import Claims
    from .service import Service

__all__ = ["Connection", "Gateway", "is_handshake", "is_right_handshake"]

LARGEST_MESSAGE = 64 * 1024
CONNECT_TIMEOUT = 10.0  # seconds within which a client must connect
RESUME_GRACE = 10.0  # seconds that a connection stays open which was resumed with an expired token
LEAVE_TIMEOUT = 5.0  # seconds within which a client must answer `signalwire.disconnect`
NOT_CONNECTED = f"no signalwire.connect within {spoken(CONNECT_TIMEOUT)} of opening the connection"
EXPIRED = "the token has expired"
SEND_TIMEOUT = 5.0  # seconds of real time that sending a message may take, if the client doesn't read
PING_EVERY = 15.0  # seconds between pings, and the time to answer one
METHODS = (CONNECT, REAUTHENTICATE, "signalwire.ping", "subscriber.online", "subscriber.offline")
# The statuses that are recorded for an authentication, by the code of its error. JSON-RPC itself has no status.
STATUSES: Mapping[int | None, int] = {None: 200, NOT_AUTHENTICATED: 401, REQUESTER_INVALID: 403}


@attrs.frozen(kw_only=True)
class Connection:
    """A realtime connection at one moment.

    - `id`: the connection's own id. A connection that resumes a session has another id than the earlier one.
    - `protocol`: the name of its session, which `signalwire.connect` returns. It stays the same when it is resumed.
    - `subscriber_id`: the subscriber that the token was issued for, or None for a guest.
    - `expires_at`: when the current token expires, and the connection with it.
    - `reauthenticated`: how many times the client has presented a newer token on this connection.
    - `resumed`: how many times the session was resumed, on this connection and earlier ones. 0 for a new session.
    - `acknowledged`: how many events the client has acknowledged on this connection. 0 without `event_acks`.
    - `is_online`: True after `subscriber.online`. False at first, and after `subscriber.offline`.
    """

    id: UUID
    protocol: str
    subscriber_id: UUID | None
    expires_at: datetime
    reauthenticated: int = 0
    resumed: int = 0
    acknowledged: int = 0
    is_online: bool = False


class Gateway:
    """The realtime gateway with its open connections.

    - `take_fault(method)` returns the fault that a message meets, or None.
    - `note(method, status, reason, fault)` is called for each authentication, with status 200, 401 for a refused token
      or 403 for a refused resume, and for each message that meets a fault. `status` is None if the client gets no
      result of an authentication. `reason` explains a 401 or 403.
    - `answerers` has the functions that answer methods which the gateway itself doesn't know.
    """

    def __init__(
        self,
        service: Service,
        clock: Clock,
        *,
        take_fault: Callable[[str], RpcFault | None],
        note: Callable[[str, int | None, str | None, RpcFault | None], None],
    ) -> None:
        self.sessions: Sessions = Sessions(service)
        self.clock: Clock = clock
        self.take_fault: Callable[[str], RpcFault | None] = take_fault
        self.note: Callable[[str, int | None, str | None, RpcFault | None], None] = note
        self.answerers: dict[str, Callable[[JsonObject], JsonObject]] = {}
        self.lines: set[GatewayConnection] = set()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that are authenticated and still open, in no particular order."""
        return tuple(line.connection for line in self.lines if line.connection is not None)

    def look(self) -> None:
        """Wake every connection to check whether its token has expired. Call this after moving the clock."""
        for line in self.lines:
            line.woken.set()

    def cut(self) -> None:
        """Abort all connections without a closing handshake, as if the network had failed."""
        for line in self.lines:
            line.cut()

    def expire(self, claims: Claims) -> None:
        """End the connections that use a token. `claims` are those of the token, which has expired just now."""
        for line in self.lines:
            line.expire(claims)

    def answer(self, method: str, answerer: Callable[[JsonObject], JsonObject]) -> None:
        """Set the function that answers a method. Raise a `ValueError` for a method that the gateway knows."""
        if method in METHODS:
            raise ValueError(f"method must be one that the gateway doesn't answer itself, not {method}")
        self.answerers[method] = answerer

    def send_event(
        self, event_type: str, params: JsonObject, connection: Connection | UUID | None, channel: str | None
    ) -> int:
        """Send an event to one connection, or with None to all. Return how many get it."""
        lines = self._choose(connection)
        for line in lines:
            line.send_event(event_type, params, channel)
        return len(lines)

    def disconnect(self, connection: Connection | UUID | None, *, restart: bool) -> int:
        """Ask one client to disconnect, or with None all. Return how many are asked."""
        lines = self._choose(connection)
        for line in lines:
            line.disconnect(restart=restart)
        return len(lines)

    async def serve(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """Accept a WebSocket, and serve it until it is closed."""
        socket = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE)
        await socket.prepare(request)
        async with asyncio.TaskGroup() as tasks:
            line = GatewayConnection(self, socket, request.transport, tasks)
            self.lines.add(line)
            try:
                tasks.create_task(line.watch())
                await line.listen()
            finally:
                self.lines.discard(line)
        return socket

    def _choose(self, connection: Connection | UUID | None) -> list[GatewayConnection]:
        """Return one connection, or with None all. Raise a `ValueError` if it isn't open."""
        id_ = connection.id if isinstance(connection, Connection) else connection
        lines = [line for line in self.lines if line.connection is not None and id_ in (None, line.connection.id)]
        if id_ is not None and not lines:
            raise ValueError("the connection isn't open: choose one of emulator.connections")
        return lines


def is_handshake(request: web.BaseRequest) -> bool:
    """Return whether a request asks for a realtime connection: a WebSocket at the path `/`."""
    return request.rel_url.raw_path == "/" and request.headers.get("Upgrade", "").lower() == "websocket"


def is_right_handshake(request: web.BaseRequest) -> bool:
    """Return whether a handshake can be accepted. The gateway has no subprotocols, so it refuses requests for one."""
    if request.method != "GET" or "Sec-WebSocket-Protocol" in request.headers:
        return False
    try:
        return web.WebSocketResponse().can_prepare(request).ok
    except ValueError:  # the handshake's key isn't ASCII
        return False


class GatewayConnection:
    """One open connection. `connection` is its public description, or None until it is authenticated."""

    def __init__(
        self,
        gateway: Gateway,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._gateway, self._socket, self._transport, self._tasks = gateway, socket, transport, tasks
        self._connection: Connection | None = None
        self._session: Session | None = None
        self.woken: asyncio.Event = asyncio.Event()
        self._lost: asyncio.Event = asyncio.Event()
        self._outbox: deque[Outgoing] = deque()
        self._pings = 0  # that were sent
        # The pings and events that the client must still answer, by id, with the number of the ping before which.
        self._awaited: dict[str, int] = {}
        self._greet_by = gateway.clock.now() + CONNECT_TIMEOUT
        self._ping_at = self._greet_by
        self._grace_ends: float | None = None
        self._leaving: tuple[str, float] | None = None  # the id of a `signalwire.disconnect`, and when to close
        self._calls: Mapping[str, Callable[[JsonObject], JsonObject]] = {
            CONNECT: self._connect,
            REAUTHENTICATE: self._reauthenticate,
            "signalwire.ping": self._ping,
            "subscriber.online": lambda _: self._register(is_online=True),
            "subscriber.offline": lambda _: self._register(is_online=False),
        }

    @property
    def connection(self) -> Connection | None:
        """The public description. It is None before authentication, and after another connection has taken over."""
        return None if self._is_replaced() else self._connection

    def cut(self) -> None:
        """Abort the connection without a closing handshake."""
        if self._transport is not None:  # the client may have disconnected during the handshake
            self._transport.abort()

    def expire(self, claims: Claims) -> None:
        """End the connection if it uses the token with these claims."""
        if self._session is not None and self._session.claims.id == claims.id:
            self._session.claims = claims
            self._update(expires_at=datetime.fromtimestamp(claims.expires_at, UTC))
            self.woken.set()

    def send_event(self, event_type: str, params: JsonObject, channel: str | None) -> None:
        """Queue an event for sending."""
        session = cast("Session", self._session)
        self._queue(session.make_event(event_type, params, self._gateway.clock.wall(), channel))

    def disconnect(self, *, restart: bool) -> None:
        """Ask the client to disconnect. With `restart`, forget the session."""
        request = make_request("signalwire.disconnect", {"restart": True} if restart else {})
        self._leaving = request.id, self._gateway.clock.now() + LEAVE_TIMEOUT
        self._queue(request)
        if restart:
            self._gateway.sessions.forget(cast("Session", self._session).protocol)

    async def listen(self) -> None:
        """Read and answer messages until the connection is closed. A message that isn't text closes it."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                break
            await self._handle(cast("str", message.data))
        self.woken.set()  # wakes `watch`, which ends because the socket is closed
        self._lost.set()

    async def watch(self) -> None:
        """Send events and pings, and close the connection when there is a reason. Return when it is closed.

        Each turn of the loop decides again what to do, because the time may have been moved while it slept.
        """
        clock = self._gateway.clock
        while not self._socket.closed:
            reason = self._find_end()
            if reason is not None:
                if reason == EXPIRED:
                    self._gateway.sessions.forget(cast("Session", self._session).protocol)
                await self._end(None, RpcError(NOT_AUTHENTICATED, reason))
            elif self._leaving is not None and clock.now() >= self._leaving[1]:
                await self._socket.close(code=WSCloseCode.GOING_AWAY)
            elif self._outbox:
                request = self._outbox.popleft()
                if request.id in cast("Session", self._session).unacknowledged:
                    self._awaited[request.id] = self._pings + 2
                await self._send_text(request.text)
            elif self._session is not None and clock.now() >= self._ping_at:
                self._ping_at = clock.now() + PING_EVERY
                self._pings += 1
                ping = make_request("signalwire.ping", {"timestamp": clock.wall()})
                self._awaited[ping.id] = self._pings + 1
                await self._send_text(ping.text)
            else:
                closing = PING_EVERY if self._leaving is None else self._leaving[1] - clock.now()
                await self._sleep(min(self._ping_at - clock.now(), self._seconds_left(), closing))

    async def _sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the emulator's clock, or until `woken` is set.

        It is set when the time was moved, when there is something to send, and when the connection was closed.
        """
        alarm = self._gateway.clock.call_later(seconds, self.woken.set)
        try:
            await self.woken.wait()
        finally:
            self.woken.clear()
            alarm.cancel()

    def _is_replaced(self) -> bool:
        """Return whether another connection has resumed this one's session."""
        session, connection = self._session, self._connection
        return session is not None and connection is not None and session.connection_id != connection.id

    def _seconds_left(self) -> float:
        """Return in how many seconds the token expires. Without a token, return a time after which to check again."""
        if self._session is None:
            return PING_EVERY
        if self._grace_ends is not None:
            return self._grace_ends - self._gateway.clock.now()
        return self._session.claims.expires_at - self._gateway.clock.wall()

    def _find_end(self) -> str | None:
        """Return the reason to close the connection now, or None if there isn't one."""
        now = self._gateway.clock.now()
        if self._session is None:
            return NOT_CONNECTED if now >= self._greet_by else None
        if self._is_replaced():
            return "another connection has resumed the session"
        if self._seconds_left() <= 0:
            return EXPIRED
        late = [id_ for id_, before in self._awaited.items() if now >= self._ping_at and before <= self._pings + 1]
        if not late:
            return None
        return (
            "an event wasn't acknowledged in time"
            if late[0] in self._session.unacknowledged
            else "a ping wasn't answered in time"
        )

    async def _handle(self, text: str) -> None:
        """Process one message: a call, or a response to a ping, an event or a `signalwire.disconnect`."""
        id_: str | None = None
        try:
            message = read_message(text)
            id_ = message["id"] if isinstance(message.get("id"), str) else None
            check_message(message)
        except RpcError as refused:
            await self._refuse(id_, refused)
            return
        operation = message.get("method")
        if operation is None and self._session is not None and id_ in self._session.unacknowledged:
            operation = ACKNOWLEDGEMENT
        fault = None if operation is None else self._gateway.take_fault(operation)
        if isinstance(fault, Delay):
            self._tasks.create_task(self._process_later(message, operation, fault))
        else:
            await self._process(message, operation, fault)

    async def _process_later(self, message: JsonObject, operation: str | None, fault: Delay) -> None:
        """Process a message after the pause of a fault, unless the connection is lost meanwhile."""
        try:
            async with asyncio.timeout(fault.seconds):
                await self._lost.wait()
        except TimeoutError:
            await self._process(message, operation, fault)

    async def _process(self, message: JsonObject, operation: str | None, fault: RpcFault | None) -> None:
        """Answer a call with its result or an error, and a response with nothing, or do what the fault says."""
        answer, refused = None, None
        if fault is None or fault.applied:
            try:
                answer = self._answer(message)
            except RpcError as error:
                refused = error
        self._note(operation, fault, refused)
        match fault:
            case Stall():
                return
            case Reset():
                reset_connection(cast("asyncio.Transport", self._transport))  # which has brought the message
                return
            case RpcFailure(code, text):
                refused = RpcError(code, text, final=fault.closes)
            case _:
                pass
        if refused is not None:
            await self._refuse(message["id"], refused)
        elif answer is not None:
            await self._send({"id": message["id"], "result": answer})

    def _note(self, operation: str | None, fault: RpcFault | None, refused: RpcError | None) -> None:
        """Record an authentication, and any message that met a fault."""
        status = None
        is_authentication = operation in AUTHENTICATING and (refused is None or refused.reason is not None)
        if is_authentication and isinstance(fault, Delay | None):
            status = STATUSES[None if refused is None else refused.code]
        if fault is not None or status is not None:
            reason = None if refused is None else refused.reason
            self._gateway.note(cast("str", operation), status, reason, fault)

    def _answer(self, message: JsonObject) -> JsonObject | None:
        """Return the result of a call, or None for a response, which needs no answer."""
        method, params = message.get("method"), message["params"]
        if method is None:
            self._take_response(message)
            return None
        call, answerer = self._calls.get(method), self._gateway.answerers.get(method)
        if call is None and answerer is None:
            raise RpcError(METHOD_NOT_FOUND, "the method doesn't exist")
        if self._session is None and method not in (CONNECT, "signalwire.ping"):
            raise RpcError(NOT_AUTHENTICATED, "call signalwire.connect first")
        if call is not None:
            return call(params)
        try:
            result: object = cast("Callable[[JsonObject], JsonObject]", answerer)(params)
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from None
        if not isinstance(result, dict):
            raise TypeError(f"the function for {method} must return a dict, not {type(result).__name__}")
        return cast("JsonObject", result)

    def _take_response(self, message: JsonObject) -> None:
        """Record that the client has answered a ping, acknowledged an event, or is ready to be disconnected."""
        id_, session = message["id"], self._session
        if session is not None and id_ in session.unacknowledged:
            if not is_acknowledgement(message):
                return
            session.acknowledge(id_)
            self._update(acknowledged=cast("Connection", self._connection).acknowledged + 1)
        elif self._leaving is not None and id_ == self._leaving[0] and is_acknowledgement(message):
            self._leaving = id_, self._gateway.clock.now()
            self.woken.set()
        self._awaited.pop(id_, None)

    def _connect(self, params: JsonObject) -> JsonObject:
        if self._session is not None:
            raise RpcError(RPC_INVALID_REQUEST, "this connection is already connected: call signalwire.reauthenticate")
        clock, sessions = self._gateway.clock, self._gateway.sessions
        self._session = session = sessions.connect(params)
        claims = session.claims
        self._connection = Connection(
            id=session.connection_id,
            protocol=session.protocol,
            subscriber_id=UUID(claims.subscriber_id) if claims.subscriber_id else None,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            resumed=session.resumed,
        )
        self._ping_at = clock.now()
        if claims.expires_at <= clock.wall():
            self._grace_ends = clock.now() + RESUME_GRACE
        unacknowledged = list(session.unacknowledged.values())
        self._queue(session.make_state(clock.wall()), *unacknowledged)
        self._gateway.look()  # an earlier connection of the session is closed
        return {
            "identity": str(uuid4()),
            "protocol": session.protocol,
            "authorization": sessions.describe(session),
            "ice_servers": [],
        }

    def _reauthenticate(self, params: JsonObject) -> JsonObject:
        session, connection = cast("Session", self._session), cast("Connection", self._connection)
        self._gateway.sessions.reauthenticate(session, params)
        self._grace_ends = None
        self._update(
            expires_at=datetime.fromtimestamp(session.claims.expires_at, UTC),
            reauthenticated=connection.reauthenticated + 1,
        )
        self._queue(session.make_state(self._gateway.clock.wall()))
        return {"authorization": self._gateway.sessions.describe(session)}

    def _ping(self, params: JsonObject) -> JsonObject:
        check_timestamp(params)
        return {"timestamp": self._gateway.clock.wall()}

    def _register(self, *, is_online: bool) -> JsonObject:
        self._update(is_online=is_online)
        return {}

    def _update(self, **changes: Any) -> None:  # noqa: ANN401 - fields of a Connection
        self._connection = attrs.evolve(cast("Connection", self._connection), **changes)

    def _queue(self, *requests: Outgoing) -> None:
        """Queue requests for `watch` to send. The answer of the call that is handled now goes first."""
        self._outbox.extend(requests)
        self.woken.set()

    async def _send(self, message: JsonObject) -> None:
        await self._send_text(json.dumps({"jsonrpc": "2.0", **message}))

    async def _send_text(self, text: str) -> None:
        """Send a message. Abort the connection if the client doesn't read it in time.

        Without this limit, a client that never reads would keep the connection open after its token has expired.
        """
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._socket.send_str(text)
        except TimeoutError:
            self.cut()
        except ConnectionError:
            pass

    async def _refuse(self, id_: str | None, refused: RpcError) -> None:
        """Answer a message with an error, and close the connection if the error is final."""
        if refused.final:
            await self._end(id_, refused)
        else:
            await self._send({"id": id_, "error": {"code": refused.code, "message": refused.message}})

    async def _end(self, id_: str | None, refused: RpcError) -> None:
        """Send an error, and close the connection. `id_` is the id of the call that it answers, or None."""
        await self._send({"id": id_, "error": {"code": refused.code, "message": refused.message}})
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION)
