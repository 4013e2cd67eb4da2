"""Issue SignalWire subscriber tokens with asyncio, and keep them valid.

Each module imports only from layers below its own:

0. `errors`: one tree of errors
1. `models`: values such as `Token`, `TokenPair` and `Address`; `origins`: what an origin is; `throttle`: how long
   SignalWire is left alone
2. `wire`: SignalWire's operations as data, and what its answers mean; `policy`: when to renew, and how
3. `lifecycle`: all state of one kept token
4. `clock`: time as an argument, and one timer for all sessions of an event loop
5. `client`: `TokenClient`, which sends what `wire` describes; `stores`: where pairs are kept (`stores.redis` is
   imported by path)
6. `keeper`: keeps a token valid, without knowing how it is renewed
7. `session`: `SubscriberSession`, which renews with the project's credentials; `device`: `DeviceSession`, which renews
   with a key of its own (imported by path); `endpoint`: `EndpointSession`, which renews from an application's backend
8. `fleet`: `SessionFleet`, many sessions behind one governor
9. `integrations`: a module for each framework; `emulator`: SignalWire on loopback; both imported by path
10. `testing`: for your tests, imported by path; `cli`: the command `signalwire-tokens`
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
