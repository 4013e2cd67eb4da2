"""The realtime gateway: JSON-RPC on a WebSocket that lives as long as its token."""

import asyncio
import json
import ssl
from base64 import b64decode
from datetime import timedelta

import aiohttp
import pytest
from joserfc.jwk import RSAKey

from signalwire_tokens.emulator import Emulator
from signalwire_tokens.emulator.gateway import GatewayConnection
from signalwire_tokens.wire import read_header
from support.dpop_proofs import make_proof
from support.gateway_client import Caller, call_in
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("loop_time")

LIFE = 7200.0
ALICE = "alice@example.com"
KEY, OTHER_KEY = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
NOT_AUTHENTICATED = -32002


@pytest.fixture
async def caller(emulator):
    async with call_in(emulator) as caller:
        yield caller


@pytest.fixture
async def pair(client):
    return await client.create_subscriber_token(ALICE)


def calls(emulator):
    return [(entry.operation, entry.auth, entry.status) for entry in emulator.requests if entry.auth == "JWT"]


@pytest.mark.usefixtures("clock")
async def test_a_live_token_connects(emulator, caller, pair):
    """And is told what it allows."""
    result = (await caller.connect(pair.access_token.value))["result"]
    assert result.keys() == {"identity", "protocol", "authorization", "ice_servers"}
    authorization = result["authorization"]
    assert authorization["project_id"] == emulator.project_id
    subscriber = authorization["fabric_subscriber"]
    assert subscriber["subscriber_id"] == str(pair.subscriber_id)
    assert subscriber["expires_at"] == int(pair.access_token.expires_at.timestamp())
    assert subscriber.keys() == {"version", "expires_at", "subscriber_id", "application_id", "project_id", "space_id"}
    (connection,) = emulator.connections
    assert connection.subscriber_id == pair.subscriber_id
    assert (connection.reauthenticated, connection.is_online) == (0, False)
    assert calls(emulator) == [("signalwire.connect", "JWT", 200)]


async def test_guests_connect_as_well(emulator, caller, client):
    """They are nobody's subscriber."""
    guest = await client.create_guest_token([emulator.add_address("room")])
    result = (await caller.connect(guest.access_token.value))["result"]
    assert result["authorization"]["fabric_subscriber"]["subscriber_id"] is None
    assert emulator.connections[0].subscriber_id is None


async def make_bad(kind, client, pair):
    """Make a token that is none to connect with."""
    match kind:
        case "refresh":
            return pair.refresh_token.value
        case "bound":
            bound = await client.create_subscriber_token(ALICE, fingerprint="A" * 43, scope="sat:refresh")
            return bound.access_token.value
        case "short-lived":
            return (await client.create_subscriber_token(ALICE, expire_at=timedelta(seconds=60))).access_token.value
    return kind


@pytest.mark.parametrize("kind", ["refresh", "bound", "short-lived", "a.b.c.d.e", 5, None])
async def test_a_bad_token_ends_the_connection(emulator, clock, client, pair, kind):
    """With an error, and then a close."""
    token = await make_bad(kind, client, pair)
    clock.suspend(61)
    async with call_in(emulator) as caller:
        error = (await caller.connect(token))["error"]
        assert error["code"] == -32002
        assert (await caller.next()).type is aiohttp.WSMsgType.CLOSE
    assert emulator.connections == ()
    assert calls(emulator) == [("signalwire.connect", "JWT", 401)]


async def test_a_token_that_was_withdrawn_connects_nobody(emulator, caller, pair):
    """Though its end has not come."""
    emulator.revoke(pair.access_token)
    assert (await caller.connect(pair.access_token.value))["error"]["code"] == -32002


@pytest.mark.parametrize("wrong", [{"authentication": None}, {"authentication": "token"}, {"event_acks": 1}], ids=str)
async def test_wrong_params_of_a_connect_close_the_connection(emulator, caller, pair, wrong):
    """The error is about the call, and not about a token."""
    assert (await caller.connect(pair.access_token.value, **wrong))["error"]["code"] == -32602
    assert (await caller.next()).type is aiohttp.WSMsgType.CLOSE
    assert calls(emulator) == []


