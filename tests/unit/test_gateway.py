"""The client's side of the realtime protocol: what it sends, and what it makes of answers and errors."""

import copy
import json
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.gateway import (
    OWN_METHODS,
    Answered,
    Connected,
    Deliver,
    Gateway,
    Invalidate,
    Lost,
    NotReauthenticated,
    Output,
    RealtimeEvent,
    Reauthenticated,
    Refused,
    Send,
)
from signalwire_tokens.models import Token
from signalwire_tokens.wire.answers import LONGEST_TEXT

NOW = datetime(2026, 8, 1, tzinfo=UTC)
RESULT = {"protocol": "p1", "authorization": {"project_id": "project"}, "ice_servers": [{"urls": "stun:x"}]}


def token(value):
    return Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))


A, B, C = token("token-a"), token("token-b"), token("token-c")


@pytest.fixture
def gateway():
    return Gateway("agent/1")


def sent(outputs):
    """Return the messages that the outputs send."""
    return [json.loads(one.message.value) for one in outputs if isinstance(one, Send)]


def others(outputs):
    return [one for one in outputs if not isinstance(one, Send)]


def answer(message, result, now=0.0):
    """Return the gateway's answer to a message."""
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), now


def refuse(message, code, text="refused", now=0.0):
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": text}}), now


def ask(method, params, id_="g1"):
    return json.dumps({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})


def event(kind="call.state", id_="e1", now=0.0, **about):
    params = {"event_type": kind, "params": about.pop("params", {}), "timestamp": 1.0, **about}
    return ask("signalwire.event", params, id_), now


def state_event(state="state-1", id_="s1"):
    return event("signalwire.authorization.state", id_, params={"authorization_state": state})


def connect(gateway, access_token=A, now=0.0, **result):
    """Connect, and return the outputs of the answer."""
    (message,) = sent(gateway.connect(access_token, now))
    return gateway.receive(*answer(message, {**RESULT, **result}, now))


def hold_state(gateway):
    """Connect, and receive a state with which the connection can be resumed."""
    connect(gateway)
    gateway.receive(*state_event())


# Connecting.


def test_a_new_connection_presents_the_token(gateway):
    """It names its version and asks for acknowledgements."""
    (message,) = sent(gateway.connect(A, 0.0))
    assert message == {
        "jsonrpc": "2.0",
        "id": "1",
        "method": "signalwire.connect",
        "params": {
            "version": {"major": 4, "minor": 0, "revision": 0},
            "agent": "agent/1",
            "event_acks": True,
            "authentication": {"jwt_token": "token-a"},
        },
    }
    outputs = gateway.receive(*answer(message, RESULT))
    assert outputs == [Connected(resumed=False, ice_servers=({"urls": "stun:x"},))]


def test_a_proof_is_sent_with_each_authentication():
    """It is for the method that is called."""
    gateway = Gateway("agent/1", lambda method: f"proof of {method}")
    (message,) = sent(gateway.connect(A, 0.0))
    assert message["params"]["dpop_token"] == "proof of signalwire.connect"
    gateway.receive(*answer(message, RESULT))
    (again,) = sent(gateway.present(B, 1.0))
    assert again["params"]["dpop_token"] == "proof of signalwire.reauthenticate"
    assert sent(gateway.tick(20.0, 5.0))[-1]["params"] == {"timestamp": 5.0}, "a ping needs none"


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"protocol": "p1"},
        {"protocol": 1, "authorization": {"project_id": "x"}},
        {**RESULT, "authorization": []},
        [],
    ],
)
def test_an_incomplete_answer_ends_the_connection(gateway, result):
    """The connection couldn't be reauthenticated without it."""
    (message,) = sent(gateway.connect(A, 0.0))
    (lost,) = gateway.receive(*answer(message, result))
    assert lost.cause == "not_json_rpc"


def test_ice_servers_may_be_missing(gateway):
    """A client without WebRTC doesn't need them."""
    (connected,) = connect(gateway, ice_servers=None)
    assert connected.ice_servers == ()


