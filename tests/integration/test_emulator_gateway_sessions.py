"""The realtime gateway's events, resumed sessions, disconnects, faults, and calls that a test answers."""

from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp
import pytest
from joserfc.jwk import RSAKey

from signalwire_tokens.emulator import Delay, Reset, RpcFailure, Stall, Status
from support.dpop_proofs import make_proof
from support.gateway_client import call_in
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("loop_time")

LIFE = 7200.0
ALICE = "alice@example.com"
KEY, OTHER_KEY = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


@pytest.fixture
async def caller(emulator):
    async with call_in(emulator) as caller:
        yield caller


@pytest.fixture
async def pair(client):
    return await client.create_subscriber_token(ALICE)


@pytest.fixture
def token(pair):
    return pair.access_token.value


async def connect(caller, token, **more):
    """Connect with acknowledgements, and return the protocol and the state to resume with."""
    result = (await caller.connect(token, event_acks=True, **more))["result"]
    return {"protocol": result["protocol"], "authorization_state": await caller.hear_state()}


async def is_closed(caller):
    """Return True when the gateway has closed or broken the connection."""
    while (await caller.next()).type not in ENDS:
        pass
    return True


@asynccontextmanager
async def resumed(emulator, token, session, **more):
    async with call_in(emulator) as caller:
        yield caller, await caller.connect(token, event_acks=True, **session, **more)


def entries(emulator):
    return [(entry.operation, entry.status, entry.fault) for entry in emulator.requests if "." in entry.operation]


def only(emulator):
    (connection,) = emulator.connections
    return connection


# Events


async def test_an_event_goes_to_all_connections(emulator, caller, token):
    """It has its type, its params, the time, and a channel that contains the protocol of each connection."""
    async with call_in(emulator) as other:
        for one in (caller, other):
            await connect(one, token)
        assert emulator.send_event("call.state", {"state": "ended"}) == 2
        for one in (caller, other):
            params = (await one.hear_event())["params"]
            assert params.keys() == {"event_type", "params", "timestamp", "event_channel"}
            assert (params["event_type"], params["params"]) == ("call.state", {"state": "ended"})
            assert params["timestamp"] == pytest.approx(emulator.now().timestamp(), abs=60)
            assert sum(connection.protocol in params["event_channel"] for connection in emulator.connections) == 1


@pytest.mark.parametrize("by_id", [False, True])
async def test_an_event_can_go_to_one_connection(emulator, caller, token, by_id):
    """Given the connection, or its id."""
    await connect(caller, token)
    first = only(emulator)
    async with call_in(emulator) as other:
        await connect(other, token)
        assert emulator.send_event("for.one", connection=first.id if by_id else first) == 1
        emulator.send_event("for.all")
        assert (await caller.hear_event())["params"]["event_type"] == "for.one"
        assert (await other.hear_event())["params"]["event_type"] == "for.all"


@pytest.mark.parametrize(("channel", "sent"), [("an earlier protocol", "an earlier protocol"), ("", None)])
async def test_the_channel_of_an_event_can_be_chosen(emulator, caller, token, channel, sent):
    """An empty one leaves it out."""
    await connect(caller, token)
    emulator.send_event("call.state", event_channel=channel)
    assert (await caller.hear_event())["params"].get("event_channel") == sent


async def test_nothing_is_sent_to_a_connection_that_is_not_open(emulator, caller):
    """A client that has not connected gets no events, and the id of a closed connection is an error."""
    await caller.call("signalwire.ping", timestamp=1)
    assert emulator.send_event("call.state") == emulator.disconnect() == 0
    for act in (
        lambda: emulator.send_event("call.state", connection=uuid4()),
        lambda: emulator.disconnect(connection=uuid4()),
    ):
        with pytest.raises(ValueError, match="the connection isn't open"):
            act()


async def test_params_that_are_not_json_are_an_error_at_once(emulator, caller, token):
    """The test gets it, and not the connection."""
    await connect(caller, token)
    with pytest.raises(TypeError):
        emulator.send_event("call.state", {"at": emulator.now()})
    with pytest.raises(ValueError, match="JSON"):
        emulator.send_event("call.state", {"at": float("nan")})


