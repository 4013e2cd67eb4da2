"""A connection that received bytes, or was closed, while it was idle carries no other request."""

import asyncio
import select
import socket
import struct
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from signalwire_tokens import TimedOut, TokenClient, UnexpectedResponse
from signalwire_tokens.client import connector
from support.streams import close, serving
from support.unruly_server import TIMEOUT, answer_for, response, unruly_server
from support.waiting import HANG, eventually

ALICE = answer_for("alice")


@pytest.fixture(params=["plain", "tls"])
def context(request, tls):
    """Return the server's TLS context and the client's, or neither."""
    return tls if request.param == "tls" else (None, None)


@pytest.fixture
async def server(context):
    async with unruly_server(context[0]) as server:
        yield server


@asynccontextmanager
async def own(space, ssl):
    async with TokenClient(space, "project", "hush", ssl=ssl, timeout=HANG, retries=0) as client:
        yield client


@asynccontextmanager
async def borrowed(space, ssl):
    async with aiohttp.ClientSession() as http:
        yield TokenClient(space, "project", "hush", http_session=http, ssl=ssl, timeout=HANG, retries=0)


@pytest.fixture(params=[own, borrowed])
async def client(request, server, context):
    async with request.param(server.space, context[1]) as client:
        yield client


@pytest.fixture
async def own_client(server, context):
    async with own(server.space, context[1]) as client:
        yield client


async def post(client, name):
    """Issue a pair, and return for whom it is."""
    return (await client.create_subscriber_token(name)).access_token.value.removeprefix("access-")


async def get(client, name):
    """Look a subscriber up, and return who it is."""
    return (await client.subscriber_info(f"access-{name}")).email


operations = pytest.mark.parametrize("call", [post, get])
sights = pytest.mark.parametrize("is_read", [True, False], ids=["read", "in the kernel"])


def early_timeout(link):
    link.send(TIMEOUT)
    link.close()


IDLE_SCENES = {
    "a duplicate answer": lambda link: link.send(ALICE),
    "half a duplicate answer": lambda link: link.send(ALICE[:60]),
    "one byte": lambda link: link.send(b"H"),
    "a timeout that answers nothing": early_timeout,
    "the end": lambda link: link.close(),
}


@operations
@sights
@pytest.mark.parametrize("scene", IDLE_SCENES.values(), ids=IDLE_SCENES)
async def test_what_arrives_while_a_connection_is_idle_answers_nothing(server, own_client, call, scene, is_read):
    """The request goes out over another connection, whether the event loop has read the bytes or not. (P8)"""
    assert await call(own_client, "alice") == "alice"
    scene(server.links[0])
    if is_read:
        await server.links[0].read()
    assert [await call(own_client, name) for name in ("bob", "alice", "bob")] == ["bob", "alice", "bob"]
    assert server.requests == [["alice"], ["bob", "alice", "bob"]]


@pytest.fixture
def no_count(monkeypatch):
    """Do without the count of bytes that only Linux keeps."""
    monkeypatch.setattr(connector, "COUNTS", False)


@operations
@sights
@pytest.mark.parametrize("name", ["a duplicate answer", "a timeout that answers nothing", "the end"])
@pytest.mark.usefixtures("no_count")
async def test_whole_answers_are_found_without_the_kernel_s_count(server, own_client, call, name, is_read):
    """On other systems than Linux, the socket and aiohttp's state are checked alone."""
    assert await call(own_client, "alice") == "alice"
    IDLE_SCENES[name](server.links[0])
    if is_read:
        await server.links[0].read()
    assert await call(own_client, "bob") == "bob"
    assert server.requests == [["alice"], ["bob"]]


@operations
@sights
async def test_a_duplicate_in_a_borrowed_session_answers_nothing(server, context, call, is_read):
    """No request of the client leaves a connection in the application's pool. (P8)"""
    async with borrowed(server.space, context[1]) as client:
        assert await call(client, "alice") == "alice"
        server.links[0].send(ALICE)
        if is_read:
            await server.links[0].read()
        assert [await call(client, name) for name in ("bob", "alice")] == ["bob", "alice"]
    assert server.requests == [["alice"], ["bob"], ["alice"]]