@pytest.mark.parametrize("version", [None, 4, {}, {"major": 3}, {"major": "4"}], ids=repr)
async def test_another_version_is_not_spoken(caller, pair, version):
    """The gateway has one."""
    answer = await caller.connect(pair.access_token.value, version=version)
    assert answer["error"]["code"] == -32602
    assert (await caller.next()).type is aiohttp.WSMsgType.CLOSE


async def test_a_connection_ends_with_its_token(emulator, clock, caller, pair):
    """An error, and a close; not sooner."""
    await caller.connect(pair.access_token.value)
    await caller.settle()
    clock.suspend(LIFE - 20)
    await clock.advance(16)
    await caller.settle()
    await clock.advance(5)
    error = (await caller.hear_the_end())["error"]
    assert error["message"] == "the token has expired"
    await eventually(lambda: emulator.connections == ())


async def test_a_connection_ends_when_time_is_moved_past_its_token(pair):
    """For tests that do not wait."""
    async with Emulator() as emulator, emulator.client() as client:
        pair = await client.create_subscriber_token(ALICE)
        async with call_in(emulator) as caller:
            await caller.connect(pair.access_token.value)
            emulator.advance(LIFE + 1)
            assert (await caller.hear_the_end())["error"]["code"] == -32002


async def test_a_fresh_token_is_taken_in_place(emulator, clock, caller, client, pair):
    """The connection then lives as long as that."""
    await caller.connect(pair.access_token.value)
    await caller.settle()
    clock.suspend(LIFE / 2)
    await caller.settle()
    fresh = await client.refresh_subscriber_token(pair.refresh_token)
    assert "result" in await caller.reauthenticate(fresh.access_token.value)
    (connection,) = emulator.connections
    assert connection.reauthenticated == 1
    assert connection.expires_at > pair.access_token.expires_at + timedelta(hours=0.9)
    clock.suspend(LIFE * 0.7)
    await caller.settle()
    assert calls(emulator)[-1] == ("signalwire.reauthenticate", "JWT", 200)


@pytest.mark.parametrize("kind", ["bad", "somebody else's", "another project's"])
async def test_what_is_not_ones_own_fresh_token_ends_the_connection(emulator, caller, client, pair, kind):
    """As on connecting."""
    await caller.connect(pair.access_token.value)
    match kind:
        case "bad":
            answer = await caller.reauthenticate("a.b.c.d.e")
        case "somebody else's":
            answer = await caller.reauthenticate((await client.create_subscriber_token("bob")).access_token.value)
        case _:
            answer = await caller.reauthenticate(pair.access_token.value, project="another")
    assert answer["error"]["code"] in (-32002, -32602)
    while (message := await caller.next()).type is aiohttp.WSMsgType.TEXT:
        assert "ping" in message.data
    assert message.type is aiohttp.WSMsgType.CLOSE


async def test_nothing_is_answered_before_connecting_but_pings(caller, pair):
    """And it can be made up for."""
    for method in ("subscriber.online", "signalwire.reauthenticate"):
        assert (await caller.call(method))["error"]["code"] == -32002
    assert (await caller.call("signalwire.ping", timestamp=1))["result"]["timestamp"] > 0
    assert "result" in await caller.connect(pair.access_token.value)
    assert (await caller.connect(pair.access_token.value))["error"]["code"] == -32600
    assert (await caller.call("verto.invite"))["error"]["code"] == -32601


async def test_whoever_does_not_connect_is_not_waited_for(clock, emulator, caller):
    """Ten seconds are enough."""
    await caller.call("signalwire.ping", timestamp=1)
    await clock.advance(11)
    assert (await caller.hear_the_end())["error"][
        "message"
    ] == "no signalwire.connect within 10 s of opening the connection"


async def test_pings_are_sent_and_must_be_answered(emulator, clock, caller, pair):
    """At once, and every fifteen seconds."""
    caller.answers_pings = False
    await caller.connect(pair.access_token.value)
    for _ in range(3):
        ping = await caller.hear()
        assert ping["method"] == "signalwire.ping"
        assert ping["params"]["timestamp"] > 0
        answer = {"jsonrpc": "2.0", "id": ping["id"], "result": {"timestamp": 1}}
        await caller.socket.send_json(answer)
        await caller.call("signalwire.ping", timestamp=1)
        await clock.advance(15)
    await caller.hear()
    await clock.advance(15)
    assert (await caller.hear_the_end())["error"]["message"] == "a ping wasn't answered in time"


