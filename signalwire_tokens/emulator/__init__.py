"""SignalWire's token service on loopback: for this project's tests and demo, and for the tests of your app.

`service` is the service without a network. `calls` has its requests and replies, `strict_json` and `validation` check
bodies, `rotation` decides which tokens are still accepted, `limits` counts requests, `sealing` makes tokens, and
`possession` verifies proofs of a key. `faults` is what can happen on the way, and `replies` how that looks in HTTP.
`arguments` checks numbers that users choose.
Realtime clients connect to `gateway`, `http_server` keeps requests out of logs, and `server` puts it all on a socket.
"""

from .faults import EMPTY, HTML, Delay, Fault, Huge, Raw, Redirect, Reset, SkewDate, Stall, Status, Truncate
from .gateway import Connection
from .limits import RateLimit
from .rotation import ROTATIONS, Rotation
from .server import Emulator, Entry

__all__ = [
    "EMPTY",
    "HTML",
    "ROTATIONS",
    "Connection",
    "Delay",
    "Emulator",
    "Entry",
    "Fault",
    "Huge",
    "RateLimit",
    "Raw",
    "Redirect",
    "Reset",
    "Rotation",
    "SkewDate",
    "Stall",
    "Status",
    "Truncate",
]
