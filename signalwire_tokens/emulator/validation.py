"""The validation of request bodies. One answer lists all problems of a body, with SignalWire's codes and texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ["LAST_SECOND", "Validator", "problem_item"]

UUID_TEXT = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
FINGERPRINT_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
MOST_ADDRESSES = 10  # that a guest's token may allow
BLANKS = " \t\n\r\f\v"
REGIONS = ("us-central",)  # the regions that SignalWire publishes
LAST_SECOND = 253402300799  # the end of the year 9999, in seconds since the epoch. More must be milliseconds
LONGEST_EXPIRY = 315_360_000  # seconds: ten years. SignalWire's own limit isn't known
DOCS = "https://signalwire.com/docs/apis/error-codes"
# The messages of problems by code, where the caller of `describe` passes none.
MESSAGES = {
    "rate_limit_exceeded": "The rate limit has been exceeded.",
    "cannot_process": "The request cannot be processed right now.",
    "account_limit_exceeded": "The account must be upgraded to perform this action.",
    "authblock_is_invalid": "The authblock is invalid.",
    "authblock_is_expired": "The authblock has expired.",
    "token_expired": "Token has expired.",
    "token_invalid": "The provided token is invalid.",
    "not_a_refresh_token": "Invalid token type. You must use a Refresh token.",
    "invalid_token_format": "The format of the provided token is invalid.",
}


def problem_item(code: str, attribute: str | None = None, message: str | None = None) -> dict[str, str]:
    """Return a problem as an item of the answer's `errors`.

    `attribute` is the member of the body that has the problem. With None, the item has no `attribute`. If `message` is
    None, the code decides it.
    """
    about = {} if attribute is None else {"attribute": attribute}
    return {
        "type": "validation_error",
        "code": code,
        "message": MESSAGES.get(code, "The request is not valid.") if message is None else message,
        **about,
        "url": DOCS,
    }


def whole_number(value: object) -> int | None:
    """Return the integer that a JSON number stands for (600 or 600.0), or None for any other value."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value // 1:
        return None
    return int(value)