async def test_acknowledged_events_are_counted(emulator, caller, token):
    """The count includes the event with the authorization state."""
    await connect(caller, token)
    emulator.send_event("call.state")
    await caller.hear_event()
    await eventually(lambda: only(emulator).acknowledged == 2)


@pytest.mark.parametrize("result", [{"code": 200}, None], ids=["other result", "none"])
async def test_events_must_be_acknowledged(emulator, clock, caller, token, result):
    """The client has until the next ping but one; only the result `{}` counts."""
    await connect(caller, token)
    await caller.settle()
    caller.acknowledges = False
    emulator.send_event("call.state")
    event = await caller.hear_event()
    if result is not None:
        await caller.answer(event, result)
    await clock.advance(16)
    await caller.settle()
    assert only(emulator).acknowledged == 1
    await clock.advance(16)
    assert (await caller.hear_the_end())["error"]["message"] == "an event wasn't acknowledged in time"


async def test_a_client_without_acknowledgements_owes_none(emulator, clock, caller, token):
    """It is connected as before, and its answers aren't counted."""
    await caller.connect(token)
    caller.acknowledges = False
    emulator.send_event("call.state")
    await caller.hear_event()
    await caller.settle()
    for _ in range(4):
        await clock.advance(16)
        await caller.settle()
    assert only(emulator).acknowledged == 0


async def test_each_token_brings_another_authorization_state(caller, token):
    """One after connecting, and one after each reauthentication."""
    session = await connect(caller, token)
    await caller.reauthenticate(token)
    assert await caller.hear_state() != session["authorization_state"]


# Resuming


async def test_a_lost_session_can_be_resumed(emulator, caller, token):
    """It has the same protocol, another connection's id, and another state. Registering starts over."""
    session = await connect(caller, token)
    await caller.call("subscriber.online")
    first = only(emulator)
    emulator._gateway.cut()
    await eventually(lambda: not emulator.connections)
    async with resumed(emulator, token, session) as (again, answer):
        assert answer["result"]["protocol"] == session["protocol"]
        second = only(emulator)
        assert (second.protocol, second.resumed, second.is_online) == (first.protocol, 1, False)
        assert second.id != first.id
        assert await again.hear_state() != session["authorization_state"]
    assert entries(emulator) == [("signalwire.connect", 200, None)] * 2


async def test_unacknowledged_events_are_sent_again_after_a_resume(emulator, caller, token):
    """They have the same ids. An old authorization state isn't sent again."""
    session = await connect(caller, token)
    emulator.send_event("call.state", {"state": "seen"})
    await caller.hear_event()
    await eventually(lambda: only(emulator).acknowledged == 2)
    caller.acknowledges = False
    await caller.reauthenticate(token)
    for state in ("ringing", "ended"):
        emulator.send_event("call.state", {"state": state})
    lost = [await caller.hear_event() for _ in range(3)][1:]
    async with resumed(emulator, token, session) as (again, _):
        await again.hear_state()
        assert [await again.hear_event() for _ in range(2)] == lost
        emulator.send_event("last")
        assert (await again.hear_event())["params"]["event_type"] == "last"


async def test_an_event_of_a_resumed_session_must_still_be_acknowledged(emulator, clock, caller, token):
    """The time for it starts over on the new connection."""
    session = await connect(caller, token)
    caller.acknowledges = False
    emulator.send_event("call.state")
    await caller.hear_event()
    await clock.advance(14)
    async with resumed(emulator, token, session) as (again, _):
        again.acknowledges = False
        await clock.advance(14)
        await again.settle()
        await clock.advance(2)
        assert (await again.hear_the_end())["error"]["message"] == "an event wasn't acknowledged in time"


@pytest.mark.parametrize("why", ["expired", "revoked"])
async def test_a_token_that_is_no_longer_valid_resumes(emulator, clock, caller, pair, why):
    """The state stands in for validating it; without the state it is refused."""
    token = pair.access_token.value
    session = await connect(caller, token)
    emulator._gateway.cut()
    await eventually(lambda: not emulator.connections)
    if why == "revoked":
        emulator.revoke(pair.access_token)
    else:
        clock.suspend(LIFE + 1)
    async with call_in(emulator) as fresh:
        assert (await fresh.connect(token))["error"]["code"] == -32002
    async with resumed(emulator, token, session) as (_, answer):
        assert "result" in answer


