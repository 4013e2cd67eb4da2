"""Checks of the numbers that callers pass to the emulator: a wrong one fails at once, not in a later request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import attrs

__all__ = ["check_statuses", "check_whole", "whole"]

ERROR_STATUSES = range(400, 600)  # HTTP statuses that report an error
STATUSES = "statuses must map error codes to HTTP statuses, such as {'token_expired': 401}"


def is_whole(value: object) -> bool:
    """Return whether a value is an integer. True and False don't count, although they are integers in Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(name: str, value: object) -> None:
    """Raise a `TypeError` if the value of the argument `name` isn't a whole number."""
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")


def whole(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise a `TypeError` if the value of an attrs field isn't a whole number. This is a validator for attrs."""
    check_whole(attribute.name, value)


def check_statuses(statuses: object) -> dict[str, int]:
    """Return a copy of a mapping from error codes to HTTP statuses.

    Raise a `TypeError` for any other type, and a `ValueError` for a status outside 400 to 599.
    """
    if not isinstance(statuses, Mapping):
        raise TypeError(STATUSES)
    found = dict(statuses)
    if not all(isinstance(code, str) and is_whole(status) for code, status in found.items()):
        raise TypeError(STATUSES)
    if not all(status in ERROR_STATUSES for status in found.values()):
        raise ValueError(f"statuses must map to HTTP statuses from {ERROR_STATUSES[0]} to {ERROR_STATUSES[-1]}")
    return found