class Validator:
    """Reads the members of a request's body, and collects their problems.

    Each method reads one member. If the member is wrong, the method adds a problem and returns a placeholder (None, an
    empty tuple or the default), so that the caller can go on with the next member. Only then does the caller look at
    `problems`. If there are any, it must not use the values:

        reference = body.required_string("reference")
        expires_at = body.future("expire_at", now)
        body.check_names()
        if body.problems:  # both members may be wrong
            …

    A body that isn't a JSON object counts as empty, so all required members are missing. With `strict`, members that no
    method has read before `check_names` are problems, and so are regions that SignalWire doesn't publish.
    """

    def __init__(self, body: object, *, strict: bool = False) -> None:
        self._body = cast("Mapping[str, object]", body) if isinstance(body, dict) else {}
        self._strict = strict
        self._known: set[str] = set()
        self.problems: list[dict[str, str]] = []

    def complain(self, code: str, attribute: str, message: str | None = None) -> None:
        """Add a problem. `attribute` is the name of the member, and the `message` defaults to the one of the code."""
        self.problems.append(problem_item(code, attribute, message))

    def reject(self, name: str, fault: str) -> None:
        """Add the problem `invalid_parameter`. Its message is the name of the member in title case, and the fault."""
        self.complain("invalid_parameter", name, f"{name.replace('_', ' ').title()} {fault}")

    def check_names(self) -> None:
        """Add a problem for each member that no method has read yet. Without `strict`, add none."""
        for name in self._body if self._strict else ():
            if name not in self._known:
                self.reject(name, "is not a known parameter")

    def value(self, name: str) -> object:
        """Return a member as it is, or None if it is absent."""
        self._known.add(name)
        return self._body.get(name)

    def has(self, name: str) -> bool:
        """Return whether the body has a member. A member that is null counts."""
        self._known.add(name)
        return name in self._body

    def required(self, name: str, missing: str = "Required parameter is missing") -> object:
        """Return a required member, or None with the message `missing` if it is absent, null or blank."""
        value = self.value(name)
        if value is None or (isinstance(value, str) and not value.strip(BLANKS)):
            self.complain("missing_required_parameter", name, missing)
            return None
        return value

    def string(self, name: str) -> str | None:
        """Return an optional string, or None if it is absent or wrong. Null is wrong."""
        value = self.value(name)
        if isinstance(value, str):
            return value
        if self.has(name):
            self.reject(name, "must be a string")
        return None

    def required_string(self, name: str, missing: str = "Required parameter is missing") -> str | None:
        """Return a required string, or None if it is wrong. `missing` is the message if it is absent, null or blank."""
        return None if self.required(name, missing) is None else self.string(name)

    def matching(self, name: str, form: re.Pattern[str], what: str) -> str | None:
        """Return an optional string that matches `form`, or None if it is absent or wrong. `what` names the form."""
        value = self.string(name)
        if value is not None and not form.fullmatch(value):
            self.reject(name, f"must be {what}")
            return None
        return value

    def uuid(self, name: str) -> str | None:
        """Return an optional UUID, or None if it is absent or wrong."""
        return self.matching(name, UUID_TEXT, "a UUID")

    def fingerprint(self, name: str) -> str | None:
        """Return the optional thumbprint of a key, or None if it is absent or wrong."""
        return self.matching(name, FINGERPRINT_FORM, "43 characters of A-Z, a-z, 0-9, _ and -")

    def scope(self, name: str) -> str | None:
        """Return an optional scope, or None if it is absent or wrong. The only one is `sat:refresh`."""
        return self.matching(name, re.compile("sat:refresh"), "sat:refresh")

    def region(self, name: str) -> str | None:
        """Return an optional region, or None if it is absent or not a string. If strict, it must be published."""
        value = self.string(name)
        if value is not None and self._strict and value not in REGIONS:
            self.reject(name, f"must be one of: {', '.join(REGIONS)}")
        return value

    def future(self, name: str, now: float) -> int | None:
        """Return an optional time in the future, or None if it is absent or wrong.

        Both the time and `now` are seconds since the epoch.
        """
        if not self.has(name):
            return None
        value = whole_number(self.value(name))
        if value is None:
            self.reject(name, "must be an integer")
        elif value > LAST_SECOND:
            self.reject(name, "must be in seconds")
        elif value <= now:
            self.reject(name, f"must be greater than {now:.0f}")
        else:
            return value
        return None

    def seconds(self, name: str, default: int) -> int:
        """Return an optional lifetime in seconds, or the default if it is absent or wrong."""
        value = whole_number(self.value(name)) if self.has(name) else default
        if value is None or not 0 < value <= LONGEST_EXPIRY:
            self.reject(name, "must be a number of seconds")
            return default
        return value

    def address(self, name: str, known: Container[str]) -> str | None:
        """Return the id of a known address, in lower case. The member is required; None means that it is wrong."""
        value = self.required(name)
        if value is None:
            return None
        if not isinstance(value, str) or value.lower() not in known:
            self.complain("invalid_parameter", name, "Address is invalid")
            return None
        return value.lower()

    def addresses(self, name: str, known: Container[str]) -> tuple[str, ...]:
        """Return the ids of up to 10 known addresses, in lower case. Each kind of problem is added once, not per id."""
        values = self.required(name)
        if values is None:
            return ()
        if not isinstance(values, list):
            self.reject(name, "must be an array")
            return ()
        items = cast("list[object]", values)
        if len(items) > MOST_ADDRESSES:
            self.complain("allowed_address_limit_exceeded", name, f"The maximum is {MOST_ADDRESSES} addresses")
        ids = [item.lower() for item in items if isinstance(item, str) and UUID_TEXT.fullmatch(item)]
        if len(ids) < len(items):
            self.reject(name, "must be UUIDs")
        if any(id_ not in known for id_ in ids):
            self.complain("must_belong_to_project", name, "The addresses must belong to the project")
        return tuple(ids)