def test_a_lost_connection_is_resumed(gateway):
    """Its state stands in for its token, which may have expired."""
    hold_state(gateway)
    gateway.lost("closed", 1.0)
    (message,) = sent(gateway.connect(B, 2.0))
    params = message["params"]
    assert (params["protocol"], params["authorization_state"]) == ("p1", "state-1")
    assert params["authentication"] == {"jwt_token": "token-a"}
    assert gateway.receive(*answer(message, RESULT)) == [Connected(resumed=True, ice_servers=({"urls": "stun:x"},))]


def test_a_resumed_connection_gets_the_newest_token(gateway):
    """The session has renewed it while there was no connection."""
    hold_state(gateway)
    gateway.lost("closed", 1.0)
    assert gateway.present(B, 2.0) == []
    (message,) = sent(gateway.connect(B, 3.0))
    outputs = gateway.receive(*answer(message, RESULT))
    (reauthentication,) = sent(outputs)
    assert reauthentication["method"] == "signalwire.reauthenticate"
    assert reauthentication["params"] == {"authentication": {"project": "project", "jwt_token": "token-b"}}


def test_the_state_keeps_its_token_up_to_date(gateway):
    """After a reauthentication, a resume presents the token that was accepted last."""
    hold_state(gateway)
    (message,) = sent(gateway.present(B, 1.0))
    assert gateway.receive(*answer(message, {})) == [Reauthenticated()]
    gateway.lost("closed", 2.0)
    (message,) = sent(gateway.connect(C, 3.0))
    assert message["params"]["authentication"] == {"jwt_token": "token-b"}


def test_a_resume_that_starts_something_new_is_none(gateway):
    """The gateway names another protocol. The state belongs to the earlier one. (R4)"""
    hold_state(gateway)
    gateway.lost("closed", 1.0)
    (connected,) = connect(gateway, protocol="p2")
    assert not connected.resumed
    gateway.lost("closed", 2.0)
    assert "authorization_state" not in sent(gateway.connect(A, 3.0))[0]["params"]


def test_a_new_connection_is_not_a_resume(gateway):
    """Even if the gateway names the same protocol."""
    connect(gateway)
    gateway.lost("closed", 1.0)
    (connected,) = connect(gateway)
    assert not connected.resumed


@pytest.mark.parametrize("code", [-32002, -32003, -32602])
def test_a_refused_resume_forgets_the_state_and_keeps_the_token(gateway, code):
    """The next connection is a new one, and follows at once. (R5)"""
    hold_state(gateway)
    gateway.lost("closed", 1.0)
    (message,) = sent(gateway.connect(A, 2.0))
    assert others(gateway.receive(*refuse(message, code))) == [Lost("resume_refused", f"'refused' ({code})")]
    assert gateway.lost("resume_refused", 2.0) == 0.0
    (message,) = sent(gateway.connect(A, 2.0))
    assert "authorization_state" not in message["params"]
    assert "protocol" not in message["params"]


@pytest.mark.parametrize("code", [-32603, -32000, -32601, "text", None, []])
def test_other_errors_forget_nothing(gateway, code):
    """They say nothing about the state or the token. (R5)"""
    hold_state(gateway)
    gateway.lost("closed", 1.0)
    (message,) = sent(gateway.connect(A, 2.0))
    (lost,) = gateway.receive(*refuse(message, code))
    assert lost.cause == "refused"
    gateway.lost(lost.cause, 2.0)
    assert "authorization_state" in sent(gateway.connect(A, 3.0))[0]["params"]


@pytest.mark.parametrize("code", [-32003, -32602, -32603, -32000])
def test_only_one_code_says_that_a_token_is_wrong(gateway, code):
    """For a new connection, any other code leaves the token in use. (R5)"""
    (message,) = sent(gateway.connect(A, 0.0))
    (lost,) = gateway.receive(*refuse(message, code))
    assert lost.cause == "refused"


def test_a_refused_token_is_reported_to_the_session(gateway):
    """The next attempt has another one. (R5)"""
    (message,) = sent(gateway.connect(A, 0.0))
    assert gateway.receive(*refuse(message, -32002)) == [Invalidate(A), Lost("token_refused", "'refused' (-32002)")]


