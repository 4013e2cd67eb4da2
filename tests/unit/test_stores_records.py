"""What a store keeps of a pair: how it is written, named and aged."""

import json
import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.stores import Reading, Record, key_of
from signalwire_tokens.stores.records import decode, encode

MARK = "hush"
YEARS = timedelta(days=3653)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("pair", "subscriber_id", "asked_at", "asked_wall", "timeline", "presenting")
HALF_FIELDS = ("value", "life", "kind", "channel")
REMOVED = "removed"


def pair_of(life=timedelta(hours=2), refresh_life=timedelta(hours=2, minutes=5)):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return TokenPair(
        access_token=Token(value=f"{MARK}-token", issued_at=now, expires_at=now + life, kind="SAT", channel="puc"),
        refresh_token=Token(value=f"{MARK}-refresh", issued_at=now, expires_at=now + refresh_life),
        subscriber_id=UUID(int=7),
    )


RECORD = Record(pair=pair_of(), asked_at=100.0, asked_wall=1000.0, timeline="a boot", presenting="an attempt")
tokens = st.builds(
    lambda issued_at, life, **fields: Token(issued_at=issued_at, expires_at=issued_at + life, **fields),
    issued_at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - Hypothesis adds it
    life=st.timedeltas(timedelta(0), YEARS),
    value=st.text(),
    kind=st.none() | st.text(),
    channel=st.none() | st.text(),
)
records = st.builds(
    Record,
    pair=st.builds(TokenPair, access_token=tokens, refresh_token=tokens, subscriber_id=st.none() | st.uuids()),
    asked_at=st.floats(allow_nan=False, allow_infinity=False),
    asked_wall=st.floats(allow_nan=False, allow_infinity=False),
    timeline=st.text(),
    presenting=st.none() | st.text(),
)


def undated(record):
    """Take from a record what another machine's wall clock has said."""
    pair, epoch = record.pair, datetime.fromtimestamp(0, UTC)
    halves = {
        name: attrs.evolve(half, issued_at=epoch, expires_at=epoch + (half.expires_at - half.issued_at))
        for name, half in (("access_token", pair.access_token), ("refresh_token", pair.refresh_token))
    }
    return attrs.evolve(record, pair=attrs.evolve(pair, **halves))


def change(path, value):
    """Write a record with one of its fields replaced, or taken away."""
    content = json.loads(encode(RECORD))
    place = content
    for step in path[:-1]:
        place = place[step]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(content).encode()


def refusal(written):
    """Let bytes be refused, and check how."""
    with pytest.raises(ValueError, match=r"^is not a record$") as caught:
        decode(written)
    assert type(caught.value) is ValueError
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@given(records)
def test_what_is_written_is_read(record):
    """To the last field, but for when it was issued by the wall clock of whoever wrote it."""
    read = decode(encode(record))
    assert read == undated(record)
    assert read.digest == record.digest


@given(st.binary() | JSON.map(lambda content: json.dumps(content).encode()))
def test_what_is_no_record_is_refused(written):
    """Without a word of what it is."""
    refusal(written)


@given(
    st.sampled_from([(name,) for name in FIELDS] + [("pair", half, name) for half in (0, 1) for name in HALF_FIELDS]),
    JSON | st.just(REMOVED),
)
def test_a_record_with_a_strange_field_is_read_or_refused(path, value):
    """Nothing else happens."""
    try:
        decode(change(path, value))
    except ValueError as error:
        assert str(error) == "is not a record"  # noqa: PT017 - it need not be raised
        assert error.__context__ is None  # noqa: PT017 - as above


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[((name,), REMOVED) for name in FIELDS],
        *[(("pair", 1, name), REMOVED) for name in HALF_FIELDS],
        *[(("pair", 0, "life"), value) for value in ("long", None, math.nan, math.inf, 1e300, 10**400)],
        *[(("pair", 0, name), value) for name in ("kind", "channel") for value in (7, [], {})],
        *[(("pair", 0, "value"), value) for value in (7, None)],
        *[(("subscriber_id",), value) for value in (7, [], "alice")],
        *[
            ((name,), value)
            for name in ("asked_at", "asked_wall")
            for value in ("soon", None, [], math.nan, math.inf, 10**400)
        ],
        *[(("presenting",), value) for value in (7, [], {}, False)],
        (("timeline",), None),
        *[(("pair",), value) for value in (None, {}, [], [1, 2], "ab", [{}] * 3)],
    ],
    ids=repr,
)
def test_what_is_almost_a_record_is_refused(path, value):
    """A field that is missing or strange is not guessed at."""
    refusal(change(path, value))


