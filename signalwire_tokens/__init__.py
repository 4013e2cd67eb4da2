"""Issue SignalWire subscriber tokens with asyncio, and keep them alive.

The package is a house of floors; every module imports only from floors below its own:

0. `errors`: everything that can go wrong, one tree
1. `models`: the values handed out: `Token`, `TokenPair`, `Address`, `SubscriberInfo`
2. `wire`: the service's operations as data, and what its answers mean
3. `clock`: time, as an argument
4. `client`: `TokenClient`, which sends what `wire` describes and decides nothing
8. `emulator`: the service itself on loopback, imported by path
9. `cli`: the command `signalwire-tokens`

(The floors between are where sessions, stores and fleets move in.)
"""

from ._version import __version__
from .client import TokenClient
from .clock import Clock, SystemClock
from .errors import (
    ApiError,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    Problem,
    RateLimited,
    ServerError,
    SessionClosed,
    SessionError,
    SessionExpired,
    SignalWireTokenError,
    StoreError,
    TimedOut,
    TokenUnavailable,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    is_transient,
)
from .models import Address, Lifetimes, SatClaims, SubscriberInfo, Token, TokenPair

__all__ = [
    "Address",
    "ApiError",
    "Clock",
    "ConfigurationError",
    "ConnectionFailed",
    "Forbidden",
    "InvalidRequest",
    "Lifetimes",
    "NotFound",
    "Problem",
    "RateLimited",
    "SatClaims",
    "ServerError",
    "SessionClosed",
    "SessionError",
    "SessionExpired",
    "SignalWireTokenError",
    "StoreError",
    "SubscriberInfo",
    "SystemClock",
    "TimedOut",
    "Token",
    "TokenClient",
    "TokenPair",
    "TokenUnavailable",
    "TransportError",
    "Unauthorized",
    "UnexpectedResponse",
    "ValidationFailed",
    "__version__",
    "is_transient",
]
