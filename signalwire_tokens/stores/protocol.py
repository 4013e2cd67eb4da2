"""What a session asks of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from .records import Reading, Record

__all__ = ["TokenStore"]


class TokenStore(Protocol):
    """Where pairs are kept, so that they outlive a process and can be shared.

    Keys are digests, and so may be shown. Whatever goes wrong is a `StoreError` that names the store and the key, never
    the content. Every method may be cancelled at any moment, and may be called again with the same arguments.
    `signalwire_tokens.testing.StoreConformance` is the suite of tests that every store has to pass.
    """

    async def load(self, key: str) -> Reading:
        """Read what is kept under a key, with the store's time."""
        ...

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Keep a record in place of the one with the digest `replaces`, atomically; tell whether it is kept now.

        It also is where there is no record, or this very one; where there is any other, nothing changes.
        """
        ...

    async def delete(self, key: str) -> None:
        """Keep nothing under a key."""
        ...

    def lease(self, key: str, ttl: float) -> AbstractAsyncContextManager[bool]:
        """Be the only one who holds a key's lease, for so many seconds at most.

        It gives False at once where somebody else holds it. Leaving gives it back, and never raises.
        """
        ...

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back, soon and on this event loop, when somebody may have saved a new pair; return what ends that.

        It is a courtesy that spares others the wait: a store that cannot tell never calls.
        """
        ...
