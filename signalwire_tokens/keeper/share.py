"""What a session knows of the store that its pair is in: the place, what was read there, and when."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import attrs

from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.models import LONGEST_LIFE
from signalwire_tokens.stores import Reading, Record, TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signalwire_tokens.models import TokenPair

__all__ = ["Share", "Sight", "complaint", "holds", "is_over", "is_sound", "logged", "shortened"]

METHODS = ("delete", "lease", "load", "save", "watch")
Lives: TypeAlias = tuple[timedelta, timedelta]  # of an access token, and of its refresh token
UNBOUNDED: Lives = (LONGEST_LIFE, LONGEST_LIFE)
UNKNOWN = "unknown"  # the timeline of no store: the age of such a record's pair is unknown

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class Share:
    """The place in a store where a session's pair is, and what is under way there behind the session's back.

    `brought` is a pair that the session did not issue, until the store has it: whatever it holds under the key before
    is a successor. `longest` limits the lifetimes of a stored pair, which may have been stored with other settings.
    `ahead` is by how much the wall clock was ahead of the session's clock when the current pair
    was asked for, and `answer` is the last pair that the session got from SignalWire, with the same of that.
    """

    __slots__ = (
        "ahead",
        "answer",
        "brought",
        "heard",
        "key",
        "longest",
        "looked",
        "looking",
        "mark",
        "name",
        "saving",
        "store",
        "unwatch",
    )

    def __init__(
        self, store: TokenStore, key: str, brought: TokenPair | None = None, longest: Lives = UNBOUNDED
    ) -> None:
        if isinstance(store, type) or not all(callable(getattr(store, name, None)) for name in METHODS):
            raise ConfigurationError("store must be one, such as SqliteStore(path, keys=…)")
        self.store: TokenStore = store
        self.name: str = repr(store)
        self.key: str = key
        self.brought: TokenPair | None = brought
        self.longest: Lives = longest
        self.ahead: float = 0.0
        self.answer: tuple[TokenPair | None, float] = (None, 0.0)
        self.mark: str | None = None  # the last one of the session's own
        self.heard: bool = False  # of a new pair, and not looked yet
        self.looked: bool = False  # for a last way out, and found none
        self.looking: asyncio.Task[None] | None = None
        self.saving: asyncio.Task[None] | None = None
        self.unwatch: Callable[[], object] = nothing

    def stop(self) -> None:
        """Cancel the tasks, and the watch on the store. The event loop may be closed already."""
        unwatch, self.unwatch = self.unwatch, nothing
        for task in (self.looking, self.saving):
            if task is not None and not task.get_loop().is_closed():
                task.cancel()
        with logged("a store failed to forget a session"):
            unwatch()

    async def stopped(self, limit: float) -> None:
        """Wait until what was stopped has ended, and no longer than so."""
        tasks = [task for task in (self.looking, self.saving) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=limit)


class Sight:
    """A reading, and between which moments of the session's clock it was taken.

    `wall` is the wall clock's time after it, and `gained` what that clock gained on the session's meanwhile. A gain of
    more than `leap` seconds means that a virtual machine may have been paused, so the pair's age is unknown.
    """

    __slots__ = ("after", "before", "gained", "leap", "reading", "wall")

    def __init__(
        self, reading: Reading, *, before: float, after: float, wall: float, gained: float, leap: float
    ) -> None:
        self.reading: Reading = reading
        self.before: float = before
        self.after: float = after
        self.wall: float = wall
        self.gained: float = gained
        self.leap: float = leap

    @property
    def asked(self) -> float | None:
        """When the record's pair was asked for, by the session's clock, or a little earlier; None where unknown."""
        latest = self.latest
        return latest if self.reading.gained <= self.leap and self.gained <= self.leap else None

    @property
    def latest(self) -> float | None:
        """When the record's pair was asked for, at the latest: earlier, if a machine was paused since."""
        age = self.reading.age
        return None if age is None else self.before - age

    def is_older(self, asked: float) -> bool:
        """Return whether the record's pair was asked for before that moment of the session's clock, if it is known."""
        age = self.reading.age
        return age is not None and self.after - age < asked

    def record(self, pair: TokenPair, asked: float, ahead: float) -> Record:
        """Return the record of a pair, by the store's time, or as a little older than the pair is.

        `asked` is when the pair was asked for, by the session's clock, and `ahead` by how much the wall clock was ahead
        of that clock then. If the wall clock has leapt since, the pair is older than the session's clock knows, and the
        record is of no timeline that the store knows.
        """
        return Record(
            pair=pair,
            asked_at=self.reading.at - (self.after - asked),
            asked_wall=asked + ahead,
            timeline=self.reading.timeline if self.wall - self.after - ahead <= self.leap else UNKNOWN,
        )


@contextmanager
def logged(what: str) -> Iterator[None]:
    """Go on where somebody else's code fails, and say so without its text, which may hold anything."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a store is anybody's code
        logger.warning("%s: %s", what, type(error).__name__)


def shortened(reading: Reading, longest: Lives) -> Reading:
    """Return the reading with its pair's lifetimes limited to `longest`."""
    record = reading.record
    if record is None:
        return reading
    pair = record.pair
    lives = [half.expires_at - half.issued_at for half in (pair.token, pair.refresh_token)]
    if lives[0] <= longest[0] and lives[1] <= longest[1]:
        return reading
    token, refresh_token = (
        attrs.evolve(half, expires_at=half.issued_at + min(life, most))
        for half, life, most in zip((pair.token, pair.refresh_token), lives, longest, strict=True)
    )
    return attrs.evolve(
        reading, record=attrs.evolve(record, pair=attrs.evolve(pair, token=token, refresh_token=refresh_token))
    )


def holds(record: Record | None, pair: TokenPair | None) -> bool:
    """Tell whether a record is of a pair."""
    return record is not None and pair is not None and record.pair.refresh_token.value == pair.refresh_token.value


def is_sound(reading: object) -> bool:
    """Tell whether an answer is a reading to reckon with."""
    if not isinstance(reading, Reading) or not isinstance(reading.record, Record | None):
        return False
    times: tuple[object, ...] = (reading.at, 0.0 if reading.wall is None else reading.wall)
    return all(isinstance(time, int | float) and math.isfinite(time) for time in times)


def is_over(task: asyncio.Task[None] | None) -> bool:
    """Tell whether a task has ended, if there was one."""
    return task is None or task.done()


def complaint(share: Share, reason: str) -> StoreError:
    """Say what is wrong with a store."""
    return StoreError(f"{share.name}: #{share.key[:8]}: {reason}")


def nothing() -> None:
    """Do nothing."""
