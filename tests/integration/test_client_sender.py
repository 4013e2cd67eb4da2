"""One request over HTTP: exactly what leaves, and what each way of failing becomes."""

import asyncio
import errno
import gzip
import socket
import ssl
import tracemalloc
import warnings
import zlib
from base64 import b64decode
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import pytest
from aioresponses import aioresponses
from yarl import URL

from signalwire_tokens import (
    ConfigurationError,
    ConnectionFailed,
    ServerError,
    TimedOut,
    TokenClient,
    TransportError,
    UnexpectedResponse,
    ValidationFailed,
    wire,
)
from signalwire_tokens.emulator import Emulator
from support.streams import serving
from support.waiting import HANG

pytestmark = pytest.mark.usefixtures("loop_time")

OURS = {"host", "accept", "accept-encoding", "user-agent", "content-type", "content-length"}
EMBEDS = "https://acme.signalwire.com/api/fabric/embeds/tokens"
GOOD = b'HTTP/1.1 201 Created\r\nContent-Length: 15\r\n\r\n{"token":"abc"}'


@asynccontextmanager
async def listener(answer=GOOD):
    """A bare socket: what arrives is kept as it is, and what is answered need not be HTTP."""
    requests = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
        requests.append((head.decode().split(" ")[:2], {name.lower(): text for name, text in headers.items()}, body))
        writer.write(answer)
        await writer.drain()

    async with serving(serve) as port:
        yield f"127.0.0.1:{port}", requests


async def embed(space, **options):
    async with TokenClient(space, "project", "hush", **{"retries": 0, "timeout": 2, **options}) as client:
        return await client.create_embed_token("c2c_x")


async def test_nothing_leaves_that_is_not_ours():
    """The headers that HTTP needs, and no more; the project's credentials are not for this operation. (P38)"""
    async with listener() as (space, requests):
        await embed(space)
    ((line, headers, body),) = requests
    assert line == ["POST", "/api/fabric/embeds/tokens"]
    assert set(headers) == OURS
    assert headers["user-agent"].startswith("signalwire-tokens/")
    assert headers["accept-encoding"] == "identity"
    assert body == b'{"token":"c2c_x"}'


@pytest.mark.parametrize("is_borrowed", [False, True])
async def test_a_request_without_a_body_has_no_headers_of_one(is_borrowed):
    """A GET with a length, or a type, would be odd."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n{"id":"0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001"}'
    async with (
        listener(answer) as (space, requests),
        aiohttp.ClientSession() as http,
        TokenClient(space, retries=0, http_session=http if is_borrowed else None) as client,
    ):
        await client.subscriber_info("hush")
    ((line, headers, body),) = requests
    assert line == ["GET", "/api/fabric/subscriber/info"]
    assert set(headers) == OURS - {"content-type", "content-length"} | {"authorization"}
    assert body == b""


async def test_our_own_session_takes_nothing_from_its_surroundings(monkeypatch, tmp_path):
    """Neither netrc's credentials, nor a proxy's address, nor a cookie that came with the last answer."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login leak password leak\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    answer = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\nSet-Cookie: leak=1\r\n\r\n", 1)
    async with listener(answer) as (space, requests), TokenClient(space, retries=0) as client:
        await client.create_embed_token("c2c_x")
        await client.create_embed_token("c2c_x")
    assert [set(headers) for _, headers, _ in requests] == [OURS, OURS]


def test_what_is_no_session_is_refused():
    """By its name."""
    with pytest.raises(ConfigurationError, match=r"http_session must be an aiohttp\.ClientSession"):
        TokenClient("acme", http_session=object())


@pytest.mark.parametrize(("space", "options"), [("localhost:8080", {}), ("acme", {"embed_origin": "localhost:8080"})])
def test_a_proxy_for_plain_http_is_refused(space, options):
    """It would carry credentials or tokens in the clear to another machine."""
    with pytest.raises(ConfigurationError, match="proxy can't be used with http://localhost:8080: plain http"):
        TokenClient(space, proxy="http://127.0.0.1:9", **options)


