"""Reads JSON as RFC 8259 defines it, and refuses what Python's reader accepts beyond that."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["read_json"]


def read_json(text: str | bytes) -> object:
    """Return the value of a JSON text in UTF-8, or raise a `ValueError`.

    NaN and Infinity, a byte order mark, UTF-16 and an object that names a member twice are all refused.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        value: object = json.loads(decoded, parse_constant=refuse_constant, object_pairs_hook=unique_members)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def refuse_constant(name: str) -> None:
    """Raise a `ValueError` for NaN and Infinity, which Python reads and JSON doesn't have."""
    raise ValueError(name)


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these members, or raise a `ValueError` if two have the same name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members
