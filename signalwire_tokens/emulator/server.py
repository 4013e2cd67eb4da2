"""The emulator as its users see it: the service on a socket, with everything that can happen on the way."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from base64 import b64encode
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self, assert_never, get_args
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
from .calls import OPERATIONS, Reply, failure, operation_of
from .faults import Delay, Fault, Huge, Raw, Redirect, Reset, SkewDate, Stall, Status, Truncate
from .gateway import Connection, Gateway, is_handshake
from .http_server import Server, read_call
from .replies import answer, begin, flood, hang_up, http_date, is_open_to_browsers, preflight, status_of
from .rotation import ROTATIONS, Rotation
from .service import LARGEST_PAGE, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from signalwire_tokens.clock import Alarm
    from signalwire_tokens.durations import Duration

    from .limits import RateLimit

__all__ = ["Emulator", "Entry"]

HOST = "127.0.0.1"
BROWSER_HOSTS = ("puc.localhost", "fabric.localhost")  # where browsers look for a channel on this machine
NO_CERTIFICATE = "only a running emulator with tls=True has a certificate"
NOT_DONE = failure(500)
LAST_WORD = 1.0  # seconds that a request gets to end when the emulator closes


@attrs.frozen(kw_only=True)
class Entry:
    """What the emulator remembers of a request; never a secret.

    `operation` is None for a path that is none, and the method where a realtime connection says who it is; `auth` is
    the kind that was sent, good or not; `status` is None where a fault left the request without an answer; `reason` is
    why a token or a proof was refused, of which the answer says nothing.
    """

    operation: str | None
    auth: str | None
    status: int | None
    at: datetime
    fault: str | None = None
    reason: str | None = None


class ServiceClock:
    """The emulator's time: another clock's, and what was added to it."""

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead = 0.0

    def now(self) -> float:
        """Return seconds since some moment; to have advanced is to have been suspended."""
        return self._base.now() + self._ahead

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back as the other clock does."""
        return self._base.call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Sleep as the other clock does."""
        await self._base.sleep(seconds)

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return self._base.wall() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds


class Emulator:
    """SignalWire's token service on this machine.

    `async with Emulator() as emulator` serves on a port of its own until the block ends. `space`, `project_id` and
    `api_token` are what a client needs, and `client()` returns one. Tokens live as long as `lifetimes` says, by a clock
    that `advance` moves. `rotation` says what happens to tokens that were refreshed or replaced, which SignalWire
    doesn't publish: one of `ROTATIONS` by name, or a `Rotation`.

    `strict` also refuses unknown members of a body, unknown parameters of a query, and regions other than "us-central",
    which SignalWire doesn't publish. `rate_limit` refuses POST, PUT and PATCH requests above a rate and sends
    `X-RateLimit-*` headers. You can set both at any time. `statuses` has the statuses (400 to 599) of wrong requests by
    the code of their first problem, such as `{"token_expired": 401}`; the others have 422. Used and revoked refresh
    tokens have the status of the rotation.

    `channel` is the host that tokens name for realtime connections, and `{port}` in it is the emulator's own port:
    under TLS, "puc.localhost:{port}" leads the official browser SDK to the realtime gateway, which is served beside the
    API. Emulators with the same `seed` are the same space: they accept each other's credentials and tokens, but don't
    know what was done with them.
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
        for name, number in (("page_size", page_size), ("port", port)):
            check_whole(name, number)
        if page_size not in range(1, LARGEST_PAGE + 1) or port not in range(65536):
            raise ValueError(f"page_size must be one of 1 to {LARGEST_PAGE}, and port one of 0 to 65535")
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
            project_id=str(UUID(bytes=draw(seed, "project")[:16], version=4)),
            api_token=f"PT{draw(seed, 'api token').hex()[:48]}",
            key=draw(seed, "key"),
            strict=strict,
            rate_limit=rate_limit,
            statuses=statuses,
        )
        click_to_call = draw(seed, "click to call").hex()[:32]
        self.click_to_call: str = f"c2c_{click_to_call}"
        self.service.click_to_call |= {self.click_to_call, f"c2t_{click_to_call}"}
        self._channel = channel
        self._gateway = Gateway(self.service, self._clock, self._note_call)
        self.faults: list[Armed] = []
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
            raise RuntimeError("this emulator runs already")
        if self.tls:
            self._folder = TemporaryDirectory(prefix="signalwire-emulator-")
            self._context, self._pin = certify(self.ca_file)
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
        """The space's address, as `TokenClient` takes it."""
        return f"https://{HOST}:{self.port}" if self.tls else f"{HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The port that is served."""
        if not self._port:
            raise RuntimeError("the emulator has no port yet: use it as `async with Emulator() as emulator`")
        return self._port

    @property
    def gateway(self) -> str:
        """The URL of the realtime gateway."""
        return f"ws{'s' if self.tls else ''}://{HOST}:{self.port}/"

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The realtime connections that have authenticated, as they stand."""
        return self._gateway.connections

    @property
    def project_id(self) -> str:
        """The project's id."""
        return self.service.project_id

    @property
    def api_token(self) -> str:
        """The project's API token, which is good for nothing but this emulator."""
        return self.service.api_token

    @property
    def ca_file(self) -> Path:
        """The certificate to trust, as a PEM file that lives as long as the emulator."""
        if self._folder is None:
            raise RuntimeError(NO_CERTIFICATE)
        return Path(self._folder.name, "ca.pem")

    @property
    def server_context(self) -> ssl.SSLContext:
        """What another server on this machine needs to be trusted by whoever trusts the certificate."""
        if self._folder is None or self._context is None:
            raise RuntimeError(NO_CERTIFICATE)
        return self._context

    @property
    def browser_pin(self) -> str:
        """What makes Chromium trust the certificate: `--ignore-certificate-errors-spki-list=PIN --user-data-dir=…`."""
        if self._folder is None:
            raise RuntimeError(NO_CERTIFICATE)
        return self._pin

    @property
    def rate_limit(self) -> RateLimit | None:
        """How many requests are accepted; None if all are."""
        return self.service.meter.limit

    @rate_limit.setter
    def rate_limit(self, limit: RateLimit | None) -> None:
        self.service.meter.begin(limit)

    @property
    def strict(self) -> bool:
        """Whether what SignalWire's published description doesn't have is refused."""
        return self.service.strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        self.service.strict = strict

    def client(self, *, timeout: Duration = 10.0, retries: int = 3, clock: Clock | None = None) -> TokenClient:
        """Make a client for this emulator: its space, its credentials, its lifetimes and its time."""
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
        """Tell the emulator's time."""
        return datetime.fromtimestamp(self._clock.wall(), UTC)

    def advance(self, duration: Duration) -> None:
        """Let time pass: for the service, and for the clients that `client()` made."""
        self._clock.advance(passing_seconds(duration))
        self._gateway.look()

    def accepts(self, token: str | Token) -> bool:
        """Tell whether the service would take a token at this moment."""
        return self.service.accepts(token.value if isinstance(token, Token) else token)

    def revoke(self, token: str | Token) -> None:
        """Refuse a token from now on, though its end has not come."""
        self.service.revoke(token.value if isinstance(token, Token) else token)

    def add_address(self, name: str, *, subscriber_id: UUID | None = None) -> UUID:
        """Give the project, or one of its subscribers, an address to invite to; a new subscriber has one already."""
        return UUID(self.service.add_address(name, subscriber_id=str(subscriber_id) if subscriber_id else None))

    def rotate_api_token(self) -> str:
        """Give the project a new API token; the old one is refused from now on."""
        self.service.api_token = f"PT{secrets.token_hex(24)}"
        return self.service.api_token

    def fail(self, fault: Fault, *, operation: str | None = None, times: int | None = 1) -> None:
        """Give the next so many requests (of one operation) a fault; None means until `clear_faults`.

        Faults are met in the order in which they were asked for.
        """
        if operation is not None and operation not in OPERATIONS:
            raise ValueError(f"operation must be one of: {', '.join(OPERATIONS)}")
        if not isinstance(fault, get_args(Fault)):
            raise TypeError("fault must be one of signalwire_tokens.emulator's faults, such as Status(503)")
        if times is not None:
            check_whole("times", times)
            if times < 1:
                raise ValueError("times must be 1 or more, or None: until clear_faults()")
        self.faults.append(Armed(fault=fault, operation=operation, left=times))

    def clear_faults(self) -> None:
        """Forget the faults that were not met yet."""
        self.faults.clear()

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Refuse connections, and cut those that are open, for as long as the block lasts."""
        if not self._running:
            raise RuntimeError("the emulator is not running, or is unreachable already")
        await self._hang_up()
        try:
            yield
        finally:
            await self._listen()

    async def _listen(self) -> None:
        self._closing.clear()
        server = Server(self._serve, self._answer)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=LAST_WORD)
        self._server.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, HOST, self._port, ssl_context=self._context).start()
        self._running = True
        self._port = runner.addresses[0][1]
        self.service.origin = f"http{'s' if self.tls else ''}://{HOST}:{self._port}"
        self.service.set_channel(None if self._channel is None else self._channel.replace("{port}", str(self._port)))

    async def _hang_up(self) -> None:
        self._closing.set()
        self._gateway.cut()
        self._running = False
        await self._server.aclose()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        call = await read_call(request)
        if call.flaw is None:
            if call.method == "OPTIONS" and is_open_to_browsers(call.path):
                return preflight()
            if is_handshake(request):
                return await self._gateway.serve(request)
        operation = operation_of(call.method, call.path)
        fault = self._next_fault(operation)
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

    def _note_call(self, method: str, status: int, reason: str | None) -> None:
        """Remember that a realtime connection has said who it is."""
        entry = Entry(operation=method, auth="JWT", status=status, at=self.now(), reason=reason)
        self.requests.append(entry)
        self._on_request(entry)

    async def _wait(self, seconds: float | None) -> None:
        """Wait so long, or until the emulator closes."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _answer(self, request: web.BaseRequest, reply: Reply) -> web.Response:
        """Return a reply as HTTP, at the emulator's time."""
        return answer(request, reply, self._clock.wall())

    async def _respond(self, request: web.BaseRequest, reply: Reply, fault: Fault | None) -> web.StreamResponse:
        """Give a reply, in the way that a fault has it."""
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
                half = await begin(request, answer(request, reply, now))
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

    def _next_fault(self, operation: str | None) -> Fault | None:
        for armed in self.faults:
            if armed.operation in (None, operation):
                if armed.left is not None:
                    armed.left -= 1
                    if not armed.left:
                        self.faults.remove(armed)
                return armed.fault
        return None


