"""How the description differs from the one that SignalWire publishes, whose facts published.yaml lists.

Both become trees. A key is a keyword after a blank, or a member's name after a dot, so that joined keys say where a
difference is: "create_guest_token request.allowed_addresses maxItems".
"""

import yaml

from support.openapi import DOCUMENT, LOADER, body_schema, content_schema, operations_of, resolve, security_of
from support.paths import TESTS

PUBLISHED = yaml.load((TESTS / "support/published.yaml").read_text(), LOADER)  # noqa: S506 - a safe loader
WORDS = ("description", "title", "$comment", "examples", "example")  # they state no fact


def schema_tree(schema, document=DOCUMENT):
    """Return a schema's facts. An array has those of its items, with a type such as "array of string"."""
    schema = dict(resolve(schema, document))
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]
        schema["closed"] = True
    tree = {}
    for name, member in schema.pop("properties", {}).items():
        tree[f".{name}"] = schema_tree(member, document)
    if "items" in schema:
        tree |= schema_tree(schema.pop("items"), document)
        schema["type"] = f"{schema['type']} of {tree.get(' type', 'anything')}"
    for keyword, value in schema.items():
        if keyword not in WORDS:
            tree[f" {keyword}"] = (
                sorted(value) if keyword in ("required", "type") and isinstance(value, list) else value
            )
    return tree


def described(document=DOCUMENT):
    """Return the facts of each operation that the description has, by method and path."""
    space = [server["url"] for server in document["servers"]]
    schemes = document["components"]["securitySchemes"]
    found = {}
    for name, (method, path, operation) in operations_of(document).items():
        servers = document["paths"][path].get("servers")
        scheme = security_of(operation)
        tree = {
            " operationId": name,
            " servers": space if servers is None else [server["url"] for server in servers],
            " auth": "none" if scheme is None else schemes[scheme]["scheme"],
            **{f" {kind}.{parameter}": tree for kind, parameter, tree in parameters_of(operation, document)},
        }
        if (body := body_schema(operation, document)) is not None:
            tree[" request"] = schema_tree(body, document)
        for status, response in operation["responses"].items():
            tree[f" {status}"] = schema_tree(content_schema(response, document), document)
        found[f"{method} {path}"] = tree
    return found


def parameters_of(operation, document):
    """Yield where each parameter of an operation is, its name, and its facts."""
    for parameter in operation.get("parameters", ()):
        tree = schema_tree(parameter["schema"], document)
        if parameter.get("required", False) and parameter["in"] != "path":  # a part of the path is always needed
            tree[" required"] = True
        yield parameter["in"], parameter["name"], tree


def published():
    """Return the facts of each operation that SignalWire publishes, by method and path."""
    found = {}
    for call, operation in PUBLISHED["operations"].items():
        tree = {" operationId": operation["operationId"], " servers": PUBLISHED["servers"], " auth": operation["auth"]}
        tree |= {f" path.{name}": schema_tree(schema) for name, schema in operation.get("path", {}).items()}
        if "request" in operation:
            tree[" request"] = schema_tree(operation["request"])
        for status, schema in operation["responses"].items():
            tree[f" {status}"] = schema_tree(schema)
        found[call] = tree
    return found


def differences(theirs, ours, where=""):
    """Yield each place where two trees differ, with what is published and what is described. None means absent."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            yield from differences(theirs.get(key), ours.get(key), where + key)
    elif theirs != ours:
        yield where, {"published": short(theirs), "here": short(ours)}


def short(tree):
    """Return a fact, or the type of a part that the other description lacks."""
    return tree.get(" type", "described") if isinstance(tree, dict) else tree


def all_differences(document=DOCUMENT):
    """Return every difference between the two, each with the place that `x-differences` names it by."""
    theirs, ours = published(), described(document)
    return [
        (ours.get(call, {}).get(" operationId", call) + where, facts)
        for call in {**theirs, **ours}
        for where, facts in differences(theirs.get(call), ours.get(call))
    ]


def listed_differences(document=DOCUMENT):
    """Return the differences that the description lists."""
    theirs = published()
    everywhere = [tree[" operationId"] for call, tree in described(document).items() if call in theirs]
    found = []
    for entry in document["x-differences"]:
        facts = {"published": entry["published"], "here": entry["here"]}
        for place in entry["where"] if isinstance(entry["where"], list) else [entry["where"]]:
            name, blank, rest = place.partition(" ")
            found += [(f"{each}{blank}{rest}", facts) for each in (everywhere if name == "*" else [name])]
    return found
