"""The public names of 0.1.0 that have changed are gone: the changelog says what they are called now."""

import inspect
from typing import get_args

import pytest

import signalwire_tokens
from signalwire_tokens import (
    BackendSession,
    SessionFleet,
    SessionState,
    SubscriberSession,
    TokenClient,
    TokenPair,
    TokenSession,
)
from signalwire_tokens.client import ClientSettings
from signalwire_tokens.device import DeviceSession
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.keeper import EventKind

ATTRIBUTES = [
    (signalwire_tokens, "EndpointSession"),
    (TokenPair, "token"),
    *((kind, "runway") for kind in (TokenSession, SubscriberSession, BackendSession, DeviceSession)),
    *((TokenSession, name) for name in ("longest_ttl", "may_force")),
    (SessionFleet, "discard"),
    *((SessionState, name) for name in ("URGENT", "LATE", "DEAD")),
    *((Emulator(), name) for name in ("withdraw", "heal", "journal")),
]
ARGUMENTS = [
    (TokenPair, "token"),
    *((SessionFleet, name) for name in ("rate", "concurrency", "idle_after")),
    *((call, "http") for call in (TokenClient, TokenClient.from_env)),
]


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES)
def test_an_attribute_is_gone(owner, name):
    assert not hasattr(owner, name)


@pytest.mark.parametrize(("call", "name"), ARGUMENTS)
def test_an_argument_is_gone(call, name):
    assert name not in inspect.signature(call).parameters


def test_a_setting_and_an_event_are_gone():
    assert "http" not in ClientSettings.__annotations__
    assert "dead" not in get_args(EventKind)
