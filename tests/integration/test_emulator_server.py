"""The emulator on its socket: what its users see of it, and everything that can happen on the way."""

import asyncio
import gzip
import math
import ssl
from contextlib import AsyncExitStack, nullcontext
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from signalwire_tokens import (
    ConnectionFailed,
    Lifetimes,
    NotFound,
    ServerError,
    TokenClient,
    ValidationFailed,
)
from signalwire_tokens.emulator import (
    EMPTY,
    HTML,
    ROTATIONS,
    Delay,
    Emulator,
    Huge,
    RateLimit,
    Raw,
    Redirect,
    Reset,
    Rotation,
    SkewDate,
    Stall,
    Status,
    Truncate,
)
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire import basic_authorization
from support import contract, raw_http
from support.gateway_client import call_in
from support.streams import close

pytestmark = pytest.mark.usefixtures("loop_time")

TOKENS = "/api/fabric/subscribers/tokens"


@pytest.fixture
async def http(emulator):
    async with aiohttp.ClientSession(f"http://{emulator.space}", timeout=aiohttp.ClientTimeout(0.3)) as http:
        yield http


def basic(emulator):
    return {"Authorization": basic_authorization(emulator.project_id, Secret(emulator.api_token)).value}


async def ask(http, emulator):
    async with http.post(
        TOKENS, json={"reference": "alice"}, headers=basic(emulator), allow_redirects=False
    ) as response:
        return response.status, response.headers, await response.read()


async def test_it_serves_what_its_client_needs(emulator):
    """On 127.0.0.1, with credentials of its own; nothing shows them."""
    assert emulator.space == f"127.0.0.1:{emulator.port}"
    async with TokenClient(emulator.space, emulator.project_id, emulator.api_token) as client:
        assert emulator.accepts(await client.create_embed_token(emulator.click_to_call))
    assert repr(emulator) == f"<Emulator {emulator.space}>"
    assert emulator.api_token not in repr(emulator) + repr(emulator.requests)


async def test_an_emulator_that_does_not_run_has_no_address():
    """Before it starts it says how to start it; after it ended it says that it does not run."""
    emulator = Emulator()
    with pytest.raises(RuntimeError, match="async with"):
        _ = emulator.space
    with pytest.raises(RuntimeError, match="tls=True"):
        _ = emulator.ca_file
    async with emulator:
        pass
    assert repr(emulator) == "<Emulator not running>"


@pytest.mark.parametrize("tls", [False, True])
async def test_a_port_can_be_chosen_and_is_not_shared(emulator, tls):
    """Two cannot have the same one, and the second leaves nothing behind."""
    with pytest.raises(OSError, match="address already in use"):
        await Emulator(port=emulator.port, tls=tls).__aenter__()


async def test_an_escaped_slash_is_not_a_slash(http, emulator):
    """The path is taken as it was sent."""
    for path, status in [
        (TOKENS, 422),
        (TOKENS.replace("rs/t", "rs%2Ft"), 404),
        ("/api%2Ffabric/subscribers/tokens", 404),
    ]:
        async with http.post(URL(path, encoded=True), json={}, headers=basic(emulator)) as response:
            assert response.status == status


async def test_two_authorization_headers_are_refused(http, emulator):
    """So a proxy that adds one of its own is found out. The journal has the reason."""
    twice = [*basic(emulator).items(), ("Authorization", "Bearer x")]
    async with http.post(TOKENS, json={"reference": "alice"}, headers=CIMultiDict(twice)) as response:
        assert (response.status, await response.json()) == (400, {"error": "Bad Request"})
    assert emulator.requests[-1].reason == "more than one Authorization header"


