"""What is wrong with a request's body: every problem at once, in SignalWire's words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ["LAST_SECOND", "Validator", "describe"]

UUID_FORM = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
FINGERPRINT_FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
MOST_ADDRESSES = 10
BLANKS = " \t\n\r\f\v"
REGIONS = ("us-central",)  # that are published
LAST_SECOND = 253402300799  # of the year 9999
LONGEST_LIFE = 315_360_000  # seconds: ten years. SignalWire's own limit is not known
DOCS = "https://signalwire.com/docs/apis/error-codes"
# What the answer says if nothing more is known than the code.
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


def describe(code: str, attribute: str | None = None, message: str | None = None) -> dict[str, str]:
    """Return a problem as SignalWire writes it; `attribute` is absent if the problem is about none."""
    about = {} if attribute is None else {"attribute": attribute}
    return {
        "type": "validation_error",
        "code": code,
        "message": MESSAGES.get(code, "The request is not valid.") if message is None else message,
        **about,
        "url": DOCS,
    }


def whole_number(value: object) -> int | None:
    """Return a whole number, which JSON may write with a fraction of zero, or None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value // 1:
        return None
    return int(value)


class Validator:
    """Reads the members of a body, and collects what is wrong with them.

    `strict` refuses what isn't published: other regions, and members that no method asked for before `check_names`.
    """

    def __init__(self, body: object, *, strict: bool = False) -> None:
        self._body = cast("Mapping[str, object]", body) if isinstance(body, dict) else {}
        self._strict = strict
        self._known: set[str] = set()
        self.problems: list[dict[str, str]] = []

    def complain(self, code: str, attribute: str, message: str | None = None) -> None:
        """Add a problem."""
        self.problems.append(describe(code, attribute, message))

    def reject(self, name: str, fault: str) -> None:
        """Add the problem that a member has an invalid value. The message is its name and the fault."""
        self.complain("invalid_parameter", name, f"{name.replace('_', ' ').title()} {fault}")

    def check_names(self) -> None:
        """Add a problem for each member that no method has asked for, if strict."""
        for name in self._body if self._strict else ():
            if name not in self._known:
                self.reject(name, "is not a known parameter")

    def value(self, name: str) -> object:
        """Return a member; None if it is absent."""
        self._known.add(name)
        return self._body.get(name)

    def has(self, name: str) -> bool:
        """Return whether a member is there, null included."""
        self._known.add(name)
        return name in self._body

    def required(self, name: str, missing: str = "Required parameter is missing") -> object:
        """Return a member that must be there and not blank; None if it isn't."""
        value = self.value(name)
        if value is None or (isinstance(value, str) and not value.strip(BLANKS)):
            self.complain("missing_required_parameter", name, missing)
            return None
        return value

    def string(self, name: str) -> str | None:
        """Return a text; None if it is absent or something else."""
        value = self.value(name)
        if isinstance(value, str):
            return value
        if self.has(name):
            self.reject(name, "must be a string")
        return None

    def required_string(self, name: str, missing: str = "Required parameter is missing") -> str | None:
        """Return a text that must be there and not blank; None if it isn't."""
        return None if self.required(name, missing) is None else self.string(name)

    def matching(self, name: str, form: re.Pattern[str], what: str) -> str | None:
        """Return a text of a certain form; None if it is absent or something else."""
        value = self.string(name)
        if value is not None and not form.fullmatch(value):
            self.reject(name, f"must be {what}")
            return None
        return value

    def uuid(self, name: str) -> str | None:
        """Return a UUID; None if it is absent or something else."""
        return self.matching(name, UUID_FORM, "a UUID")

    def fingerprint(self, name: str) -> str | None:
        """Return a key's thumbprint; None if it is absent or something else."""
        return self.matching(name, FINGERPRINT_FORM, "43 characters of A-Z, a-z, 0-9, _ and -")

    def scope(self, name: str) -> str | None:
        """Return a scope; None if it is absent or something else."""
        return self.matching(name, re.compile("sat:refresh"), "sat:refresh")

    def region(self, name: str) -> str | None:
        """Return a region: if strict, a published one."""
        value = self.string(name)
        if value is not None and self._strict and value not in REGIONS:
            self.reject(name, f"must be one of: {', '.join(REGIONS)}")
        return value

    def future(self, name: str, now: float) -> int | None:
        """Return a future time in unix seconds; None if it is absent or something else."""
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
        """Return a lifetime in seconds; the default if it is absent or something else."""
        value = whole_number(self.value(name)) if self.has(name) else default
        if value is None or not 0 < value <= LONGEST_LIFE:
            self.reject(name, "must be a number of seconds")
            return default
        return value

    def address(self, name: str, known: Container[str]) -> str | None:
        """Return the id of an address of the project; None if it is absent or something else."""
        value = self.required(name)
        if value is None:
            return None
        if not isinstance(value, str) or value.lower() not in known:
            self.complain("invalid_parameter", name, "Address is invalid")
            return None
        return value.lower()

    def addresses(self, name: str, known: Container[str]) -> tuple[str, ...]:
        """Return the ids of up to 10 addresses of the project. Report each kind of problem once for all of them."""
        values = self.required(name)
        if values is None:
            return ()
        if not isinstance(values, list):
            self.reject(name, "must be an array")
            return ()
        items = cast("list[object]", values)
        if len(items) > MOST_ADDRESSES:
            self.complain("allowed_address_limit_exceeded", name, f"The maximum is {MOST_ADDRESSES} addresses")
        ids = [item.lower() for item in items if isinstance(item, str) and UUID_FORM.fullmatch(item)]
        if len(ids) < len(items):
            self.reject(name, "must be UUIDs")
        if any(id_ not in known for id_ in ids):
            self.complain("must_belong_to_project", name, "The addresses must belong to the project")
        return tuple(ids)
