"""Checks of the numbers that users of the emulator choose, so that a wrong one fails at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import attrs

__all__ = ["check_statuses", "check_whole", "whole"]

ERRORS = range(400, 600)  # statuses
STATUSES = "statuses must map codes to whole numbers"


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, which True and False aren't."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(name: str, value: object) -> None:
    """Raise a `TypeError` if a value isn't a whole number."""
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number")


def whole(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise a `TypeError` if the value of an attrs field isn't a whole number."""
    check_whole(attribute.name, value)


def check_statuses(statuses: object) -> dict[str, int]:
    """Return a copy of a mapping of codes to statuses of errors. Raise a `TypeError` or `ValueError` for any other."""
    if not isinstance(statuses, Mapping):
        raise TypeError(STATUSES)
    found = dict(statuses)
    if not all(isinstance(code, str) and is_whole(status) for code, status in found.items()):
        raise TypeError(STATUSES)
    if not all(status in ERRORS for status in found.values()):
        raise ValueError(f"statuses must be from {ERRORS[0]} to {ERRORS[-1]}")
    return found
