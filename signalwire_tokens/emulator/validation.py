"""What the service finds wrong with a body: every problem at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ["LAST_SECOND", "Problems", "Validator"]

Problems = list[dict[str, str | None]]

UUID_FORM = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
FINGERPRINT_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
MOST_ADDRESSES = 10
LAST_SECOND = 253402300799  # of the year 9999
LONGEST_LIFE = 315_360_000  # seconds: ten years, which nobody means; the service's own limit is not known
DOCS = "https://developer.signalwire.com/rest/errors"


class Validator:
    """Takes a body apart, and notes what is wrong with it."""

    def __init__(self, body: object) -> None:
        self._body = cast("Mapping[str, object]", body) if isinstance(body, dict) else {}
        self.problems: Problems = []

    def complain(self, code: str, attribute: str | None, message: str) -> None:
        """Note a problem."""
        self.problems.append(
            {
                "type": "validation_error",
                "code": code,
                "message": message,
                "attribute": attribute,
                "url": f"{DOCS}#{code}",
            }
        )

    def required(self, name: str) -> object:
        """Take a member that must be there and not be blank."""
        value = self._body.get(name)
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            self.complain("missing_required_parameter", name, f"{name} is required")
            return None
        return value

    def string(self, name: str, value: object = None) -> str | None:
        """Take a member that is text, where it is there at all."""
        if value is None and name not in self._body:
            return None
        value = self._body[name] if value is None else value
        if not isinstance(value, str):
            self.complain("invalid_parameter", name, f"{name} must be a string")
            return None
        return value

    def required_string(self, name: str) -> str | None:
        """Take a member that must be there and be text."""
        value = self.required(name)
        return None if value is None else self.string(name, value)

    def matching(self, name: str, form: re.Pattern[str], what: str) -> str | None:
        """Take a member of a certain form, where it is there at all."""
        value = self.string(name)
        if value is not None and not form.fullmatch(value):
            self.complain("invalid_parameter", name, f"{name} must be {what}")
            return None
        return value

    def uuid(self, name: str) -> str | None:
        """Take a UUID, where it is there at all."""
        return self.matching(name, UUID_FORM, "a UUID")

    def fingerprint(self, name: str) -> str | None:
        """Take a key's thumbprint, where it is there at all."""
        return self.matching(name, FINGERPRINT_FORM, "43 characters of A-Z, a-z, 0-9, _ and -")

    def scope(self, name: str) -> str | None:
        """Take a scope, where it is there at all."""
        return self.matching(name, re.compile("sat:refresh"), "sat:refresh")

    def future(self, name: str, now: float) -> float | None:
        """Take a time to come, where it is there at all."""
        if name not in self._body:
            return None
        value = self._body[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value // 1 or value > LAST_SECOND:
            self.complain("invalid_parameter", name, f"{name} must be unix seconds")
        elif value <= now:
            self.complain("invalid_parameter", name, f"{name} must be in the future")
        else:
            return float(value)
        return None

    def seconds(self, name: str, default: int) -> int:
        """Take how long something is to live, where it is there at all."""
        value = self._body.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LONGEST_LIFE:
            self.complain("invalid_parameter", name, f"{name} must be a number of seconds")
            return default
        return value

    def address(self, name: str, value: object, known: Container[str]) -> str | None:
        """Take an address's id, which must be of this project."""
        if not isinstance(value, str) or not UUID_FORM.fullmatch(value):
            self.complain("invalid_parameter", name, f"{name} must be a UUID")
        elif value.lower() not in known:
            self.complain("must_belong_to_project", name, f"{name} must belong to the project")
        else:
            return value.lower()
        return None

    def addresses(self, name: str, known: Container[str]) -> tuple[str, ...]:
        """Take 1 to 10 different addresses."""
        values = self.required(name)
        if values is None:
            return ()
        if not isinstance(values, list):
            self.complain("invalid_parameter", name, f"{name} must be an array")
            return ()
        items = cast("list[object]", values)
        if len(items) > MOST_ADDRESSES:
            message = f"{name} must hold at most {MOST_ADDRESSES} addresses"
            self.complain("allowed_address_limit_exceeded", name, message)
        found = [self.address(name, item, known) for item in items]
        if len({str(item).lower() for item in items}) < len(items):
            self.complain("invalid_parameter", name, f"{name} must not repeat an address")
        return tuple(item for item in found if item is not None)