def scheme_of(authorization: str | None) -> str | None:
    """Name the kind of authentication that was sent, and nothing that may be a secret."""
    if authorization is None:
        return None
    return {"basic": "Basic", "bearer": "Bearer"}.get(authorization.partition(" ")[0].lower(), "other")


def rotation_of(given: Rotation | str) -> Rotation:
    """Return a rotation that is given by name, or as one."""
    if isinstance(given, Rotation):
        return given
    if given not in ROTATIONS:
        raise ValueError(f"rotation must be a Rotation or one of: {', '.join(ROTATIONS)}")
    return ROTATIONS[given]


@attrs.define
class Armed:
    """A fault that waits for requests to meet it."""

    fault: Fault
    operation: str | None
    left: int | None


def certify(ca_file: Path) -> tuple[ssl.SSLContext, str]:
    """Make a certificate under an authority of its own, and leave the authority's where clients can trust it.

    Return a server's context, and the digest of the certificate's key.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    certificate = authority.issue_cert(HOST, "localhost", *BROWSER_HOSTS)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    key = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return context, b64encode(sha256(spki).digest()).decode()


def draw(seed: str | None, purpose: str) -> bytes:
    """Draw 32 bytes: anew each time, or the same ones for the same seed."""
    return secrets.token_bytes(32) if seed is None else sha256(f"{purpose} {seed}".encode()).digest()