def test_two_refused_tokens_end_it(gateway):
    """A third one would be refused as well. (R6)"""
    for refused in (A, B):
        (message,) = sent(gateway.connect(refused, 0.0))
        outputs = gateway.receive(*refuse(message, -32002))
    assert outputs == [Refused("'refused' (-32002)")], "the session may go on using the second one"


def test_a_token_that_is_refused_twice_counts_once(gateway):
    """The session may have had no other one yet. (R6)"""
    for _ in range(3):
        (message,) = sent(gateway.connect(A, 0.0))
        assert gateway.receive(*refuse(message, -32002))[-1].cause == "token_refused"


def test_a_success_in_between_makes_a_refusal_the_first(gateway):
    """The two refusals don't follow each other. (R6)"""
    (message,) = sent(gateway.connect(A, 0.0))
    gateway.receive(*refuse(message, -32002))
    connect(gateway, B)
    (message,) = sent(gateway.connect(C, 0.0))
    assert gateway.receive(*refuse(message, -32002))[-1].cause == "token_refused"


@pytest.mark.parametrize(("params", "is_kept"), [({}, True), ({"restart": False}, True), ({"restart": True}, False)])
def test_a_disconnect_is_answered_and_may_forget_the_state(gateway, params, is_kept):
    """With `restart`, the next connection is a new one."""
    hold_state(gateway)
    outputs = gateway.receive(ask("signalwire.disconnect", params), 1.0)
    assert sent(outputs) == [{"jsonrpc": "2.0", "id": "g1", "result": {}}]
    assert [one.cause for one in others(outputs)] == ["disconnect"]
    gateway.lost("disconnect", 1.0)
    assert ("authorization_state" in sent(gateway.connect(A, 2.0))[0]["params"]) is is_kept


# The token of a connection.


def test_a_new_token_is_presented(gateway):
    """The connection keeps the gateway's project. (R1)"""
    connect(gateway)
    (message,) = sent(gateway.present(B, 1.0))
    assert message["method"] == "signalwire.reauthenticate"
    assert message["params"] == {"authentication": {"project": "project", "jwt_token": "token-b"}}
    assert gateway.receive(*answer(message, {})) == [Reauthenticated()]


def test_a_token_is_not_presented_twice(gateway):
    """The gateway has it already. (R1)"""
    connect(gateway)
    assert gateway.present(A, 1.0) == []


def test_of_several_tokens_the_newest_follows(gateway):
    """One reauthentication is under way at a time. (R1)"""
    connect(gateway)
    (message,) = sent(gateway.present(B, 1.0))
    assert gateway.present(token("skipped"), 2.0) == []
    assert gateway.present(C, 3.0) == []
    outputs = gateway.receive(*answer(message, {}))
    assert others(outputs) == [Reauthenticated()]
    assert [one["params"]["authentication"]["jwt_token"] for one in sent(outputs)] == ["token-c"]


@pytest.mark.parametrize("code", [-32002, -32603])
def test_a_refused_reauthentication_is_repeated(gateway, code):
    """It doesn't end the connection: only the gateway does. (R2)"""
    connect(gateway)
    (message,) = sent(gateway.present(B, 1.0))
    assert gateway.receive(*refuse(message, code, now=1.0)) == [NotReauthenticated(f"'refused' ({code})")]
    assert gateway.next_at == 11.0
    assert gateway.tick(10.9, 0.0) == []
    (again,) = sent(gateway.tick(11.0, 0.0))
    assert again["params"] == message["params"]
    assert gateway.next_at == 20.0, "the next ping"


def test_a_reauthentication_without_an_answer_is_repeated(gateway):
    """Its answer is lost, or late. (R2)"""
    connect(gateway)
    (message,) = sent(gateway.present(B, 1.0))
    assert gateway.tick(11.0, 0.0) == []
    (again,) = sent(gateway.tick(13.0, 0.0))
    assert (again["method"], again["params"]) == (message["method"], message["params"])
    assert again["id"] != message["id"]


# Events.


