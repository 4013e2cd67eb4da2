"""Issue SignalWire subscriber tokens with asyncio, and keep them valid.

Each module imports only from layers below its own:

0. `errors`: one tree of errors
1. `durations`: seconds or a `timedelta`
2. `models`: values such as `Token`, `TokenPair` and `Address`; `origins`: what an origin is; `throttle`: how long
   SignalWire is left alone
3. `outcomes`: what a renewal is asked for, and what it can answer
4. `wire`: SignalWire's operations as data, and what its answers mean; `policy`: when to renew, and how
5. `lifecycle`: all state of one kept token
6. `clock`: time as an argument, and one timer for all sessions of an event loop
7. `client`: `TokenClient`, which sends what `wire` describes; `stores`: where pairs are kept (`stores.redis` is
   imported by path)
8. `keeper`: `TokenSession`, which keeps a token valid without knowing how it is renewed
9. `session`: `SubscriberSession`, which renews with the project's credentials; `device`: `DeviceSession`, which renews
   with a key of its own (imported by path); `backend`: `BackendSession`, which renews from an application's backend
10. `fleet`: `SessionFleet`, many sessions behind one governor
11. `integrations`: a module for each framework; `emulator`: SignalWire on loopback; both imported by path
12. `testing`: for your tests, imported by path; `cli`: the command `signalwire-tokens`
"""

from ._version import __version__
from .backend import BackendSession
from .client import ClientSettings, TokenClient
from .clock import Alarm, Clock, SystemClock
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
from .keeper import EventKind, Renewal, RenewalRequest, SessionEvent, TokenSession
from .models import Address, Lifetimes, SatClaims, SubscriberInfo, Token, TokenPair
from .outcomes import Renewed
from .policy import RefreshPolicy, RefreshTuning, SessionState
from .session import SubscriberSession, TokenFields
from .stores import MemoryStore, SqliteStore, TokenStore, generate_encryption_key

__all__ = [
    "Address",
    "Alarm",
    "ApiError",
    "BackendSession",
    "BreakerState",
    "ClientSettings",
    "Clock",
    "ConfigurationError",
    "ConnectionFailed",
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
    "RefreshTuning",
    "Renewal",
    "RenewalRequest",
    "Renewed",
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
    "TokenSession",
    "TokenStore",
    "TokenUnavailable",
    "TransportError",
    "Unauthorized",
    "UnexpectedResponse",
    "ValidationFailed",
    "__version__",
    "generate_encryption_key",
    "is_throttle",
    "is_transient",
]
