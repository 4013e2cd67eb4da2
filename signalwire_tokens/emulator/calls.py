"""What the service is asked, and what it answers: its operations, requests as they arrive and replies as they leave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from .validation import describe

__all__ = ["OPERATIONS", "UNPROCESSABLE", "Call", "RefusedError", "Reply", "failure", "operation_of"]

Json = dict[str, Any]

UNPROCESSABLE = 422  # whose body is always a list of problems

OPERATIONS = {
    "create_subscriber_token": ("POST", re.compile(r"/api/fabric/subscribers/tokens")),
    "refresh_subscriber_token": ("POST", re.compile(r"/api/fabric/subscribers/tokens/refresh")),
    "create_guest_token": ("POST", re.compile(r"/api/fabric/guests/tokens")),
    "create_invite_token": ("POST", re.compile(r"/api/fabric/subscriber/invites")),
    "create_embed_token": ("POST", re.compile(r"/api/fabric/embeds/tokens")),
    "create_device_token": ("POST", re.compile(r"/api/fabric/subscriber/devices/token")),
    "refresh_device_token": ("POST", re.compile(r"/api/fabric/subscriber/devices/refresh")),
    "subscriber_info": ("GET", re.compile(r"/api/fabric/subscriber/info")),
    "subscriber_addresses": ("GET", re.compile(r"/api/fabric/resources/subscribers/(?P<id>[^/]+)/addresses")),
}
ERRORS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


@attrs.frozen(kw_only=True)
class Call:
    """A request as it arrives."""

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict[str, str])
    authorization: str | None = attrs.field(default=None, repr=False)
    flaw: str | None = None  # of its form, for which it is refused whatever it asks
    content_type: str = "application/json"
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Reply:
    """An answer as it leaves. `reason` is why a request was refused; it stays in the emulator."""

    status: int
    body: Json = attrs.field(repr=False)
    reason: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


class RefusedError(Exception):
    """Ends a call with a refusal."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def failure(status: int, reason: str | None = None, *, code: str | None = None, attribute: str | None = None) -> Reply:
    """Return the reply with a status: SignalWire's plain one, or one with a single problem of this code."""
    if code is None and status == UNPROCESSABLE:
        code = "invalid_parameter"
    if code is not None:
        return Reply(status, {"errors": [describe(code, attribute)]}, reason)
    return Reply(status, {"error": ERRORS.get(status, "Error")}, reason)


def operation_of(method: str, path: str) -> str | None:
    """Name the operation that a request is for."""
    return next((name for name, (verb, form) in OPERATIONS.items() if verb == method and form.fullmatch(path)), None)
