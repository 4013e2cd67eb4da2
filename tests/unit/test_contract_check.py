"""A test fails if an emulator accepts or answers what the description of the service doesn't have."""

import json

import attrs
import pytest

from signalwire_tokens.emulator import Emulator
from signalwire_tokens.emulator.calls import Call, Reply
from support.contract import ContractCheck, find_breaches
from support.wire_samples import ID, PAIR, SAT

SECRET = "hunter2"
ISSUE = Call(method="POST", path="/api/fabric/subscribers/tokens", body=b'{"reference": "alice"}')
INFO = Call(method="GET", path="/api/fabric/subscriber/info")
REQUEST = "create_subscriber_token: a request that was accepted"
ANSWER = "create_subscriber_token: a reply with status"
PROBLEM = {"type": "validation_error", "code": "cannot_process", "message": SECRET, "url": "https://example.com"}


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (ISSUE, Reply(200, PAIR)),
        (ISSUE, Reply(401, {"error": "Unauthorized"})),
        (ISSUE, Reply(422, {"errors": [PROBLEM, {**PROBLEM, "attribute": None}]})),
        (ISSUE, Reply(429, {"errors": [PROBLEM]})),
        (ISSUE, Reply(429, {"error": "Too Many Requests"})),
        (attrs.evolve(ISSUE, body=b'{"reference": 7}'), Reply(422, {"errors": [PROBLEM]})),
        (attrs.evolve(ISSUE, body=b'{"reference": "\\ud800"}'), Reply(200, PAIR)),
        (INFO, Reply(404, {"error": "Not Found"})),
        (Call(method="GET", path="/"), Reply(404, {"error": "Not Found"})),
    ],
)
def test_what_is_described_is_no_breach(call, reply):
    """A request that was refused may be anything."""
    assert find_breaches(call, reply, strict=True) == []


@pytest.mark.parametrize(
    ("reply", "breach"),
    [
        (Reply(201, PAIR), "create_subscriber_token: a reply has the status 201, which isn't described"),
        (Reply(200, {"subscriber_id": ID, "token": SAT}), f"{ANSWER} 200 lacks refresh_token in the whole"),
        (Reply(200, {**PAIR, "pin": SECRET}), f"{ANSWER} 200 has members in the whole that aren't described: pin"),
        (Reply(200, {**PAIR, "token": SECRET}), f"{ANSWER} 200 breaks the rule format of token"),
        (Reply(200, {**PAIR, "subscriber_id": SECRET}), f"{ANSWER} 200 breaks the rule format of subscriber_id"),
        (Reply(401, {"error": SECRET}), f"{ANSWER} 401 breaks the rule enum of error"),
        (Reply(422, {"errors": [{**PROBLEM, "url": None}]}), f"{ANSWER} 422 breaks the rule type of errors.0.url"),
        (Reply(429, {"pin": SECRET}), f"{ANSWER} 429 breaks the rule anyOf of the whole"),
    ],
)
def test_a_reply_that_is_not_described_is_a_breach(reply, breach):
    """It says which member breaks which rule, and never a value."""
    assert find_breaches(ISSUE, reply, strict=True) == [breach]


@pytest.mark.parametrize(
    ("fields", "breach"),
    [
        ({"pin": SECRET}, f"{REQUEST} has members in the whole that aren't described: pin"),
        ({"reference": " "}, f"{REQUEST} breaks the rule pattern of reference"),
        ({"expire_at": SECRET}, f"{REQUEST} breaks the rule type of expire_at"),
        ({"region": SECRET}, f"{REQUEST} breaks the rule enum of region"),
        ({"application_id": SECRET}, f"{REQUEST} breaks the rule format of application_id"),
        (
            {"pin\ud800": SECRET, "first_name": "\ud800"},
            f"{REQUEST} has members in the whole that aren't described: pin?",
        ),
    ],
)
def test_a_request_that_is_not_described_is_a_breach_if_it_is_accepted(fields, breach):
    """An emulator that isn't strict may accept more."""
    call = attrs.evolve(ISSUE, body=json.dumps({"reference": "alice", **fields}).encode())
    assert find_breaches(call, Reply(200, PAIR), strict=True) == [breach]
    assert find_breaches(call, Reply(200, PAIR), strict=False) == []


@pytest.mark.parametrize(
    ("path", "query", "rule"),
    [
        (ID, {"page_size": "0"}, "breaks the rule minimum of page_size"),
        (ID, {"page_number": "x"}, "breaks the rule type of page_number"),
        ("1", {"page_size": "50", "page_token": "7"}, "breaks the rule format of id"),
        (ID, {"page": SECRET}, "has members in the whole that aren't described: page"),
    ],
)
def test_a_parameter_that_is_not_described_is_a_breach_if_the_request_is_accepted(path, query, rule):
    """In the path or in the query."""
    path = f"/api/fabric/resources/subscribers/{path}/addresses"
    page = Reply(200, {"data": [], "links": {"self": "https://a/", "first": "https://a/"}})
    call = Call(method="GET", path=path, query=query)
    breach = f"subscriber_addresses: a request that was accepted {rule}"
    assert find_breaches(call, page, strict=True) == [breach]
    assert find_breaches(call, page, strict=False) == []


def test_an_answer_to_no_operation_is_a_refusal():
    """Any other status is a breach."""
    breach = "no operation: a reply has the status 200, which isn't described"
    assert find_breaches(Call(method="GET", path="/"), Reply(200, {}), strict=True) == [breach]


class Item:
    """A test, as far as the check looks at it."""

    def __init__(self, mark=None):
        self.mark = mark

    def get_closest_marker(self, _):
        return self.mark


def run(check, item, *breaches, error=None):
    """Run the check around a test with these breaches."""
    around = check.pytest_runtest_call(item)
    next(around)
    check.breaches += breaches
    with pytest.raises(StopIteration):
        around.throw(error) if error else around.send(None)


def test_a_breach_fails_the_running_test_alone():
    """Each breach is shown once."""
    check = ContractCheck()
    with pytest.raises(pytest.fail.Exception) as caught:
        run(check, Item(), "b", "a", "b")
    assert str(caught.value) == "docs/reference/openapi.yaml was broken:\na\nb"
    run(check, Item())


def test_a_test_that_fails_shows_its_own_failure_first():
    """The breaches are a note to it."""
    check, error = ContractCheck(), ValueError("x")
    with pytest.raises(ValueError, match="x"):
        run(check, Item(), "a", error=error)
    assert error.__notes__ == ["docs/reference/openapi.yaml was broken:\na"]
    run(check, Item())


def test_a_mark_allows_a_breach_and_demands_one():
    """A mark without a breach fails the test."""
    check, item = ContractCheck(), Item("breaks_contract")
    run(check, item, "a")
    with pytest.raises(pytest.fail.Exception, match="remove its mark"):
        run(check, item)


@pytest.mark.breaks_contract("to show that the emulators of all tests are checked")
async def test_every_emulator_is_checked(request):
    """Emulators on a socket are included."""
    assert request.config.pluginmanager.has_plugin("contract_check")
    async with Emulator() as emulator, emulator.client(retries=0) as client:
        emulator.service.handlers["create_embed_token"] = lambda _: Reply(201, {"token": SAT, "pin": SECRET})
        await client.create_embed_token(emulator.click_to_call)
