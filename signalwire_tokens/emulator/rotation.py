"""Which tokens the emulator still accepts after they were refreshed, replaced or revoked.

SignalWire doesn't publish its rules. So the rules are a value, a `Rotation`, and a `TokenHistory` applies them to what
has happened to the tokens.

All tokens that descend from one issue form a line. A refresh adds a pair to the line, and so does a second refresh with
the same refresh token, where that is accepted:

| step | result | line |
| --- | --- | --- |
| issue for Alice | access token A1, refresh token R1 | L |
| refresh with R1 | A2 and R2. R1 is now used | L |
| refresh with R1 again | depends on the rotation, as below | L |
| issue for Alice | A4 and R4. L is now an older line of Alice | M |

The second refresh with R1 has these results:

| rotation | result |
| --- | --- |
| `single-use` | refused. R2 stays valid |
| `reusable` | accepted: A3 and R3 |
| `grace` | accepted for 10 seconds after the first use, then refused |
| `family` | refused, and all refresh tokens of L are revoked, R2 included. Access tokens of L stay valid |

The other settings of a `Rotation` revoke tokens earlier. With `refresh_revokes_access`, only the newest access token of
a line is valid: A2 revokes A1. With `issue_revokes_access` and `issue_revokes_refresh`, only tokens of the subscriber's
newest line are valid: A4 revokes A1 and A2, and R4 revokes R1 and R2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import attrs

from signalwire_tokens.durations import seconds_of

from .arguments import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .sealing import Claims

__all__ = ["ROTATIONS", "Rotation", "TokenHistory"]


@attrs.frozen(kw_only=True)
class Rotation:
    """The rules for tokens that were refreshed or replaced. `ROTATIONS` has four by name, which other services use.

    - `reuse_for`: seconds after its first use for which a refresh token is accepted again. 0 means never.
    - `reuse_revokes`: a later use also revokes every refresh token that descends from the same issue.
    - `status`, `code`: how the service refuses a used or revoked refresh token. The code is in the answer's `errors`.
      With None, the answer is the plain one of the status.
    - `refresh_revokes_access`: a refresh revokes the access token that it replaces.
    - `issue_revokes_access`, `issue_revokes_refresh`: an issue revokes the earlier access tokens or refresh tokens of
      the same subscriber.
    """

    reuse_for: float = attrs.field(default=0.0, converter=seconds_of, validator=attrs.validators.ge(0))
    reuse_revokes: bool = False
    status: int = attrs.field(default=422, validator=[whole, attrs.validators.ge(400), attrs.validators.lt(600)])
    code: str | None = "token_invalid"
    refresh_revokes_access: bool = False
    issue_revokes_access: bool = False
    issue_revokes_refresh: bool = False


#: The rotations that you can choose by name, as in `Emulator(rotation="grace")`.
ROTATIONS: Mapping[str, Rotation] = {
    "single-use": Rotation(),
    "reusable": Rotation(reuse_for=math.inf),
    "grace": Rotation(reuse_for=10.0),
    "family": Rotation(reuse_revokes=True),
}


class TokenHistory:
    """The record of what was done with tokens, and the decision whether a token is still accepted.

    It doesn't check whether tokens have expired: the service does that first. `now` returns the emulator's time, in
    seconds since the epoch.
    """

    def __init__(self, rotation: Rotation, now: Callable[[], float]) -> None:
        self.rotation: Rotation = rotation
        self._now = now
        self._used: dict[str, tuple[float, float]] = {}  # by id of a refresh token: its first use, and its expiry
        self._revoked: set[str] = set()  # ids of tokens, and of lines whose refresh tokens are revoked
        # By id of a subscriber: the id of the newest line. By id of a line: the id of the newest access token. All are
        # UUIDs, so the two kinds of keys don't collide. Only what the rotation needs is recorded.
        self._newest: dict[str, str] = {}

    def note_pair(self, access: Claims, *, is_issued: bool) -> None:
        """Record a new pair, given its access token. `is_issued` is True for an issue and False for a refresh."""
        rotation, newest = self.rotation, self._newest
        if rotation.refresh_revokes_access:
            newest[access.family] = access.id
        if (
            is_issued
            and access.holder == "subscriber"
            and (rotation.issue_revokes_access or rotation.issue_revokes_refresh)
        ):
            newest[cast("str", access.subscriber_id)] = access.family

    def accept(self, refresh: Claims) -> bool:
        """Record a use of a refresh token, and return whether the service accepts it.

        A refused use can revoke the whole line, if the rotation has `reuse_revokes`.
        """
        now = self._now()
        # Tokens that have expired are refused anyway, so the record forgets them.
        while self._used and (oldest := next(iter(self._used.items())))[1][1] <= now:
            del self._used[oldest[0]]
        if self.is_spent(refresh):
            if self.rotation.reuse_revokes:
                self._revoked.add(refresh.family)
            return False
        if self.is_revoked(refresh):
            return False
        self._used.setdefault(refresh.id, (now, refresh.expires_at))
        return True

    def revoke(self, claims: Claims) -> None:
        """Revoke one token, access or refresh. Other tokens of its line stay as they are."""
        self._revoked.add(claims.id)

    def is_spent(self, refresh: Claims) -> bool:
        """Return whether a refresh token was used, and the time in which it can be used again is over."""
        first_use = self._used.get(refresh.id)
        # The clock may have been set back since the first use, which would make the difference negative.
        return first_use is not None and max(0.0, self._now() - first_use[0]) >= self.rotation.reuse_for

    def is_revoked(self, claims: Claims) -> bool:
        """Return whether a token was revoked: by itself, with its line, or by a newer token that replaced it."""
        if claims.id in self._revoked:
            return True
        if claims.kind == "Refresh":
            return claims.family in self._revoked or (self.rotation.issue_revokes_refresh and self._is_old(claims))
        # A bound token comes from an exchange, not from a refresh, so it never is the newest access token of its line.
        if not claims.is_exchanged and self._newest.get(claims.family, claims.id) != claims.id:
            return True
        return self.rotation.issue_revokes_access and self._is_old(claims)

    def _is_old(self, claims: Claims) -> bool:
        """Return whether the token is a subscriber's and belongs to an older line than the subscriber's newest one."""
        is_subscriber = claims.holder == "subscriber"
        return is_subscriber and self._newest.get(cast("str", claims.subscriber_id), claims.family) != claims.family
