"""Records sealed for where others can read."""

import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import ConfigurationError, SqliteStore, StoreError
from signalwire_tokens.stores import Record, Sealer, generate_encryption_key, key_of
from signalwire_tokens.stores.records import decode, encode
from signalwire_tokens.testing.conformance import make_pair
from support.traceback_text import frames_shown

ALICE, BOB = key_of(("alice",)), key_of(("bob",))
KEY, OTHER_KEY = generate_encryption_key(), generate_encryption_key()
MARK = "hush"

token = attrs.evolve(make_pair().access_token, value=f"{MARK}-token")
refresh_token = attrs.evolve(make_pair().refresh_token, value=f"{MARK}-refresh")
RECORD = Record(
    pair=attrs.evolve(make_pair(), access_token=token, refresh_token=refresh_token), asked_at=1.0, asked_wall=2.0
)


def sealer(*keys, **settings):
    return Sealer("the store", keys, **settings)


def refusal(store, sealed, key=ALICE, *, shown=frames_shown):
    """Let a record be refused, and check that the error names what it may, and shows nothing else."""
    with pytest.raises(StoreError) as caught:
        store.open(key, sealed)
    assert str(caught.value).startswith(f"the store: the record #{key[:8]} ")
    assert key[:9] not in str(caught.value)
    assert MARK not in shown(caught.value)
    return str(caught.value)


# One byte of each part of a sealed record: its version, its kind, the key's name, the nonce, and what is sealed.
PARTS = (0, 1, 2, 6, 18, -1)
# To look at a refusal's frames costs a hundred times more than to refuse.
DEPTHS = pytest.mark.parametrize(
    "depth", ["every byte", "the frames of some", pytest.param("the frames of all", marks=pytest.mark.slow)]
)


def looks(sealed, depth):
    """Return the places of a sealed record that are to be harmed, and how to look at the refusals."""
    places = PARTS if depth == "the frames of some" else range(len(sealed))
    return places, str if depth == "every byte" else frames_shown


@pytest.mark.parametrize("store", [sealer(KEY), sealer(plaintext=True)], ids=["sealed", "plaintext"])
def test_what_was_sealed_is_opened(store):
    """Under the same key."""
    assert store.open(ALICE, store.seal(ALICE, RECORD)) == decode(encode(RECORD))


def test_what_is_sealed_shows_nothing():
    """Neither the tokens nor that it is the same record twice; in plaintext, it lies in the open."""
    one, other = (sealer(KEY).seal(ALICE, RECORD) for _ in range(2))
    assert MARK.encode() not in one
    assert b"SAT" not in one
    assert one[6:] != other[6:]
    assert one[18:] != other[18:]
    assert MARK.encode() in sealer(plaintext=True).seal(ALICE, RECORD)


def test_a_new_key_is_32_random_bytes():
    """As URL-safe base64, which needs no escape in a shell or an environment file."""
    keys = {generate_encryption_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert len(urlsafe_b64decode(key)) == 32
        assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")
        assert sealer(key)


@pytest.mark.parametrize("keys", [KEY, [KEY], (KEY,)], ids=["text", "list", "tuple"])
def test_one_key_is_as_good_as_a_list_of_one(keys):
    """So that nobody's key is taken for a list of letters."""
    assert Sealer("the store", keys).open(ALICE, sealer(KEY).seal(ALICE, RECORD)) == decode(encode(RECORD))


def test_another_key_is_a_clear_error():
    """It says what to look into, and of which record."""
    sealed = sealer(KEY).seal(ALICE, RECORD)
    assert refusal(sealer(OTHER_KEY), sealed).endswith(
        "was encrypted with a key that isn't in encryption_keys=…: add the previous key to the list"
    )


def test_an_old_key_opens_and_the_first_one_seals():
    """Which is how keys are changed without losing a record."""
    rotated = sealer(OTHER_KEY, KEY)
    record = rotated.open(ALICE, sealer(KEY).seal(ALICE, RECORD))
    sealed = rotated.seal(ALICE, record)
    assert sealer(OTHER_KEY).open(ALICE, sealed) == record
    refusal(sealer(KEY), sealed)


@DEPTHS
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_not_a_byte_can_be_changed(flip, depth):
    """Anywhere, the format's own bytes included. (P35)"""
    store = sealer(KEY)
    sealed = store.seal(ALICE, RECORD)
    places, shown = looks(sealed, depth)
    for place in places:
        changed = bytearray(sealed)
        changed[place] ^= flip
        refusal(store, bytes(changed), shown=shown)


@DEPTHS
def test_not_a_byte_can_be_cut_off_or_added(depth):
    """At the end or the beginning."""
    store = sealer(KEY)
    sealed = store.seal(ALICE, RECORD)
    places, shown = looks(sealed, depth)
    for place in places:
        refusal(store, sealed[:place], shown=shown)
        refusal(store, sealed[place:][1:], shown=shown)
    refusal(store, sealed + b"\0", shown=shown)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda body: b"\1\1" + body))