async def test_a_rate_limit_can_be_set_at_any_time(http, emulator):
    """Every answer has its headers. Above the limit, the answer is a 429 with `Retry-After`."""
    assert emulator.rate_limit is None
    emulator.rate_limit = RateLimit(1, 60)
    for status in (200, 429):
        answered, headers, _ = await ask(http, emulator)
        assert answered == status
        assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("1", "0")
        assert headers["X-RateLimit-Reset"] == headers.get("Retry-After", "60")
    emulator.advance(60)
    assert (await ask(http, emulator))[0] == 200
    emulator.rate_limit = RateLimit(1, 60)  # which begins a period
    assert (await ask(http, emulator))[0] == 200
    emulator.rate_limit = None
    answered, headers, _ = await ask(http, emulator)
    assert answered == 200
    assert not [name for name in headers if "RateLimit" in name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(RateLimit, -1), "'requests' must be"),
        (partial(RateLimit, 1, 0), "'seconds' must be"),
        (partial(RateLimit, 1, math.inf), "'seconds' must be"),
        (partial(RateLimit, 1, 366 * 86400 + 1), "'seconds' must be"),
        (partial(Rotation, status=399), "'status' must be"),
        (partial(Status, 100), "'status' must be"),
        (partial(Status, 600), "'status' must be"),
        (partial(Raw, b"", status=199), "'status' must be"),
        (partial(Redirect, "/x", status=200), "'status' must be"),
        (partial(Huge, -1), "'size' must be"),
        (partial(Delay, -1), "'seconds' must be"),
        (partial(Delay, math.inf), "'seconds' must be"),
        (partial(Emulator, statuses={"token_invalid": 99}), "statuses must map to HTTP statuses from 400 to 599"),
        (partial(Emulator, statuses={"token_invalid": 200}), "statuses must map to HTTP statuses from 400 to 599"),
    ],
)
def test_a_number_out_of_range_is_refused(make, message):
    """At once, and not by the request that meets it."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [True, 422.0, "422", None])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (RateLimit, "requests must be a whole number"),
        (lambda wrong: Rotation(status=wrong), "status must be a whole number"),
        (Status, "status must be a whole number"),
        (lambda wrong: Raw(b"", status=wrong), "status must be a whole number"),
        (lambda wrong: Redirect("/x", status=wrong), "status must be a whole number"),
        (Huge, "size must be a whole number"),
        (lambda wrong: Emulator(statuses={"token_invalid": wrong}), "statuses must map error codes to HTTP statuses"),
        (lambda wrong: Emulator(page_size=wrong), "page_size must be a whole number"),
        (lambda wrong: Emulator(port=wrong), "port must be a whole number"),
    ],
    ids=["RateLimit", "Rotation", "Status", "Raw", "Redirect", "Huge", "statuses", "page_size", "port"],
)
def test_what_is_not_a_whole_number_is_refused(make, message, wrong):
    """True and 422.0 would pass a comparison."""
    with pytest.raises(TypeError, match=message):
        make(wrong)


@pytest.mark.parametrize("statuses", [[1], {1: 422}, "token_invalid"])
def test_statuses_that_are_not_a_mapping_of_texts_are_refused(statuses):
    """The keys are codes."""
    with pytest.raises(TypeError, match="statuses must map error codes to HTTP statuses"):
        Emulator(statuses=statuses)


def test_what_is_not_a_rate_limit_is_refused():
    """When the emulator is made, and when the limit is set."""
    emulator = Emulator()
    with pytest.raises(TypeError, match="rate_limit must be a RateLimit or None"):
        emulator.rate_limit = 5
    with pytest.raises(TypeError, match="rate_limit must be a RateLimit or None"):
        Emulator(rate_limit=5)
    assert emulator.rate_limit is None


async def test_both_kinds_of_click_to_call_tokens_are_accepted(emulator, client):
    """SignalWire's begin with c2c_ or c2t_."""
    for prefix in ("c2c_", "c2t_"):
        token = emulator.click_to_call.replace("c2c_", prefix)
        assert emulator.accepts(await client.create_embed_token(token))


