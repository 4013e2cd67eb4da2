"""`wire`, the client, sessions and the emulator know the operations and fields that the service's description has."""

import json
from datetime import timedelta
from inspect import signature
from uuid import UUID

import attrs
import pytest

from signalwire_tokens import Lifetimes, SubscriberInfo, TokenClient, TokenFields, wire
from signalwire_tokens.emulator.calls import OPERATIONS, Call
from signalwire_tokens.emulator.rotation import ROTATIONS
from signalwire_tokens.emulator.service import Service
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire.answers import VOCABULARY
from support.documented import assert_listed
from support.openapi import DESCRIBED, DOCUMENT, body_schema, reply_validator, request_validator, security_of
from support.wire_samples import REFRESH

ID = UUID("0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001")
NOW = 1_800_000_000.0
AUTH = {"project": wire.Auth.PROJECT, "subscriber": wire.Auth.SUBSCRIBER, None: wire.Auth.NONE}
# Parameters of the client's methods that aren't fields of the body.
NO_FIELDS = {"self", "extra", "subscriber_token", "token_fields"}


def described_fields(name):
    """Return the fields of an operation's body that the description has."""
    schema = body_schema(DESCRIBED[name][2])
    return set() if schema is None else set(schema["properties"])


def parameters(name):
    """Return the fields that a method of the client takes."""
    taken = set(signature(getattr(TokenClient, name)).parameters)
    return (taken | (set(TokenFields.__annotations__) if "token_fields" in taken else set())) - NO_FIELDS


SUBSCRIBER = "create_subscriber_token"
FIELDS = described_fields(SUBSCRIBER) | parameters(SUBSCRIBER)
FULL = {
    SUBSCRIBER: wire.create_subscriber_token(
        **{
            **dict.fromkeys(FIELDS, "x"),
            "now": NOW,
            "expire_at": NOW + 1,
            "application_id": ID,
            "password": Secret("x"),
            "fingerprint": "f" * 43,
            "region": "us-central",
            "scope": "sat:refresh",
        }
    ),
    "refresh_subscriber_token": wire.refresh_subscriber_token(Secret(REFRESH)),
    "create_guest_token": wire.create_guest_token(
        [ID], now=NOW, expire_at=NOW + 1, region="us-central", ch="us-central"
    ),
    "create_invite_token": wire.create_invite_token(ID, subscriber_token=Secret("x"), now=NOW, expires_at=NOW + 1),
    "create_embed_token": wire.create_embed_token(Secret("c2c_x")),
    "create_device_token": wire.create_device_token(Secret("x"), proof=Secret("x"), lifetime=timedelta(minutes=15)),
    "refresh_device_token": wire.refresh_device_token(Secret("x"), proof=Secret("x"), lifetime=timedelta(minutes=15)),
    "subscriber_info": wire.subscriber_info(Secret("x")),
    "subscriber_addresses": wire.subscriber_addresses(ID, origin="https://acme.signalwire.com"),
    "addresses": wire.addresses(Secret("x"), origin="https://acme.signalwire.com"),
    "address": wire.address(ID, access_token=Secret("x")),
}
# What a caller of the client fills in. A proof, for a device, is made by the session.
FILLED_IN = [name for name in FULL if DESCRIBED[name][0] == "POST" and "device" not in name]


def sent_fields(name):
    """Return the fields of a body that `wire` made with everything that it takes."""
    return set(json.loads(FULL[name].body or "{}"))


def known_fields(name):
    """Return the fields of an operation's body that any file has."""
    return described_fields(name) | sent_fields(name) | (parameters(name) if name in FILLED_IN else set())


def test_the_description_has_the_eleven_operations():
    """No more and no fewer, and `wire` and the emulator know the same."""
    assert set(DESCRIBED) == set(FULL) == set(OPERATIONS)
    for name, (method, path, _) in DESCRIBED.items():
        verb, form = OPERATIONS[name]
        assert verb == method
        assert form.fullmatch(path.replace("{id}", str(ID)))


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_schemas_of_bodies_are_valid(name):
    """Those of the request, and of each reply; every reference leads somewhere."""
    method, _, operation = DESCRIBED[name]
    assert (request_validator(name) is None) is (method == "GET")
    for status in operation["responses"]:
        assert not reply_validator(name, status).is_valid(None)


