"""The service itself on loopback: for tests, demos and the suites of those who build on it.

`service` is the service without a network, `calls` what it is asked and what it answers, `validation` what it finds
wrong with a body, `sealing` its tokens, and `possession` the proofs of those who hold a key; `faults` is what can
happen on the way, `replies` how that looks in HTTP; `gateway` is where realtime clients connect, and `server` puts it
all on a socket.
"""

from .faults import EMPTY, HTML, Delay, Fault, Huge, Raw, Redirect, Reset, SkewDate, Stall, Status, Truncate
from .gateway import Connection
from .server import Emulator, Entry
from .service import Rotation

__all__ = [
    "EMPTY",
    "HTML",
    "Connection",
    "Delay",
    "Emulator",
    "Entry",
    "Fault",
    "Huge",
    "Raw",
    "Redirect",
    "Reset",
    "Rotation",
    "SkewDate",
    "Stall",
    "Status",
    "Truncate",
]