async def test_a_session_that_was_resumed_with_an_expired_token_is_closed(emulator, clock, caller, token):
    """Ten seconds later."""
    session = await connect(caller, token)
    emulator._gateway.cut()
    clock.suspend(LIFE + 1)
    async with resumed(emulator, token, session) as (again, _):
        await clock.advance(9)
        await again.settle()
        await clock.advance(2)
        assert (await again.hear_the_end())["error"]["message"] == "the token has expired"


async def test_a_valid_token_keeps_a_session_that_was_resumed_with_an_expired_one(
    emulator, clock, caller, client, token
):
    """The client reauthenticates within the ten seconds."""
    session = await connect(caller, token)
    emulator._gateway.cut()
    clock.suspend(LIFE + 1)
    fresh = await client.create_subscriber_token(ALICE)
    async with resumed(emulator, token, session) as (again, _):
        assert "result" in await again.reauthenticate(fresh.access_token.value)
        await clock.advance(11)
        await again.settle()
        assert only(emulator).expires_at == fresh.access_token.expires_at


async def test_a_resume_closes_the_earlier_connection(emulator, caller, token):
    """Only one connection has a session."""
    session = await connect(caller, token)
    async with resumed(emulator, token, session):
        assert only(emulator).resumed == 1
        assert (await caller.hear_the_end())["error"]["message"] == "another connection has resumed the session"


async def refuse_to_resume(emulator, token, session):
    """Resume, and return the code of the error after which the gateway closes the connection."""
    async with resumed(emulator, token, session) as (again, answer):
        assert (await again.next()).type is aiohttp.WSMsgType.CLOSE
        return answer["error"]["code"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocol": "signalwire_other"},
        {"protocol": None},
        {"protocol": 5},
        {"authorization_state": "other"},
        {"authorization_state": None},
        {"authorization_state": ["other"]},
    ],
    ids=str,
)
async def test_a_wrong_state_or_protocol_is_refused(emulator, caller, token, wrong):
    """The session stays, and can be resumed with the right ones."""
    session = await connect(caller, token)
    assert await refuse_to_resume(emulator, token, session | wrong) == -32003
    entry = emulator.requests[-1]
    assert (entry.operation, entry.status) == ("signalwire.connect", 403)
    assert entry.reason.startswith("cannot resume")
    async with resumed(emulator, token, session) as (_, answer):
        assert "result" in answer


@pytest.mark.parametrize("kind", ["another subscriber's", "refresh", "damaged"])
async def test_a_state_does_not_fit_another_token(emulator, caller, client, pair, kind):
    """Only an access token of the same subscriber resumes."""
    session = await connect(caller, pair.access_token.value)
    token = {"refresh": pair.refresh_token.value, "damaged": "a.b.c.d.e"}.get(kind)
    if token is None:
        token = (await client.create_subscriber_token("bob")).access_token.value
    assert await refuse_to_resume(emulator, token, session) == -32003


async def test_a_state_is_accepted_until_a_later_one_is_acknowledged(emulator, caller, token):
    """A client that lost the later one can still resume."""
    first = await connect(caller, token)
    caller.acknowledges = False
    await caller.reauthenticate(token)
    await caller.hear_state()
    async with resumed(emulator, token, first) as (again, _):
        last = first | {"authorization_state": await again.hear_state()}
        await eventually(lambda: only(emulator).acknowledged == 1)
    assert await refuse_to_resume(emulator, token, first) == -32003
    async with resumed(emulator, token, last) as (_, answer):
        assert "result" in answer


