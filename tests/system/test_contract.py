"""The emulator answers as the service's description says, whatever it is asked."""

import asyncio

import pytest
from hypothesis import settings

from signalwire_tokens import wire
from signalwire_tokens.models import Secret
from support.cli_runner import served
from support.needs import NEEDS_ALL
from support.openapi import PATH, security_of
from support.waiting import HANG

# Only the group `all` brings this package. Without the group, the skip says what to install; CI fails instead.
schemathesis = pytest.importorskip("schemathesis", reason=NEEDS_ALL)


async def issue(emulator):
    """Return a subscriber's pair."""
    async with emulator.client(timeout=HANG) as client:
        return await client.create_subscriber_token("alice")


@pytest.fixture(scope="module")
def service():
    """Yield an emulator that runs on another thread, for a client that isn't asynchronous, and a subscriber's pair."""
    with served() as emulator:
        yield emulator, asyncio.run(issue(emulator))


schema = schemathesis.openapi.from_path(PATH)


@schema.parametrize()
@settings(max_examples=60, deadline=None)
def test_the_emulator_answers_as_described(case, service):
    """Whatever is asked: the statuses, types and shapes that are described, and no success for what is not valid."""
    emulator, pair = service
    headers = {}
    scheme = security_of(case.operation.definition.raw)
    if scheme == "project":
        headers["Authorization"] = basic(emulator)
    if scheme == "subscriber":
        headers["Authorization"] = f"Bearer {pair.token.value}"
    case.call_and_validate(
        base_url=f"http://{emulator.space}",
        headers=headers,
        timeout=HANG,
        excluded_checks=[
            # Whether an address is the project's, or a time to come, is beyond what a schema can say.
            schemathesis.checks.positive_data_acceptance,
            # What is no operation is not found: the service has no 405.
            schemathesis.checks.unsupported_method,
        ],
    )


def basic(emulator):
    return wire.basic_authorization(emulator.project_id, Secret(emulator.api_token)).value
