"""The one loop that keeps a token valid, and the events that it emits.

It doesn't know how a token is renewed: a `Renewal` does.
"""

from .events import EventKind, SessionEvent
from .keeping import CHECKED_EVERY, Keeper
from .renewal import Current, Renewal, RenewalRequest, attempt, failure_of
from .share import Share

__all__ = [
    "CHECKED_EVERY",
    "Current",
    "EventKind",
    "Keeper",
    "Renewal",
    "RenewalRequest",
    "SessionEvent",
    "Share",
    "attempt",
    "failure_of",
]