@pytest.mark.parametrize("name", DESCRIBED)
def test_wire_asks_as_described(name):
    """Method, path, authentication, and a body that is valid and can hold every field there is."""
    method, path, operation = DESCRIBED[name]
    request = FULL[name]
    assert (request.method, request.path) == (method, path.replace("{id}", str(ID)))
    assert request.auth is AUTH[security_of(operation)]
    assert_listed("docs/reference/openapi.yaml", described_fields(name), known_fields(name))
    assert_listed(
        f"signalwire_tokens/wire/requests.py, and to {name} in FULL in tests/unit/test_openapi.py",
        sent_fields(name),
        known_fields(name),
    )
    validator = request_validator(name)
    assert (validator is None) is (request.body is None)
    if validator is not None:
        validator.validate(json.loads(request.body))


@pytest.mark.parametrize("name", FILLED_IN)
async def test_the_client_sends_every_field_by_its_own_name(name, signalwire_clock, monkeypatch):
    """A field is a parameter of the method, which passes it on to `wire`."""

    async def send(_, request):
        return request

    monkeypatch.setattr(TokenClient, "send", send)
    hour = timedelta(hours=1)
    values = {**json.loads(FULL[name].body), "expire_at": hour, "expires_at": hour}
    arguments = {field: values.get(field, "x") for field in parameters(name)}
    more = {"subscriber_token": "x"} if FULL[name].auth is wire.Auth.SUBSCRIBER else {}
    async with TokenClient("acme", "project", "token", clock=signalwire_clock) as client:
        request = await getattr(client, name)(**arguments, **more)
    place = "TokenFields in signalwire_tokens/wire/requests.py" if name == SUBSCRIBER else "client/operations.py"
    assert_listed(place, json.loads(request.body), known_fields(name))


def make_service():
    """Make an emulator without a network; return what it answers to a call, and a subscriber's token."""
    service = Service(
        now=lambda: NOW,
        lifetimes=Lifetimes(),
        rotation=ROTATIONS["reusable"],
        channel=None,
        page_size=50,
        project_id="project",
        api_token="token",
        key=bytes(32),
    )
    project = wire.basic_authorization("project", Secret("token")).value

    def call(name, body, authorization=project):
        method, path, _ = DESCRIBED[name]
        raw = json.dumps(body).encode()
        return service.handle(Call(method=method, path=path, authorization=authorization, body=raw)).body

    return call, f"Bearer {call(SUBSCRIBER, {'reference': 'alice'})['token']}"


@pytest.mark.parametrize("name", FILLED_IN)
def test_the_emulator_checks_every_field(name):
    """An object is a wrong value for each of them."""
    call, bearer = make_service()
    body = {field: {} for field in known_fields(name)}
    reply = call(name, body, bearer) if FULL[name].auth is wire.Auth.SUBSCRIBER else call(name, body)
    checked = {problem["attribute"] for problem in reply["errors"]}
    assert_listed("signalwire_tokens/emulator/service.py", checked, known_fields(name))


def test_an_error_may_name_every_field():
    """Whatever secret it may resemble."""
    fields = set().union(*map(known_fields, FULL))
    assert_listed("VOCABULARY in signalwire_tokens/wire/answers.py", VOCABULARY & fields, fields)


def test_what_is_known_of_a_subscriber_is_described_read_and_answered_by_the_emulator():
    """Every field of the answer."""
    schema = DOCUMENT["components"]["schemas"]["SubscriberInfo"]["properties"]
    model = {field.name for field in attrs.fields(SubscriberInfo)}
    call, bearer = make_service()
    answered = call("subscriber_info", None, bearer)
    fields = model | set(schema) | set(answered)
    assert_listed("SubscriberInfo in docs/reference/openapi.yaml", schema, fields)
    assert_listed("SubscriberInfo in signalwire_tokens/models.py", model, fields)
    assert_listed("signalwire_tokens/emulator/service.py", answered, fields)
    body = json.dumps({**dict.fromkeys(fields, "x"), **{key: value for key, value in answered.items() if value}})
    answer = wire.Answer(status=200, headers={}, body=body.encode(), sent=NOW, lifetimes=Lifetimes())
    read = attrs.asdict(wire.read(FULL["subscriber_info"], answer), recurse=False)
    assert_listed("signalwire_tokens/wire/readers.py", [name for name in read if read[name]], fields)
