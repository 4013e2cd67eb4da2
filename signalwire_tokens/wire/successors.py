"""Whether a new pair can replace the current one.

An answer may be readable and still belong to another request. A proxy or a cache may repeat an old answer, or mix up
two requests. HTTP has no field that connects an answer to its request, so the content is checked:

- The access token must be new: none of the last ones, whose hashes are in `seen`.
- The subscriber must be the same as before, if both pairs name one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from .exchange import UnusableAnswer

if TYPE_CHECKING:
    from uuid import UUID

    from signalwire_tokens.models import TokenPair

    from .exchange import Answer, Request

__all__ = ["accepting_only_successor"]


def accepting_only_successor(
    request: Request[TokenPair], replaced: TokenPair | None, seen: set[int], *, or_of: UUID | None = None
) -> Request[TokenPair]:
    """Return a request whose answer is accepted only if its pair can replace the pair `replaced`.

    If `replaced` is None, the request is returned as it is. `seen` holds the hashes of earlier access tokens. The token
    of a pair for another subscriber is added to it. `or_of` is a subscriber that is accepted as well.
    """
    if replaced is None:
        return request
    read = partial(read_successor, request, replaced, seen, {None, replaced.subscriber_id, or_of})
    return attrs.evolve(request, read=read)


def read_successor(
    request: Request[TokenPair], replaced: TokenPair, seen: set[int], accepted: set[UUID | None], answer: Answer
) -> TokenPair:
    """Return the new pair of an answer, or raise `UnusableAnswer` if it can't replace the current one."""
    pair = request.read(answer)
    if pair.access_token.value == replaced.access_token.value or hash(pair.access_token.value) in seen:
        raise UnusableAnswer("with a token from an earlier answer")
    if replaced.subscriber_id is not None and pair.subscriber_id not in accepted:
        seen.add(hash(pair.access_token.value))
        raise UnusableAnswer("for another subscriber", subscriber_id=pair.subscriber_id)
    return pair
