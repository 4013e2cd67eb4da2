"""What a token says openly, and that no string can upset the reading."""

import json
from base64 import urlsafe_b64encode

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.wire.header import decode_header, is_cut, open_claims, read_form, read_header

# The headers of the service's own examples, encoded as they stand in its tokens.
REAL = [
    ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0", ("SAT", None)),
    (
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwiY2giOiJwdWMuc2lnbmFsd2lyZS5jb20iLCJ0eXAiOiJTQVQifQ",
        ("SAT", "puc.signalwire.com"),
    ),
    (
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiUmVmcmVzaCIsImNoIjoicHVjLnNpZ25hbHdpcmUuY29tIn0",
        ("Refresh", "puc.signalwire.com"),
    ),
]


def encode(header):
    text = header if isinstance(header, str) else json.dumps(header)
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


DEEP = encode('{"a":' * 100_000)


@pytest.mark.parametrize(("first", "found"), REAL)
def test_real_headers_are_read(first, found):
    """Kind and channel of SignalWire's own tokens are read."""
    assert read_header(f"{first}..aXY.Y2lwaGVy.dGFn") == found


def test_a_header_may_have_white_space():
    """Such as a line end after its brace, as JSON that is laid out has it."""
    first = urlsafe_b64encode(json.dumps({"alg": "dir", "enc": "A256GCM", "typ": "SAT"}, indent=2).encode()).decode()
    assert read_header(f"{first.rstrip('=')}....").kind == "SAT"


def test_the_header_of_a_signed_token_is_read():
    """A token whose header names no encryption has three parts."""
    first = encode({"alg": "HS256", "typ": "SAT", "ch": "puc.signalwire.com"})
    assert read_header(f"{first}.e30.c2ln") == ("SAT", "puc.signalwire.com")
    assert read_header(f"{first}..aXY.Y2lwaGVy.dGFn") == (None, None)


ENCRYPTED = f"{REAL[0][0]}..aXY.Y2lwaGVy.{'T' * 22}"
SIGNED = f"{encode({'alg': 'HS256', 'typ': 'SAT'})}.e30.{'S' * 43}"
FREE = f"{encode({'alg': 'RS256', 'typ': 'SAT'})}.e30.c2ln"


@pytest.mark.parametrize(
    ("whole", "parts"), [(ENCRYPTED, 5), (SIGNED, 3), (FREE, 3)], ids=["encrypted", "signed", "signature of any length"]
)
@pytest.mark.parametrize("after", ["", "\n", " ", " more", ".", ".more", "\r\n\r\n", "é", "\ud800"], ids=ascii)
def test_a_token_s_form_and_what_follows_it_are_told_apart(whole, parts, after):
    """The token ends where its header says, whatever comes after it."""
    form = read_form(whole + after)
    assert (form.header.kind, form.parts, form.found) == ("SAT", parts, parts)
    assert (form.is_whole, form.end) == (True, len(whole))


@pytest.mark.parametrize("whole", [ENCRYPTED, SIGNED], ids=["encrypted", "signed"])
def test_text_is_told_apart_even_if_nothing_separates_it(whole):
    """The last part's length follows from the header."""
    assert read_form(f"{whole}more").end == len(whole)


@pytest.mark.parametrize("whole", [ENCRYPTED, SIGNED], ids=["encrypted", "signed"])
def test_a_token_that_was_cut_anywhere_after_its_header_is_not_whole(whole):
    """Even if it was cut inside its last part."""
    first = whole.index(".")
    for end in range(first, len(whole)):
        form = read_form(whole[:end])
        assert (form.header.kind, form.is_whole, form.end) == ("SAT", False, end)
        assert form.found == whole[:end].count(".") + 1


@pytest.mark.parametrize("whole", [ENCRYPTED, SIGNED], ids=["encrypted", "signed"])
def test_a_token_with_fewer_parts_than_its_header_calls_for_is_cut(whole):
    """Its kind is not believed either."""
    first, last = whole.index("."), whole.rindex(".")
    assert all(is_cut(whole[:end]) for end in range(first, last + 1))
    assert all(read_header(whole[:end]) == (None, None) for end in range(first, last + 1))
    assert not is_cut(whole)


@pytest.mark.parametrize(("algorithm", "is_whole"), [("RS256", False), ("none", True)])
def test_a_signed_token_without_a_signature_is_cut(algorithm, is_whole):
    """Unless its algorithm is to have none."""
    form = read_form(f"{encode({'alg': algorithm, 'typ': 'SAT'})}.e30.")
    assert (form.found, form.is_whole) == (3, is_whole)


