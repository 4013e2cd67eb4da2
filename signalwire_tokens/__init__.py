"""Issue SignalWire subscriber tokens with asyncio, and keep them alive.

The package is a house of floors; every module imports only from floors below its own:

0. `errors`: everything that can go wrong, one tree
1. `models`: the values handed out: `Token`, `TokenPair`, `Address`, `SubscriberInfo`; `origins`: where things are
2. `wire`: the service's operations as data, and what its answers mean; `policy`: when to renew, and how; `handoff`:
   what a browser may ask of a backend, and what it is told
3. `clock`: time, as an argument, and the timer that wakes whoever has a deadline
4. `client`: `TokenClient`, which sends what `wire` describes and decides nothing; `stores`: where pairs are kept, to
   outlive a process and to be shared (`stores.redis` is imported by path)
5. `keeper`: what keeps a credential alive, and does not know how it is renewed
6. `session`: `SubscriberSession`, which renews through the project's credentials; `device`: `DeviceSession`, which does
   with a key of its own (imported by path); `endpoint`: `EndpointSession`, which does from an application's backend
7. `fleet`: `SessionFleet`, many sessions and one governor
8. `integrations`: where tokens are used, a module for each framework; `emulator`: the service itself on loopback; both
   imported by path
9. `testing`: for the suites of users, imported by path; `cli`: the command `signalwire-tokens`
"""

from ._version import __version__
from .client import ClientSettings, TokenClient
from .clock import Alarm, Clock, SystemClock
from .endpoint import EndpointSession
from .errors import (
    ApiError,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    Problem,
    RateLimited,
    RateLimitHint,
    ServerError,
    SessionClosed,
    SessionError,
    SessionExpired,
    SignalWireTokenError,
    StoreError,
    TemporarilyRefused,
    TimedOut,
    TokenUnavailable,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    is_throttle,
    is_transient,
)
from .fleet import BreakerState, FleetSnapshot, SessionFleet
from .keeper import EventKind, SessionEvent
from .models import Address, Lifetimes, SatClaims, SubscriberInfo, Token, TokenPair
from .policy import RefreshPolicy, SessionState
from .session import SubscriberSession, TokenFields
from .stores import MemoryStore, SqliteStore, TokenStore, new_sealing_key

__all__ = [
    "Address",
    "Alarm",
    "ApiError",
    "BreakerState",
    "ClientSettings",
    "Clock",
    "ConfigurationError",
    "ConnectionFailed",
    "EndpointSession",
    "EventKind",
    "FleetSnapshot",
    "Forbidden",
    "InvalidRequest",
    "Lifetimes",
    "MemoryStore",
    "NotFound",
    "Problem",
    "RateLimitHint",
    "RateLimited",
    "RefreshPolicy",
    "SatClaims",
    "ServerError",
    "SessionClosed",
    "SessionError",
    "SessionEvent",
    "SessionExpired",
    "SessionFleet",
    "SessionState",
    "SignalWireTokenError",
    "SqliteStore",
    "StoreError",
    "SubscriberInfo",
    "SubscriberSession",
    "SystemClock",
    "TemporarilyRefused",
    "TimedOut",
    "Token",
    "TokenClient",
    "TokenFields",
    "TokenPair",
    "TokenStore",
    "TokenUnavailable",
    "TransportError",
    "Unauthorized",
    "UnexpectedResponse",
    "ValidationFailed",
    "__version__",
    "is_throttle",
    "is_transient",
    "new_sealing_key",
]
