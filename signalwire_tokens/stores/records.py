"""What a store keeps of a pair, what it answers when asked for it, and how a record is written as bytes."""

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

BACKWARDS = 1.0  # seconds that a store's time may step back without a record looking as if it came from the future
EPOCH = datetime.fromtimestamp(0, UTC)


@attrs.frozen(kw_only=True)
class Record:
    """A pair as a store keeps it.

    `asked_at` is when the pair was asked for, by the store's time, and `timeline` tells one such time from another:
    where it differs from the reading's, the pair's age is unknown. `asked_wall` is the same moment by the wall
    clock of the machine that asked, in seconds since the epoch. `presenting` names the attempt that is about to present
    the refresh token, or has, with an unknown result.
    """

    pair: TokenPair
    asked_at: float
    asked_wall: float
    timeline: str = ""
    presenting: str | None = None

    @property
    def digest(self) -> str:
        """What names this state of the record for compare and set: the refresh token and its mark, without either."""
        state = f"{self.pair.refresh_token.value}\n{self.presenting or ''}"
        return sha256(state.encode(errors="backslashreplace")).hexdigest()

    @property
    def until(self) -> float:
        """Until when the record is of use, by the store's time: the refresh token's end."""
        return self.asked_at + life_of(self.pair.refresh_token)


@attrs.frozen(kw_only=True)
class Reading:
    """What a store holds under a key, and the time at which it says so: one that all who share the store agree on.

    `wall` is the wall clock of the machine whose clock `at` is. That clock stops while a virtual machine is paused, and
    the wall clock then gains on it. It is None for a server's time, which doesn't stop.
    """

    record: Record | None
    at: float
    timeline: str = ""
    wall: float | None = None

    @property
    def age(self) -> float | None:
        """How many seconds ago the record's pair was asked for, by the store's time; None where that is unknown."""
        if self.record is None or self.record.timeline != self.timeline:
            return None
        age = self.at - self.record.asked_at
        return max(0.0, age) if age > -BACKWARDS else None

    @property
    def gained(self) -> float:
        """How many seconds the wall clock has gained on the store's time since the record's pair was asked for."""
        age = self.age
        if self.record is None or self.wall is None or age is None:
            return 0.0
        return self.wall - self.record.asked_wall - age


def key_of(parts: Iterable[str | None]) -> str:
    """Make the key under which a pair is kept: a digest of what it is for, in which no part can pass for another."""
    written = ("-" if part is None else f"{len(part.encode())}:{part}" for part in parts)
    return sha256("".join(written).encode()).hexdigest()


def encode(record: Record) -> bytes:
    """Return a record as bytes. They don't hold when its tokens were issued, but when the pair was asked for."""
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
    """Read what `encode` wrote; `ValueError`, without a word of the content, where it is anything else."""
    try:
        content = cast("dict[str, Any]", json.loads(written))
        token, refresh_token = (read_token(half) for half in content["pair"])
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
                timeline=text(content["timeline"]),
                presenting=text_or_none(content["presenting"]),
            )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise ValueError("is not a record")


def read_token(half: dict[str, Any]) -> Token:
    """Read one half of a pair. It is given times once somebody knows how old it is."""
    return Token(
        value=text(half["value"]),
        issued_at=EPOCH,
        expires_at=EPOCH + timedelta(seconds=half["life"]),
        kind=text_or_none(half["kind"]),
        channel=text_or_none(half["channel"]),
    )


def text(value: object) -> str:
    """Take what has to be text."""
    if not isinstance(value, str):
        raise TypeError
    return value


def text_or_none(value: object) -> str | None:
    """Take what may be missing."""
    return None if value is None else text(value)
