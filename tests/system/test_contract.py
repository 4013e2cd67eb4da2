"""The emulator answers as the service's description says, whatever it is asked."""

import asyncio
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import settings

from signalwire_tokens import wire
from signalwire_tokens.secret import Secret
from signalwire_tokens.testing.in_thread import emulator_in_thread
from support.needs import NEEDS_ALL
from support.openapi import DOCUMENT, PATH, parameters_of, parameters_validator, security_of
from support.waiting import HANG

# Only the group `all` brings this package. Without the group, the skip says what to install; CI fails instead.
schemathesis = pytest.importorskip("schemathesis", reason=NEEDS_ALL)
requests = pytest.importorskip("requests", reason=NEEDS_ALL)


async def issue(emulator):
    """Return a subscriber's pair."""
    async with emulator.client(timeout=HANG) as client:
        return await client.create_subscriber_token("alice")


@pytest.fixture(scope="module")
def service():
    """Yield an emulator that runs on another thread, for a client that isn't asynchronous, with what it knows.

    That is a subscriber's pair, and the id of an address.
    """
    with emulator_in_thread() as emulator:
        yield emulator, asyncio.run(issue(emulator)), emulator.add_address("room")


schema = schemathesis.openapi.from_path(PATH)
# Members of which no schema can say whether a value is good: a time must be in the future, an address must be the
# project's, and a token must be valid.
KNOWN_TO_THE_SERVICE = {"expire_at", "expires_at", "allowed_addresses", "address_id", "refresh_token"}


def test_the_description_is_a_valid_one():
    """Of OpenAPI 3.1."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    schema.validate()


@schema.parametrize()
@settings(max_examples=60, deadline=None)
def test_the_emulator_answers_as_described(case, service):
    """Each answer has a described status and body. Only a valid request succeeds."""
    emulator, pair, address = service
    headers = {}
    scheme = security_of(case.operation.definition.raw)
    if scheme == "project":
        headers["Authorization"] = basic(emulator)
    if scheme == "subscriber":
        headers["Authorization"] = f"Bearer {pair.access_token.value}"
    if has_valid_path(case):
        is_address = case.operation.definition.raw["operationId"] == "address"
        case.path_parameters["id"] = str(address if is_address else pair.subscriber_id)  # no other is found
    case.call_and_validate(
        base_url=f"http://{emulator.space}", headers=headers, timeout=HANG, excluded_checks=checks_to_leave_out(case)
    )


def has_valid_path(case):
    """Return whether the path has parameters, which are as described."""
    mode = next((part.mode for place, part in case.meta.components.items() if place.value == "path"), None)
    return mode is schemathesis.GenerationMode.POSITIVE


def checks_to_leave_out(case):
    """Return the checks that demand more of the service than the description does."""
    checks = [schemathesis.checks.unsupported_method]  # a method that isn't described is not found: there is no 405
    if isinstance(case.body, dict) and KNOWN_TO_THE_SERVICE & case.body.keys():
        checks.append(schemathesis.checks.positive_data_acceptance)
    if has_valid_path(case) and has_valid_query(case):
        checks.append(schemathesis.checks.negative_data_rejection)
    return checks


def has_valid_query(case):
    """Return whether the query is as described once it is written: an empty list vanishes, for example."""
    sent = urlsplit(requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare().url)
    query = dict(parse_qsl(sent.query, keep_blank_values=True))
    operation = case.operation.definition.raw["operationId"]
    return parameters_validator(operation).is_valid(parameters_of(operation, sent.path, query))


def basic(emulator):
    return wire.basic_authorization(emulator.project_id, Secret(emulator.api_token)).value
