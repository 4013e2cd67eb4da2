"""What can go wrong between a client and the service, as values for `Emulator.fail`.

`applied` says whether the operation takes effect before the fault: the difference between a request that was lost and
an answer that was.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
from attrs.validators import ge, lt

from signalwire_tokens.durations import seconds_of

from .arguments import whole

__all__ = [
    "EMPTY",
    "HTML",
    "Delay",
    "Fault",
    "Huge",
    "Raw",
    "Redirect",
    "Reset",
    "SkewDate",
    "Stall",
    "Status",
    "Truncate",
]


@attrs.frozen
class Status:
    """Answer with a status, which is usually that of an error.

    `retry_after` is sent as `Retry-After`: a number as seconds, or as a date with `as_date`; a string as it is.
    `code` is the code of the one item in the answer's `errors`, such as `rate_limit_exceeded`. Without it, the answer
    is the plain one of the status, except that 422 has the code `invalid_parameter`.
    """

    status: int = attrs.field(validator=[whole, ge(200), lt(600)])
    retry_after: float | str | None = attrs.field(default=None, kw_only=True)
    as_date: bool = attrs.field(default=False, kw_only=True)
    code: str | None = attrs.field(default=None, kw_only=True)
    applied: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class Delay:
    """Answer truly, but later."""

    seconds: float = attrs.field(converter=seconds_of, validator=[ge(0.0), lt(math.inf)])
    applied: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class Reset:
    """Reset the connection in place of an answer."""

    applied: bool = False


@attrs.frozen(kw_only=True)
class Stall:
    """Never answer, and leave the connection open."""

    applied: bool = False


@attrs.frozen(kw_only=True)
class Truncate:
    """Stop in the middle of the true answer; then close the connection, or (`stall`) leave it open."""

    stall: bool = False
    applied: ClassVar[bool] = True


@attrs.frozen
class Raw:
    """Answer with any bytes at all, as a proxy might."""

    body: bytes
    status: int = attrs.field(default=200, kw_only=True, validator=[whole, ge(200), lt(600)])
    content_type: str = attrs.field(default="application/json", kw_only=True)
    applied: bool = attrs.field(default=False, kw_only=True)


HTML = Raw(b"<!doctype html><title>Just a moment</title><p>Checking your browser", content_type="text/html")
EMPTY = Raw(b"", status=201)


@attrs.frozen
class Huge:
    """Answer with success and a body of so many bytes."""

    size: int = attrs.field(default=100 * 1024 * 1024, validator=[whole, ge(0)])
    applied: ClassVar[bool] = False


@attrs.frozen
class Redirect:
    """Point elsewhere."""

    location: str
    status: int = attrs.field(default=307, kw_only=True, validator=[whole, ge(300), lt(400)])
    applied: ClassVar[bool] = False


@attrs.frozen
class SkewDate:
    """Answer truly, with a `Date` that is off by so many seconds."""

    seconds: float = attrs.field(converter=seconds_of)
    applied: ClassVar[bool] = True


Fault = Status | Delay | Reset | Stall | Truncate | Raw | Huge | Redirect | SkewDate
