"""SignalWire's error codes, and what each is about.

SignalWire publishes the codes, but doesn't document with which status each of them comes. So a code decides before the
status: which error an answer becomes (`answers.kind_of`), and whether a session stops using its refresh token
(`keeper.renewal.failure_of`). For an answer with several codes, `About` has the order. Codes that aren't listed here
have no effect.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from signalwire_tokens.errors import Problem

__all__ = ["ABOUT", "INVALID", "MISSING", "TOKEN_EXPIRED", "TOO_MANY_ADDRESSES", "About", "about"]

MISSING = "missing_required_parameter"
INVALID = "invalid_parameter"
TOO_MANY_ADDRESSES = "allowed_address_limit_exceeded"
TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a code


class About(Enum):
    """What a code is about. If an answer has several codes, the first subject in this order decides."""

    THROTTLE = "too many requests"
    ACCOUNT = "the account's limits"
    MOMENT = "this moment"
    API_TOKEN = "the API token"  # noqa: S105 - no secret
    TOKEN = "the token that was presented"  # noqa: S105 - no secret
    SUBSCRIBER = "the subscriber"
    REQUEST = "the request"


ABOUT: Mapping[str, About] = {
    "rate_limit_exceeded": About.THROTTLE,
    "account_limit_exceeded": About.ACCOUNT,
    "cannot_process": About.MOMENT,
    "invalid_auth_token_permissions": About.API_TOKEN,
    TOKEN_EXPIRED: About.TOKEN,
    "token_invalid": About.TOKEN,
    "not_a_refresh_token": About.TOKEN,
    "invalid_token_format": About.TOKEN,
    "authblock_is_invalid": About.SUBSCRIBER,
    "authblock_is_expired": About.SUBSCRIBER,
    MISSING: About.REQUEST,
    INVALID: About.REQUEST,
    "must_belong_to_project": About.REQUEST,
    TOO_MANY_ADDRESSES: About.REQUEST,
}


def about(problems: Iterable[Problem]) -> About | None:
    """Return the deciding subject of an answer's items, or None if none of their codes is known."""
    found = {ABOUT.get(problem.code) for problem in problems}
    return next((one for one in About if one in found), None)