@pytest.mark.parametrize("secret", ["hush", "hush.e30.c2ln"])
def test_what_is_no_header_is_not_kept(secret):
    """Only headers are remembered, which many tokens share."""
    before = decode_header.cache_info().currsize
    assert (read_header(secret), is_cut(secret), read_form(secret)) == ((None, None), False, None)
    assert decode_header.cache_info().currsize == before


NO_TOKEN = ["", ".", "rubbish", "a.b.c", " \n", "c2c_1", "{}", "é", encode({"typ": "SAT"}), REAL[0][0][:-4]]


@pytest.mark.parametrize("text", NO_TOKEN, ids=ascii)
def test_what_begins_with_no_header_has_no_form(text):
    """Every token's header names an algorithm."""
    assert read_form(text) is None
    assert not is_cut(text)


@pytest.mark.parametrize(("first", "_found"), REAL)
def test_pyjwt_could_not_have_read_them(first, _found):
    """The reason for reading by hand: PyJWT refuses a token of five parts."""
    with pytest.raises(jwt.DecodeError):
        jwt.decode_complete(f"{first}..aXY.Y2lwaGVy.dGFn", options={"verify_signature": False})


@pytest.mark.parametrize(
    "value",
    [
        "",
        "c2c_7acc0e5e968706a032983cd80cdca219",
        "..",
        "....",
        "e30....",
        "e30.....",
        f"{encode([1])}....",
        f"{encode('not json')}....",
        f"{encode({'typ': 'SAT', 'enc': 'A256GCM'})}....",
        f"{encode({'alg': 'dir', 'enc': 'A256GCM', 'typ': 'JWT'})}....",
        f"{encode({'alg': 'dir', 'enc': 'A256GCM', 'typ': ['SAT']})}....",
        f"{encode({'alg': 'dir', 'enc': 'A256GCM', 'ch': 'two words'})}....",
        f"{encode({'alg': 'dir', 'enc': 'A256GCM', 'ch': 'evil.example/path'})}....",
        f"{encode({'alg': 'dir', 'enc': ['A256GCM'], 'ch': 7})}....",
        f"{DEEP}....",
        f"{encode('{ not json')}....",
        f"{encode('{ }')}....",
        "e+0=....",
        "e\n30....",
        "\ud800....",
        "é....",
        REAL[0][0],
        f"{REAL[0][0]}.a",
        f"{REAL[0][0]}.a.b.c.d.e",
    ],
)
def test_garbage_says_nothing(value):
    """What is no token, or says what no token of the service says, has neither kind nor channel."""
    assert read_header(value) == (None, None)


@given(st.text() | st.text(alphabet="eyJhbGciOiJkaXIi.-_=", max_size=60))
def test_no_string_raises(value):
    """Any string can be asked; the answer is a known kind or none."""
    assert read_header(value).kind in (None, "SAT", "Refresh")
    assert set(open_claims(value)) <= {"exp", "iat"}
    form = read_form(value)
    assert form is None or is_cut(value) <= (not form.is_whole)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_no_header_raises(header):
    """Any JSON can stand in a header."""
    assert read_header(f"{encode(header)}....").kind in (None, "SAT", "Refresh")


@given(
    st.dictionaries(st.sampled_from(["exp", "iat", "nbf", "sub"]), st.none() | st.text() | st.integers() | st.floats())
)
def test_no_claims_raise(claims):
    """Any claims can stand in a signed token; only plausible times are taken from them."""
    token = f"{encode({'alg': 'none', 'typ': 'JWT'})}.{encode(claims)}."
    assert all(0 <= value < 253402300800 for value in open_claims(token).values())


def test_a_signed_token_s_times_are_read_unverified():
    """Three parts, and its times stand open; five, and they do not."""
    token = jwt.encode({"exp": 2000, "iat": 1000}, "k" * 32, algorithm="HS256")
    assert open_claims(token) == {"exp": 2000.0, "iat": 1000.0}
    assert open_claims(f"{REAL[0][0]}..aXY.Y2lwaGVy.dGFn") == {}
    assert open_claims("not.a.token") == {}
    assert open_claims(jwt.encode({"exp": 10**400, "iat": True}, "k" * 32, algorithm="HS256")) == {}