def test_an_event_is_delivered_and_acknowledged(gateway):
    """With all that the gateway says of it. (R3)"""
    connect(gateway)
    outputs = gateway.receive(*event(params={"x": 1}))
    assert outputs[0] == Deliver(RealtimeEvent(type="call.state", params={"x": 1}, timestamp=1.0))
    assert sent(outputs) == [{"jsonrpc": "2.0", "id": "e1", "result": {}}]


@pytest.mark.parametrize(("node", "expected"), [("a-node", "a-node"), (5, None), (None, None)])
def test_an_event_has_the_node_of_its_call(gateway, node, expected):
    """An answer to a call names it."""
    (delivered, _) = gateway.receive(*event("webrtc.message", node_id=node))
    assert delivered.event.node_id == expected


def test_a_repeated_event_is_acknowledged_only(gateway):
    """The gateway sends it again if its acknowledgement was lost, also after a resume. (R3)"""
    hold_state(gateway)
    gateway.receive(*event())
    gateway.lost("closed", 1.0)
    connect(gateway)
    outputs = gateway.receive(*event())
    assert others(outputs) == []
    assert len(sent(outputs)) == 1


def test_a_new_connection_may_number_its_events_again(gateway):
    """Its first event has the id of an earlier one. (R3)"""
    connect(gateway)
    gateway.receive(*event())
    gateway.lost("closed", 1.0)
    connect(gateway, protocol="p2")
    assert len(others(gateway.receive(*event()))) == 1


def test_the_memory_of_events_is_bounded(gateway):
    """It forgets the oldest ones. (R3)"""
    connect(gateway)
    for number in range(256):
        gateway.receive(*event(id_=f"e{number}"))
    assert others(gateway.receive(*event(id_="e0"))) == []
    gateway.receive(*event(id_="e256"))
    assert others(gateway.receive(*event(id_="e256"))) == []
    assert len(others(gateway.receive(*event(id_="e0")))) == 1


def test_events_without_an_id_are_all_delivered(gateway):
    """They can't be told apart. (R3)"""
    connect(gateway)
    for _ in range(2):
        assert len(others(gateway.receive(*event(id_=None)))) == 1


def test_events_with_the_same_id_may_differ(gateway):
    """The gateway may number them from the start after a resume. Only the same event is a repetition. (R3)"""
    connect(gateway)
    gateway.receive(*event())
    assert len(others(gateway.receive(*event("call.other")))) == 1
    assert len(others(gateway.receive(*event(timestamp=2.0)))) == 1


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"timestamp": "2026-08-01"}, {"timestamp": "2026-08-01"}),
        ({"timestamp": 1}, {"timestamp": 1}),
        ({"timestamp": 1.5}, {"timestamp": 1.5}),
        ({"timestamp": []}, {"timestamp": None}),
        ({"event_channel": "x", "node_id": "n"}, {"channel": "x", "node_id": "n"}),
        ({"event_channel": 5, "node_id": 5}, {"channel": None, "node_id": None}),
    ],
)
def test_an_event_has_what_the_gateway_says_of_it(gateway, given, read):
    """Members of other types are left out."""
    connect(gateway)
    (delivered,) = others(gateway.receive(*event(**given)))
    usual = {"timestamp": 1.0, "channel": None, "node_id": None}
    assert {name: getattr(delivered.event, name) for name in usual} == usual | read


@pytest.mark.parametrize(
    ("kind", "channel", "is_delivered"),
    [
        ("call.state", "x.p1.y", False),
        ("call.state", "x.p2.y", True),
        ("call.state", None, True),
        ("call.state", 5, True),
        ("conversation.message", "x.p1.y", True),
    ],
)
def test_events_of_an_earlier_protocol_are_dropped(gateway, kind, channel, is_delivered):
    """Except those of conversations. They are acknowledged. (R4)"""
    connect(gateway)
    gateway.lost("closed", 1.0)
    connect(gateway, protocol="p2")
    outputs = gateway.receive(*event(kind, event_channel=channel))
    assert bool(others(outputs)) is is_delivered
    assert len(sent(outputs)) == 1


