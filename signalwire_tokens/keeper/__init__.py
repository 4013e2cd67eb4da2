"""The one loop that keeps a token valid, and the events that it emits.

`TokenSession` is what users see of it. It doesn't know how a token is renewed: a `Renewal` does.
"""

from .closing import drop, shut
from .engine import Engine
from .events import EventKind, SessionEvent
from .gate import Gate, Outlook, Owner
from .renewal import Current, Renewal, RenewalRequest, failure_of, only_later
from .session import TokenSession, engine_of
from .waiters import CHECKED_EVERY

__all__ = [
    "CHECKED_EVERY",
    "Current",
    "Engine",
    "EventKind",
    "Gate",
    "Outlook",
    "Owner",
    "Renewal",
    "RenewalRequest",
    "SessionEvent",
    "TokenSession",
    "drop",
    "engine_of",
    "failure_of",
    "only_later",
    "shut",
]
