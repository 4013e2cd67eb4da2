"""`RealtimeConnection`: a connection to SignalWire's realtime gateway that outlives its tokens.

The protocol is in `signalwire_tokens.gateway`, which decides what to send and what an answer means. This package has
the sockets, the tasks and the pauses::

    RealtimeConnection       what your app holds
      Link.run               the one task of a connection: connect, wait for the loss, pause, connect again
        Line                 an open socket, with a task that reads and one that writes

The tasks hold the `Link`, and not the `RealtimeConnection`. So a connection that your app drops can be collected.
"""

from .connection import RealtimeConnection
from .values import LossCause, RealtimeChange, RealtimeEvent, RealtimeState

__all__ = ["LossCause", "RealtimeChange", "RealtimeConnection", "RealtimeEvent", "RealtimeState"]