@pytest.mark.parametrize("timestamp", [None, "1", True, -1, 10**400], ids=lambda timestamp: str(timestamp)[:5])
async def test_a_ping_carries_a_time(caller, timestamp):
    """In seconds."""
    assert (await caller.call("signalwire.ping", timestamp=timestamp))["error"]["code"] == -32602


async def test_a_client_says_whether_it_takes_calls(emulator, caller, pair):
    """It is authenticated either way."""
    await caller.connect(pair.access_token.value)
    await caller.call("subscriber.online")
    assert emulator.connections[0].is_online
    await caller.call("subscriber.offline")
    assert not emulator.connections[0].is_online


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not JSON", -32700),
        ("[]", -32600),
        ("{}", -32600),
        ('{"jsonrpc": "2.0", "id": "1", "method": "signalwire.ping", "params": {"timestamp": NaN}}', -32700),
        ('{"jsonrpc": "2.0", "id": "1", "method": "signalwire.ping", "params": {"timestamp": 1e999}}', -32602),
        ('{"jsonrpc": "1.0", "id": "1", "method": "signalwire.ping"}', -32600),
        ('{"jsonrpc": "2.0", "id": 1, "method": "signalwire.ping"}', -32600),
        ('{"jsonrpc": "2.0", "method": "signalwire.ping"}', -32600),
        ('{"jsonrpc": "2.0", "id": "1", "method": 5}', -32600),
        ('{"jsonrpc": "2.0", "id": "1", "method": "signalwire.ping", "params": []}', -32600),
        ('{"jsonrpc": "2.0", "id": "1"}', -32600),
        ('{"jsonrpc": "2.0", "id": "1", "result": 1, "error": {}}', -32600),
    ],
)
async def test_what_is_no_json_rpc_is_an_error(caller, text, code):
    """And the connection goes on."""
    await caller.socket.send_str(text)
    assert (await caller.hear())["error"]["code"] == code
    assert "result" in await caller.call("signalwire.ping", timestamp=1)


async def test_what_is_no_text_ends_the_connection(caller):
    """The protocol has no other."""
    await caller.socket.send_bytes(b"\0")
    message = await caller.next()
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.UNSUPPORTED_DATA)


async def test_connections_are_cut_when_the_emulator_is_unreachable(emulator, caller, pair):
    """As everything else is."""
    await caller.connect(pair.access_token.value)
    async with emulator.unreachable():
        while (message := await caller.next()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR)
        assert emulator.connections == ()


@pytest.mark.parametrize(
    ("channel", "written"),
    [("puc.localhost:{port}", "puc.localhost:{port}"), (None, None), ("puc.example", "puc.example")],
)
async def test_tokens_lead_to_the_channel(channel, written):
    """With the port that the emulator got."""
    async with Emulator(channel=channel) as emulator, emulator.client() as client:
        pair = await client.create_subscriber_token(ALICE)
        expected = written and written.replace("{port}", str(emulator.port))
        assert read_header(pair.access_token.value).channel == pair.access_token.channel == expected


async def test_the_gateway_speaks_tls_where_the_api_does(tmp_path):
    """Under names that a browser finds on this machine."""
    async with Emulator(tls=True) as emulator, emulator.client() as client:
        pair = await client.create_subscriber_token(ALICE)
        context = ssl.create_default_context(cafile=emulator.ca_file)
        assert emulator.gateway == f"wss://127.0.0.1:{emulator.port}/"
        assert len(b64decode(emulator.browser_pin)) == 32
        assert isinstance(emulator.server_context, ssl.SSLContext)
        for name in ("puc.localhost", "fabric.localhost", "localhost"):
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(emulator.gateway, ssl=context, server_hostname=name) as socket,
            ):
                assert "result" in await Caller(socket, emulator.project_id).connect(pair.access_token.value)


