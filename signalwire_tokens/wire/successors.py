"""What a new pair has to be beside readable: another one than it replaces, of the same subscriber."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from .exchange import BrokenError

if TYPE_CHECKING:
    from uuid import UUID

    from signalwire_tokens.models import TokenPair

    from .exchange import Answer, Request

__all__ = ["replacing"]


def replacing(
    request: Request[TokenPair], replaced: TokenPair | None, seen: set[int], *, or_of: UUID | None = None
) -> Request[TokenPair]:
    """Return a request that only accepts a pair that can replace another one, or one of the subscriber `or_of`.

    HTTP can't rule out that an answer belongs to another request: a repeated or late one, or one from a cache. `seen`
    holds the hashes of access tokens that were answered before; those of refused answers are added.
    """
    if replaced is None:
        return request
    read = partial(read_successor, request, replaced, seen, {None, replaced.subscriber_id, or_of})
    return attrs.evolve(request, read=read)


def read_successor(
    request: Request[TokenPair], replaced: TokenPair, seen: set[int], accepted: set[UUID | None], answer: Answer
) -> TokenPair:
    """Return the new pair of an answer."""
    pair = request.read(answer)
    if pair.access_token.value == replaced.access_token.value or hash(pair.access_token.value) in seen:
        raise BrokenError("with a token that was answered before")
    if replaced.subscriber_id is not None and pair.subscriber_id not in accepted:
        seen.add(hash(pair.access_token.value))
        raise BrokenError("for another subscriber", subscriber_id=pair.subscriber_id)
    return pair