async def test_half_a_request_does_not_keep_the_emulator_from_closing():
    """It gets a second."""
    async with Emulator() as emulator:
        _, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
        writer.write(b"POST /api/fabric/embeds/tokens HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        async with emulator.client() as client:
            await client.create_subscriber_token("alice")  # by then, the half has arrived
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started <= 2
    await close(writer)


async def test_by_default_a_field_that_is_not_published_is_accepted():
    """It may be newer than the library."""
    async with Emulator(**contract.DEFAULTS) as emulator, emulator.client() as client:
        await client.create_subscriber_token("alice", extra={"new_field": 1})


async def test_strictness_can_be_set_at_any_time(emulator, client):
    """A field that isn't published is refused only while the emulator is strict."""
    for strict in (False, True):
        emulator.strict = strict
        assert emulator.strict is strict
        with pytest.raises(ValidationFailed) if strict else nullcontext():
            await client.create_subscriber_token("alice", extra={"new_field": 1})


async def test_tls_is_served_under_a_throw_away_authority():
    """Its certificate is a file for as long as the emulator runs, across a time of being unreachable."""
    async with Emulator(tls=True) as emulator:
        path = emulator.ca_file
        assert emulator.space.startswith("https://127.0.0.1:")
        ssl.create_default_context(cafile=path)
        async with emulator.unreachable():
            pass
        async with emulator.client() as client:
            await client.create_subscriber_token("alice")
    assert not path.exists()


async def test_time_passes_when_told_to(clock):
    """For the service and for its clients alike; tokens live as they were set to."""
    short = Lifetimes(access=timedelta(seconds=4), refresh=timedelta(seconds=6), embed=timedelta(seconds=2))
    async with Emulator(lifetimes=short, clock=clock) as emulator, emulator.client() as client:
        pair = await client.create_subscriber_token("alice")
        assert pair.access_token.expires_at - pair.access_token.issued_at == short.access
        emulator.advance(4)
        assert not emulator.accepts(pair.access_token)
        assert emulator.accepts(pair.refresh_token)
        renewed = await client.refresh_subscriber_token(pair.refresh_token)
        assert renewed.access_token.issued_at - pair.access_token.issued_at >= timedelta(seconds=4)
        assert emulator.requests[-1].at - emulator.requests[0].at >= timedelta(seconds=4)


@pytest.mark.parametrize("rotation", [*ROTATIONS, *ROTATIONS.values()])
async def test_every_rotation_can_be_chosen_by_name(rotation):
    """A used refresh token is good again in two of the four."""
    async with Emulator(rotation=rotation) as emulator, emulator.client() as client:
        pair = await client.create_subscriber_token("alice")
        await client.refresh_subscriber_token(pair.refresh_token)
        if ROTATIONS.get(rotation, rotation) in (ROTATIONS["reusable"], ROTATIONS["grace"]):
            await client.refresh_subscriber_token(pair.refresh_token)
        else:
            with pytest.raises(ValidationFailed):
                await client.refresh_subscriber_token(pair.refresh_token)


def test_a_rotation_that_is_none_is_refused():
    """By the name of the argument's own type."""
    with pytest.raises(ValueError, match="single-use, reusable, grace, family"):
        Emulator(rotation="sometimes")


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Status(503), 503, b'{"error": "Error"}'),
        (Status(500), 500, b'{"error": "Internal Server Error"}'),
        (HTML, 200, HTML.body),
        (EMPTY, 201, b""),
        (Raw(b"\xff", status=418), 418, b"\xff"),
        (Redirect("http://evil.example/"), 307, b""),
        (Redirect("/x", status=302), 302, b""),
    ],
    ids=repr,
)
async def test_a_fault_may_be_an_answer(emulator, http, fault, status, body):
    """Of any status and content; the service behind it is not asked."""
    emulator.fail(fault)
    found, headers, content = await ask(http, emulator)
    assert (found, content) == (status, body)
    assert headers.get("Location") == getattr(fault, "location", None)
    assert [(entry.status, entry.fault) for entry in emulator.requests] == [(status, type(fault).__name__)]
    assert (await ask(http, emulator))[0] == 200


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_comes_in_both_forms(emulator, http, as_date):
    """Seconds, or a date on the emulator's own clock."""
    emulator.advance(10_000)
    emulator.fail(Status(429, retry_after=30, as_date=as_date))
    _, headers, _ = await ask(http, emulator)
    if as_date:
        pause = parsedate_to_datetime(headers["Retry-After"]) - parsedate_to_datetime(headers["Date"])
        assert pause == timedelta(seconds=30)
    else:
        assert headers["Retry-After"] == "30"