def test_the_first_connection_has_no_earlier_protocol(gateway):
    """So an event of any channel is delivered. (R4)"""
    connect(gateway)
    assert len(others(gateway.receive(*event(event_channel="elsewhere")))) == 1


def test_the_state_of_the_authorization_is_not_for_the_app(gateway):
    """It is a secret. It is acknowledged, and kept."""
    connect(gateway)
    outputs = gateway.receive(*state_event())
    assert others(outputs) == []
    assert len(sent(outputs)) == 1
    assert "state-1" not in repr(gateway.resumable)


@pytest.mark.parametrize(
    "params", [{}, {"event_type": 5}, {"event_type": "signalwire.authorization.state", "params": []}]
)
def test_an_event_without_its_members_is_acknowledged(gateway, params):
    """There is nothing to deliver."""
    connect(gateway)
    outputs = gateway.receive(ask("signalwire.event", params), 0.0)
    assert others(outputs) == []
    assert sent(outputs) == [{"jsonrpc": "2.0", "id": "g1", "result": {}}]
    assert gateway.resumable is None


def test_a_state_before_the_connection_is_made_is_useless(gateway):
    """There is no protocol to resume."""
    gateway.connect(A, 0.0)
    gateway.receive(*state_event())
    assert gateway.resumable is None


# Messages.


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "[" * 100_000])
def test_a_message_that_is_not_json_rpc_ends_the_connection(gateway, text):
    """The next one is a new one: after a resume, the same message might come again."""
    hold_state(gateway)
    (lost,) = gateway.receive(text, 0.0)
    assert lost.cause == "not_json_rpc"
    gateway.lost(lost.cause, 0.0)
    assert gateway.resumable is None


def test_a_ping_is_answered(gateway):
    """With its own timestamp. It is never an event."""
    connect(gateway)
    outputs = gateway.receive(ask("signalwire.ping", {"timestamp": 5, "event_type": "x"}), 0.0)
    assert others(outputs) == []
    assert sent(outputs) == [{"jsonrpc": "2.0", "id": "g1", "result": {"timestamp": 5}}]


def test_an_unknown_request_gets_an_error(gateway):
    """JSON-RPC has a code for that."""
    (message,) = sent(gateway.receive(ask("something.else", {}), 0.0))
    assert message["error"] == {"code": -32601, "message": "this client doesn't have the method"}


@pytest.mark.parametrize("text", ['{"id": 5, "result": {}}', "{}", '{"id": null, "error": {}}'])
def test_a_message_without_a_known_id_is_ignored(gateway, text):
    """It answers nothing."""
    assert gateway.receive(text, 0.0) == []


def test_a_complaint_is_kept_until_the_connection_ends(gateway):
    """The gateway sends it before it closes."""
    connect(gateway)
    gateway.receive('{"id": null, "error": {"code": -32002, "message": "the token has expired"}}', 0.0)
    assert gateway.complaint == "'the token has expired' (-32002)"
    gateway.lost("closed", 0.0)
    assert gateway.complaint == ""


@pytest.mark.parametrize("text", ["{}", '{"id": "x", "result": {}}', ask("signalwire.ping", {})])
def test_a_complaint_is_forgotten_if_the_connection_goes_on(gateway, text):
    """It isn't why the connection ends later."""
    connect(gateway)
    gateway.receive('{"id": null, "error": {"code": -32603, "message": "busy"}}', 0.0)
    gateway.receive(text, 0.0)
    assert gateway.complaint == ""


def test_a_gateway_begins_without_a_complaint(gateway):
    """The first connection may end without a reason."""
    assert gateway.complaint == ""


def test_what_the_gateway_says_is_shown_without_secrets(gateway):
    """It may quote a message of the client."""
    connect(gateway, token("a-long-token-of-alice"))
    gateway.receive(*state_event("a-long-state"))
    (message,) = sent(gateway.present(token("a-long-token-of-bob"), 1.0))
    text = "a-long-token-of-alice a-long-token-of-bob a-long-state"
    (refusal,) = gateway.receive(*refuse(message, -32603, text))
    assert refusal.reason == "'*** *** ***' (-32603)"


