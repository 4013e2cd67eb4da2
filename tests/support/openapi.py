"""The written description of the service, which the client and the emulator must follow."""

import re
from functools import cache

import jsonschema_rs
import yaml

from support.paths import ROOT

# The C library's loader takes a tenth of the time; a PyYAML that was built without the library lacks it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PATH = ROOT / "docs/reference/openapi.yaml"
DOCUMENT = yaml.load(PATH.read_text(), LOADER)  # noqa: S506 - either loader is a safe one


def operations_of(document):
    """Return the method, path and description of each operation, by its name."""
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "servers"
    }


DESCRIBED = operations_of(DOCUMENT)
RESPONSES = DOCUMENT["components"]["responses"]
# What answers a request that is for no operation.
ELSEWHERE = {"400": RESPONSES["BadRequest"], "404": RESPONSES["NotFound"], "429": RESPONSES["Throttled"]}
TOKEN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){2,4}", re.ASCII)
FORMATS = {"jwt": lambda text: TOKEN.fullmatch(text) is not None}


def resolve(node, document=DOCUMENT):
    """Return what a node refers to, together with its other members. Return a node without a reference as it is."""
    if "$ref" not in node:
        return node
    target = document
    for key in node["$ref"].removeprefix("#/").split("/"):
        target = target[key]
    return {**resolve(target, document), **{key: value for key, value in node.items() if key != "$ref"}}


def content_schema(node, document=DOCUMENT):
    """Return the schema of a request's or a response's JSON body."""
    return resolve(node, document)["content"]["application/json"]["schema"]


def body_schema(operation, document=DOCUMENT):
    """Return the schema of an operation's body; None for one that has no body."""
    if "requestBody" not in operation:
        return None
    return resolve(content_schema(operation["requestBody"], document), document)


def security_of(operation):
    """Return the name of the security scheme that an operation demands; None for one that demands none."""
    (scheme,) = [name for entry in operation["security"] for name in entry] or [None]
    return scheme


def make_validator(schema):
    """Return a validator that checks formats, too."""
    schema = {**schema, "components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(schema, formats=FORMATS, validate_formats=True)


@cache
def parameters_validator(operation):
    """Return the validator of an operation's parameters in its path and query, as `parameters_of` returns them."""
    parameters = DESCRIBED[operation][2].get("parameters", ())
    return make_validator(
        {
            "properties": {one["name"]: one["schema"] for one in parameters},
            "required": [one["name"] for one in parameters if one.get("required")],
            "additionalProperties": False,
        }
    )


def parameters_of(operation, path, query):
    """Return the parameters of a request, with those that are described as numbers as numbers."""
    form = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", DESCRIBED[operation][1])
    found = re.fullmatch(form, path).groupdict()
    assert found.keys().isdisjoint(query), "a parameter in the path is in the query, too"
    found |= query
    for one in DESCRIBED[operation][2].get("parameters", ()):
        text = found.get(one["name"], "")
        if one["schema"].get("type") == "integer" and re.fullmatch("-?[0-9]+", text):
            found[one["name"]] = int(text)
    return found


@cache
def request_validator(operation):
    """Return the validator of an operation's bodies; None if it has none."""
    schema = body_schema(DESCRIBED[operation][2])
    return None if schema is None else make_validator(schema)


@cache
def reply_validator(operation, status):
    """Return the validator of replies with a status, or None if the description doesn't have it.

    An `operation` of None stands for requests that are for no operation.
    """
    responses = ELSEWHERE if operation is None else DESCRIBED[operation][2]["responses"]
    response = responses.get(str(status))
    return None if response is None else make_validator(content_schema(response))
