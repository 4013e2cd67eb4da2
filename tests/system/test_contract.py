"""Emulator and `wire` are held to one written description of the service."""

import asyncio
import json
import threading
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from uuid import UUID

import jsonschema_rs
import pytest
import schemathesis
import yaml
from hypothesis import settings

from signalwire_tokens import TokenClient, wire
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.emulator.calls import OPERATIONS
from signalwire_tokens.models import Secret
from support.paths import ROOT

PATH = ROOT / "docs/reference/openapi.yaml"
DOCUMENT = yaml.safe_load(PATH.read_text())
DESCRIBED = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
ID = UUID("0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001")
NOW = 1_800_000_000.0
AUTH = {"project": wire.Auth.PROJECT, "subscriber": wire.Auth.SUBSCRIBER, None: wire.Auth.NONE}
TEXTS = ["first_name", "last_name", "display_name", "job_title", "time_zone", "country", "region", "company_name"]


FULL = {
    "create_subscriber_token": wire.create_subscriber_token(
        "alice",
        now=NOW,
        expire_at=NOW + 1,
        application_id=ID,
        password=Secret("x"),
        fingerprint="f" * 43,
        scope="sat:refresh",
        **dict.fromkeys(TEXTS, "x"),
    ),
    "refresh_subscriber_token": wire.refresh_subscriber_token(Secret("x")),
    "create_guest_token": wire.create_guest_token([ID], now=NOW, expire_at=NOW + 1, region="x", ch="x"),
    "create_invite_token": wire.create_invite_token(ID, subscriber_token=Secret("x"), now=NOW, expires_at=NOW + 1),
    "create_embed_token": wire.create_embed_token(Secret("c2c_x")),
    "create_device_token": wire.create_device_token(Secret("x"), proof=Secret("x"), lifetime=timedelta(minutes=15)),
    "refresh_device_token": wire.refresh_device_token(Secret("x"), proof=Secret("x"), lifetime=timedelta(minutes=15)),
    "subscriber_info": wire.subscriber_info(Secret("x")),
    "subscriber_addresses": wire.subscriber_addresses(ID, origin="https://acme.signalwire.com"),
}


def body_schema(operation):
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if schema and "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def test_the_description_has_the_nine_operations():
    """No more and no fewer, and `wire` and the emulator know the same."""
    assert set(DESCRIBED) == set(FULL) == set(OPERATIONS)
    for name, (method, path, _) in DESCRIBED.items():
        verb, form = OPERATIONS[name]
        assert verb == method
        assert form.fullmatch(path.replace("{id}", str(ID)))


@pytest.mark.parametrize("name", DESCRIBED)
def test_wire_asks_as_described(name):
    """Method, path, authentication, and a body that is valid and can hold every field there is."""
    method, path, operation = DESCRIBED[name]
    request = FULL[name]
    assert (request.method, request.path) == (method, path.replace("{id}", str(ID)))
    (security,) = [next(iter(kind)) for kind in operation["security"]] or [None]
    assert request.auth is AUTH[security]
    schema = body_schema(operation)
    if schema is None:
        assert request.body is None
        return
    body = json.loads(request.body)
    assert set(body) == set(schema["properties"])
    jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]}).validate(body)


@pytest.mark.parametrize("name", [name for name in FULL if DESCRIBED[name][0] == "POST" and "device" not in name])
def test_the_client_takes_every_field_by_its_own_name(name):
    """A field of the service's is a parameter of the method."""
    fields = set(body_schema(DESCRIBED[name][2])["properties"])
    parameters = set(signature(getattr(TokenClient, name)).parameters)
    assert fields <= parameters
    assert parameters - fields <= {"self", "extra", "subscriber_token"}


@contextmanager
def running():
    """Run an emulator on a thread of its own, for clients that are not asynchronous."""
    ready, state = threading.Event(), {}

    async def serve():
        async with Emulator() as emulator, emulator.client() as client:
            pair = await client.create_subscriber_token("alice")
            state.update(emulator=emulator, pair=pair, loop=asyncio.get_running_loop(), stop=asyncio.Event())
            ready.set()
            await state["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert ready.wait(10)
    try:
        yield state["emulator"], state["pair"]
    finally:
        state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join(10)


@pytest.fixture(scope="module")
def service():
    with running() as state:
        yield state


schema = schemathesis.openapi.from_path(PATH)


@schema.parametrize()
@settings(max_examples=60, deadline=None)
@pytest.mark.timeout(180)
def test_the_emulator_answers_as_described(case, service):
    """Whatever is asked: the statuses, types and shapes that are described, and no success for what is not valid."""
    emulator, pair = service
    headers = {}
    kinds = [kind for entry in case.operation.definition.raw["security"] for kind in entry]
    if kinds == ["project"]:
        headers["Authorization"] = basic(emulator)
    if kinds == ["subscriber"]:
        headers["Authorization"] = f"Bearer {pair.token.value}"
    case.call_and_validate(
        base_url=f"http://{emulator.space}",
        headers=headers,
        excluded_checks=[
            # Whether an address is the project's, or a time to come, is beyond what a schema can say.
            schemathesis.checks.positive_data_acceptance,
            # What is no operation is not found: the service has no 405.
            schemathesis.checks.unsupported_method,
        ],
    )


def basic(emulator):
    return wire.basic_authorization(emulator.project_id, Secret(emulator.api_token)).value