@operations
async def test_half_a_duplicate_that_is_completed_later_answers_nothing(server, own_client, call):
    """Under TLS, half a record waits below everything that aiohttp sees. (P8)"""
    assert await call(own_client, "alice") == "alice"
    link = server.links[0]
    duplicate = link.encode(ALICE)
    link.send_raw(duplicate[:60])
    await link.read()
    link.before_answer = duplicate[60:]
    assert await call(own_client, "bob") == "bob"
    assert server.requests == [["alice"], ["bob"]]


@operations
async def test_a_late_answer_answers_nothing(server, client, call):
    """The caller has given up, and its connection is closed."""
    server.answers = False
    late = asyncio.create_task(call(client, "alice"))
    await eventually(lambda: server.requests == [["alice"]])
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    server.links[0].send(ALICE)
    server.answers = True
    assert await call(client, "bob") == "bob"
    assert server.requests == [["alice"], ["bob"]]


async def test_an_answer_that_comes_after_the_timeout_answers_nothing(server, context, loop_time):
    """The call has failed, and its connection is closed."""
    async with TokenClient(server.space, "p", "t", ssl=context[1], timeout=5, retries=0) as client:
        server.answers = False
        with pytest.raises(TimedOut):
            await post(client, "alice")
        assert server.requests == [["alice"]]
        server.links[0].send(ALICE)
        server.answers = True
        assert await post(client, "bob") == "bob"
    assert server.requests == [["alice"], ["bob"]]


@operations
async def test_a_healthy_idle_connection_is_used_again(server, own_client, call):
    """One connection serves all requests that follow one another."""
    for name in ("alice", "bob") * 3:
        assert await call(own_client, name) == name
    assert server.requests == [["alice", "bob"] * 3]


@operations
async def test_a_connection_whose_answer_made_no_sense_is_dropped(server, client, call):
    """The next request arrives over another one."""
    server.special = [response(["nonsense"])]
    with pytest.raises(UnexpectedResponse):
        await call(client, "alice")
    assert await call(client, "bob") == "bob"
    assert server.requests == [["alice"], ["bob"]]


@operations
async def test_a_closed_connection_gives_its_slot_back(server, own_client, call):
    """A pool of one connection serves the next request, too."""
    assert await call(own_client, "alice") == "alice"
    own_client.sender._http.connector._limit = 1
    server.links[0].send(ALICE)
    assert await call(own_client, "bob") == "bob"
    assert server.requests == [["alice"], ["bob"]]