async def test_the_date_can_be_skewed(clock, emulator, http):
    """And is the emulator's own otherwise."""
    emulator.fail(SkewDate(-3600))
    for skew in (-3600, 0):
        _, headers, _ = await ask(http, emulator)
        off = parsedate_to_datetime(headers["Date"]) - emulator.now()
        assert abs(off.total_seconds() - skew) < 1


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Reset(), aiohttp.ClientOSError),
        (Reset(applied=True), aiohttp.ClientOSError),
        (Stall(), TimeoutError),
        (Stall(applied=True), TimeoutError),
        (Truncate(), aiohttp.ClientPayloadError),
        (Truncate(stall=True), TimeoutError),
        (Delay(5), TimeoutError),
    ],
    ids=repr,
)
async def test_a_fault_may_be_no_answer(emulator, http, fault, failure):
    """A reset is a reset, a stall leaves the connection open, half an answer is half."""
    emulator.fail(fault)
    with pytest.raises(failure):
        await ask(http, emulator)
    assert (await ask(http, emulator))[0] == 200


async def test_an_endless_answer_ends_when_nobody_listens(emulator, http):
    """As many bytes as were said, to whoever reads them."""
    emulator.fail(Huge(100_000), times=1)
    status, _, body = await ask(http, emulator)
    assert (status, len(body)) == (201, 100_000)
    emulator.fail(Huge())
    async with http.post(TOKENS, json={}) as response:
        await response.content.read(10)
        response.close()
    assert (await ask(http, emulator))[0] == 200


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("make", [Reset, partial(Status, 500)], ids=["reset", "500"])
async def test_a_fault_comes_before_the_effect_or_after_it(emulator, client, make, applied):
    """The difference between a lost request and a lost answer: is the refresh token used up?"""
    pair = await client.create_subscriber_token("alice")
    emulator.fail(make(applied=applied))
    with pytest.raises((ConnectionFailed, ServerError)):
        await client.refresh_subscriber_token(pair.refresh_token)
    assert emulator.accepts(pair.refresh_token) is not applied


async def test_faults_are_met_in_order_by_those_they_are_for(emulator, client):
    """By operation and by count; what was not met can be forgotten."""
    emulator.fail(Status(500), operation="create_embed_token", times=2)
    emulator.fail(Status(404), times=None)
    for expected in (ServerError, ServerError, NotFound, NotFound):
        with pytest.raises(expected):
            await client.create_embed_token(emulator.click_to_call)
        with pytest.raises(NotFound):
            await client.create_subscriber_token("alice")
    emulator.clear_faults()
    await client.create_subscriber_token("alice")
    with pytest.raises(ValueError, match="operation must be one of"):
        emulator.fail(Status(500), operation="create")
    with pytest.raises(ValueError, match="times must be"):
        emulator.fail(Status(500), times=0)
    for wrong in (1.5, True):
        with pytest.raises(TypeError, match="times must be a whole number"):
            emulator.fail(Status(500), times=wrong)
    for wrong in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="retry_after must be"):
            Status(503, retry_after=wrong)
    assert Status(503, retry_after=timedelta(minutes=1)) == Status(503, retry_after=60.0)
    for wrong in ("x", None, Status):
        with pytest.raises(TypeError, match="fault must be one of"):
            emulator.fail(wrong)


