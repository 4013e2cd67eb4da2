"""The realtime gateway: JSON-RPC over WebSockets. A connection stays open only while its token is valid.

A connection has two states:

| state | the client can call | the gateway closes the connection |
| --- | --- | --- |
| waiting | `signalwire.connect`, `signalwire.ping` | 10 s after it was opened; if connecting fails |
| connected | everything but `signalwire.connect` | see below |

The gateway closes a connected connection for one of these reasons:

- The token expires. A client prevents that with `signalwire.reauthenticate` and a newer token of the same subscriber.
- Reauthenticating fails.
- A ping is not answered. The gateway pings at once after connecting, and then every 15 seconds. When the next ping is
  due, all earlier ones must have been answered.
- The client doesn't read what the gateway sends, or sends a message that isn't text. Both also count while waiting.

Other wrong calls get an error, and the connection stays open. It also stays open if the token is revoked, because the
gateway checks for that only when the client presents a token.

Each connection has two tasks. `GatewayConnection.listen` reads and answers messages. `GatewayConnection.watch` sleeps
until the next ping is due or the token expires. Pings go by `Clock.now`, which setting the wall clock doesn't change.
Tokens expire at a date, so their expiry goes by `Clock.wall`. `Emulator.advance` moves both readings, and wakes every
`watch`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import attrs
from aiohttp import WSCloseCode, WSMsgType, web

from signalwire_tokens.durations import spoken

from .possession import AuthenticationError
from .strict_json import read_json
from .validation import LAST_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from signalwire_tokens.clock import Clock

    from .sealing import Claims
    from .service import Service

__all__ = ["Connection", "Gateway", "is_handshake", "is_right_handshake"]

JsonObject = dict[str, Any]

LARGEST_MESSAGE = 64 * 1024
CONNECT_TIMEOUT = 10.0  # seconds within which a client must connect
NOT_CONNECTED = f"no signalwire.connect within {spoken(CONNECT_TIMEOUT)} of opening the connection"
OTHER_SUBSCRIBER = "the token belongs to another subscriber: reauthenticate with a token of the same one"
SEND_TIMEOUT = 5.0  # seconds of real time that sending a message may take, if the client doesn't read
PING_EVERY = 15.0  # seconds between pings, and the time to answer one
MAJOR_VERSION = 4  # of the protocol
# The codes of errors. The first four are those of JSON-RPC 2.0.
PARSE_ERROR, RPC_INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
NOT_AUTHENTICATED = -32002
OK, RPC_UNAUTHORIZED = 200, 401  # recorded for an authentication. JSON-RPC itself has no status


class RpcError(Exception):
    """A call failed, and is answered with an error. If it is `final`, the gateway then closes the connection."""

    def __init__(self, code: int, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.code: int = code
        self.message: str = message
        self.final: bool = final


@attrs.frozen(kw_only=True)
class Connection:
    """A realtime connection at one moment.

    - `id`: the connection's own id. `signalwire.connect` returns it as part of `protocol`.
    - `subscriber_id`: the subscriber that the token was issued for, or None for a guest.
    - `expires_at`: when the current token expires, and the connection with it.
    - `reauthenticated`: how many times the client has presented a newer token.
    - `is_online`: True after `subscriber.online`. False at first, and after `subscriber.offline`.
    """

    id: UUID
    subscriber_id: UUID | None
    expires_at: datetime
    reauthenticated: int = 0
    is_online: bool = False


class Gateway:
    """The realtime gateway with its open connections.

    `note(method, status, reason)` is called for each authentication, with status 200 or 401. `reason` explains a 401,
    and is None for a 200.
    """

    def __init__(self, service: Service, clock: Clock, note: Callable[[str, int, str | None], None]) -> None:
        self.service: Service = service
        self.clock: Clock = clock
        self.note: Callable[[str, int, str | None], None] = note
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

    async def serve(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """Accept a WebSocket, and serve it until it is closed."""
        socket = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE)
        await socket.prepare(request)
        line = GatewayConnection(self, socket, request.transport)
        self.lines.add(line)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(line.watch())
                await line.listen()
                line.woken.set()  # wakes `watch`, which ends because the socket is closed
        finally:
            self.lines.discard(line)
        return socket


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

    def __init__(self, gateway: Gateway, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._gateway, self._socket, self._transport = gateway, socket, transport
        self.connection: Connection | None = None
        self.woken: asyncio.Event = asyncio.Event()
        self._claims: Claims | None = None
        self._pings: set[str] = set()  # ids of pings that the client has not answered
        self._greet_by = gateway.clock.now() + CONNECT_TIMEOUT
        self._ping_at = self._greet_by
        self._calls: Mapping[str, Callable[[JsonObject], JsonObject]] = {
            "signalwire.connect": self._connect,
            "signalwire.reauthenticate": self._reauthenticate,
            "signalwire.ping": self._ping,
            "subscriber.online": lambda _: self._register(is_online=True),
            "subscriber.offline": lambda _: self._register(is_online=False),
        }

    def cut(self) -> None:
        """Abort the connection without a closing handshake."""
        if self._transport is not None:  # the client may have disconnected during the handshake
            self._transport.abort()

    async def listen(self) -> None:
        """Read and answer messages until the connection is closed. A message that isn't text closes it."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                break
            await self._handle(cast("str", message.data))

    async def watch(self) -> None:
        """Send pings, and close the connection when there is a reason. Return when it is closed.

        Each turn of the loop decides again what to do, because the time may have been moved while it slept.
        """
        clock = self._gateway.clock
        while not self._socket.closed:
            reason = self._find_end()
            if reason is not None:
                await self._end(None, RpcError(NOT_AUTHENTICATED, reason))
            elif self._claims is not None and clock.now() >= self._ping_at:
                self._ping_at = clock.now() + PING_EVERY
                id_ = str(uuid4())
                self._pings.add(id_)
                await self._send({"id": id_, "method": "signalwire.ping", "params": {"timestamp": clock.wall()}})
            else:
                await self._sleep(min(self._ping_at - clock.now(), self._seconds_left()))

    async def _sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the emulator's clock, or until `woken` is set.

        It is set when the time was moved, and when the connection was authenticated or closed.
        """
        alarm = self._gateway.clock.call_later(seconds, self.woken.set)
        try:
            await self.woken.wait()
        finally:
            self.woken.clear()
            alarm.cancel()

    def _seconds_left(self) -> float:
        """Return in how many seconds the token expires. Without a token, return a time after which to check again."""
        return PING_EVERY if self._claims is None else self._claims.expires_at - self._gateway.clock.wall()

    def _find_end(self) -> str | None:
        """Return the reason to close the connection now, or None if there isn't one."""
        now = self._gateway.clock.now()
        if self._claims is None:
            return NOT_CONNECTED if now >= self._greet_by else None
        if self._seconds_left() <= 0:
            return "the token has expired"
        return "a ping wasn't answered in time" if self._pings and now >= self._ping_at else None

    async def _handle(self, text: str) -> None:
        """Answer one message: a call with its result or an error, and a response to a ping with nothing."""
        id_: str | None = None
        try:
            message = read_message(text)
            id_ = message["id"] if isinstance(message.get("id"), str) else None
            check_message(message)
            if "method" not in message:
                self._pings.discard(message["id"])
                return
            await self._send({"id": id_, "result": self._answer(message)})
        except RpcError as refused:
            if refused.final:
                await self._end(id_, refused)
            else:
                await self._send({"id": id_, "error": {"code": refused.code, "message": refused.message}})

    def _answer(self, message: JsonObject) -> JsonObject:
        method = message["method"]
        call = self._calls.get(method)
        if call is None:
            raise RpcError(METHOD_NOT_FOUND, "the method doesn't exist")
        if self._claims is None and method not in ("signalwire.connect", "signalwire.ping"):
            raise RpcError(NOT_AUTHENTICATED, "call signalwire.connect first")
        return call(message["params"])

    def _connect(self, params: JsonObject) -> JsonObject:
        version = params.get("version")
        if self._claims is not None:
            raise RpcError(RPC_INVALID_REQUEST, "this connection is already connected: call signalwire.reauthenticate")
        if not isinstance(version, dict) or cast("JsonObject", version).get("major") != MAJOR_VERSION:
            raise RpcError(INVALID_PARAMS, "version.major must be 4", final=True)
        claims = self._authenticate("signalwire.connect", params)
        self._claims = claims
        self._ping_at = self._gateway.clock.now()
        self.connection = Connection(
            id=uuid4(),
            subscriber_id=UUID(claims.subscriber_id) if claims.subscriber_id else None,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
        )
        self.woken.set()
        return {
            "identity": str(uuid4()),
            "protocol": f"signalwire_{self.connection.id}",
            "authorization": self._describe(claims),
            "ice_servers": [],
        }

    def _reauthenticate(self, params: JsonObject) -> JsonObject:
        before = cast("Claims", self._claims)
        given = params.get("authentication")
        if not isinstance(given, dict) or cast("JsonObject", given).get("project") != self._gateway.service.project_id:
            raise RpcError(INVALID_PARAMS, "authentication.project must be the project's id", final=True)
        claims = self._authenticate("signalwire.reauthenticate", params)
        if (claims.holder, claims.subscriber_id) != (before.holder, before.subscriber_id):
            raise RpcError(NOT_AUTHENTICATED, OTHER_SUBSCRIBER, final=True)
        self._claims, connection = claims, cast("Connection", self.connection)
        self.connection = attrs.evolve(
            connection,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            reauthenticated=connection.reauthenticated + 1,
        )
        self.woken.set()
        return {"authorization": self._describe(claims)}

    def _authenticate(self, method: str, params: JsonObject) -> Claims:
        """Return the claims of the token that a call presents, if it is valid and has the proof that it needs.

        Raise a final `RpcError` for any other. The client doesn't get the reason, but `note` does.
        """
        given, service = params.get("authentication"), self._gateway.service
        try:
            claims = service.authenticate(
                cast("JsonObject", given).get("jwt_token") if isinstance(given, dict) else None
            )
            proof, thumbprint = params.get("dpop_token"), None
            if proof is not None:
                thumbprint = service.holders.verify(proof, {"rpc": "request", "mth": method})
            service.holders.check_binding(claims, thumbprint)
        except AuthenticationError as error:
            self._gateway.note(method, RPC_UNAUTHORIZED, str(error))
            raise RpcError(NOT_AUTHENTICATED, "authentication failed", final=True) from None
        self._gateway.note(method, OK, None)
        return claims

    def _describe(self, claims: Claims) -> JsonObject:
        """Return the `authorization` that the gateway answers: what the token allows, and for whom."""
        project_id = self._gateway.service.project_id
        return {
            "jti": claims.id,
            "project_id": project_id,
            "scope": list(claims.scope),
            **self._gateway.service.describe_binding(claims),
            "fabric_subscriber": {
                "version": 1,
                "expires_at": int(claims.expires_at),
                "subscriber_id": claims.subscriber_id,
                "application_id": claims.application_id,
                "project_id": project_id,
                "space_id": self._gateway.service.space_id,
            },
        }

    def _ping(self, params: JsonObject) -> JsonObject:
        timestamp = params.get("timestamp")
        if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or not 0 <= timestamp <= LAST_SECOND:
            raise RpcError(INVALID_PARAMS, "timestamp must be a number of seconds")
        return {"timestamp": self._gateway.clock.wall()}

    def _register(self, *, is_online: bool) -> JsonObject:
        self.connection = attrs.evolve(cast("Connection", self.connection), is_online=is_online)
        return {}

    async def _send(self, message: JsonObject) -> None:
        """Send a message. Abort the connection if the client doesn't read it in time.

        Without this limit, a client that never reads would keep the connection open after its token has expired.
        """
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._socket.send_json({"jsonrpc": "2.0", **message})
        except TimeoutError:
            self.cut()
        except ConnectionError:
            pass

    async def _end(self, id_: str | None, refused: RpcError) -> None:
        """Send an error, and close the connection. `id_` is the id of the call that it answers, or None."""
        await self._send({"id": id_, "error": {"code": refused.code, "message": refused.message}})
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION)


