"""An emulator of SignalWire's token service on loopback, for the tests of your app and for this project's own.

`Emulator` is the entry point. Its modules form four groups. A module imports only from its own group and those below:

| group | module | what it does |
| --- | --- | --- |
| the socket | `server` | the `Emulator`: serves the port, applies faults, records requests |
| | `http_server` | adapts aiohttp's server, so that no part of a request appears in a log or an error page |
| | `gateway` | the realtime gateway: JSON-RPC over WebSockets |
| | `pending` | keeps the faults that no request has used up |
| | `replies` | writes replies and faults as HTTP |
| the service | `service` | the service without a network: turns a `Call` into a `Reply` |
| | `sessions` | the sessions of the gateway, and who may begin or resume one |
| the rules | `calls` | the operations, and the shape of requests and replies |
| | `rpc` | the messages of the gateway |
| | `validation`, `strict_json` | check request bodies |
| | `rotation` | decides which refreshed or replaced tokens are still accepted |
| | `possession` | verifies proofs of a device's key |
| | `limits` | counts requests against the rate limit |
| | `sealing` | encrypts and decrypts tokens |
| the values | `faults` | the failures that a test can ask for |
| | `arguments` | checks the numbers that callers pass |

`service` and the groups below it have no I/O and no clock of their own. They get the time as a function, so tests can
run them without a socket.
"""

from .faults import EMPTY, HTML, Delay, Fault, Huge, Raw, Redirect, Reset, RpcFailure, SkewDate, Stall, Status, Truncate
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
    "RpcFailure",
    "SkewDate",
    "Stall",
    "Status",
    "Truncate",
]