# Calls.


def test_a_call_gets_its_result(gateway):
    """As the gateway wrote it. (R8)"""
    call = gateway.call("subscriber.online", {"x": 1})
    message = json.loads(call.message.value)
    assert (message["method"], message["params"], message["id"]) == ("subscriber.online", {"x": 1}, call.call_id)
    assert gateway.receive(*answer(message, [1])) == [Answered(call.call_id, [1])]


@pytest.mark.parametrize(("code", "read"), [(-32601, -32601), ("x", 0), (None, 0)])
def test_a_refused_call_gets_the_code(gateway, code, read):
    """And what the gateway says, in a limited number of characters. (R8)"""
    call = gateway.call("subscriber.online", {})
    (answered,) = gateway.receive(*refuse(json.loads(call.message.value), code, "x" * 1000))
    assert (answered.code, answered.result) == (read, None)
    assert answered.message == f"'{'x' * LONGEST_TEXT}…' ({code})"


def test_a_call_is_valid_json(gateway):
    """JSON has no NaN."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        gateway.call("x", {"y": float("nan")})


def test_ids_are_never_used_twice(gateway):
    """A late answer of an earlier connection answers nothing. (R9)"""
    ids = [sent(gateway.connect(A, 0.0))[0]["id"]]
    gateway.lost("closed", 0.0)
    ids += [gateway.call("x", {}).call_id, sent(gateway.connect(A, 0.0))[0]["id"]]
    assert len(set(ids)) == len(ids)


# Time.


def test_nothing_is_due_without_a_connection(gateway):
    """Neither before the first one, nor after a loss."""
    assert gateway.next_at is None
    connect(gateway)
    gateway.tick(20.0, 0.0)
    gateway.lost("closed", 21.0)
    assert gateway.next_at is None


def test_pings_follow_twenty_seconds_after_an_answer(gateway):
    """An error is an answer, too. (R10)"""
    connect(gateway, now=100.0)
    assert gateway.next_at == 120.0
    assert gateway.tick(119.9, 5.0) == []
    (ping,) = sent(gateway.tick(120.0, 5.0))
    assert (ping["method"], ping["params"]) == ("signalwire.ping", {"timestamp": 5.0})
    assert gateway.next_at == 130.0
    assert gateway.receive(*refuse(ping, -32603, now=121.0)) == []
    assert gateway.next_at == 141.0


def test_a_missed_pong_ends_the_connection(gateway):
    """After twelve seconds. (R10)"""
    connect(gateway)
    gateway.tick(20.0, 0.0)
    assert gateway.tick(30.0, 0.0) == []
    assert gateway.next_at == 32.0
    assert gateway.tick(31.9, 0.0) == []
    assert gateway.tick(32.0, 0.0) == [Lost("no_answer", "the gateway didn't answer signalwire.ping within 12 s")]


def test_connecting_may_take_twelve_seconds(gateway):
    """Then the attempt has failed. (R10)"""
    gateway.connect(A, 0.0)
    assert gateway.next_at == 10.0
    assert gateway.tick(10.0, 0.0) == []
    assert [one.cause for one in gateway.tick(12.0, 0.0)] == ["no_answer"]


@pytest.mark.parametrize("late", [30.1, 31.0, 100.0])
def test_a_process_that_was_stopped_reads_first(gateway, late):
    """The pong may have arrived long ago. (R10)"""
    connect(gateway)
    gateway.tick(20.0, 0.0)
    assert gateway.tick(late, 0.0) == []
    assert gateway.next_at == late + 2.0
    assert [one.cause for one in gateway.tick(late + 4.0, 0.0)] == ["no_answer"]


def test_a_process_may_be_stopped_twice(gateway):
    """Each time, it reads first. (R10)"""
    connect(gateway)
    gateway.tick(20.0, 0.0)
    gateway.tick(100.0, 0.0)
    assert gateway.tick(104.1, 0.0) == []
    assert [one.cause for one in gateway.tick(106.1, 0.0)] == ["no_answer"]


def test_the_window_doubles_up_to_a_minute(gateway):
    """As long as no connection is stable. (R7)"""
    assert [gateway.lost("unreachable", 0.0) for _ in range(7)] == [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]
    for _ in range(2000):
        assert gateway.lost("closed", 0.0) == 60.0


@pytest.mark.parametrize(("lasted", "window"), [(59.9, 12.0), (60.0, 3.0)])
def test_a_stable_connection_makes_the_window_short_again(gateway, lasted, window):
    """One that is lost at once doesn't. (R7)"""
    for _ in range(2):
        gateway.lost("unreachable", 0.0)
    connect(gateway, now=10.0)
    assert gateway.lost("closed", 10.0 + lasted) == window