def test_whatever_lies_there_is_refused(sealed):
    """With an error of the store's."""
    refusal(sealer(KEY), sealed)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda body: b"\1\0" + body))
def test_whatever_lies_in_the_open_is_refused(sealed):
    """With the same error, where it is not a record."""
    refusal(sealer(plaintext=True), sealed)


def test_a_record_opens_only_under_the_key_that_it_was_sealed_for():
    """Write access to the store isn't enough to give Bob the token of Alice. (P35)"""
    store = sealer(KEY)
    message = refusal(store, store.seal(ALICE, RECORD), key=BOB)
    assert "failed authentication: it was changed, or copied from another key" in message


@pytest.mark.parametrize("store", [sealer(KEY), sealer(plaintext=True)], ids=["sealed", "plaintext"])
@pytest.mark.parametrize("version", [2, 31])
def test_a_record_of_a_later_version_says_so(store, version):
    """It is not broken, and whoever wrote it can read it."""
    sealed = bytes((version,)) + store.seal(ALICE, RECORD)[1:]
    assert "by a newer version of signalwire-tokens: update" in refusal(store, bytes((version,)) + sealed[1:])


@pytest.mark.parametrize("sealed", [b"", b"\1", b"\0\1", b"\0\0", b"\1\2", b"{}"], ids=repr)
@pytest.mark.parametrize("store", [sealer(KEY), sealer(plaintext=True)], ids=["sealed", "plaintext"])
def test_what_is_not_ours_says_so(store, sealed):
    """It may be somebody else's."""
    refusal(store, sealed)
    if sealed != b"{}":
        assert "wasn't written by signalwire-tokens" in refusal(store, sealed)


def test_a_sealed_store_takes_nothing_that_lies_in_the_open():
    """Anybody could have put it there."""
    sealed = sealer(plaintext=True).seal(ALICE, RECORD)
    assert "is in plain text, but this store has encryption keys" in refusal(sealer(KEY), sealed)


def test_a_plaintext_store_has_no_key_for_what_is_sealed():
    """And says that it was given none."""
    sealed = sealer(KEY).seal(ALICE, RECORD)
    assert "is encrypted, but this store was made with plaintext=True" in refusal(sealer(plaintext=True), sealed)


def test_a_sealed_record_that_cannot_be_read_shows_nothing():
    """Though it was opened already."""
    first, last = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))  # noqa: DTZ901 - it is given one
    endless = attrs.evolve(refresh_token, issued_at=first, expires_at=last)  # longer than can be read again
    record = attrs.evolve(RECORD, pair=attrs.evolve(RECORD.pair, refresh_token=endless))
    store = sealer(KEY)
    assert refusal(store, store.seal(ALICE, record)).endswith(
        "is damaged: delete it; the session then issues a new pair"
    )


MALFORMED = {
    "empty": "",
    "short": urlsafe_b64encode(b"h" * 31).decode(),
    "long": urlsafe_b64encode(b"h" * 33).decode(),
    "unpadded": KEY.rstrip("="),
    "no base64": f"{MARK}: not base64 at all",
    "not ASCII": "\u00e9" * 44,
    "number": 7_000_000_007,
    "object": object(),
    "bytes that are short": b"h" * 31,
    "list": ["h" * 44],
}


