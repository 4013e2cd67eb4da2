"""The operations of the service, and its requests and replies as values without a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from .validation import problem_item

__all__ = ["OPERATIONS", "UNPROCESSABLE", "Call", "Reply", "RequestRefusedError", "failure", "operation_of"]

JsonObject = dict[str, Any]

UNPROCESSABLE = 422  # the only status whose body is always a list of problems

# Each operation with its method and the form of its path. The names are those of the client's methods.
OPERATIONS = {
    "create_subscriber_token": ("POST", re.compile(r"/api/fabric/subscribers/tokens")),
    "refresh_subscriber_token": ("POST", re.compile(r"/api/fabric/subscribers/tokens/refresh")),
    "create_guest_token": ("POST", re.compile(r"/api/fabric/guests/tokens")),
    "create_invite_token": ("POST", re.compile(r"/api/fabric/subscriber/invites")),
    "create_embed_token": ("POST", re.compile(r"/api/fabric/embeds/tokens")),
    "create_device_token": ("POST", re.compile(r"/api/fabric/subscriber/devices/token")),
    "refresh_device_token": ("POST", re.compile(r"/api/fabric/subscriber/devices/refresh")),
    "subscriber_info": ("GET", re.compile(r"/api/fabric/subscriber/info")),
    "addresses": ("GET", re.compile(r"/api/fabric/addresses")),
    "address": ("GET", re.compile(r"/api/fabric/addresses/(?P<id>[^/]+)")),
    "subscriber_addresses": ("GET", re.compile(r"/api/fabric/resources/subscribers/(?P<id>[^/]+)/addresses")),
}
# The texts of the plain answers, which have no list of problems: `{"error": "Not Found"}`.
REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


@attrs.frozen(kw_only=True)
class Call:
    """A request to the service.

    - `path`: as the client sent it, without the query. Escapes such as `%2F` are not decoded.
    - `authorization`: the whole header, or None if the request has none.
    - `malformed_because`: what is wrong with the form of the HTTP request, or None. The service answers every flaw with
      400.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict[str, str])
    authorization: str | None = attrs.field(default=None, repr=False)
    malformed_because: str | None = None
    content_type: str = "application/json"
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Reply:
    """An answer of the service.

    `reason` explains a refusal to the author of a test. It goes into the `Entry` of the request, and not into the
    answer, because SignalWire's own answers don't explain either.
    """

    status: int
    body: JsonObject = attrs.field(repr=False)
    reason: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


class RequestRefusedError(Exception):
    """Ends the handling of a call. `reply` is the answer to it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def failure(status: int, reason: str | None = None, *, code: str | None = None, attribute: str | None = None) -> Reply:
    """Return the reply of a failed call.

    SignalWire has two forms. With a `code`, the body is `{"errors": [{"code": …, "attribute": …, …}]}`, with this one
    problem. Without a code, it is `{"error": "Not Found"}`. A 422 always has the first form: `invalid_parameter` is its
    default code.
    """
    if code is None and status == UNPROCESSABLE:
        code = "invalid_parameter"
    if code is not None:
        return Reply(status, {"errors": [problem_item(code, attribute)]}, reason)
    return Reply(status, {"error": REASONS.get(status, "Error")}, reason)


def operation_of(method: str, path: str) -> str | None:
    """Return the name of the operation that a method and a path lead to, or None if there is none."""
    return next((name for name, (verb, form) in OPERATIONS.items() if verb == method and form.fullmatch(path)), None)
