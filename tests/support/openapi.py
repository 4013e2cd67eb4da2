"""The written description of the service, which the client and the emulator must follow."""

import yaml

from support.paths import ROOT

PATH = ROOT / "docs/reference/openapi.yaml"
DOCUMENT = yaml.safe_load(PATH.read_text())
# Method, path and description of each operation.
DESCRIBED = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def body_schema(operation):
    """Return the schema of an operation's body; None for one that has no body."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if schema and "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def security_of(operation):
    """Return the name of the security scheme that an operation demands; None for one that demands none."""
    (scheme,) = [name for entry in operation["security"] for name in entry] or [None]
    return scheme
