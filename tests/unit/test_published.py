"""The description of the service agrees with the one that SignalWire publishes, except where it says otherwise."""

import copy

import pytest

from support.documented import assert_documented
from support.openapi import DOCUMENT
from support.published import all_differences, listed_differences

GUESTS = ("paths", "/api/fabric/guests/tokens")
GUEST = (*GUESTS, "post")
BODY = (*GUEST, "requestBody", "content", "application/json", "schema")
MEMBERS = (*BODY, "properties")
SCHEMAS = ("components", "schemas")
FIELDS = (*SCHEMAS, "NewSubscriberToken", "properties")
REFUSAL = ("components", "responses", "Unauthorized", "content", "application/json", "schema")
ABSENT = object()


def test_the_description_lists_every_difference_from_the_published_one():
    """Each entry has what is published, what is described, and why. Nothing that agrees is listed."""
    assert_documented("x-differences of docs/reference/openapi.yaml", listed_differences(), all_differences())
    for entry in DOCUMENT["x-differences"]:
        assert set(entry) == {"where", "published", "here", "because"}
        assert entry["because"].strip()


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (GUESTS, ABSENT, "POST /api/fabric/guests/tokens"),
        ((*GUESTS, "servers"), [{"url": "/"}], "create_guest_token servers"),
        ((*GUEST, "operationId"), "create_guest", "create_guest operationId"),
        ((*GUEST, "security"), [], "create_guest_token auth"),
        ((*GUEST, "parameters"), [{"name": "a", "in": "query", "schema": {}}], "create_guest_token query.a"),
        ((*GUEST, "responses", "404"), ABSENT, "create_guest_token 404"),
        ((*GUEST, "responses", "202"), {"$ref": "#/components/responses/Pair"}, "create_guest_token 202"),
        ((*GUEST, "requestBody"), ABSENT, "create_guest_token request"),
        ((*BODY, "required"), ["ch"], "create_guest_token request required"),
        ((*BODY, "additionalProperties"), True, "create_guest_token request closed"),
        ((*MEMBERS, "ch"), ABSENT, "create_guest_token request.ch"),
        ((*MEMBERS, "type"), {"type": "string"}, "create_guest_token request.type"),
        ((*MEMBERS, "allowed_addresses", "maxItems"), 11, "create_guest_token request.allowed_addresses maxItems"),
        ((*MEMBERS, "allowed_addresses", "items"), {}, "create_guest_token request.allowed_addresses format"),
        ((*FIELDS, "fingerprint", "minLength"), 42, "create_subscriber_token request.fingerprint minLength"),
        ((*FIELDS, "fingerprint", "pattern"), "^x$", "create_subscriber_token request.fingerprint pattern"),
        ((*FIELDS, "scope", "enum"), ["sat:all"], "create_subscriber_token request.scope enum"),
        ((*SCHEMAS, "Problem", "required"), [], "create_embed_token 422.errors required"),
        ((*SCHEMAS, "Address", "properties", "id"), {}, "subscriber_addresses 200.data.id format"),
        ((*REFUSAL, "properties", "error", "enum"), ["No"], "create_guest_token 401.error enum"),
    ],
)
def test_a_difference_is_found(place, value, expected):
    """Wherever it is in the description."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = place
    target = document
    for key in parents:
        target = target[key]
    if value is ABSENT:
        del target[last]
    else:
        target[last] = value
    known = {where for where, _ in all_differences()}
    found = {where for where, _ in all_differences(document)}
    assert expected in found - known