@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("among", [[], [KEY]], ids=["alone", "second"])
def test_what_is_no_key_is_refused(key, among):
    """At once, without being shown; it says how to get one."""
    with pytest.raises(ConfigurationError) as caught:
        sealer(*among, key)
    assert "the store: an encryption key must be 32 bytes as URL-safe base64" in str(caught.value)
    assert "generate_encryption_key()" in str(caught.value)
    if key:
        for text in (repr(key), str(key), KEY):
            assert text not in frames_shown(caught.value)


@pytest.mark.parametrize("keys", [None, 7, KEY.encode(), object()], ids=["None", "number", "bytes", "object"])
@pytest.mark.parametrize("plaintext", [False, True])
def test_what_is_no_list_of_keys_is_refused(keys, plaintext):
    """None, say, as the environment gives it where nothing is set."""
    with pytest.raises(ConfigurationError, match="the store"):
        Sealer("the store", keys, plaintext=plaintext)


@pytest.mark.parametrize("keys", [(), [], [KEY]], ids=["none", "empty", "one"])
def test_it_is_said_whether_records_are_sealed(keys):
    """Once: neither nothing nor both will do."""
    with pytest.raises(ConfigurationError) as caught:
        Sealer("the store", keys, plaintext=bool(keys))
    assert str(caught.value).startswith(
        "the store: plaintext=True encrypts nothing" if keys else "the store needs encryption_keys, because"
    )
    assert "plaintext=True" in str(caught.value)
    assert KEY not in frames_shown(caught.value)


@pytest.mark.parametrize("plaintext", ["0", 1, None])
def test_plaintext_is_not_asked_for_by_accident(plaintext):
    """A text from the environment is true, whatever it says."""
    with pytest.raises(ConfigurationError, match="plaintext must be True or False"):
        Sealer("the store", plaintext=plaintext)


def test_several_keys_are_a_list():
    """And not a text with commas, of which a lenient reader would take the first."""
    with pytest.raises(ConfigurationError, match="Pass several keys as a list"):
        Sealer("the store", f"{generate_encryption_key()},{generate_encryption_key()}")


@pytest.mark.parametrize(
    "settings",
    [
        {"encryption_keys": [KEY, "short"]},
        {"encryption_keys": KEY[:-2]},
        {"encryption_keys": KEY, "plaintext": True},
    ],
    ids=["list", "text", "both"],
)
def test_a_store_in_a_file_does_not_show_keys_either(tmp_path, settings):
    """In its own frames."""
    with pytest.raises(ConfigurationError) as caught:
        SqliteStore(tmp_path / "tokens.db", **settings)
    assert KEY[:-2] not in frames_shown(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_key_shows_in_what_holds_it(tmp_path):
    """Whoever prints a sealer or a store, or its fields, sees none."""
    for holder in (sealer(KEY), SqliteStore(tmp_path / "tokens.db", encryption_keys=KEY)):
        assert KEY not in repr(holder)
        assert KEY not in repr(vars(holder))
        assert repr(urlsafe_b64decode(KEY))[2:-1] not in repr(vars(holder))


def test_an_error_of_a_sealed_record_does_not_show_the_key():
    """Nor do its frames."""
    store, moved = sealer(KEY), sealer(KEY).seal(BOB, RECORD)
    with pytest.raises(StoreError) as caught:
        store.open(ALICE, moved)
    assert KEY not in frames_shown(caught.value)
    assert repr(urlsafe_b64decode(KEY))[2:-1] not in frames_shown(caught.value)


def test_sealing_says_what_to_install(monkeypatch):
    """Where the extra is missing; plaintext does without."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    store = sealer(plaintext=True)
    assert store.open(ALICE, store.seal(ALICE, RECORD)) == decode(encode(RECORD))
    with pytest.raises(
        ConfigurationError,
        match=r"^the store needs the package cryptography.*: install signalwire-tokens with its extra `crypto`$",
    ):
        sealer(KEY)