async def test_what_a_caller_s_session_puts_in_is_taken_out():
    """Default headers, cookies that came on the way, middlewares, and credentials added after the check."""

    async def meddle(request, handler):
        request.headers["X-Meddled"] = "1"
        return await handler(request)

    answer = GOOD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: sticky=1; Path=/\r\n\r\n", 1)
    async with (
        listener(answer) as (space, requests),
        aiohttp.ClientSession(
            headers={
                "X-Api-Key": "hush",
                "User-Agent": "mine",
                "Host": "evil",
                "Content-Type": "x/y",
                "Content-Length": "3",
            },
            skip_auto_headers=["Content-Type", "User-Agent"],
            middlewares=[meddle],
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            raise_for_status=True,
        ) as http,
    ):
        client = TokenClient(space, "project", "hush", http_session=http)
        await client.create_embed_token("c2c_x")
        http.headers["Authorization"] = "Basic bGVhaw=="
        await client.create_embed_token("c2c_x")
        with pytest.raises(UnexpectedResponse):
            await client.create_subscriber_token("alice")
        assert len(http.cookie_jar) == 1
    assert [set(headers) for _, headers, _ in requests] == [OURS, OURS, OURS | {"authorization"}]
    for _, headers, body in requests:
        assert headers["host"] == space
        assert headers["content-type"] == "application/json"
        assert headers["content-length"] == str(len(body))
        assert headers["user-agent"].startswith("signalwire-tokens/")
    assert b64decode(requests[2][1]["authorization"].removeprefix("Basic ")) == b"project:hush"


@pytest.mark.parametrize("is_borrowed", [False, True])
async def test_an_embed_origin_gets_what_it_needs_and_no_more(is_borrowed):
    """It gets neither the project's credentials nor a borrowed session's cookies and headers. (P38)"""
    answer = GOOD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: sticky=1; Path=/\r\n\r\n", 1)
    async with (
        listener() as (space, at_space),
        listener(answer) as (place, requests),
        aiohttp.ClientSession(
            headers={"X-Api-Key": "hush", "User-Agent": "mine", "Host": "evil"},
            cookie_jar=aiohttp.CookieJar(unsafe=True),
        ) as http,
    ):
        settings = {"embed_origin": place, "http_session": http if is_borrowed else None, "timeout": HANG, "retries": 0}
        async with TokenClient(space, "project", "hush", **settings) as client:
            await client.create_embed_token("c2t_x")
            http.headers["Authorization"] = "Basic bGVhaw=="
            await client.create_embed_token("c2t_x")
    assert at_space == []
    assert [line for line, _, _ in requests] == [["POST", "/api/fabric/embeds/tokens"]] * 2
    for _, headers, body in requests:
        assert set(headers) == OURS
        assert headers["host"] == place
        assert headers["user-agent"].startswith("signalwire-tokens/")
        assert body == b'{"token":"c2t_x"}'


async def test_a_session_with_cookies_for_the_embed_origin_is_refused():
    """The error names the origin."""
    async with aiohttp.ClientSession() as http:
        http.cookie_jar.update_cookies({"leak": "1"}, URL("https://embeds.signalwire.com"))
        TokenClient("acme", http_session=http)
        with pytest.raises(ConfigurationError, match=r"adds cookies for https://embeds\.signalwire\.com to"):
            TokenClient("acme", http_session=http, embed_origin="embeds.signalwire.com")


async def test_a_connection_to_the_embed_origin_that_fails_is_named(reserved_port):
    """The error doesn't name the space."""
    with pytest.raises(ConnectionFailed, match=rf"cannot connect to 127\.0\.0\.1:{reserved_port} \("):
        await embed("acme", embed_origin=f"127.0.0.1:{reserved_port}", timeout=HANG)


