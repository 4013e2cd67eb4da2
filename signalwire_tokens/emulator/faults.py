"""The failures that `Emulator.fail` can cause between a client and the service.

The hardest failures are ambiguous: the client gets no answer and can't know whether the operation took effect. Each
fault has an `applied` for that:

- `applied=False`: the service never handles the request. The request was lost. A refresh token is still unused.
- `applied=True`: the service handles the request, and only then does the fault replace the answer. The answer was lost.
  A refresh token is used up, and the client doesn't have its successor.

Where only one of the two makes sense, `applied` is a constant. `Delay`, `Truncate` and `SkewDate` change the real
answer, so the service has to handle the request. `Huge`, `Redirect` and `RpcFailure` replace it.

`Delay`, `Reset`, `Stall` and `RpcFailure` also work at the realtime gateway, for one method.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
from attrs.validators import ge, lt

from signalwire_tokens.durations import Duration, seconds_of

from .arguments import whole

__all__ = [
    "EMPTY",
    "HTML",
    "Delay",
    "Fault",
    "HttpFault",
    "Huge",
    "Raw",
    "Redirect",
    "Reset",
    "RpcFailure",
    "RpcFault",
    "SkewDate",
    "Stall",
    "Status",
    "Truncate",
]


def pause_of(value: Duration | str | None) -> float | str | None:
    """Return a pause in seconds. A string, and None, are returned as they are."""
    seconds = value if value is None or isinstance(value, str) else seconds_of(value)
    if isinstance(seconds, float) and not math.isfinite(seconds):
        raise ValueError("retry_after must be a finite number of seconds, a timedelta or a string")
    return seconds


@attrs.frozen
class Status:
    """A fault that answers with a status (200 to 599), usually that of an error.

    `retry_after` is the value of the header `Retry-After`. A number or a `timedelta` is a pause. The header has it as
    whole seconds, or with `as_date` as a date by the emulator's clock. A string is sent unchanged, and None sends no
    header.

    `code` is the code of the only item in the answer's `errors`, such as `rate_limit_exceeded`. Without it, the answer
    is the plain one of that status, except that a 422 has the code `invalid_parameter`.

    `applied` chooses whether the operation takes effect first.
    """

    status: int = attrs.field(validator=[whole, ge(200), lt(600)])
    retry_after: float | str | None = attrs.field(default=None, kw_only=True, converter=pause_of)
    as_date: bool = attrs.field(default=False, kw_only=True)
    code: str | None = attrs.field(default=None, kw_only=True)
    applied: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class Delay:
    """A fault that makes the service wait for `seconds` before it handles the request and answers.

    The seconds are real time, even if the emulator has a virtual clock. The wait ends early if the emulator closes.
    """

    seconds: float = attrs.field(converter=seconds_of, validator=[ge(0.0), lt(math.inf)])
    applied: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class Reset:
    """A fault that resets the connection (TCP RST) and sends no answer.

    With `applied`, the operation takes effect first.
    """

    applied: bool = False


@attrs.frozen(kw_only=True)
class Stall:
    """A fault that never answers and keeps the connection open, until the emulator closes.

    At the realtime gateway, only this call gets no answer.

    With `applied`, the operation takes effect first.
    """

    applied: bool = False


@attrs.frozen(kw_only=True)
class Truncate:
    """A fault that sends the real answer's headers and the first half of its body.

    Then it closes the connection. With `stall`, it keeps the connection open until the emulator closes.
    """

    stall: bool = False
    applied: ClassVar[bool] = True


@attrs.frozen
class Raw:
    """A fault that replaces the answer with any bytes, as a proxy between client and service might.

    With `applied`, the operation takes effect first.
    """

    body: bytes
    status: int = attrs.field(default=200, kw_only=True, validator=[whole, ge(200), lt(600)])
    content_type: str = attrs.field(default="application/json", kw_only=True)
    applied: bool = attrs.field(default=False, kw_only=True)


#: A success (200) with an HTML page instead of JSON, as a proxy's browser check sends it.
HTML = Raw(b"<!doctype html><title>Just a moment</title><p>Checking your browser", content_type="text/html")
#: A success (201) with an empty body.
EMPTY = Raw(b"", status=201)


@attrs.frozen
class Huge:
    """A fault that replaces the answer with a success (201). Its body is `size` bytes of blanks, 100 MiB by default."""

    size: int = attrs.field(default=100 * 1024 * 1024, validator=[whole, ge(0)])
    applied: ClassVar[bool] = False


@attrs.frozen
class Redirect:
    """A fault that replaces the answer with a redirect to `location`, with a status from 300 to 399."""

    location: str
    status: int = attrs.field(default=307, kw_only=True, validator=[whole, ge(300), lt(400)])
    applied: ClassVar[bool] = False


@attrs.frozen
class SkewDate:
    """A fault that changes only the answer's `Date`, by `seconds`.

    A positive number makes the service's clock look fast, a negative one slow.
    """

    seconds: float = attrs.field(converter=seconds_of)
    applied: ClassVar[bool] = True


@attrs.frozen
class RpcFailure:
    """A fault that answers a call at the realtime gateway with an error. The call has no effect.

    With `closes`, the gateway then closes the connection.
    """

    code: int = attrs.field(validator=whole)
    message: str = "a failure that a test asked for"
    closes: bool = attrs.field(default=False, kw_only=True)
    applied: ClassVar[bool] = False


HttpFault = Status | Delay | Reset | Stall | Truncate | Raw | Huge | Redirect | SkewDate
RpcFault = RpcFailure | Delay | Reset | Stall
#: Any fault that `Emulator.fail` accepts.
Fault = Status | Delay | Reset | Stall | Truncate | Raw | Huge | Redirect | SkewDate | RpcFailure
