"""SignalWire's error codes, and what each is about.

SignalWire publishes the codes, but doesn't document with which status each of them comes. So a code decides before the
status: which error an answer becomes (`answers.kind_of`), and whether a session stops using its refresh token
(`keeper.renewal.failure_of`). For an answer with several codes, `Subject` has the order. Codes that aren't listed here
have no effect.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from signalwire_tokens.errors import Problem

__all__ = ["INVALID", "MISSING", "SUBJECTS", "TOKEN_EXPIRED", "TOO_MANY_ADDRESSES", "Subject", "about"]

MISSING = "missing_required_parameter"
INVALID = "invalid_parameter"
TOO_MANY_ADDRESSES = "allowed_address_limit_exceeded"
TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a code


class Subject(Enum):
    """What a code is about. If an answer has several codes, the first subject in this order decides."""

    THROTTLE = "too many requests"
    ACCOUNT = "the account's limits"
    MOMENT = "this moment"
    API_TOKEN = "the API token"  # noqa: S105 - no secret
    TOKEN = "the token that was presented"  # noqa: S105 - no secret
    SUBSCRIBER = "the subscriber"
    REQUEST = "the request"


SUBJECTS: Mapping[str, Subject] = {
    "rate_limit_exceeded": Subject.THROTTLE,
    "account_limit_exceeded": Subject.ACCOUNT,
    "cannot_process": Subject.MOMENT,
    "invalid_auth_token_permissions": Subject.API_TOKEN,
    TOKEN_EXPIRED: Subject.TOKEN,
    "token_invalid": Subject.TOKEN,
    "not_a_refresh_token": Subject.TOKEN,
    "invalid_token_format": Subject.TOKEN,
    "authblock_is_invalid": Subject.SUBSCRIBER,
    "authblock_is_expired": Subject.SUBSCRIBER,
    MISSING: Subject.REQUEST,
    INVALID: Subject.REQUEST,
    "must_belong_to_project": Subject.REQUEST,
    TOO_MANY_ADDRESSES: Subject.REQUEST,
}


def about(problems: Iterable[Problem]) -> Subject | None:
    """Return the deciding subject of an answer's items, or None if none of their codes is known."""
    found = {SUBJECTS.get(problem.code) for problem in problems}
    return next((one for one in Subject if one in found), None)
