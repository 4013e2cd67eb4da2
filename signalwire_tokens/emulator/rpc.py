"""The messages of the realtime gateway: JSON-RPC 2.0, its error codes, and the checks of what clients send."""

from __future__ import annotations

import json
from typing import Any, cast
from uuid import uuid4

import attrs

from .strict_json import read_json
from .validation import LAST_SECOND

__all__ = [
    "ACKNOWLEDGEMENT",
    "AUTHENTICATING",
    "CONNECT",
    "INVALID_PARAMS",
    "METHOD_NOT_FOUND",
    "NOT_AUTHENTICATED",
    "REAUTHENTICATE",
    "REQUESTER_INVALID",
    "RPC_INVALID_REQUEST",
    "JsonObject",
    "Outgoing",
    "RpcError",
    "check_message",
    "check_timestamp",
    "is_acknowledgement",
    "make_request",
    "read_message",
]

JsonObject = dict[str, Any]

# The codes of errors. The first four are those of JSON-RPC 2.0.
PARSE_ERROR, RPC_INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
NOT_AUTHENTICATED, REQUESTER_INVALID = -32002, -32003
CONNECT, REAUTHENTICATE = "signalwire.connect", "signalwire.reauthenticate"
AUTHENTICATING = (CONNECT, REAUTHENTICATE)  # the methods that present a token
ACKNOWLEDGEMENT = "signalwire.event"  # the operation of a client that acknowledges an event


class RpcError(Exception):
    """A call failed, and is answered with an error. If it is `final`, the gateway then closes the connection.

    `reason` explains a refused authentication, for `Entry.reason`. The client doesn't get it.
    """

    def __init__(self, code: int, message: str, *, final: bool = False, reason: str | None = None) -> None:
        super().__init__(message)
        self.code: int = code
        self.message: str = message
        self.final: bool = final
        self.reason: str | None = reason


@attrs.frozen
class Outgoing:
    """A request that the gateway sends. `text` is the whole message, which may hold a secret."""

    id: str
    text: str = attrs.field(repr=False)


def make_request(method: str, params: JsonObject) -> Outgoing:
    """Return a request with an id of its own. Raise a `TypeError` or `ValueError` if `params` aren't JSON."""
    id_ = str(uuid4())
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return Outgoing(id_, json.dumps(message, allow_nan=False))


def read_message(text: str) -> JsonObject:
    """Return a message, with empty `params` if it has none. Raise a `RpcError` if it isn't a JSON object."""
    try:
        message = read_json(text)
    except ValueError:
        raise RpcError(PARSE_ERROR, "the message isn't valid JSON (RFC 8259)") from None
    if not isinstance(message, dict):
        raise RpcError(RPC_INVALID_REQUEST, "not a JSON-RPC 2.0 message: it must be an object")
    return {"params": {}, **cast("JsonObject", message)}


def check_message(message: JsonObject) -> None:
    """Raise a `RpcError` if a message isn't a valid call or response.

    JSON-RPC 2.0 allows calls without an id, and ids that are numbers. SignalWire's protocol uses neither.
    """
    is_call = isinstance(message.get("method"), str) and isinstance(message["params"], dict)
    is_answer = "method" not in message and ("result" in message) != ("error" in message)
    if message.get("jsonrpc") != "2.0" or not (is_call or is_answer):
        raise RpcError(
            RPC_INVALID_REQUEST, "not a JSON-RPC 2.0 message: it must have a method and params, or a result or an error"
        )
    if not isinstance(message.get("id"), str):
        raise RpcError(RPC_INVALID_REQUEST, "not a JSON-RPC 2.0 message: the id must be a string")


def is_acknowledgement(message: JsonObject) -> bool:
    """Return whether a response has the result `{}`, which acknowledges an event or a `signalwire.disconnect`."""
    return message.get("result") == {}


def check_timestamp(params: JsonObject) -> None:
    """Raise a `RpcError` if the `timestamp` of a ping isn't a number of seconds."""
    timestamp = params.get("timestamp")
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or not 0 <= timestamp <= LAST_SECOND:
        raise RpcError(INVALID_PARAMS, "timestamp must be a number of seconds")
