"""The public names of 0.1.0 that have changed are gone: the changelog says what they are called now."""

import importlib.util
import inspect
from typing import get_args

import attrs
import pytest

import signalwire_tokens
from signalwire_tokens import (
    BackendSession,
    RefreshPolicy,
    SessionFleet,
    SessionState,
    SqliteStore,
    SubscriberSession,
    TokenClient,
    TokenPair,
    TokenSession,
    outcomes,
    stores,
    testing,
)
from signalwire_tokens.client import ClientSettings
from signalwire_tokens.clock import VirtualClock
from signalwire_tokens.device import DeviceSession
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.integrations import aiohttp_client, aiohttp_server, asgi, httpx
from signalwire_tokens.keeper import EventKind
from signalwire_tokens.outcomes import Renewed
from signalwire_tokens.stores import redis
from support.commands import COMMANDS
from support.paths import PACKAGE

OLD_FIELDS = (
    *("due_from", "due_to", "min_ttl_share", "min_life", "patience", "drain", "floor", "floor_share", "backoff_from"),
    *("backoff_to", "backoff_share", "late_from", "late_to", "full_pace_life", "throttle_share", "throttle_late"),
    *("throttle_spread", "misconfigured_from", "misconfigured_to", "forced_every", "forced_share", "leap"),
    *("leap_spread", "lease", "lease_share", "poll", "store_patience", "trip_after", "probe_to", "ramp"),
)
ATTRIBUTES = [
    (signalwire_tokens, "EndpointSession"),
    (TokenPair, "token"),
    *((kind, "runway") for kind in (TokenSession, SubscriberSession, BackendSession, DeviceSession)),
    *((TokenSession, name) for name in ("longest_ttl", "may_force")),
    (SessionFleet, "discard"),
    *((SessionState, name) for name in ("URGENT", "LATE", "DEAD")),
    *((Emulator(), name) for name in ("withdraw", "heal", "journal")),
    *((outcomes, name) for name in ("Present", "Reissue")),
    *((module, "new_sealing_key") for module in (signalwire_tokens, stores)),
    *((module, "authorize") for module in (aiohttp_client, httpx)),
    *((RefreshPolicy(), name) for name in OLD_FIELDS),
    (testing.StoreConformance, "tells"),
    (testing, "virtual_clock"),
]
MODULES = ["aiohttp", "web", "backend"]
ARGUMENTS = [
    (TokenPair, "token"),
    *((SessionFleet, name) for name in ("rate", "concurrency", "idle_after")),
    *((call, "http") for call in (TokenClient, TokenClient.from_env)),
    *((call, "keys") for call in (SqliteStore, redis.RedisStore, stores.Sealer)),
    *((call, "seconds") for call in (Emulator.advance, VirtualClock.advance, VirtualClock.suspend, Renewed.valid_for)),
    *((call, "fingerprints") for call in (aiohttp_server.TokenBackend, asgi.TokenBackend)),
]


def name_of(value):
    """Return the name of a parameter: that of a module, a class, a function or a method."""
    if isinstance(value, str):
        return value
    owner = getattr(value, "__module__", "")
    return f"{owner}.{getattr(value, '__qualname__', getattr(value, '__name__', type(value).__name__))}"


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=name_of)
def test_an_attribute_is_gone(owner, name):
    assert not hasattr(owner, name)


@pytest.mark.parametrize(("call", "name"), ARGUMENTS, ids=name_of)
def test_an_argument_is_gone(call, name):
    assert name not in inspect.signature(call).parameters


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_gone(name):
    assert importlib.util.find_spec(f"signalwire_tokens.integrations.{name}") is None


def test_a_policy_has_ten_fields():
    assert len(attrs.fields(RefreshPolicy)) == 10


def test_a_setting_and_an_event_are_gone():
    assert "http" not in ClientSettings.__annotations__
    assert "dead" not in get_args(EventKind)


def test_commands_and_their_options_are_gone():
    assert {"subscriber", "guest", "invite", "embed", "hold", "sealing-key", "completion"}.isdisjoint(COMMANDS)
    options = {option for one in COMMANDS["keep"].params for option in one.opts}
    assert {"--write", "--sealing-key-file"}.isdisjoint(options)


@pytest.mark.parametrize(
    "name", ["TOKEN_SEALING_KEY", "SIGNALWIRE_STORE", "signalwire.sessions.runway", "sealing key", "`authorize`"]
)
def test_a_setting_or_a_metric_is_gone(name):
    assert not [path for path in PACKAGE.rglob("*.py") if name in path.read_text() and path.name != "sealing.py"]
