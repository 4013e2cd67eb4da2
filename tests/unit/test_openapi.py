"""`wire`, the client and the emulator know the operations that the service's description has."""

import json
from datetime import timedelta
from inspect import signature
from uuid import UUID

import jsonschema_rs
import pytest

from signalwire_tokens import TokenClient, wire
from signalwire_tokens.emulator.calls import OPERATIONS
from signalwire_tokens.models import Secret
from support.openapi import DESCRIBED, DOCUMENT, body_schema, security_of

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
    assert request.auth is AUTH[security_of(operation)]
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
