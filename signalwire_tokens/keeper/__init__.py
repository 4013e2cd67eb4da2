"""The one loop that keeps a credential alive, and how it tells what happens to it.

It does not know how a credential is renewed; `asking` is what those have in common who ask through a client.
"""

from .asking import Asking, failure_of
from .events import EventKind, SessionEvent
from .keeping import CHECKED_EVERY, Keeper
from .share import Share

__all__ = ["CHECKED_EVERY", "Asking", "EventKind", "Keeper", "SessionEvent", "Share", "failure_of"]