# Values.


def test_values_hide_what_may_be_secret(gateway):
    """A log shows them."""
    connected, answered = Connected(resumed=False, ice_servers=({"credential": "hush"},)), Answered("1", "hush")
    event_ = RealtimeEvent(type="x", params={"x": "hush"})
    gateway.connect(token("hush"), 0.0)
    assert "hush" not in repr((connected, answered, event_, gateway))
    assert repr(gateway).startswith("<")
    assert {gateway: 1}[gateway] == 1
    assert (event_.missed, event_.timestamp, answered.code, answered.message) == (0, None, None, "")


def test_an_event_s_fields_are_named():
    """Its order of fields may change."""
    with pytest.raises(TypeError):
        RealtimeEvent("x", {})


def test_the_library_s_own_methods_are_known():
    """Your app can't call them."""
    assert {"signalwire.connect", "signalwire.reauthenticate", "signalwire.ping"} == OWN_METHODS


def test_only_calls_of_the_app_have_an_id(gateway):
    """Others can't be given up."""
    assert [one.call_id for one in gateway.connect(A, 0.0)] == [None]


# All orders.


@attrs.define
class Walk:
    """One way through the protocol, as the gateway and the app may take it."""

    gateway: Gateway
    is_open: bool = False
    asked: list = attrs.field(factory=list)  # the client's own calls without an answer
    refused: tuple = ()  # tokens refused for new connections, one after the other
    is_given_up: bool = False
    tokens: int = 1

    def copy(self):
        gateway = copy.copy(self.gateway)
        gateway.waiting, gateway._seen = dict(gateway.waiting), dict(gateway._seen)
        return attrs.evolve(self, gateway=gateway, asked=list(self.asked))

    def take(self, outputs):
        """Check what the client does, and do what its shell would."""
        for message in sent(outputs):
            if "method" in message:
                self.asked.append(message)
        reauthentications = [one for one in self.asked if one["method"] == "signalwire.reauthenticate"]
        assert len(reauthentications) <= 1
        for one in others(outputs):
            if isinstance(one, Lost):
                window = self.gateway.lost(one.cause, 0.0)
                assert (window == 0.0) is (one.cause == "resume_refused")
                self.is_open, self.asked = False, []
            if isinstance(one, Refused):
                self.is_given_up = True

    def newest(self):
        return token(f"token-{self.tokens}")

    def steps(self):
        """Return what may happen next, by name."""
        if self.is_given_up:
            return []
        if not self.is_open:
            return ["connect", "renewed"]
        codes = [f"refuse {code}" for code in (-32002, -32003, -32602, -32603)] if self.asked else []
        return [
            "renewed",
            "state",
            "event",
            "disconnect",
            "restart",
            "break",
            *(["accept"] if self.asked else []),
            *codes,
        ]

    def step(self, name):
        gateway = self.gateway
        before = gateway.resumable
        match name.split():
            case ["connect"]:
                self.is_open = True
                self.take(gateway.connect(self.newest(), 0.0))
                (message,) = self.asked
                assert ("authorization_state" in message["params"]) is (before is not None)
            case ["renewed"]:
                self.tokens += 1
                self.take(gateway.present(self.newest(), 0.0))
            case ["state"]:
                self.take(gateway.receive(*state_event(id_=f"s{self.tokens}")))
            case ["event"]:
                outputs = gateway.receive(*event())
                assert len(sent(outputs)) == 1
                self.take(outputs)
            case ["disconnect" | "restart"]:
                self.take(gateway.receive(ask("signalwire.disconnect", {"restart": name == "restart"}), 0.0))
                assert not self.is_open
                assert gateway.resumable == (None if name == "restart" else before)
            case ["break"]:
                self.take([Lost("closed", "")])
            case ["accept"]:
                message = self.asked.pop(0)
                self.take(gateway.receive(*answer(message, RESULT)))
                if message["method"] == "signalwire.connect":
                    self.refused = ()
            case ["refuse", code]:
                self._refuse(self.asked.pop(0), int(code), before)

    def _refuse(self, message, code, before):
        outputs = self.gateway.receive(*refuse(message, code))
        presented = message["params"]["authentication"]["jwt_token"]
        is_connect = message["method"] == "signalwire.connect"
        is_about_token = is_connect and before is None and code == -32002
        is_last = is_about_token and len({*self.refused[-1:], presented}) == 2
        blamed = [presented] if is_about_token and not is_last else []
        assert [one.token.value for one in outputs if isinstance(one, Invalidate)] == blamed
        if not is_connect:
            assert not any(isinstance(one, Lost | Refused) for one in outputs)
        if is_about_token:
            self.refused = (*self.refused, presented)
        assert any(isinstance(one, Refused) for one in outputs) is is_last
        if is_connect and before is not None:
            assert (self.gateway.resumable is None) is (code in (-32002, -32003, -32602))
        self.take(outputs)

    def key(self):
        """Return what decides all that follows, with names for the tokens that count from the newest one."""
        gateway = self.gateway
        age = {None: None} | {f"token-{number}": self.tokens - number for number in range(self.tokens + 1)}
        return (
            self.is_open,
            self.is_given_up,
            tuple((one["method"], age[one["params"]["authentication"]["jwt_token"]]) for one in self.asked),
            gateway.resumable is None,
            gateway.connected_at,
            gateway.repeat_at is None,
            gateway._is_later,
            gateway.protocol,
            age[gateway.token and gateway.token.value],
            tuple(age[one] for one in self.refused[-1:]),
            min(gateway.losses, 6),
            len(gateway._seen) > 0,
        )