async def test_an_emulator_runs_once_at_a_time():
    """Entered again it says so, and goes on; afterwards it may be used again."""
    emulator = Emulator()
    for _ in range(2):
        async with emulator, emulator.client() as client:
            with pytest.raises(RuntimeError, match="is already running: create another Emulator"):
                await emulator.__aenter__()
            await client.create_subscriber_token("alice")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"page_size": 0}, "page_size must be from 1 to 1000, got 0"),
        ({"page_size": 1001}, "page_size must be from 1 to 1000, got 1001"),
        ({"port": -1}, "port must be from 0 to 65535, got -1"),
        ({"port": 65536}, "port must be from 0 to 65535, got 65536"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    """Before anything is opened."""
    with pytest.raises(ValueError, match=message):
        Emulator(**wrong)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_time_only_passes(emulator, seconds):
    """It neither runs back nor ends."""
    with pytest.raises(ValueError, match="a clock can't advance by"):
        emulator.advance(seconds)


async def test_a_refusal_by_fault_has_the_service_s_form(emulator, client):
    """A 422 comes with a list of problems, whoever asked for it."""
    emulator.fail(Status(422))
    with pytest.raises(ValidationFailed) as caught:
        await client.create_subscriber_token("alice")
    assert [problem.code for problem in caught.value.errors] == ["invalid_parameter"]


BAD_REQUEST = (400, "application/json", b'{"error": "Bad Request"}')
SECRET = b"hunter2"
ISSUE = "create_subscriber_token"
GREETING = {"method": b"GET", "target": b"/", "body": b""}


@pytest.mark.parametrize(
    "sent",
    [
        raw_http.request(b"Authorization: Basic %b\x01" % SECRET),
        raw_http.request(b"Authorization: Basic %b\n" % SECRET),
        raw_http.request(b"Authorization: Basic %b\x00" % SECRET),
        raw_http.request(b"Authorization : Basic %b" % SECRET),
        raw_http.request(b"Authorization: Basic %b%b" % (SECRET, b"a" * 128 * 1024)),
        raw_http.request(b"Content-Length: %b" % SECRET),
        raw_http.request(b"Transfer-Encoding: chunked", b"Authorization: Basic %b" % SECRET),
        raw_http.request(method=b"%b\x01" % SECRET),
        raw_http.request(target=b"/x?token=%b\x01" % SECRET),
        raw_http.request(target=b"/%b\xff\x01" % SECRET),
        raw_http.request(target=b"http://[%b/" % SECRET),
        raw_http.request(target=b"http:%b" % SECRET),
        raw_http.chunked(b"2\r\n%b\r\n0\r\n\r\n" % SECRET),
        b"\x16\x03\x01%b\r\n\r\n" % SECRET,
    ],
    ids=[
        "control character",
        "line feed",
        "NUL",
        "space before the colon",
        "too long",
        "length",
        "two lengths",
        "method",
        "query",
        "path",
        "host",
        "no host",
        "chunk",
        "TLS",
    ],
)
async def test_a_request_that_cannot_be_read_appears_neither_in_the_answer_nor_in_a_log(emulator, caplog, sent):
    """aiohttp would log what it can't parse, and repeat it in the answer."""
    caplog.set_level("DEBUG")
    assert await raw_http.send(emulator, sent) == BAD_REQUEST
    assert (caplog.text, emulator.requests) == ("", [])


TOO_LARGE = "the body is larger than 1 MiB"
COMPRESSED = "the body has a Content-Encoding"
HANDSHAKE = "the handshake of a WebSocket is wrong"
UPGRADE = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.mark.parametrize(
    ("sent", "operation", "reason"),
    [
        (raw_http.request(b"Content-Encoding: gzip", body=b"xxxx"), ISSUE, COMPRESSED),
        (raw_http.request(b"Content-Encoding: gzip", body=gzip.compress(b"{}")), ISSUE, COMPRESSED),
        (raw_http.request(b"Content-Encoding: deflate", body=b"xxxx"), ISSUE, COMPRESSED),
        (raw_http.request(b"Content-Encoding: br"), ISSUE, COMPRESSED),
        (raw_http.request(b"Content-Encoding: zstd"), ISSUE, COMPRESSED),
        (raw_http.request(b"Content-Encoding: identity", b"Content-Encoding: gzip"), ISSUE, COMPRESSED),
        (raw_http.request(body=b" " * (2**20 + 1)), ISSUE, TOO_LARGE),
        (raw_http.request(target=b"/x?a=1&a=2"), None, "a parameter of the query is repeated"),
        (raw_http.request(*UPGRADE, b"Sec-WebSocket-Key: %b" % SECRET, **GREETING), None, HANDSHAKE),
        (raw_http.request(*UPGRADE, b"Sec-WebSocket-Key: \xff", **GREETING), None, HANDSHAKE),
        (raw_http.request(*UPGRADE, **GREETING), None, HANDSHAKE),
        (raw_http.request(*UPGRADE, KEY, **{**GREETING, "method": b"POST"}), None, HANDSHAKE),
        (raw_http.request(*UPGRADE, KEY, b"Sec-WebSocket-Protocol: %b" % SECRET, **GREETING), None, HANDSHAKE),
    ],
    ids=[
        "gzip that isn't",
        "gzip",
        "deflate that isn't",
        "br",
        "zstd",
        "identity and gzip",
        "too large",
        "repeated parameter",
        "wrong key",
        "key that isn't ASCII",
        "no key",
        "handshake with POST",
        "subprotocol",
    ],
)
async def test_a_request_of_a_wrong_form_is_refused_and_journalled(emulator, caplog, sent, operation, reason):
    """The answer is SignalWire's plain one."""
    assert await raw_http.send(emulator, sent) == BAD_REQUEST
    assert [(entry.operation, entry.status, entry.reason) for entry in emulator.requests] == [(operation, 400, reason)]
    assert caplog.text == ""


@pytest.mark.parametrize("headers", [(), (b"Content-Encoding: identity",)])
async def test_a_body_that_is_not_compressed_is_read(emulator, headers):
    """`identity` is the name of no compression."""
    authorization = b"Authorization: %b" % basic(emulator)["Authorization"].encode()
    status, _, _ = await raw_http.send(
        emulator,
        raw_http.request(b"Content-Type: application/json", authorization, *headers, body=b'{"reference": "a"}'),
    )
    assert status == 200


async def test_a_body_that_breaks_off_appears_in_no_log(caplog):
    """A client that disconnects isn't an error of the emulator."""
    caplog.set_level("DEBUG")
    async with Emulator() as emulator:
        reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
        writer.write(raw_http.request(body=SECRET)[:-1])
        writer.write_eof()
        assert await reader.read() == b""
        await close(writer)
    assert (caplog.text, emulator.requests) == ("", [])


def refuse_to_watch(entry):
    raise LookupError(SECRET)


async def test_an_error_of_the_emulator_is_logged_by_its_kind_and_place(caplog):
    """It is answered with 500. Its message stays out of the log, because it may quote the request."""
    caplog.set_level("DEBUG")
    async with Emulator(on_request=refuse_to_watch) as emulator:
        answer = await raw_http.send(emulator, raw_http.request())
    assert answer == (500, "application/json", b'{"error": "Internal Server Error"}')
    (record,) = [record for record in caplog.records if record.name == "signalwire_tokens.emulator"]
    assert record.getMessage().startswith("the emulator failed with LookupError:\n")
    assert "in refuse_to_watch" in record.getMessage()
    assert "hunter2" not in caplog.text


async def test_an_answer_that_cannot_be_sent_is_logged_by_kind_and_place(emulator, caplog):
    """The emulator's user asked for it."""
    emulator.fail(Raw(b"hunter2", content_type="a\nb"))
    with pytest.raises(asyncio.IncompleteReadError):
        await raw_http.send(emulator, raw_http.request())
    (record,) = caplog.records
    assert record.getMessage().startswith("the emulator failed with ValueError:\n")
    assert "hunter2" not in caplog.text


async def test_an_error_after_the_answer_began_is_logged_and_ends_the_connection(caplog):
    """A realtime connection can't be answered with 500 any more."""
    async with Emulator(on_request=refuse_to_watch) as emulator, call_in(emulator) as caller:
        params = {"version": {"major": 4}, "authentication": {"jwt_token": "hunter2"}}
        await caller.socket.send_json({"jsonrpc": "2.0", "id": "1", "method": "signalwire.connect", "params": params})
        assert (await caller.next()).type is aiohttp.WSMsgType.CLOSED
    (record,) = caplog.records
    assert record.getMessage().startswith("the emulator failed with LookupError:\n")
    assert "in refuse_to_watch" in record.getMessage()


async def test_it_can_be_unreachable_for_a_while(emulator):
    """Connections are refused, and afterwards everything is as it was, on the same port."""
    space = emulator.space
    async with emulator.unreachable(), emulator.client(retries=0) as client:
        with pytest.raises(ConnectionFailed, match="cannot connect") as caught:
            await client.create_subscriber_token("alice")
        assert caught.value.sent is False
    assert emulator.space == space
    async with emulator.client() as client:
        await client.create_subscriber_token("alice")


async def test_a_port_that_was_taken_meanwhile_is_said():
    """The emulator cannot come back, and still ends cleanly."""
    async with Emulator() as emulator, AsyncExitStack() as stack:
        with pytest.raises(OSError, match="address already in use"):
            async with emulator.unreachable():
                await stack.enter_async_context(Emulator(port=emulator.port))


async def test_a_fault_that_waits_does_not_hold_up_the_end():
    """The emulator closes at once, whoever is still waiting for an answer."""
    async with aiohttp.ClientSession() as http, Emulator() as emulator:
        emulator.fail(Stall())
        emulator.fail(Delay(60))
        emulator.fail(Truncate(stall=True))
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with http.post(
                    f"http://{emulator.space}{TOKENS}", json={}, timeout=aiohttp.ClientTimeout(0.05)
                ) as r:
                    await r.read()


async def test_browsers_may_ask_where_the_service_lets_them(emulator, http):
    """The subscriber's own operations and embeds, preflight included; never those that take the project's secret."""
    for path in (
        "/api/fabric/subscriber/info",
        "/api/fabric/embeds/tokens",
        "/api/fabric/addresses",
        "/api/fabric/addresses/1",
    ):
        async with http.options(path) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert "Content-Length" not in response.headers
    for path in (TOKENS, "/api/fabric/embeds/tokensxyz", "/api/fabric/subscriber/", "/api/fabric/subscriber/info/x"):
        async with http.options(path) as response:
            assert response.status == 404
            assert "Access-Control-Allow-Origin" not in response.headers
    async with http.get("/api/fabric/subscriber/info") as response:
        assert response.status == 401
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_the_journal_remembers_what_is_no_operation(emulator, http):
    """With the kind of authentication, however it was written, and without its value."""
    async with http.get("/secret-path", headers={"Authorization": "Digest hush"}) as response:
        assert response.status == 404
    (entry,) = emulator.requests
    assert (entry.operation, entry.auth, entry.status) == (None, "other", 404)
    assert "hush" not in repr(entry)


async def test_requests_can_be_watched_as_they_come():
    """By whoever runs the emulator."""
    seen = []
    async with Emulator(on_request=seen.append) as emulator, emulator.client() as client:
        await client.create_embed_token(emulator.click_to_call)
        assert seen == emulator.requests


async def test_a_credential_without_its_scheme_is_not_remembered(emulator, client):
    """Whoever forgets the word Bearer has sent a token where a word is expected."""
    pair = await client.create_subscriber_token("alice")
    async with aiohttp.ClientSession(headers={"Authorization": pair.access_token.value}) as http:
        await http.get(f"http://{emulator.space}/api/fabric/subscriber/info")
    assert emulator.requests[-1].auth == "other"


async def test_what_is_unreachable_cannot_be_made_so_again(emulator):
    """The inner block would open what the outer one closes."""
    async with emulator.unreachable():
        with pytest.raises(RuntimeError, match="already unreachable"):
            async with emulator.unreachable():
                pass


@pytest.mark.parametrize("fault", [Raw(b"{}"), HTML, Redirect("http://127.0.0.1:1/"), Status(500)], ids=repr)
async def test_whatever_answers_tells_the_emulator_s_time(clock, emulator, fault):
    """And not this machine's."""
    emulator.advance(86400)
    emulator.fail(fault)
    url = f"http://{emulator.space}/api/fabric/subscriber/info"
    async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False) as answer:
        told = parsedate_to_datetime(answer.headers["Date"])
    assert abs(told - emulator.now()) < timedelta(seconds=1)


