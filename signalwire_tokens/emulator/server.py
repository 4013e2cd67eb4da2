"""The `Emulator`: the service on a socket, with faults, a record of requests, and a clock that tests can move.

Each HTTP request takes these steps:

1. aiohttp parses it, and `read_call` reads its body. A request that aiohttp can't parse gets a 400 and goes no further.
2. A CORS preflight is answered if browsers may use the path. A WebSocket handshake goes to the gateway. Faults apply to
   neither of them. Neither gets an `Entry`. The messages at the gateway have faults of their own. Each authentication
   there gets an `Entry`, and so does each message that meets a fault.
3. The first fault that matches the operation is used. If it is a `Delay`, the request waits here.
4. The service handles the request, unless the fault isn't `applied`. Only this step changes what the service knows.
5. The `Entry` is added to `requests`, and `on_request` is called.
6. The answer is sent, or what the fault makes of it.

So a client that has got its answer finds the entry of its request in `requests`.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import ssl
from base64 import b64encode
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, assert_never
from uuid import UUID

import attrs
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from signalwire_tokens.client import TokenClient
from signalwire_tokens.clock import SYSTEM, Clock
from signalwire_tokens.durations import passing_seconds
from signalwire_tokens.models import Lifetimes, Token

from .arguments import check_whole
from .calls import Reply, failure, operation_of
from .faults import Delay, Huge, Raw, Redirect, Reset, SkewDate, Stall, Status, Truncate
from .gateway import Connection, Gateway, is_handshake
from .http_server import Server, read_call
from .pending import PendingFaults
from .replies import answer, flood, hang_up, http_date, is_open_to_browsers, preflight, start_response, status_of
from .rotation import ROTATIONS, Rotation
from .rpc import AUTHENTICATING
from .service import LARGEST_PAGE, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from signalwire_tokens.clock import Alarm
    from signalwire_tokens.durations import Duration

    from .faults import Fault, HttpFault, RpcFault
    from .limits import RateLimit

__all__ = ["Emulator", "Entry"]

SERVER_HOST = "127.0.0.1"
BROWSER_HOSTS = ("puc.localhost", "fabric.localhost")  # browsers resolve these to this machine
NO_CERTIFICATE = "the emulator has no certificate: use it as `async with Emulator(tls=True) as emulator`"
NOT_DONE = failure(500)  # the reply that a fault replaces. The client never gets it
SHUTDOWN_TIMEOUT = 1.0  # seconds that running requests have to finish when the emulator closes


@attrs.frozen(kw_only=True)
class Entry:
    """The record of one request. It never holds a secret.

    - `operation`: the name of the operation, such as `"create_subscriber_token"`, or None for an unknown path. At the
      gateway, it is the method, such as `"signalwire.connect"`. An acknowledgement has `"signalwire.event"`.
    - `auth`: the kind of authentication that was sent, valid or not: `"Basic"`, `"Bearer"`, `"other"`, or None if there
      was none. At the gateway, it is `"JWT"`.
    - `status`: the status that was sent, or None if a fault sent no answer. At the gateway, an authentication has
      200, 401 for a refused token, or 403 for a session that isn't resumed. Any other message has None.
    - `at`: the emulator's time.
    - `fault`: the name of the fault's class, such as `"Reset"`, or None.
    - `reason`: why the service refused the request, where the answer itself doesn't explain it.
    """

    operation: str | None
    auth: str | None
    status: int | None
    at: datetime
    fault: str | None = None
    reason: str | None = None


class ServiceClock:
    """The emulator's time: the time of another clock, plus the seconds that `advance` has added.

    Alarms and sleeps are those of the other clock, so `advance` doesn't make them end earlier. To a session, a call of
    `advance` looks as if the machine had been suspended: time has passed, but its alarms have not rung. It notices at
    its next call, or when its next alarm rings.
    """

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead = 0.0

    def now(self) -> float:
        """Return seconds since an arbitrary moment. Advanced seconds count."""
        return self._base.now() + self._ahead

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back after `seconds` of the other clock. Advanced seconds don't count."""
        return self._base.call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of the other clock. Advanced seconds don't count."""
        await self._base.sleep(seconds)

    def wall(self) -> float:
        """Return seconds since the epoch. Advanced seconds count."""
        return self._base.wall() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._ahead += seconds


