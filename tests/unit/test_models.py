"""The values that are handed out: frozen, comparable, and silent about their secrets."""

import copy
import pickle
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

import attrs
import pytest
from rich.pretty import pretty_repr

from signalwire_tokens import Address, ConfigurationError, Lifetimes, SubscriberInfo, Token, TokenClient, TokenPair
from signalwire_tokens.models import LONGEST_LIFE
from signalwire_tokens.secret import Secret

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
TOKEN = Token(value="hush-hush", issued_at=NOON, expires_at=NOON + timedelta(hours=2), kind="SAT")
PAIR = TokenPair(access_token=TOKEN, refresh_token=attrs.evolve(TOKEN, kind=None))


@pytest.mark.parametrize("show", [repr, str, pretty_repr, "{}".format])
@pytest.mark.parametrize("value", [TOKEN, PAIR, [PAIR], Secret("hush-hush"), Secret({"a": "hush-hush"})])
def test_nothing_shows_a_secret(show, value):
    """Whatever prints a value, a printer that walks its fields included, prints no secret."""
    assert "hush" not in show(value)


def test_a_token_shows_its_kind_its_end_and_its_digest():
    """Enough to tell tokens apart in a log, and no more."""
    assert str(TOKEN) == f"<Token SAT #{TOKEN.digest}, expires 2026-01-02 14:00:00+00:00>"
    assert "of unknown kind" in repr(PAIR.refresh_token)
    assert TOKEN.digest == sha256(b"hush-hush").hexdigest()[:8]


def test_a_digest_is_made_of_any_string():
    """A value that no encoding carries is still told apart."""
    assert len(attrs.evolve(TOKEN, value="\ud800").digest) == 8


def test_values_are_frozen_and_hashable():
    """A value can stand in a set and cannot change there."""
    address = Address(id=UUID(int=1), channels={"audio": "/x"})
    info = SubscriberInfo(id=UUID(int=2), app_settings={"a": 1})
    assert len({TOKEN, attrs.evolve(TOKEN), PAIR, address, info}) == 4
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        TOKEN.value = "other"


@pytest.mark.parametrize("act", [pickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("holder", [Secret("hush"), TokenClient("acme", "project", "hush")], ids=["secret", "client"])
def test_a_secret_is_not_pickled(act, holder):
    """It would lie in the clear wherever the pickle goes."""
    with pytest.raises(TypeError):
        act(holder)


@pytest.mark.parametrize(
    ("access", "window", "embed", "unbound"), [(48, 2, 48, 48), (7200, 300, 3600, 60), (86400, 300, 3600, 60)]
)
def test_all_lifetimes_of_a_space_fit_that_of_its_access_tokens(access, window, embed, unbound):
    """A refresh token is assumed to live as little longer as is likely: one that has expired is presented in vain."""
    lifetimes = Lifetimes.of(timedelta(seconds=access))
    seconds = [span.total_seconds() for span in attrs.astuple(lifetimes)]
    assert seconds == [access, access + window, embed, unbound]
    assert Lifetimes.of(Lifetimes().access) == Lifetimes()


def test_the_longest_lifetime_of_an_access_token_is_that_of_its_refresh_token_too():
    """No lifetime is longer than ten years."""
    assert Lifetimes.of(LONGEST_LIFE).refresh == LONGEST_LIFE
    assert Lifetimes.of(LONGEST_LIFE - timedelta(minutes=1)).refresh == LONGEST_LIFE


@pytest.mark.parametrize("access", ["7200", "2h", None, True, 1e300, timedelta(0), timedelta(days=5000), timedelta.max])
def test_lifetimes_of_anything_else_are_refused(access):
    """With the error for wrong settings."""
    with pytest.raises(ConfigurationError):
        Lifetimes.of(access)


@pytest.mark.parametrize(
    "wrong",
    [
        {"access": timedelta(0)},
        {"embed": timedelta(seconds=-1)},
        {"unbound": timedelta(0)},
        {"access": timedelta(hours=3)},
        {"access": "60"},
        {"access": True},
        {"refresh": timedelta(days=9999999)},
    ],
)
def test_lifetimes_that_cannot_be_are_refused(wrong):
    """No token lives for nothing, and no refresh token less than its access token."""
    with pytest.raises(ConfigurationError):
        Lifetimes(**wrong)
