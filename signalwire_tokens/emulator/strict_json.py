"""A JSON reader that accepts only what RFC 8259 allows.

Python's own reader accepts more. A client that sends such a body would pass its tests against a lenient emulator, and
might then fail against SignalWire.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["read_json"]


def read_json(text: str | bytes) -> object:
    """Return the value of a JSON text, or raise a `ValueError`. Bytes must be UTF-8.

    The errors include NaN, Infinity, a byte order mark, UTF-16, a repeated member of an object, and a text that is
    nested too deeply for Python.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        value: object = json.loads(decoded, parse_constant=refuse_constant, object_pairs_hook=unique_members)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def refuse_constant(name: str) -> None:
    """Raise a `ValueError`. Python's reader calls this for NaN and Infinity, which aren't JSON."""
    raise ValueError(name)


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members as a dict, or raise a `ValueError` if two of them have the same name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members
