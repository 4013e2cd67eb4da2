"""Issue SignalWire subscriber access tokens (SAT) with asyncio, and keep them valid.

`TokenClient` sends single requests. The sessions build on it and keep a token valid: `SubscriberSession` for a process
that has the project's credentials, `BackendSession` and `device.DeviceSession` for one that doesn't. `SessionFleet`
keeps many sessions in one process. `TokenSession` keeps tokens of a source of your own.

The code has layers, and each module imports only from layers with a smaller number. Layers 0 to 5 only decide: they
don't send, wait or read a clock. "By path" means that this package doesn't import the module: import it by its full
name.

0. `errors`: the tree of errors; `secret`: how secrets are hidden; `token_header`: the readable parts of a token
1. `durations`: seconds or a `timedelta`
2. `models`: values such as `Token`, `TokenPair` and `Address`; `origins`: how origins are read and written; `throttle`:
   until when SignalWire asked for a pause
3. `outcomes`: the possible results of a renewal
4. `wire`: SignalWire's operations as data, and the meaning of its answers; `policy`: when to renew, and in which way
5. `lifecycle`: all state of a token that a session keeps; `gateway`: the protocol of the realtime gateway
6. `clock`: clocks that are passed as arguments, and one timer for all sessions of an event loop
7. `client`: `TokenClient`, which sends what `wire` describes; `stores`: where pairs outlive a session (`stores.redis`
   by path)
8. `keeper`: `TokenSession`, which keeps a token valid and leaves the renewal itself to a `Renewal`; `governors`: one
   limit of requests for several fleets (`governors.redis` by path)
9. `session`: `SubscriberSession`, which renews with the project's credentials; `device`: `DeviceSession`, which renews
   with a device's own key (by path); `backend`: `BackendSession`, which renews from your app's backend
10. `fleet`: `SessionFleet`, many sessions that share one request rate; `realtime`: `RealtimeConnection`, which stays
   connected to the realtime gateway (by path)
11. `integrations`: one module for each framework; `emulator`: a SignalWire server on loopback, for tests (both by path)
12. `testing`: helpers for your tests (by path); `cli`: the command `signalwire-tokens`

A name is imported on first use. So a program that only sends requests doesn't import sessions and fleets. Import the
names that you need at the top of a module: the first use in a coroutine would hold up the event loop.
"""

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .backend import BackendSession
    from .client import ClientSettings, TokenClient
    from .clock import Alarm, Clock, SystemClock
    from .errors import (
        ApiError,
        CallInterrupted,
        CallRefused,
        ConfigurationError,
        ConnectionFailed,
        Forbidden,
        InvalidRequest,
        NotFound,
        Problem,
        RateLimited,
        RateLimitHint,
        RealtimeError,
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
        UnreadableRecord,
        ValidationFailed,
        is_throttle,
        is_transient,
    )
    from .fleet import BreakerState, FleetSnapshot, SessionFleet
    from .keeper import EventKind, Renewal, RenewalRequest, SessionEvent, TokenSession
    from .models import Address, Lifetimes, SatClaims, SubscriberInfo, Token, TokenPair
    from .outcomes import Renewed
    from .policy import RefreshPolicy, RefreshTuning, SessionState
    from .session import SubscriberSession
    from .stores import MemoryStore, SqliteStore, TokenStore, generate_encryption_key
    from .wire import TokenFields

__all__ = [
    "Address",
    "Alarm",
    "ApiError",
    "BackendSession",
    "BreakerState",
    "CallInterrupted",
    "CallRefused",
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
    "RealtimeError",
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
    "UnreadableRecord",
    "ValidationFailed",
    "__version__",
    "generate_encryption_key",
    "is_throttle",
    "is_transient",
]

# The modules that have these names. A name imports those before its own, so `TokenClient` doesn't import sessions.
MODULES = (
    *("errors", "models", "outcomes", "policy", "clock", "wire", "client"),
    *("stores", "keeper", "session", "fleet", "backend"),
)

if not TYPE_CHECKING:  # pragma: no branch - a type checker would take every name for one that exists

    def __getattr__(name: str) -> object:
        if name in MODULES:
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            return getattr(module_of(name), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *MODULES, *__all__})

    @cache
    def module_of(name: str) -> ModuleType:
        """Import the modules until one has this name, and return that one."""
        modules = (import_module(f"{__name__}.{place}") for place in MODULES)
        return next(module for module in modules if hasattr(module, name))
