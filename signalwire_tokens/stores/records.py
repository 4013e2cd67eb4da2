"""What a store keeps of a pair, what it answers when asked for it, and how a record is written as bytes."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import attrs

from signalwire_tokens.models import Token, TokenPair

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Reading", "Record", "decode", "encode", "key_of"]

BACKWARDS = 1.0  # seconds that a store's time may step back without a record looking as if it came from the future
EPOCH = datetime.fromtimestamp(0, UTC)


@attrs.frozen(kw_only=True)
class Record:
    """A pair as a store keeps it.

    `asked_at` is when the pair was asked for, by the store's time, and `timeline` tells one such time from another:
    where it differs from the reading's, nobody knows how old the pair is. `presenting` names the attempt that is about
    to present the refresh token, or has, with nobody knowing what came of it.
    """

    pair: TokenPair
    asked_at: float
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
    """What a store holds under a key, and the time at which it says so: one that all who share the store agree on."""

    record: Record | None
    at: float
    timeline: str = ""

    @property
    def age(self) -> float | None:
        """How many seconds ago the record's pair was asked for; None where that cannot be known."""
        if self.record is None or self.record.timeline != self.timeline:
            return None
        age = self.at - self.record.asked_at
        return max(0.0, age) if age > -BACKWARDS else None


def life_of(token: Token) -> float:
    """Tell how many seconds a token lives."""
    return (token.expires_at - token.issued_at).total_seconds()


def key_of(parts: Iterable[str | None]) -> str:
    """Make the key under which a pair is kept: a digest of what it is for, in which no part can pass for another."""
    written = ("-" if part is None else f"{len(part.encode())}:{part}" for part in parts)
    return sha256("".join(written).encode()).hexdigest()


def encode(record: Record) -> bytes:
    """Write a record as bytes; not when its tokens were issued, since that is another machine's wall clock."""
    halves = [
        {"value": token.value, "life": life_of(token), "kind": token.kind, "channel": token.channel}
        for token in (record.pair.token, record.pair.refresh_token)
    ]
    subscriber_id = record.pair.subscriber_id
    return json.dumps(
        {
            "pair": halves,
            "subscriber_id": None if subscriber_id is None else str(subscriber_id),
            "asked_at": record.asked_at,
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
            token=token,
            refresh_token=refresh_token,
            subscriber_id=None if subscriber_id is None else UUID(subscriber_id),
        )
        asked_at = float(content["asked_at"])
        if math.isfinite(asked_at):
            timeline, presenting = text(content["timeline"]), text_or_none(content["presenting"])
            return Record(pair=pair, asked_at=asked_at, timeline=timeline, presenting=presenting)
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