@pytest.mark.parametrize(
    ("adds", "options"),
    [
        ("a default Authorization header", {"headers": {"authorization": "Basic bGVhaw=="}}),
        ("a default Proxy-Authorization header", {"headers": {"Proxy-Authorization": "Basic bGVhaw=="}}),
        ("a default Cookie header", {"headers": {"Cookie": "leak=1"}}),
        ("a default Transfer-Encoding header", {"headers": {"Transfer-Encoding": "chunked"}}),
        ("a default Expect header", {"headers": {"Expect": "100-continue"}}),
        ("trust_env", {"trust_env": True}),
        ("cookies for https://acme.signalwire.com", {"cookies": {"leak": "1"}}),
    ],
)
async def test_a_session_with_credentials_of_its_own_is_refused(adds, options):
    """They would travel with operations that must carry others, or none."""
    async with aiohttp.ClientSession(**options) as http:
        with pytest.raises(ConfigurationError, match=adds):
            TokenClient("acme", http_session=http)


async def test_a_session_with_basic_auth_is_refused():
    """aiohttp would add it wherever we add nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newest aiohttp has another way
        http = aiohttp.ClientSession(auth=aiohttp.BasicAuth("leak", "leak"))
    async with http:
        with pytest.raises(ConfigurationError, match="auth"):
            TokenClient("acme", http_session=http)


def lax():
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    "context",
    [True, False, "ca.pem", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), lax()],
    ids=["true", "false", "path", "server", "lax"],
)
def test_tls_that_does_not_verify_is_refused(context):
    """There is no way to switch it off. (P39)"""
    with pytest.raises(ConfigurationError, match="ssl"):
        TokenClient("acme", ssl=context)


async def test_a_session_that_does_not_verify_is_made_to():
    """Its connector may say what it likes."""
    async with Emulator(tls=True) as emulator:
        asyncio.get_running_loop().set_exception_handler(lambda _, __: None)  # the server's side of a refusal
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as http:
            client = TokenClient(emulator.space, http_session=http, retries=0)
            for _ in range(2):
                with pytest.raises(ConnectionFailed, match=r"\(certificate not trusted\)"):
                    await client.create_embed_token(emulator.click_to_call)
            context_trusting = ssl.create_default_context(cafile=emulator.ca_file)
            await TokenClient(emulator.space, http_session=http, ssl=context_trusting).create_embed_token(
                emulator.click_to_call
            )
            client = TokenClient("acme", embed_origin=emulator.space, http_session=http, retries=0)
            with pytest.raises(ConnectionFailed, match=r"\(certificate not trusted\)"):
                await client.create_embed_token(emulator.click_to_call)


@pytest.mark.parametrize("proxy", ["", "proxy", "socks5://127.0.0.1:1", "http://", 7])
def test_a_proxy_that_is_none_is_refused(proxy):
    """And not shown, since it may hold a password."""
    with pytest.raises(ConfigurationError, match="proxy") as caught:
        TokenClient("acme", proxy=proxy)
    assert "socks5" not in str(caught.value)


@pytest.mark.parametrize("host", ["acme.signalwire.com", "embeds.signalwire.com"])
@pytest.mark.parametrize(("user", "expected"), [("", None), ("user:p%40ss@", b"user:p@ss"), ("user@", b"user:")])
async def test_a_proxy_gets_its_own_credentials_and_no_others(user, expected, host):
    """It is asked to connect; what is said inside the connection is not for it."""
    async with listener(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n") as (place, requests):
        with pytest.raises(ConnectionFailed) as caught:
            await embed("acme", embed_origin=host, proxy=f"http://{user}{place}")
    assert caught.value.sent is False
    ((line, headers, _),) = requests
    assert line == ["CONNECT", f"{host}:443"]
    assert "authorization" not in headers
    sent = headers.get("proxy-authorization", "").removeprefix("Basic ")
    assert (b64decode(sent) if expected else None) == expected


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", ConnectionFailed),
        (b"not http\r\n\r\n", ConnectionFailed),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 999\r\n\r\n{", ConnectionFailed),
        (b"HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n{", ConnectionFailed),
        (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", ConnectionFailed),
        (b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", UnexpectedResponse),
        (b"HTTP/1.1 201 Created\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", ConnectionFailed),
        (b"HTTP/1.1 201 Created\r\n\r\nno length", UnexpectedResponse),
        (b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n", UnexpectedResponse),
        (b"HTTP/1.1 201 \xff\xfe\r\nX: \xff\r\nContent-Length: 0\r\n\r\n", UnexpectedResponse),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 999\r\n\r\n", ConnectionFailed),
    ],
)
async def test_whatever_is_answered_becomes_one_error_of_ours(answer, kind):
    """Not even HTTP, or HTTP that lies. (P18)"""
    async with listener(answer) as (space, requests):
        with pytest.raises(kind) as caught:
            await embed(space)
    assert len(requests) == 1
    assert caught.value.operation == "create_embed_token"
    assert getattr(caught.value, "sent", None) is not False


def gzip_bomb():
    """Return 250 KB of gzip that would unfold to 250 MiB.

    The compressor forgets what came before after each MiB, so the same bytes stand for each.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    mebibyte = compressor.compress(b" " * 2**20) + compressor.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + 250 * mebibyte