def test_a_deep_well_of_brackets_is_refused():
    """As everything else that is no record."""
    refusal(b"[" * 200_000)


def test_a_token_that_lives_longer_than_time_is_refused():
    """It can be written, and not be read."""
    first, last = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))  # noqa: DTZ901 - it is given one
    token = attrs.evolve(RECORD.pair.access_token, issued_at=first, expires_at=last)
    refusal(encode(attrs.evolve(RECORD, pair=attrs.evolve(RECORD.pair, access_token=token))))


def test_a_digest_names_the_refresh_token_and_its_mark():
    """And nothing else, so that whoever read the one state can replace it."""
    states = [
        RECORD,
        attrs.evolve(RECORD, presenting=None),
        attrs.evolve(RECORD, presenting="another attempt"),
        attrs.evolve(RECORD, pair=attrs.evolve(RECORD.pair, refresh_token=RECORD.pair.access_token)),
    ]
    assert len({record.digest for record in states}) == len(states)
    times = {"asked_at": 7.0, "asked_wall": 8.0, "timeline": ""}
    same = attrs.evolve(RECORD, **times, pair=attrs.evolve(RECORD.pair, subscriber_id=None))
    assert same.digest == RECORD.digest
    assert MARK not in RECORD.digest


def test_a_record_is_of_use_to_the_end_of_its_refresh_token():
    """By the time of the store that keeps it."""
    assert RECORD.until == 100 + 7500


def test_neither_a_record_nor_its_reading_shows_a_token():
    """They may stand in a log."""
    assert MARK not in repr(RECORD)
    assert MARK not in repr(Reading(record=RECORD, at=0.0))


parts = st.lists(st.none() | st.text(max_size=8) | st.from_regex(r"(-|\d:|)*", fullmatch=True), max_size=5)


@given(parts, parts)
def test_what_differs_has_another_key(one, other):
    """Whatever the parts hold, and wherever they end."""
    assert (key_of(one) == key_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((None,), ("",)),
        ((None,), ("-",)),
        ((), (None,)),
        ((), ("",)),
        (("ab", "c"), ("a", "bc")),
        (("a", None), (None, "a")),
        (("1:a",), ("", "a")),
        (("a-",), ("a", None)),
        (("a1:b",), ("a", "b")),
        (("\u00e9",), ("e\u0301",)),
    ],
)
def test_no_part_passes_for_another(one, other):
    """Nor does one that is missing."""
    assert key_of(one) != key_of(other)


def test_a_key_is_the_same_tomorrow():
    """What was kept by one version is found by the next."""
    assert key_of(("https://example.com", None, "", "\u00e9")) == (
        "bcae07c18379cfd90639eb7a5e0f498d22dc24a6ea681140c862bb4a1df45288"
    )


@pytest.mark.parametrize(
    ("at", "timeline", "age"),
    [
        (100.0, "a boot", 0.0),
        (142.5, "a boot", 42.5),
        (99.5, "a boot", 0.0),
        (99.001, "a boot", 0.0),
        (99.0, "a boot", None),
        (98.5, "a boot", None),
        (-1e9, "a boot", None),
        (142.5, "another boot", None),
        (142.5, "", None),
        (math.nan, "a boot", None),
    ],
)
def test_a_reading_knows_how_old_its_record_is(at, timeline, age):
    """By one time only; a record from the future is as unknown as one of another time, but for a moment's slack."""
    assert Reading(record=RECORD, at=at, timeline=timeline).age == age


def test_a_reading_of_nothing_has_no_age():
    """There is nothing that could be old."""
    reading = Reading(record=None, at=1.0, wall=2.0)
    assert (reading.age, reading.gained) == (None, 0.0)


@pytest.mark.parametrize(
    ("at", "wall", "gained"),
    [
        (142.5, 1042.5, 0.0),
        (142.5, 1102.5, 60.0),
        (142.5, 942.5, -100.0),
        (99.5, 1000.0, 0.0),
        (142.5, None, 0.0),
        (98.5, 2000.0, 0.0),
    ],
)
def test_a_reading_shows_what_the_wall_clock_has_gained(at, wall, gained):
    """A pause of the machine is seen by that, unless the store's time is a server's, or the age is unknown."""
    assert Reading(record=RECORD, at=at, timeline="a boot", wall=wall).gained == gained