@pytest.mark.parametrize("key", [KEY, OTHER_KEY, None], ids=["its key", "another key", "none"])
async def test_a_bound_token_needs_its_proof_to_resume(emulator, client, caller, key):
    """An expired one as well."""
    pair = await client.create_subscriber_token(ALICE, fingerprint=KEY.thumbprint(), scope="sat:refresh")
    proven = {"rpc": "request", "mth": "signalwire.connect"}
    session = await connect(caller, pair.access_token.value, dpop_token=make_proof(KEY, **proven))
    emulator._gateway.cut()
    await eventually(lambda: not emulator.connections)
    emulator.expire(pair.access_token)
    proof = {} if key is None else {"dpop_token": make_proof(key, **proven)}
    async with resumed(emulator, pair.access_token.value, session, **proof) as (_, answer):
        assert "result" in answer if key is KEY else answer["error"]["code"] == -32002


@pytest.mark.parametrize("resumes", [False, True])
async def test_a_session_ends_with_the_connection_whose_token_expires(emulator, clock, caller, token, resumes):
    """Its state is then refused, also if the token had expired before a resume."""
    session = await connect(caller, token)
    if resumes:
        emulator._gateway.cut()
        clock.suspend(LIFE + 1)
        async with resumed(emulator, token, session) as (again, _):
            session["authorization_state"] = await again.hear_state()
            await again.settle()
            await clock.advance(11)
            await again.hear_the_end()
    else:
        await caller.settle()
        clock.suspend(LIFE)
        await clock.advance(16)
        await caller.hear_the_end()
    assert await refuse_to_resume(emulator, token, session) == -32003


async def test_a_session_outlives_an_outage(emulator, caller, token):
    """It can be resumed when the emulator is reachable again."""
    session = await connect(caller, token)
    async with emulator.unreachable():
        pass
    async with resumed(emulator, token, session) as (_, answer):
        assert "result" in answer


async def test_a_state_appears_in_no_representation(emulator, caller, token):
    """Sessions and messages don't show it."""
    session = await connect(caller, token)
    (line,) = emulator._gateway.lines
    shown = repr((line._session, line._outbox, emulator.connections, emulator.requests))
    assert session["authorization_state"] not in shown


# Disconnecting


@pytest.mark.parametrize("restart", [False, True])
async def test_the_gateway_can_ask_a_client_to_disconnect(emulator, caller, token, restart):
    """It closes the connection when the client has answered. With `restart`, the session is gone."""
    session = await connect(caller, token)
    assert emulator.disconnect(restart=restart) == 1
    request = await caller.hear()
    assert (request["method"], request["params"]) == ("signalwire.disconnect", {"restart": True} if restart else {})
    await caller.answer(request, {})
    assert (await caller.next()).type is aiohttp.WSMsgType.CLOSE
    async with resumed(emulator, token, session) as (_, answer):
        assert answer["error"]["code"] == -32003 if restart else "result" in answer


@pytest.mark.parametrize("result", [{"code": 200}, None], ids=["another result", "none"])
async def test_a_client_that_does_not_disconnect_is_closed(emulator, clock, caller, token, result):
    """After five seconds."""
    await connect(caller, token)
    emulator.disconnect(connection=only(emulator))
    request = await caller.hear()
    if result is not None:
        await caller.answer(request, result)
    await clock.advance(4)
    await caller.settle()
    await clock.advance(2)
    assert (await caller.next()).type is aiohttp.WSMsgType.CLOSE


# Expiry


async def test_a_token_can_expire_early(emulator, caller, client, pair):
    """The service refuses it, its connection is closed, and others stay."""
    await connect(caller, pair.access_token.value)
    other = await client.create_subscriber_token(ALICE)
    async with call_in(emulator) as another:
        await connect(another, other.access_token.value)
        emulator.expire(pair.access_token)
        assert (await caller.hear_the_end())["error"]["message"] == "the token has expired"
        await another.settle()
    assert not emulator.accepts(pair.access_token)
    assert emulator.accepts(pair.refresh_token)
    assert emulator.accepts(other.access_token)


@pytest.mark.parametrize("kind", ["refresh", "damaged"])
async def test_only_access_tokens_expire_early(emulator, pair, kind):
    """Any other text is a mistake in the test."""
    with pytest.raises(ValueError, match="cannot expire: the text isn't an access token of this emulator"):
        emulator.expire(pair.refresh_token if kind == "refresh" else "a.b.c.d.e")


# Calls that a test answers