def compressed(body, status=b"201 Created"):
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


@contextmanager
def least_memory():
    """Fail if the block takes more than 4 MiB on top of what is in use."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 4 * 2**20


@pytest.mark.parametrize("is_borrowed", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"), [(b"201 Created", UnexpectedResponse), (b"422 Unprocessable Content", ValidationFailed)]
)
async def test_a_compressed_answer_is_never_decompressed(status, kind, is_borrowed):
    """An answer of 250 KB that would unfold to 250 MiB takes little memory, with every version of aiohttp. (P18)"""
    async with (
        listener(compressed(gzip_bomb(), status)) as (space, _),
        aiohttp.ClientSession() as http,
    ):
        with least_memory(), pytest.raises(kind):
            await embed(space, http_session=http if is_borrowed else None)


async def test_a_small_compressed_answer_is_refused_too():
    """The client asked for none; the error says what is wrong."""
    async with listener(compressed(gzip.compress(b'{"token":"abc"}'))) as (space, _):
        with pytest.raises(UnexpectedResponse, match="compressed body, which the request forbade"):
            await embed(space)


async def test_an_answer_that_says_it_is_not_compressed_is_read():
    """`Content-Encoding: identity` changes nothing."""
    async with listener(GOOD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: Identity\r\n\r\n", 1)) as (space, _):
        assert (await embed(space)).value == "abc"


async def test_a_connection_that_nobody_takes_meets_the_timeout():
    """It has not left, and the error says so."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        place = deaf.getsockname()
        fillers = [socket.socket() for _ in range(4)]  # the queue of those who wait is full with these
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(place)
        with pytest.raises(TimedOut) as caught:
            await embed(f"127.0.0.1:{place[1]}", timeout=0.2)
        for filler in fillers:
            filler.close()
    assert caught.value.sent is False


def connector_error(kind, error):
    key = aiohttp.client_reqrep.ConnectionKey("acme.signalwire.com", 443, True, None, None, None, None)
    return kind(key, error)