def read_message(text: str) -> JsonObject:
    """Return a message, with empty `params` if it has none. Raise a `RpcError` if it isn't a JSON object."""
    try:
        message = read_json(text)
    except ValueError:
        raise RpcError(PARSE_ERROR, "the message isn't valid JSON (RFC 8259)") from None
    if not isinstance(message, dict):
        raise RpcError(RPC_INVALID_REQUEST, "not a JSON-RPC 2.0 message: it must be an object")
    return {"params": {}, **cast("JsonObject", message)}


def check_message(message: JsonObject) -> None:
    """Raise a `RpcError` if a message isn't a valid call or response.

    JSON-RPC 2.0 allows calls without an id, and ids that are numbers. SignalWire's protocol uses neither.
    """
    is_call = isinstance(message.get("method"), str) and isinstance(message["params"], dict)
    is_answer = "method" not in message and ("result" in message) != ("error" in message)
    if message.get("jsonrpc") != "2.0" or not (is_call or is_answer):
        raise RpcError(
            RPC_INVALID_REQUEST, "not a JSON-RPC 2.0 message: it must have a method and params, or a result or an error"
        )
    if not isinstance(message.get("id"), str):
        raise RpcError(RPC_INVALID_REQUEST, "not a JSON-RPC 2.0 message: the id must be a string")