async def test_a_call_cancelled_while_it_connects_again_leaves_nothing(server, own_client, context):
    """The check for leaks finds no connection, and the next call gets one."""
    if context[0] is None:
        server.context, own_client.sender._ssl = None, None
    assert await post(own_client, "alice") == "alice"
    server.links[0].send(ALICE)
    server.shakes_hands = server.answers = False
    call = asyncio.create_task(post(own_client, "bob"))
    await eventually(lambda: len(server.links) == 2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    server.shakes_hands = server.answers = True
    assert await post(own_client, "bob") == "bob"
    assert server.requests[0] == ["alice"]
    assert server.requests[-1] == ["bob"]


@operations
async def test_concurrent_calls_get_their_own_answers_while_duplicates_come(server, own_client, call):
    """Each connection in the pool is looked at."""
    names = ["alice", "bob"] * 4
    for _ in range(3):
        assert await asyncio.gather(*(call(own_client, name) for name in names)) == names
        for link in server.links:
            link.send(answer_for(link.requests[-1]))


@pytest.mark.parametrize("context", ["tls"], indirect=True)
async def test_a_tunnel_through_a_proxy_is_used_again(server, context):
    """As long as nothing comes through it while it is idle."""
    async with tunnels() as (proxy, opened):
        async with TokenClient(server.space, "p", "t", ssl=context[1], proxy=proxy, timeout=HANG) as client:
            for name in ("alice", "bob"):
                assert await post(client, name) == name
            assert len(opened) == 1
            server.links[0].send(ALICE)
            await server.links[0].read()
            assert await post(client, "bob") == "bob"
        assert server.requests[0][:2] == ["alice", "bob"]


@asynccontextmanager
async def tunnels():
    """Run a proxy that opens a tunnel for each CONNECT."""
    opened = []

    async def pipe(reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        await close(writer)

    async def serve(reader, writer):
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        opened.append(target)
        far_reader, far_writer = await asyncio.open_connection(*target.split(":"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    async with serving(serve) as port:
        yield f"http://127.0.0.1:{port}", opened


class Transport:
    """A transport with a socket, or with none."""

    def __init__(self, sock=None):
        self.sock = sock

    def get_extra_info(self, name):
        return self.sock if name == "socket" else None


@pytest.fixture
def connected():
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            yield one, other


@pytest.mark.parametrize("has_poll", [True, False])
@pytest.mark.parametrize("counts", [True, False])
def test_bytes_to_read_are_seen_on_every_system(connected, monkeypatch, has_poll, counts):
    """Also where the system has no poll, and doesn't count the bytes of a connection."""
    monkeypatch.setattr(connector, "COUNTS", counts)
    if not has_poll:
        monkeypatch.delattr(select, "poll")
    near, far = connected
    assert connector.has_only(0, Transport(near))
    far.sendall(b"12345")
    select.select([near], [], [], HANG)
    assert not connector.has_only(0, Transport(near))
    near.recv(5)
    count = 5 if counts else 0
    assert connector.received(near) == count
    assert connector.has_only(count, Transport(near))
    far.close()
    select.select([near], [], [], HANG)
    assert not connector.has_only(count, Transport(near))


def test_a_connection_that_was_reset_is_not_quiet(connected):
    """Its count of bytes stays, but not its state."""
    near, far = connected
    far.sendall(b"12345")
    near.recv(5)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    select.select([near], [], [], HANG)
    assert not connector.has_only(5, Transport(near))


@operations
@pytest.mark.parametrize("name", ["received", "is_readable"])
async def test_bytes_that_arrive_while_a_connection_becomes_idle_answer_nothing(
    server, own_client, call, name, monkeypatch
):
    """They are in the kernel after the count, or after the poll. (P8)"""
    check, sent = getattr(connector, name), []

    def check_and_send(checked):
        found = check(checked)
        if not sent:
            sent.append(server.links[0])
            server.links[0].send(ALICE)
        return found

    monkeypatch.setattr(connector, name, check_and_send)
    assert [await call(own_client, one) for one in ("bob", "alice", "bob")] == ["bob", "alice", "bob"]
    assert len(sent) == 1


async def test_a_connection_that_could_not_be_checked_is_not_used_again(own_client, server, monkeypatch):
    """aiohttp ignores the exception. (P7, P8)"""

    def fail(_):
        raise MemoryError

    assert await post(own_client, "alice") == "alice"
    with monkeypatch.context() as patched:
        patched.setattr(connector, "is_readable", fail)
        assert await post(own_client, "bob") == "bob"
    server.links[0].send(ALICE)
    assert await post(own_client, "bob") == "bob"


async def test_connections_that_were_closed_while_they_were_idle_are_forgotten(own_client):
    """A process that runs for months must not keep a record of each."""
    seen = set()
    for _ in range(5):
        await asyncio.gather(*(post(own_client, "alice") for _ in range(60)))
        idle = own_client.sender._http.connector._received
        for protocol in idle:
            protocol.close()
        seen.update(idle)
    assert len(seen) == 300
    assert len(idle) < 200


def test_a_socket_that_counts_nothing_is_polled_alone():
    """A socket of the Unix domain has no counters of TCP."""
    near, far = socket.socketpair()
    with near, far:
        assert connector.has_only(0, Transport(near))


def test_a_connection_whose_socket_is_out_of_reach_is_not_quiet():
    """So it isn't used again."""
    closed = socket.socket()
    closed.close()
    assert not any(connector.has_only(0, one) for one in (None, Transport(), Transport(closed)))
