"""What SignalWire does with tokens that were refreshed or replaced: a rule as a value, and the record that it needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import attrs

from signalwire_tokens.durations import seconds_of

from .arguments import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .sealing import Claims

__all__ = ["ROTATIONS", "History", "Rotation"]


@attrs.frozen(kw_only=True)
class Rotation:
    """What happens to tokens that were refreshed or replaced.

    A used refresh token is accepted again for `reuse_for` seconds after its first use. Later uses are refused with
    `status` and `code`; without a code, the answer is the plain one of that status. `reuse_revokes` says whether such
    a use also revokes every refresh token that descends from the same issue.

    `refresh_revokes_access` says whether a refresh revokes the access token that it replaces. `issue_revokes_access`
    and `issue_revokes_refresh` say whether an issue revokes the earlier tokens of the same subscriber.

    `ROTATIONS` has four rotations that other services use, by name.
    """

    reuse_for: float = attrs.field(default=0.0, converter=seconds_of, validator=attrs.validators.ge(0))
    reuse_revokes: bool = False
    status: int = attrs.field(default=422, validator=[whole, attrs.validators.ge(400), attrs.validators.lt(600)])
    code: str | None = "token_invalid"
    refresh_revokes_access: bool = False
    issue_revokes_access: bool = False
    issue_revokes_refresh: bool = False


ROTATIONS: Mapping[str, Rotation] = {
    "single-use": Rotation(),
    "reusable": Rotation(reuse_for=math.inf),
    "grace": Rotation(reuse_for=10.0),
    "family": Rotation(reuse_revokes=True),
}


class History:
    """Records what was done with tokens, as far as it decides whether a token is still accepted."""

    def __init__(self, rotation: Rotation, now: Callable[[], float]) -> None:
        self.rotation: Rotation = rotation
        self._now = now
        self._used: dict[str, tuple[float, float]] = {}  # refresh tokens: when used first, and when expired
        self._revoked: set[str] = set()  # tokens, and lines of which a refresh token was used twice
        self._newest: dict[str, str] = {}  # the line of each subscriber, and the access token of each line

    def note_pair(self, access: Claims, *, is_issued: bool) -> None:
        """Note that a pair was issued or refreshed, by its access token."""
        rotation, newest = self.rotation, self._newest
        if rotation.refresh_revokes_access:
            newest[access.line] = access.id
        if (
            is_issued
            and access.holder == "subscriber"
            and (rotation.issue_revokes_access or rotation.issue_revokes_refresh)
        ):
            newest[cast("str", access.subscriber_id)] = access.line

    def accept(self, refresh: Claims) -> bool:
        """Use a refresh token, and return whether it is accepted."""
        now = self._now()
        while self._used and (oldest := next(iter(self._used.items())))[1][1] <= now:
            del self._used[oldest[0]]
        if self.is_spent(refresh):
            if self.rotation.reuse_revokes:
                self._revoked.add(refresh.line)
            return False
        if self.is_revoked(refresh):
            return False
        self._used.setdefault(refresh.id, (now, refresh.expires_at))
        return True

    def revoke(self, claims: Claims) -> None:
        """Refuse a token from now on."""
        self._revoked.add(claims.id)

    def is_spent(self, refresh: Claims) -> bool:
        """Return whether a refresh token is refused because of its first use."""
        first_use = self._used.get(refresh.id)
        # The clock may have been set back since.
        return first_use is not None and max(0.0, self._now() - first_use[0]) >= self.rotation.reuse_for

    def is_revoked(self, claims: Claims) -> bool:
        """Return whether a token is refused before it expires, for a reason other than its own use."""
        if claims.id in self._revoked:
            return True
        if claims.kind == "Refresh":
            return claims.line in self._revoked or (self.rotation.issue_revokes_refresh and self._is_old(claims))
        if not claims.is_bound and self._newest.get(claims.line, claims.id) != claims.id:
            return True
        return self.rotation.issue_revokes_access and self._is_old(claims)

    def _is_old(self, claims: Claims) -> bool:
        """Return whether a pair was issued for the subscriber after this token's."""
        is_subscriber = claims.holder == "subscriber"
        return is_subscriber and self._newest.get(cast("str", claims.subscriber_id), claims.line) != claims.line