async def test_an_emulator_of_the_same_seed_is_the_same_space():
    """Credentials and tokens outlive the one that made them, as they do where a service is started anew."""
    async with Emulator(seed="a") as first, first.client() as client:
        pair = await client.create_subscriber_token("alice@example.com")
        settings = (first.project_id, first.api_token, first.click_to_call)
    async with Emulator(seed="a") as second, second.client() as client:
        assert (second.project_id, second.api_token, second.click_to_call) == settings
        assert second.accepts(pair.access_token)
        with pytest.raises(NotFound):  # it knows nobody yet
            await client.subscriber_info(pair.access_token)
        renewed = await client.create_subscriber_token("alice@example.com")
        assert renewed.subscriber_id == pair.subscriber_id == (await client.subscriber_info(pair.access_token)).id
        await client.refresh_subscriber_token(pair.refresh_token)


@pytest.mark.parametrize("seed", [None, "b"])
async def test_any_other_emulator_is_another_space(seed):
    """Without a seed, each is its own."""
    async with Emulator(seed=seed) as emulator, Emulator(seed=seed and "a") as other, other.client() as client:
        pair = await client.create_subscriber_token("alice@example.com")
        assert not emulator.accepts(pair.access_token)
        assert emulator.project_id != other.project_id
        assert emulator.api_token != other.api_token
        assert emulator.click_to_call != other.click_to_call