def test_no_order_of_answers_and_losses_breaks_a_rule():
    """In all ways of ten steps, one reauthentication is under way, and no token is blamed for anything else.

    (R1) (R2) (R5) (R6)
    """
    first = Walk(Gateway("agent/1"))
    seen, queue = {first.key()}, deque([(first, 0)])
    while queue:
        walk, depth = queue.popleft()
        if depth == 10:
            continue
        for name in walk.steps():
            after = walk.copy()
            after.step(name)
            if (key := after.key()) not in seen:
                seen.add(key)
                queue.append((after, depth + 1))
    assert len(seen) > 500


@given(
    st.text(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "method", "params", "result", "error", "code", "event_type", "x"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(json.dumps)
)
def test_any_message_has_a_meaning(text):
    """Whatever the gateway sends, the client raises nothing."""
    gateway = Gateway("agent/1")
    connect(gateway)
    for output in gateway.receive(text, 0.0):
        assert isinstance(output, get_args(Output))


def test_a_state_that_comes_before_the_answer_belongs_to_no_earlier_protocol(gateway):
    """Otherwise, the next connection would try to resume another one with it. (R5)"""
    connect(gateway)
    gateway.lost("closed", 1.0)
    (message,) = sent(gateway.connect(B, 2.0))
    gateway.receive(*state_event())
    assert gateway.resumable is None
    gateway.receive(*answer(message, {**RESULT, "protocol": "p2"}))
    gateway.receive(*state_event("state-2", "s2"))
    assert gateway.resumable.protocol == "p2"


def test_a_state_that_comes_before_the_answer_to_a_resume_is_kept(gateway):
    """It continues the same protocol. (R5)"""
    hold_state(gateway)
    gateway.lost("closed", 1.0)
    gateway.connect(A, 2.0)
    gateway.receive(*state_event("state-2", "s2"))
    assert gateway.resumable.state.value == "state-2"
