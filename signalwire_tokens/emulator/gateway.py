"""The realtime gateway: JSON-RPC over WebSockets, each of them good for as long as its token is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import attrs
from aiohttp import WSCloseCode, WSMsgType, web

from .possession import UnprovenError
from .strict_json import read_json
from .validation import LAST_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from signalwire_tokens.clock import Clock

    from .sealing import Claims
    from .service import Service

__all__ = ["Connection", "Gateway", "is_handshake", "is_right_handshake"]

Json = dict[str, Any]

LARGEST_MESSAGE = 64 * 1024
GREETING = 10.0  # seconds within which a connection has to say who it is
PATIENCE = 5.0  # seconds for which nobody has to listen
PING_EVERY = 15.0  # seconds, in which a ping must be answered
MAJOR_VERSION = 4
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
NOT_AUTHENTICATED = -32002
OK, UNAUTHORIZED = 200, 401


class RefusedError(Exception):
    """Answers a call with an error; one that is final ends the connection."""

    def __init__(self, code: int, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.code: int = code
        self.message: str = message
        self.final: bool = final


@attrs.frozen(kw_only=True)
class Connection:
    """A realtime connection as it stands: whose it is, until when its token lives, and what it has done."""

    id: UUID
    subscriber_id: UUID | None
    expires_at: datetime
    reauthenticated: int = 0
    is_online: bool = False


class Gateway:
    """All connections that are open. `note(method, status, reason)` is told of each that says who it is."""

    def __init__(self, service: Service, clock: Clock, note: Callable[[str, int, str | None], None]) -> None:
        self.service: Service = service
        self.clock: Clock = clock
        self.note: Callable[[str, int, str | None], None] = note
        self.lines: set[Line] = set()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those that have said who they are."""
        return tuple(line.connection for line in self.lines if line.connection is not None)

    def look(self) -> None:
        """Have each connection see what time it is."""
        for line in self.lines:
            line.looked.set()

    def cut(self) -> None:
        """Cut all connections off, without a word."""
        for line in self.lines:
            line.cut()

    async def serve(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """Serve a connection until it ends."""
        socket = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE)
        await socket.prepare(request)
        line = Line(self, socket, request.transport)
        self.lines.add(line)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(line.watch())
                await line.listen()
                line.looked.set()
        finally:
            self.lines.discard(line)
        return socket


def is_handshake(request: web.BaseRequest) -> bool:
    """Return whether a request asks for a realtime connection."""
    return request.rel_url.raw_path == "/" and request.headers.get("Upgrade", "").lower() == "websocket"


def is_right_handshake(request: web.BaseRequest) -> bool:
    """Return whether a realtime connection can be made. The gateway knows no subprotocol."""
    if request.method != "GET" or "Sec-WebSocket-Protocol" in request.headers:
        return False
    try:
        return web.WebSocketResponse().can_prepare(request).ok
    except ValueError:  # from a key that isn't ASCII
        return False