@pytest.mark.parametrize(
    ("error", "kind", "sent", "cause"),
    [
        (
            connector_error(aiohttp.ClientConnectorError, ConnectionRefusedError(errno.ECONNREFUSED, "no")),
            ConnectionFailed,
            False,
            ConnectionRefusedError,
        ),
        (
            connector_error(aiohttp.ClientConnectorDNSError, socket.gaierror(-2, "Name or service not known")),
            ConnectionFailed,
            False,
            socket.gaierror,
        ),
        (
            connector_error(aiohttp.ClientConnectorSSLError, ssl.SSLError(1, "handshake")),
            ConnectionFailed,
            False,
            ssl.SSLError,
        ),
        (aiohttp.ConnectionTimeoutError("hush"), TimedOut, False, None),
        (aiohttp.SocketTimeoutError("hush"), TimedOut, None, None),
        (TimeoutError("hush"), TimedOut, None, None),
        (aiohttp.ServerDisconnectedError("hush"), ConnectionFailed, None, None),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), ConnectionFailed, None, ConnectionResetError),
        (aiohttp.ClientOSError("hush"), ConnectionFailed, None, None),
        (ConnectionResetError("hush"), ConnectionFailed, None, None),
        (aiohttp.ClientPayloadError("hush"), ConnectionFailed, None, None),
        (aiohttp.ClientResponseError(None, (), message="hush"), ConnectionFailed, None, None),
        (aiohttp.InvalidURL("http://hush"), ConnectionFailed, None, None),
        (aiohttp.ClientConnectionError("hush"), ConnectionFailed, None, None),
    ],
    ids=repr,
)
async def test_each_of_aiohttp_s_errors_becomes_one_of_ours(error, kind, sent, cause):
    """With what the system said as its cause, and nothing of aiohttp's, which may hold what was sent."""
    with aioresponses() as server:
        server.post(EMBEDS, exception=error)
        with pytest.raises(TransportError) as caught:
            await embed("acme")
    assert type(caught.value) is kind
    assert caught.value.sent is sent
    assert caught.value.operation == "create_embed_token"
    assert (type(caught.value.__cause__) if caught.value.__cause__ else None) is cause
    assert caught.value.__context__ is caught.value.__cause__ or caught.value.__context__ is None
    assert "hush" not in str(caught.value)


async def test_a_refresh_whose_answer_was_lost_is_sent_once():
    """Even where nothing but aiohttp's own error tells that it was."""
    with aioresponses() as server:
        server.post(
            "https://acme.signalwire.com/api/fabric/subscribers/tokens/refresh",
            exception=aiohttp.ServerDisconnectedError(),
            repeat=True,
        )
        async with TokenClient("acme", "p", "t") as client:
            with pytest.raises(ConnectionFailed):
                await client.refresh_subscriber_token("opaque")
        assert sum(map(len, server.requests.values())) == 1


async def test_an_answer_is_read_through_a_mock_too():
    """Users' own tests may mock aiohttp."""
    with aioresponses() as server:
        server.post(EMBEDS, status=201, payload={"token": "abc"})
        server.post(EMBEDS, status=503, headers={"Retry-After": "7"})
        assert (await embed("acme")).value == "abc"
        with pytest.raises(ServerError) as caught:
            await embed("acme")
    assert caught.value.retry_after == 7


async def test_a_page_elsewhere_is_not_followed():
    """The API token stays with the origin that it was given for. (P39)"""
    first = wire.subscriber_addresses("0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001", origin="https://acme.signalwire.com").path
    item = {"id": "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001"}
    with aioresponses() as server:
        for following in ("https://evil.example/x", first):  # elsewhere, and round in a circle
            page = {"data": [item], "links": {"next": following}}
            server.get(f"https://acme.signalwire.com{first}", payload=page)
        async with TokenClient("acme", "p", "t", retries=0) as client:
            with pytest.raises(UnexpectedResponse, match="another origin"):
                await anext(client.subscriber_addresses(item["id"]))
            assert len([address async for address in client.subscriber_addresses(item["id"])]) == 1


async def test_no_access_token_follows_a_page_elsewhere():
    """It stays with the space, too, and a circle of pages ends. (P39)"""
    first = "https://acme.signalwire.com/api/fabric/addresses"
    item = {"id": "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001"}
    with aioresponses() as server:
        for following in ("https://evil.example/x", first):
            server.get(first, payload=[{"data": [item], "links": {"next": following}}])
        async with TokenClient("acme", retries=0) as client:
            with pytest.raises(UnexpectedResponse, match="another origin"):
                await anext(client.addresses("opaque"))
            assert len([address async for address in client.addresses("opaque")]) == 1
        assert {str(url) for _, url in server.requests} == {first}
