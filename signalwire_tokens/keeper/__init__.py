"""The one loop that keeps a credential alive, and how it tells what happens to it."""

from .events import EventKind, SessionEvent
from .keeping import Keeper
from .share import Share

__all__ = ["EventKind", "Keeper", "SessionEvent", "Share"]
