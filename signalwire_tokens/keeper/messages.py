"""What a session logs about its renewals, and the texts of its errors about the store.

Each line of the log begins with the session, or with a key of the store, and then names what happened.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from signalwire_tokens.durations import spoken
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.outcomes import Denied, Expire, Misconfigured, NotSent, NotYet, Spent, UseRefreshToken

if TYPE_CHECKING:
    from signalwire_tokens.lifecycle import Adopted, Failed
    from signalwire_tokens.outcomes import RenewalStep

    from .engine import Engine

__all__ = [
    "CLOSED",
    "FASTER",
    "LEASED",
    "MARKED",
    "NOT_PROCESSED",
    "NOT_SAVED",
    "NO_STORE",
    "PAIR_LOST",
    "TOO_SLOW",
    "UNUSABLE",
    "UNWATCHED",
    "log_expiry",
    "log_failure",
    "log_pair",
]

NOT_PROCESSED = "session %s: the result of a renewal couldn't be processed; the session tries again. Please report this"
UNUSABLE = "the result of a renewal couldn't be processed ({error}): see the log"
NOT_SAVED = "the new pair isn't saved in the store: {error}; the session uses it, and tries to save it again"

# About the store. They follow the store's name and the key.
NO_STORE = "store must be a TokenStore with {methods}, such as SqliteStore(path, encryption_keys=…)"
CLOSED = "the session was closed; no request was sent"
TOO_SLOW = "the store took more than half of the lease; no request was sent"
LEASED = "other processes have held the lease for more than {time}: one may have stopped, or the store may be slow"
MARKED = "another process has marked the refresh token as in use; the session waits until its own token nearly expires"
FASTER = "another process has saved another pair for this key; the session reads the store again"
UNWATCHED = "the store can't be watched, so renewals of other processes are noticed late"
PAIR_LOST = "key #%s: the session closed before its pair was saved: %s; another session can't use that pair"

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


def log_pair(engine: Engine, adopted: Adopted | None, way: RenewalStep | None) -> None:
    """Log that a session has another pair: where it comes from, and how long its token is valid.

    `adopted` is None for a pair that the session was created with. `way` is the step that has brought the pair.
    """
    if not logger.isEnabledFor(logging.INFO):
        return  # the texts would cost a hundredth of a renewal
    shared, left = engine.shared, engine.left()
    if adopted is None or (shared is not None and shared.offered is adopted.renewed.pair):
        what = "token of the given pair in use"
    elif shared is not None and shared.answer[0] is not adopted.renewed.pair:
        what = "token taken from the store"
    elif isinstance(way, UseRefreshToken):
        what = "token refreshed"
    else:
        what = "first token issued" if adopted.left is None else "token issued again"
    validity = f"valid for {spoken(left)}" if left > 0 else "already expired"
    logger.info("session %s: %s, %s", engine.label, what, validity)


def log_failure(engine: Engine, failed: Failed) -> None:
    """Log why a renewal has failed, and what that means for the session's users.

    Only the first failure after a success is a warning. If the session is closing, no request is necessary any more.
    """
    if engine.cycle.phase is not Phase.OPEN and isinstance(failed.failure, NotSent):
        return
    what = "no new token yet" if isinstance(failed.failure, NotYet) else "renewal failed"
    left, is_last = engine.left(), isinstance(engine.next_step(), Expire)
    if engine.cycle.generation == 0 and isinstance(failed.failure, Spent | Misconfigured | Denied):
        follows = "there is no first token"  # `start()` raises the error, but a session of a fleet tries again
    else:
        follows = f"the current token is valid for {spoken(left)}" if left > 0 else "no token is valid"
        follows += ", and no way to renew is left" if is_last else ", and the session tries again"
    level = logging.WARNING if failed.is_news else logging.INFO
    logger.log(level, "session %s: %s: %s; %s", engine.label, what, failed.failure.error, follows)


def log_expiry(engine: Engine) -> None:
    """Log that a session has expired, with the error of its last attempt if that failed."""
    error = engine.cycle.last_error
    reason = "" if error is None else f": {error}"
    logger.error("session %s: expired, and no way to renew is left%s; open another session", engine.label, reason)