class Line:
    """One connection."""

    def __init__(self, gateway: Gateway, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self._gateway, self._socket, self._transport = gateway, socket, transport
        self.connection: Connection | None = None
        self.looked: asyncio.Event = asyncio.Event()
        self._claims: Claims | None = None
        self._pings: set[str] = set()  # that were not answered
        self._greet_by = gateway.clock.now() + GREETING
        self._ping_at = self._greet_by
        self._calls: Mapping[str, Callable[[Json], Json]] = {
            "signalwire.connect": self._connect,
            "signalwire.reauthenticate": self._reauthenticate,
            "signalwire.ping": self._ping,
            "subscriber.online": lambda _: self._register(is_online=True),
            "subscriber.offline": lambda _: self._register(is_online=False),
        }

    def cut(self) -> None:
        """Cut the connection off."""
        if self._transport is not None:  # whoever asked may have hung up at once
            self._transport.abort()

    async def listen(self) -> None:
        """Answer what is said, until nothing more is."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                break
            await self._hear(cast("str", message.data))

    async def watch(self) -> None:
        """Ping, and end the connection when its token does."""
        clock = self._gateway.clock
        while not self._socket.closed:
            reason = self._find_end()
            if reason is not None:
                await self._end(None, RefusedError(NOT_AUTHENTICATED, reason))
            elif self._claims is not None and clock.now() >= self._ping_at:
                self._ping_at = clock.now() + PING_EVERY
                id_ = str(uuid4())
                self._pings.add(id_)
                await self._say({"id": id_, "method": "signalwire.ping", "params": {"timestamp": clock.wall()}})
            else:
                await self._rest(min(self._ping_at - clock.now(), self._left()))

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until somebody moves the time."""
        alarm = self._gateway.clock.call_later(seconds, self.looked.set)
        try:
            await self.looked.wait()
        finally:
            self.looked.clear()
            alarm.cancel()

    def _left(self) -> float:
        """Tell how long the token lives."""
        return PING_EVERY if self._claims is None else self._claims.expires_at - self._gateway.clock.wall()

    def _find_end(self) -> str | None:
        """Say why the connection is to end, if it is."""
        now = self._gateway.clock.now()
        if self._claims is None:
            return "nobody has connected in time" if now >= self._greet_by else None
        if self._left() <= 0:
            return "the token has expired"
        return "a ping was not answered" if self._pings and now >= self._ping_at else None

    async def _hear(self, text: str) -> None:
        """Answer a message."""
        id_: str | None = None
        try:
            message = read_message(text)
            id_ = message["id"] if isinstance(message.get("id"), str) else None
            check_message(message)
            if "method" not in message:
                self._pings.discard(message["id"])
                return
            await self._say({"id": id_, "result": self._answer(message)})
        except RefusedError as refused:
            if refused.final:
                await self._end(id_, refused)
            else:
                await self._say({"id": id_, "error": {"code": refused.code, "message": refused.message}})

    def _answer(self, message: Json) -> Json:
        method = message["method"]
        call = self._calls.get(method)
        if call is None:
            raise RefusedError(METHOD_NOT_FOUND, "there is no such method")
        if self._claims is None and method not in ("signalwire.connect", "signalwire.ping"):
            raise RefusedError(NOT_AUTHENTICATED, "signalwire.connect comes first")
        return call(message["params"])

    def _connect(self, params: Json) -> Json:
        version = params.get("version")
        if self._claims is not None:
            raise RefusedError(INVALID_REQUEST, "this connection is connected already")
        if not isinstance(version, dict) or cast("Json", version).get("major") != MAJOR_VERSION:
            raise RefusedError(INVALID_PARAMS, "version.major must be 4", final=True)
        claims = self._authenticate("signalwire.connect", params)
        self._claims = claims
        self._ping_at = self._gateway.clock.now()
        self.connection = Connection(
            id=uuid4(),
            subscriber_id=UUID(claims.subscriber_id) if claims.subscriber_id else None,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
        )
        self.looked.set()
        return {
            "identity": str(uuid4()),
            "protocol": f"signalwire_{self.connection.id}",
            "authorization": self._describe(claims),
            "ice_servers": [],
        }

    def _reauthenticate(self, params: Json) -> Json:
        before = cast("Claims", self._claims)
        given = params.get("authentication")
        if not isinstance(given, dict) or cast("Json", given).get("project") != self._gateway.service.project_id:
            raise RefusedError(INVALID_PARAMS, "authentication.project must be the project's id", final=True)
        claims = self._authenticate("signalwire.reauthenticate", params)
        if (claims.holder, claims.subscriber_id) != (before.holder, before.subscriber_id):
            raise RefusedError(NOT_AUTHENTICATED, "the token is somebody else's", final=True)
        self._claims, connection = claims, cast("Connection", self.connection)
        self.connection = attrs.evolve(
            connection,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            reauthenticated=connection.reauthenticated + 1,
        )
        self.looked.set()
        return {"authorization": self._describe(claims)}

    def _authenticate(self, method: str, params: Json) -> Claims:
        """Take a token that is live, from whoever may have it; any other ends the connection."""
        given, service = params.get("authentication"), self._gateway.service
        try:
            claims = service.authenticate(cast("Json", given).get("jwt_token") if isinstance(given, dict) else None)
            proof, thumbprint = params.get("dpop_token"), None
            if proof is not None:
                thumbprint = service.holders.verify(proof, {"rpc": "request", "mth": method})
            service.holders.admit(claims, thumbprint)
        except UnprovenError as error:
            self._gateway.note(method, UNAUTHORIZED, str(error))
            raise RefusedError(NOT_AUTHENTICATED, "authentication failed", final=True) from None
        self._gateway.note(method, OK, None)
        return claims

    def _describe(self, claims: Claims) -> Json:
        """Say what a token allows."""
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

    def _ping(self, params: Json) -> Json:
        timestamp = params.get("timestamp")
        if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or not 0 <= timestamp <= LAST_SECOND:
            raise RefusedError(INVALID_PARAMS, "timestamp must be a number of seconds")
        return {"timestamp": self._gateway.clock.wall()}

    def _register(self, *, is_online: bool) -> Json:
        self.connection = attrs.evolve(cast("Connection", self.connection), is_online=is_online)
        return {}

    async def _say(self, message: Json) -> None:
        """Say something; whoever does not listen is cut off."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._socket.send_json({"jsonrpc": "2.0", **message})
        except TimeoutError:
            self.cut()
        except ConnectionError:
            pass

    async def _end(self, id_: str | None, refused: RefusedError) -> None:
        """Say why, and close."""
        await self._say({"id": id_, "error": {"code": refused.code, "message": refused.message}})
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION)


def read_message(text: str) -> Json:
    """Return a message, with its parameters; refuse what isn't a JSON object."""
    try:
        message = read_json(text)
    except ValueError:
        raise RefusedError(PARSE_ERROR, "this is not JSON") from None
    if not isinstance(message, dict):
        raise RefusedError(INVALID_REQUEST, "this is no JSON-RPC 2.0")
    return {"params": {}, **cast("Json", message)}


def check_message(message: Json) -> None:
    """Refuse what is neither a call nor an answer to one."""
    is_call = isinstance(message.get("method"), str) and isinstance(message["params"], dict)
    is_answer = "method" not in message and ("result" in message) != ("error" in message)
    if message.get("jsonrpc") != "2.0" or not (is_call or is_answer):
        raise RefusedError(INVALID_REQUEST, "this is no JSON-RPC 2.0")
    if not isinstance(message.get("id"), str):
        raise RefusedError(INVALID_REQUEST, "every message has an id here, which is a string")
