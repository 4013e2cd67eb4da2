"""What keeps a token valid: the session, its engine, and the rules for renewing, sharing, waiting and closing.

::

    module          has
    -------------   -----------------------------------------------------------------------------------------
    session         `TokenSession`, the public face: it checks arguments and passes calls on
    engine          `Engine`, which runs one session: plans, starts renewals, and carries out their effects
    renewal         `Renewal`, the protocol of a source of tokens, and what its errors mean
    shared          `SharedRenewal`, which renews a pair that several processes share through a store
    sharing_rules   the decisions about a shared pair, as pure functions
    gate            `Gate`, which decides when a session may renew, and `Owner`, what a session belongs to
    waiters         how callers wait for a token, and when waiting can't help
    events          the events, and the tasks that call subscribers
    closing         how a session closes
    messages        what a session logs about its renewals, and the texts of its errors about the store

The state of a session is in `signalwire_tokens.lifecycle`, and the plan comes from `signalwire_tokens.policy`. A
session doesn't know how its token is renewed: its `Renewal` does.
"""

from .closing import drop, shut
from .engine import Engine
from .events import EventKind, SessionEvent, is_cancelled
from .gate import Gate, Outlook, Owner
from .messages import CLOSED
from .renewal import Current, Renewal, RenewalRequest, failure_of, only_later
from .session import TokenSession, engine_of
from .waiters import CHECKED_EVERY

__all__ = [
    "CHECKED_EVERY",
    "CLOSED",
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
    "is_cancelled",
    "only_later",
    "shut",
]
