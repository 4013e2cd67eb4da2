"""A JSON reader that accepts only what RFC 8259 allows.

Python's own reader accepts more. A client that sends such a body would pass its tests against a lenient emulator, and
might then fail against SignalWire.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["fault_of_json", "read_json"]


def read_json(text: str | bytes) -> object:
    """Return the value of a JSON text, or raise a `ValueError`. Bytes must be UTF-8.

    The errors include NaN, Infinity, a byte order mark, UTF-16, a repeated member of an object, and a text that is
    nested too deeply for Python.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        value: object = json.loads(decoded, parse_constant=refuse_constant, object_pairs_hook=unique_members)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def fault_of_json(error: ValueError) -> str:
    """Return what is wrong with a JSON text, by the error of `read_json`. The result quotes nothing of the text."""
    match error:
        case json.JSONDecodeError():
            return f"{error.msg}, line {error.lineno} column {error.colno}"
        case UnicodeDecodeError():
            return "it isn't UTF-8"
        case _:
            return str(error)


def refuse_constant(name: str) -> None:
    """Raise a `ValueError`. Python's reader calls this for NaN and Infinity, which aren't JSON."""
    raise ValueError(f"{name} isn't JSON")


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members as a dict, or raise a `ValueError` if two of them have the same name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members
