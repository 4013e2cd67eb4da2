"""The protocol that every token store implements.

A store has two uses. A session finds its pair again after a restart, and several processes share one pair. Sharing is
the hard part: SignalWire consumes a refresh token, so two processes must not present the same one. To renew a shared
pair, `keeper.shared` therefore takes these steps:

====  ====================================================  =================================================
step  what the process does                                 if it crashes after this step
====  ====================================================  =================================================
1     enter `lease(key, ttl)`, so that no other renews      the lease expires, and another process renews
2     `load(key)`, and adopt the pair if it is a newer one  as above
3     `save` the record with its `presenting` mark          another process sees that the token may be used up
4     present the refresh token to SignalWire               as above
5     `save` the new pair in place of the marked record     another process adopts the new pair
6     leave the block of `lease`                            as above
====  ====================================================  =================================================

A process that finds the mark of another one issues a new pair, if it can, instead of presenting the refresh token.

A lease alone isn't enough. A process that was suspended may go on after its lease has expired, and another process may
have renewed since. `save` protects the newer pair then: it compares digests first, and they no longer match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from .records import Reading, Record

__all__ = ["TokenStore"]


class TokenStore(Protocol):
    """The protocol of stores, which keep pairs beyond a session and share them between sessions.

    Implement these five methods to write a store of your own. `signalwire_tokens.testing.StoreConformance` is the test
    suite that every store must pass.

    Keys are digests, so errors and logs may show them. Every failure is a `StoreError` that names the store and the
    key, and never the content. A session may cancel any call at any point, and may repeat it with the same arguments.
    A cancelled `save` or `delete` may have taken effect, or may do so a moment later.
    """

    async def load(self, key: str) -> Reading:
        """Return a reading: the record under the key, or None if there is none, and the store's time."""
        ...

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Save a record in place of the one with the digest `replaces`. Return whether the store holds it now.

        The store compares and writes in one atomic step. It saves the record if the key has no record, or has one
        with the digest `replaces`. It also saves if the key already has this very record, so that a call can be
        repeated. If the key has any other record, nothing changes and the result is False. `replaces` is None if the
        session found no record.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the record under a key, if there is one. A lease on the key stays as it is."""
        ...

    def lease(self, key: str, ttl: float) -> AbstractAsyncContextManager[bool]:
        """Return a context manager that holds the key's lease: it yields True, or False if another caller holds it.

        It never waits for the other holder. The lease expires `ttl` seconds after it was taken, even if the block still
        runs, so that a process that crashes doesn't keep it. Leaving the block gives the lease back. A failure to give
        it back isn't raised, since it expires by itself. Leaving late doesn't end the lease of the next holder.

        If entering the block is cancelled, the lease may be taken until it expires.
        """
        ...

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` whenever a new pair may have been saved under a key. Return a function that ends this.

        The callback gets no arguments. It is called soon after the save, on the event loop that called `watch`. It may
        also be called for the session's own saves. Calls are optional: they let sessions adopt a new pair sooner than
        their own renewal is due. A store that can't detect changes never calls. The returned function may be called
        more than once.
        """
        ...