@pytest.mark.slow  # the operating system takes a second until it buffers no more
async def test_whoever_does_not_listen_is_cut_off(emulator, pair):
    """A connection does not outlive its token because nobody reads that it has ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port, limit=1024)
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    writer.write(f"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    params = {"version": {"major": 4}, "authentication": {"jwt_token": pair.access_token.value}}
    writer.write(frame({"jsonrpc": "2.0", "id": "1", "method": "signalwire.connect", "params": params}))
    await eventually(lambda: emulator.connections)
    flood = frame({"jsonrpc": "2.0", "id": "x" * 60000, "method": "signalwire.ping", "params": {"timestamp": 1}})
    for _ in range(200):
        writer.write(flood)
    await eventually(lambda: emulator.connections == ())
    writer.transport.abort()


def frame(message):
    """Write a message as a client does that masks with zeros."""
    text = json.dumps(message).encode()
    length = bytes([0x80 | 126]) + len(text).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + text


async def test_whoever_hung_up_at_once_can_be_cut_off(emulator, caller, pair):
    """And everybody else with them."""
    emulator._gateway.lines.add(GatewayConnection(emulator._gateway, caller.socket, None, None))
    await caller.connect(pair.access_token.value)
    emulator._gateway.cut()
    await eventually(lambda: emulator.connections == ())


@pytest.mark.parametrize("name", ["ca_file", "server_context", "browser_pin"])
async def test_without_tls_there_is_no_certificate(emulator, name):
    """Whoever asks for one is told why."""
    with pytest.raises(RuntimeError, match="tls=True"):
        getattr(emulator, name)


@pytest.mark.parametrize("token", ["", "a.b.c.d.e"])
async def test_only_a_token_of_its_own_is_withdrawn(emulator, token):
    """Anything else is a mistake of the test's."""
    with pytest.raises(ValueError, match="cannot revoke: the text isn't a token of this emulator"):
        emulator.revoke(token)


async def test_a_bound_token_connects_with_a_proof_of_its_key(emulator, caller, client):
    """For that call, once; and what the connection is allowed says so."""
    pair = await client.create_subscriber_token(ALICE, fingerprint=KEY.thumbprint(), scope="sat:refresh")
    proof = make_proof(KEY, rpc="request", mth="signalwire.connect")
    authorization = (await caller.connect(pair.access_token.value, dpop_token=proof))["result"]["authorization"]
    assert authorization["cnf"] == {"jkt": KEY.thumbprint()}
    assert authorization["scope"] == ["sat:refresh"]
    refused = await caller.reauthenticate(pair.access_token.value, dpop_token=proof)
    assert refused["error"]["code"] == NOT_AUTHENTICATED
    assert [entry.reason for entry in emulator.requests if entry.reason] == [
        "the proof's mth doesn't match this request: sign the method that you call"
    ]


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        (
            {"mth": "signalwire.reauthenticate"},
            "the proof's mth doesn't match this request: sign the method that you call",
        ),
        ({"rpc": None}, "the proof's rpc doesn't match this request: sign a request"),
        ({"iat": 1}, "the proof's iat is over 60 s from the emulator's time: check the device's clock"),
        (None, "the token is bound to a key: send a proof with it"),
        ({"key": OTHER_KEY}, "the token is bound to another key: sign the proof with that key"),
    ],
    ids=["another method's", "not for a call", "too old", "none", "another key's"],
)
async def test_a_bound_token_without_a_proof_that_holds_ends_the_connection(emulator, caller, client, claims, reason):
    """The caller is not told why."""
    pair = await client.create_subscriber_token(ALICE, fingerprint=KEY.thumbprint(), scope="sat:refresh")
    whole = {"key": KEY, "rpc": "request", "mth": "signalwire.connect", **(claims or {})}
    proof = None if claims is None else make_proof(**whole)
    refused = await caller.connect(pair.access_token.value, dpop_token=proof)
    assert refused["error"] == {"code": NOT_AUTHENTICATED, "message": "authentication failed"}
    assert (await caller.next()).type is aiohttp.WSMsgType.CLOSE
    assert emulator.requests[-1].reason == reason


async def test_a_proof_that_comes_with_an_ordinary_token_is_verified_all_the_same(emulator, caller, pair):
    """Browsers send one wherever they have a key; it binds nothing."""
    proof = make_proof(KEY, rpc="request", mth="signalwire.connect")
    assert "cnf" not in (await caller.connect(pair.access_token.value, dpop_token=proof))["result"]["authorization"]
    refused = await caller.reauthenticate(pair.access_token.value, dpop_token="hush")
    assert refused["error"]["code"] == NOT_AUTHENTICATED
