"""What a store keeps and returns: `Record` and `Reading`, the key of a pair, and the encoding of a record.

A pair's age decides when its tokens expire, but the tokens don't show it. Wall clocks don't show it either, since they
can be wrong by years. So a record holds the store's time at which its pair was asked for, and each reading holds the
store's time again. The difference is the age:

===================================  ==============  ===============  ============  ==============  ======  ==========
example                              `asked_at`      `asked_wall`     `at`          `wall`          `age`   `gained`
===================================  ==============  ===============  ============  ==============  ======  ==========
1. a minute later                    100             5000             160           5060            60      0
2. the wall clock was set back       100             5000             160           1460            60      -3600
3. a virtual machine was paused      100             5000             160           8660            60      3600
4. the timelines differ              100             5000             160           5060            None    0
===================================  ==============  ===============  ============  ==============  ======  ==========

In the third example, the clock behind `at` stopped with the machine for an hour, so the pair is older than `age` shows.
A session that sees a large `gained` takes the age as unknown, and refreshes the pair before it uses it.

A timeline names a clock between two of its restarts. Times can be compared only on the same timeline. A machine's
running clock starts again when the machine does, so each start of the machine is a timeline of its own. The clock of a
Redis server doesn't start again, so its timeline is always "".
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import attrs

from signalwire_tokens.models import Token, TokenPair, life_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Reading", "Record", "decode", "encode", "key_of"]

# Seconds that a store's time may step back. A record that is further ahead of the reading has an unknown age.
CLOCK_STEP_TOLERANCE = 1.0
EPOCH = datetime.fromtimestamp(0, UTC)  # when decoded tokens are issued, until the session knows the pair's age


@attrs.frozen(kw_only=True)
class Record:
    """A token pair as a store keeps it.

    `asked_at` is when the session asked SignalWire for the pair, in seconds by the store's time. `timeline` names the
    clock of that time. If the reading has another timeline, the pair's age is unknown. `asked_wall` is the same moment
    by the wall clock of the session's machine, in seconds since the epoch.

    `presenting` marks the refresh token as possibly used: it names an attempt that is about to present the token, or
    has presented it with an unknown result. Without such an attempt, it is None.
    """

    pair: TokenPair
    asked_at: float
    asked_wall: float
    timeline: str = ""
    presenting: str | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the refresh token and the mark, which `TokenStore.save` compares. It reveals neither."""
        state = f"{self.pair.refresh_token.value}\n{self.presenting or ''}"
        return sha256(state.encode(errors="backslashreplace")).hexdigest()

    @property
    def until(self) -> float:
        """When the refresh token expires and the record becomes useless, by the store's time on the same timeline."""
        return self.asked_at + life_of(self.pair.refresh_token)


@attrs.frozen(kw_only=True)
class Reading:
    """A store's answer to `load`: the record, if there is one, and the store's time at which it was read.

    `at` is in seconds, by a clock that all sessions with this store agree on, and `timeline` names that clock.

    `wall` is the wall clock at the same moment, in seconds since the epoch, if `at` comes from this machine's running
    clock. That clock stops while a virtual machine is paused, and the wall clock then gains on it. `wall` is None if
    `at` is a server's time, which doesn't stop with this machine.
    """

    record: Record | None
    at: float
    timeline: str = ""
    wall: float | None = None

    @property
    def age(self) -> float | None:
        """The seconds since the session asked for the pair, by the store's time.

        It is None without a record, if the timelines differ, or if the record seems to come from the future.
        """
        if self.record is None or self.record.timeline != self.timeline:
            return None
        age = self.at - self.record.asked_at
        return max(0.0, age) if age > -CLOCK_STEP_TOLERANCE else None

    @property
    def gained(self) -> float:
        """The seconds that the wall clock has gained on the store's time since the session asked for the pair.

        It is negative if the wall clock was set back. It is 0 if the age is unknown or `wall` is None.
        """
        age = self.age
        if self.record is None or self.wall is None or age is None:
            return 0.0
        return self.wall - self.record.asked_wall - age


def key_of(parts: Iterable[str | None]) -> str:
    """Return the key under which a store keeps a pair: a SHA-256 of the parts that identify the pair.

    Different lists of parts have different keys, since each part is preceded by its length. A part that is None differs
    from an empty one.
    """
    written = ("-" if part is None else f"{len(part.encode())}:{part}" for part in parts)
    return sha256("".join(written).encode()).hexdigest()


def encode(record: Record) -> bytes:
    """Return a record as JSON.

    It holds the tokens' lifetimes, but not `issued_at` and `expires_at`, which depend on one machine's wall clock. A
    session calculates these from the pair's age when it reads the record.
    """
    halves = [
        {"value": token.value, "life": life_of(token), "kind": token.kind, "channel": token.channel}
        for token in (record.pair.access_token, record.pair.refresh_token)
    ]
    subscriber_id = record.pair.subscriber_id
    return json.dumps(
        {
            "pair": halves,
            "subscriber_id": None if subscriber_id is None else str(subscriber_id),
            "asked_at": record.asked_at,
            "asked_wall": record.asked_wall,
            "timeline": record.timeline,
            "presenting": record.presenting,
        }
    ).encode()


def decode(written: bytes) -> Record:
    """Return the record that `encode` wrote. Raise `ValueError`, without any of the content, for other bytes.

    The tokens count as issued at the epoch, and expire after their lifetime.
    """
    try:
        content = cast("dict[str, Any]", json.loads(written))
        token, refresh_token = (decode_token(half) for half in content["pair"])
        subscriber_id = content["subscriber_id"]
        pair = TokenPair(
            access_token=token,
            refresh_token=refresh_token,
            subscriber_id=None if subscriber_id is None else UUID(subscriber_id),
        )
        asked_at, asked_wall = float(content["asked_at"]), float(content["asked_wall"])
        if math.isfinite(asked_at) and math.isfinite(asked_wall):
            return Record(
                pair=pair,
                asked_at=asked_at,
                asked_wall=asked_wall,
                timeline=as_text(content["timeline"]),
                presenting=text_or_none(content["presenting"]),
            )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        pass  # raised below instead: an exception raised here would hold this one, whose text may quote a token
    raise ValueError("is not a record")


def decode_token(half: dict[str, Any]) -> Token:
    """Return one token of a pair, issued at the epoch. The session corrects its times when it knows the age."""
    return Token(
        value=as_text(half["value"]),
        issued_at=EPOCH,
        expires_at=EPOCH + timedelta(seconds=half["life"]),
        kind=text_or_none(half["kind"]),
        channel=text_or_none(half["channel"]),
    )


def as_text(value: object) -> str:
    """Return a string as it is. Raise `TypeError` for anything else, which `decode` turns into its own error."""
    if not isinstance(value, str):
        raise TypeError
    return value


def text_or_none(value: object) -> str | None:
    """Return a string or None as it is. Raise `TypeError` for anything else."""
    return None if value is None else as_text(value)
