"""What a realtime connection reports about itself."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import attrs

from signalwire_tokens.errors import SignalWireTokenError
from signalwire_tokens.gateway import LossCause, RealtimeEvent

__all__ = ["LossCause", "RealtimeChange", "RealtimeEvent", "RealtimeObserver", "RealtimeState"]


class RealtimeState(Enum):
    """The state of a realtime connection.

    - `CONNECTING`: it is being made for the first time.
    - `CONNECTED`: it works.
    - `RECONNECTING`: it was lost, and is being made again.
    - `CLOSED`: it isn't open yet, or it was closed, or its session was.
    - `FAILED`: it was given up. `last_error` is the reason.
    """

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"
    FAILED = "failed"


@attrs.frozen(kw_only=True)
class RealtimeChange:
    """A change of a connection's state.

    `cause` is why the connection was lost, and `error` explains it. Both are None for other changes, except that a
    connection that has failed has an `error`. `resumed` is True if a new connection continues the one before.
    """

    state: RealtimeState
    cause: LossCause | None = None
    error: SignalWireTokenError | None = None
    resumed: bool = False

    @property
    def kind(self) -> str:
        """The name of the new state."""
        return self.state.value


class RealtimeObserver(Protocol):
    """An object whose methods a connection calls while it works, on the event loop. The methods must not block."""

    def connection_lost(self, cause: LossCause) -> None:
        """Record that a connection was lost, or couldn't be made."""
        ...

    def reauthenticated(self) -> None:
        """Record that the gateway has accepted a new token on an open connection."""
        ...