class Emulator:
    """SignalWire's token service, emulated on this machine.

    `async with Emulator() as emulator` serves on loopback until the block ends. `client()` returns a client for it. Any
    other client needs the emulator's `space`, `project_id` and `api_token`. `click_to_call` is a public token for
    `create_embed_token`. `requests` has an `Entry` for each request.

    - `lifetimes`: how long tokens live. None means SignalWire's own lifetimes.
    - `rotation`: what happens to tokens that were refreshed or replaced, which SignalWire doesn't publish. It is one of
      `ROTATIONS` by name, or a `Rotation`.
    - `clock`: the clock that the emulator's time comes from. None means the machine's. `advance` adds to it.
    - `tls`: serve https, with a certificate from an authority of the emulator's own. See `ca_file`.
    - `port`: the port to serve. 0 chooses a free one. The emulator keeps its port if you use it again.
    - `channel`: the realtime host that tokens name in their header. None leaves it out. `{port}` in it becomes the
      emulator's own port. With `tls`, "puc.localhost:{port}" leads the official browser SDK to the emulator's gateway.
    - `page_size`: the number of addresses on a page (1 to 1,000), if a request doesn't choose.
    - `seed`: emulators with the same seed accept each other's credentials and tokens, like one space. But they don't
      know what was done with each other's tokens. Without a seed, each emulator is a space of its own.
    - `strict`: also refuse what SignalWire doesn't publish: unknown members of a body, unknown parameters of a query,
      and regions other than "us-central". You can set it at any time.
    - `rate_limit`: answer 429 to POST, PUT and PATCH requests above a rate, and send `X-RateLimit-*` headers. None
      accepts all. You can set it at any time.
    - `statuses`: the statuses (400 to 599) of wrong requests by the code of their first problem, such as
      `{"token_expired": 401}`. Other codes have 422. Used and revoked refresh tokens have the status of the rotation.
    - `on_request`: called on the event loop with the `Entry` of each request, before the request is answered. If it
      raises, the request gets a 500.
    """

    def __init__(
        self,
        *,
        lifetimes: Lifetimes | None = None,
        rotation: Rotation | str = "single-use",
        clock: Clock | None = None,
        tls: bool = False,
        port: int = 0,
        channel: str | None = "puc.signalwire.com",
        page_size: int = 50,
        seed: str | None = None,
        strict: bool = False,
        rate_limit: RateLimit | None = None,
        statuses: Mapping[str, int] | None = None,
        on_request: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        for name, number, least, most in (("page_size", page_size, 1, LARGEST_PAGE), ("port", port, 0, 65535)):
            check_whole(name, number)
            if not least <= number <= most:
                raise ValueError(f"{name} must be from {least} to {most}, got {number}")
        self.requests: list[Entry] = []
        self.lifetimes: Lifetimes = Lifetimes() if lifetimes is None else lifetimes
        self._clock = ServiceClock(SYSTEM if clock is None else clock)
        self.tls: bool = tls
        self._port = port
        self._on_request = on_request
        self.service: Service = Service(
            now=self._clock.wall,
            lifetimes=self.lifetimes,
            rotation=rotation_of(rotation),
            channel=None,
            page_size=page_size,
            project_id=str(UUID(bytes=derive_bytes(seed, "project")[:16], version=4)),
            api_token=f"PT{derive_bytes(seed, 'api token').hex()[:48]}",
            key=derive_bytes(seed, "key"),
            strict=strict,
            rate_limit=rate_limit,
            statuses=statuses,
        )
        click_to_call = derive_bytes(seed, "click to call").hex()[:32]
        self.click_to_call: str = f"c2c_{click_to_call}"
        self.service.click_to_call |= {self.click_to_call, f"c2t_{click_to_call}"}
        self._channel = channel
        self.faults: PendingFaults = PendingFaults()
        self._gateway = Gateway(self.service, self._clock, take_fault=self.faults.take_rpc, note=self._note_message)
        self._running = False
        self._server = AsyncExitStack()
        self._folder: TemporaryDirectory[str] | None = None
        self._context: ssl.SSLContext | None = None
        self._pin = ""
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Emulator {self.space if self._running else 'not running'}>"

    async def __aenter__(self) -> Self:
        if self._running:
            raise RuntimeError("the emulator is already running: create another Emulator for a second one")
        if self.tls:
            self._folder = TemporaryDirectory(prefix="signalwire-emulator-")
            self._context, self._pin = issue_certificate(self.ca_file)
        try:
            await self._listen()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._hang_up()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def space(self) -> str:
        """The address of the space, for the argument `space` of a `TokenClient`."""
        return f"https://{SERVER_HOST}:{self.port}" if self.tls else f"{SERVER_HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The port of the API and the gateway. Raise a `RuntimeError` before the emulator has first run."""
        if not self._port:
            raise RuntimeError("the emulator has no port yet: use it as `async with Emulator() as emulator`")
        return self._port

    @property
    def gateway(self) -> str:
        """The URL of the realtime gateway."""
        return f"ws{'s' if self.tls else ''}://{SERVER_HOST}:{self.port}/"

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The realtime connections that are authenticated and open, as they are at this moment."""
        return self._gateway.connections

    @property
    def project_id(self) -> str:
        """The project's id."""
        return self.service.project_id

    @property
    def api_token(self) -> str:
        """The project's API token. It works with this emulator, and with others that have the same seed."""
        return self.service.api_token

    @property
    def ca_file(self) -> Path:
        """The PEM file with the certificate authority that clients must trust. It is deleted when the emulator closes.

        Reading this without `tls`, or while the emulator isn't running, raises a `RuntimeError`. The same goes for
        `server_context` and `browser_pin`.
        """
        if self._folder is None:
            raise RuntimeError(NO_CERTIFICATE)
        return Path(self._folder.name, "ca.pem")

    @property
    def server_context(self) -> ssl.SSLContext:
        """An SSL context for other servers on this machine. Clients that trust `ca_file` trust these servers, too."""
        if self._folder is None or self._context is None:
            raise RuntimeError(NO_CERTIFICATE)
        return self._context

    @property
    def browser_pin(self) -> str:
        """The digest of the certificate's key, with which Chromium trusts the emulator without `ca_file`.

        Start Chromium with `--ignore-certificate-errors-spki-list=PIN --user-data-dir=…`.
        """
        if self._folder is None:
            raise RuntimeError(NO_CERTIFICATE)
        return self._pin

    @property
    def rate_limit(self) -> RateLimit | None:
        """The limit of requests, or None if all are accepted. Setting it begins a new period."""
        return self.service.meter.limit

    @rate_limit.setter
    def rate_limit(self, limit: RateLimit | None) -> None:
        self.service.meter.begin(limit)

    @property
    def strict(self) -> bool:
        """The setting that refuses requests which SignalWire's published description doesn't have."""
        return self.service.strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self.service.strict = strict

    def client(self, *, timeout: Duration = 10.0, retries: int = 3, clock: Clock | None = None) -> TokenClient:
        """Return a client for this emulator, with its space, credentials, certificate and lifetimes.

        If `clock` is None, the client and its sessions use the emulator's time, which `advance` moves. `timeout` counts
        real time. The caller closes the client.
        """
        return TokenClient(
            self.space,
            self.project_id,
            self.api_token,
            ssl=ssl.create_default_context(cafile=self.ca_file) if self.tls else None,
            timeout=timeout,
            retries=retries,
            lifetimes=self.lifetimes,
            clock=self._clock if clock is None else clock,
        )

    def now(self) -> datetime:
        """Return the emulator's time, in UTC."""
        return datetime.fromtimestamp(self._clock.wall(), UTC)

    def advance(self, duration: Duration) -> None:
        """Move the time forward, for the service, its gateway, and the clients from `client()`.

        Alarms that are already set don't ring earlier, as if the machine had been suspended. To make sessions renew
        tokens in the background as time passes, pass a `VirtualClock` as `clock` to the `Emulator`, and advance that.
        """
        self._clock.advance(passing_seconds(duration))
        self._gateway.look()

    def accepts(self, token: str | Token) -> bool:
        """Return whether the service would accept an access token or refresh token now. This uses nothing up."""
        return self.service.accepts(token.value if isinstance(token, Token) else token)

    def revoke(self, token: str | Token) -> None:
        """Revoke one access token or refresh token before it expires. The other token of its pair stays valid.

        Raise a `ValueError` for a text that isn't a token of this space.
        """
        self.service.revoke(token.value if isinstance(token, Token) else token)

    def add_address(self, name: str, *, subscriber_id: UUID | None = None) -> UUID:
        """Add an address, and return its id. Guests can be allowed to call it, and invites can lead to it.

        It belongs to the subscriber with this id, or with None to the project alone. A new subscriber has one already.
        """
        return UUID(self.service.add_address(name, subscriber_id=str(subscriber_id) if subscriber_id else None))

    def rotate_api_token(self) -> str:
        """Replace the project's API token, and return the new one. The service refuses the old one from now on."""
        self.service.api_token = f"PT{secrets.token_hex(24)}"
        return self.service.api_token

    def fail(self, fault: Fault, *, operation: str | None = None, times: int | None = 1) -> None:
        """Apply a fault to the next `times` requests, or with None to all until `clear_faults`.

        `operation` limits the fault to the requests of one operation. None means all HTTP requests, those to unknown
        paths included. Each request meets at most one fault: the earliest one added that matches and isn't used up. So
        after `fail(Status(503), times=2)` and `fail(Reset())`, two requests get a 503 and the third one a reset.

        At the realtime gateway, `operation` is a method that the client calls, such as `"signalwire.connect"`, and the
        fault is a `RpcFailure`, `Delay`, `Reset` or `Stall`. With `"signalwire.event"`, it applies to acknowledgements
        of events: `Reset()` and `Stall()` lose them.
        """
        self.faults.add(fault, operation, times)

    def clear_faults(self) -> None:
        """Remove all faults that requests have not used up. A request that already waits in a fault still does."""
        self.faults.clear()

    def expire(self, token: str | Token) -> None:
        """Expire an access token now. Connections that use it are closed, as at any expiry.

        Raise a `ValueError` for a text that isn't an access token of this space.
        """
        self._gateway.expire(self.service.expire(token.value if isinstance(token, Token) else token))

    def on_call(self, method: str, function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Answer a method of the realtime gateway that it doesn't know, such as `"webrtc.verto"`, with a function.

        The function gets the `params`, and returns the result. A `ValueError` that it raises becomes the error -32602
        with its text. Any other error closes the connection, and is logged.

        Raise a `ValueError` for a method that the gateway answers itself, or whose name has no dot.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError("function must not be async: it gets the params, and returns the result")
        if "." not in method:
            raise ValueError("method must have a dot, such as 'webrtc.verto'")
        self._gateway.answer(method, function)

    def send_event(
        self,
        event_type: str,
        params: dict[str, Any] | None = None,
        *,
        connection: Connection | UUID | None = None,
        event_channel: str | None = None,
    ) -> int:
        """Send a `signalwire.event` to a realtime connection or its id, or with None to all. Return how many get it.

        If `event_channel` is None, the channel contains the connection's `protocol`. With "", the event has no channel.
        A client that connected with `event_acks` must acknowledge the event. If its connection is lost first, the event
        is sent again when it resumes.

        Raise a `ValueError` if the connection isn't open.
        """
        return self._gateway.send_event(event_type, {} if params is None else params, connection, event_channel)

    def disconnect(self, *, restart: bool = False, connection: Connection | UUID | None = None) -> int:
        """Send `signalwire.disconnect` to a realtime connection or its id, or with None to all. Return to how many.

        The gateway closes the connection when the client has answered, or after 5 seconds. With `restart`, it forgets
        the session, so that it can't be resumed.

        Raise a `ValueError` if the connection isn't open.
        """
        return self._gateway.disconnect(connection, restart=restart)

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Close the port and abort open connections while the block runs, then serve on the same port again.

        Clients find connections refused. The service keeps its state. If another program has taken the port meanwhile,
        the end of the block raises an `OSError`.
        """
        if not self._running:
            raise RuntimeError(
                "the emulator isn't running, or is already unreachable: call unreachable() once, in its `async with`"
            )
        await self._hang_up()
        try:
            yield
        finally:
            await self._listen()

    async def _listen(self) -> None:
        """Serve the port. The exit stack closes the server even if this fails half-way."""
        self._closing.clear()
        server = Server(self._serve, self._answer)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT)
        self._server.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, SERVER_HOST, self._port, ssl_context=self._context).start()
        self._running = True
        self._port = runner.addresses[0][1]
        self.service.origin = f"http{'s' if self.tls else ''}://{SERVER_HOST}:{self._port}"
        self.service.set_channel(None if self._channel is None else self._channel.replace("{port}", str(self._port)))

    async def _hang_up(self) -> None:
        """Stop serving: end the faults that wait, abort realtime connections, and close the port."""
        self._closing.set()
        self._gateway.cut()
        self._running = False
        await self._server.aclose()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to one request. The module's docstring lists the steps."""
        call = await read_call(request)
        if call.malformed_because is None:
            if call.method == "OPTIONS" and is_open_to_browsers(call.path):
                return preflight()
            if is_handshake(request):
                return await self._gateway.serve(request)
        operation = operation_of(call.method, call.path)
        fault = self.faults.take_http(operation)
        if isinstance(fault, Delay):
            await self._wait(fault.seconds)
        reply = self.service.handle(call) if fault is None or fault.applied else NOT_DONE
        entry = Entry(
            operation=operation,
            auth=scheme_of(call.authorization),
            status=status_of(fault, reply),
            at=self.now(),
            fault=None if fault is None else type(fault).__name__,
            reason=reply.reason,
        )
        self.requests.append(entry)
        self._on_request(entry)
        return await self._respond(request, reply, fault)

    def _note_message(self, method: str, status: int | None, reason: str | None, fault: RpcFault | None) -> None:
        """Record a message at the gateway: an authentication, or one that met a fault."""
        entry = Entry(
            operation=method,
            auth="JWT" if method in AUTHENTICATING else None,
            status=status,
            at=self.now(),
            fault=None if fault is None else type(fault).__name__,
            reason=reason,
        )
        self.requests.append(entry)
        self._on_request(entry)

    async def _wait(self, seconds: float | None) -> None:
        """Wait for `seconds` of real time, or with None without a limit. Closing the port ends the wait."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _answer(self, request: web.BaseRequest, reply: Reply) -> web.Response:
        """Return a reply as an HTTP response, dated with the emulator's time."""
        return answer(request, reply, self._clock.wall())

    async def _respond(self, request: web.BaseRequest, reply: Reply, fault: HttpFault | None) -> web.StreamResponse:
        """Return the response that the client gets: the reply, or what the fault makes of it.

        Faults that send only a part, or nothing, write to the connection themselves and then close it.
        """
        now = self._clock.wall()
        match fault:
            case None | Delay():
                return answer(request, reply, now)
            case SkewDate(seconds):
                return answer(request, reply, now + seconds)
            case Status(status):
                return answer(request, failure(status, code=fault.code), now, fault=fault)
            case Raw(body, status=status, content_type=content_type):
                return web.Response(
                    status=status, body=body, headers={"Content-Type": content_type, "Date": http_date(now)}
                )
            case Redirect(location, status=status):
                return web.Response(status=status, headers={"Location": location, "Date": http_date(now)})
            case Huge(size):
                return await flood(request, size)
            case Truncate(stall=stall):
                half = await start_response(request, answer(request, reply, now))
                if stall:
                    await self._wait(None)
                return hang_up(request, half)
            case Stall():
                await self._wait(None)
                return hang_up(request, web.Response())
            case Reset():
                return hang_up(request, web.Response(), reset=True)
            case _:
                assert_never(fault)


def scheme_of(authorization: str | None) -> str | None:
    """Return the kind of authentication that was sent, or None if there was none.

    Any kind but the known ones is "other". A client that forgets the word `Bearer` sends its token in that place.
    """
    if authorization is None:
        return None
    return {"basic": "Basic", "bearer": "Bearer"}.get(authorization.partition(" ")[0].lower(), "other")


def rotation_of(given: Rotation | str) -> Rotation:
    """Return the rotation with a name, or a `Rotation` unchanged. Raise a `ValueError` for an unknown name."""
    if isinstance(given, Rotation):
        return given
    if given not in ROTATIONS:
        raise ValueError(f"rotation must be a Rotation or one of: {', '.join(ROTATIONS)}")
    return ROTATIONS[given]


def issue_certificate(ca_file: Path) -> tuple[ssl.SSLContext, str]:
    """Create an authority and a certificate for this machine, and write the authority's certificate to `ca_file`.

    Return the SSL context for a server, and the digest of its public key for Chromium (SHA-256 in base64).
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    certificate = authority.issue_cert(SERVER_HOST, "localhost", *BROWSER_HOSTS)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    key = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return context, b64encode(sha256(spki).digest()).decode()


def derive_bytes(seed: str | None, purpose: str) -> bytes:
    """Return 32 bytes for a purpose: random ones without a seed, and always the same ones for a seed."""
    return secrets.token_bytes(32) if seed is None else sha256(f"{purpose} {seed}".encode()).digest()