async def test_a_test_can_answer_a_method(emulator, caller, token):
    """A function gets the params and returns the result; its `ValueError` is the error for wrong params."""

    def answer(params):
        if "jsonrpc" not in params:
            raise ValueError("the call is missing")
        return {"echo": params["jsonrpc"]}

    emulator.on_call("webrtc.verto", answer)
    assert (await caller.call("webrtc.verto"))["error"]["code"] == -32002, "it must connect first"
    await connect(caller, token)
    assert (await caller.call("webrtc.verto", jsonrpc="2.0"))["result"] == {"echo": "2.0"}
    assert (await caller.call("webrtc.verto"))["error"] == {"code": -32602, "message": "the call is missing"}
    assert (await caller.call("webrtc.other"))["error"]["code"] == -32601


async def test_a_test_cannot_answer_what_the_gateway_answers(emulator):
    """The gateway's own methods stay."""
    with pytest.raises(ValueError, match="the gateway doesn't answer itself"):
        emulator.on_call("signalwire.ping", lambda params: params)


@pytest.mark.parametrize("wrong", [lambda _: None, lambda _: 1 // 0], ids=["no dict", "an error"])
async def test_a_function_that_fails_closes_the_connection(emulator, caller, token, caplog, wrong):
    """The log has the type and the place of the error, and the emulator goes on."""
    await connect(caller, token)
    emulator.on_call("webrtc.verto", wrong)
    await caller.socket.send_json({"jsonrpc": "2.0", "id": "lost", "method": "webrtc.verto"})
    assert await is_closed(caller)
    await eventually(lambda: caplog.records)
    assert caplog.records[0].name == "signalwire_tokens.emulator"
    async with call_in(emulator) as other:
        await connect(other, token)


# Faults


@pytest.mark.parametrize("closes", [False, True])
async def test_a_connect_can_fail(emulator, caller, token, closes):
    """With any code, and with a close or without one; the next attempt succeeds."""
    emulator.fail(RpcFailure(-32603, "Internal error", closes=closes), operation="signalwire.connect")
    assert (await caller.connect(token))["error"] == {"code": -32603, "message": "Internal error"}
    assert entries(emulator) == [("signalwire.connect", None, "RpcFailure")]
    if closes:
        assert await is_closed(caller)
        assert emulator.connections == ()
    else:
        assert "result" in await caller.connect(token)


async def test_any_method_can_fail(emulator, caller, token):
    """Also one that a test answers, or that nothing answers. Other methods don't meet the fault."""
    await connect(caller, token)
    for method in ("signalwire.reauthenticate", "subscriber.online", "webrtc.verto"):
        emulator.fail(RpcFailure(-32000, "Timeout"), operation=method)
        await caller.settle()
        assert (await caller.call(method))["error"]["code"] == -32000
    assert not only(emulator).is_online
    assert not emulator.faults
    assert [(entry.operation, entry.auth) for entry in emulator.requests[-3:]] == [
        ("signalwire.reauthenticate", "JWT"),
        ("subscriber.online", None),
        ("webrtc.verto", None),
    ]


@pytest.mark.parametrize("applied", [False, True])
async def test_a_stalled_call_gets_no_answer(emulator, caller, token, applied):
    """The connection goes on. With `applied`, the call has taken effect."""
    await connect(caller, token)
    emulator.fail(Stall(applied=applied), operation="subscriber.online")
    await caller.socket.send_json({"jsonrpc": "2.0", "id": "lost", "method": "subscriber.online", "params": {}})
    assert (await caller.call("signalwire.ping", timestamp=1))["id"] != "lost"
    assert only(emulator).is_online is applied


@pytest.mark.parametrize("applied", [False, True])
async def test_a_connection_can_break_before_a_reauthentication_or_after_it(emulator, caller, client, token, applied):
    """The client gets no answer either way. The session goes on with the token that was accepted last."""
    session = await connect(caller, token)
    emulator.fail(Reset(applied=applied), operation="signalwire.reauthenticate")
    fresh = await client.create_subscriber_token(ALICE)
    params = {"authentication": {"project": emulator.project_id, "jwt_token": fresh.access_token.value}}
    call = {"jsonrpc": "2.0", "id": "lost", "method": "signalwire.reauthenticate", "params": params}
    await caller.socket.send_json(call)
    assert await is_closed(caller)
    assert isinstance(caller.socket.exception(), ConnectionResetError)
    assert entries(emulator)[-1] == ("signalwire.reauthenticate", None, "Reset")
    (kept,) = emulator._gateway.sessions._sessions.values()
    assert len(kept.states) == 1 + applied
    async with resumed(emulator, token, session) as (_, answer):
        assert "result" in answer


async def test_a_delayed_call_is_answered_later(emulator, caller, token):
    """Other calls are answered meanwhile."""
    await connect(caller, token)
    emulator.fail(Delay(0.01), operation="subscriber.online")
    await caller.call("subscriber.online")
    assert only(emulator).is_online
    assert entries(emulator)[-1] == ("subscriber.online", None, "Delay")


async def test_a_delayed_authentication_is_recorded_with_its_status(emulator, caller, token):
    """A fault that only waits changes nothing else."""
    emulator.fail(Delay(0.01), operation="signalwire.connect")
    await connect(caller, token)
    assert entries(emulator) == [("signalwire.connect", 200, "Delay")]


async def test_a_call_that_waits_in_a_delay_ends_with_its_connection(emulator, caller, token):
    """It takes no effect then."""
    await connect(caller, token)
    emulator.fail(Delay(1e6), operation="subscriber.online")
    call = {"jsonrpc": "2.0", "id": "late", "method": "subscriber.online", "params": {}}
    await caller.socket.send_json(call)
    await caller.settle()
    emulator._gateway.cut()
    await eventually(lambda: not emulator._gateway.lines)
    assert len(entries(emulator)) == 1


@pytest.mark.parametrize("fault", [Reset(), Stall()], ids=["reset", "stall"])
async def test_an_acknowledgement_can_be_lost(emulator, caller, token, fault):
    """The event is sent again after a resume, with the same id."""
    session = await connect(caller, token)
    await caller.settle()
    emulator.fail(fault, operation="signalwire.event")
    emulator.send_event("call.state")
    event = await caller.hear_event()
    await eventually(lambda: not emulator.faults)
    async with resumed(emulator, token, session) as (again, _):
        await again.hear_state()
        assert await again.hear_event() == event
    assert ("signalwire.event", None, type(fault).__name__) in entries(emulator)


@pytest.mark.parametrize(
    ("fault", "operation", "message"),
    [
        (Status(503), "signalwire.connect", "Status doesn't fit the operation 'signalwire.connect': use one of"),
        (RpcFailure(-32000), "create_guest_token", "RpcFailure doesn't fit the operation 'create_guest_token'"),
        (RpcFailure(-32000), None, "RpcFailure doesn't fit all HTTP requests: use one of"),
        (RpcFailure(-32000), "signalwire.event", "RpcFailure doesn't fit the operation 'signalwire.event'"),
    ],
)
async def test_a_fault_must_fit_its_operation(emulator, fault, operation, message):
    """HTTP and the gateway have different ones."""
    with pytest.raises(ValueError, match=message):
        emulator.fail(fault, operation=operation)


async def test_a_fault_without_an_operation_is_for_http_only(emulator, caller, client, token):
    """Messages at the gateway don't use it up."""
    emulator.fail(Reset())
    await connect(caller, token)
    assert len(emulator.faults) == 1


def test_the_code_of_a_failure_is_a_whole_number():
    """A wrong one is an error at once."""
    with pytest.raises(TypeError, match="code must be a whole number"):
        RpcFailure("-32000")


@pytest.mark.parametrize("method", ["work", "signalwire.ping"])
async def test_a_function_answers_a_method_of_its_own(emulator, method):
    """It has a dot, as all methods have, and the gateway doesn't answer it itself."""
    with pytest.raises(ValueError, match="method must"):
        emulator.on_call(method, dict)


async def test_a_function_that_answers_is_not_async(emulator):
    """Its result would be a coroutine."""

    async def answer(params):
        return params

    with pytest.raises(TypeError, match="function must not be async"):
        emulator.on_call("app.work", answer)
