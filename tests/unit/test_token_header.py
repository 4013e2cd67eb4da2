"""What a token says openly, and that no string can upset the reading."""

import json
import sys
from base64 import urlsafe_b64encode

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.token_header import NO_HEADER, Header, decode_header, open_claims, read_form, read_header

# The headers of the service's own examples, encoded as they stand in its tokens.
REAL = [
    ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0", Header("SAT", None, is_encrypted=True)),
    (
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwiY2giOiJwdWMuc2lnbmFsd2lyZS5jb20iLCJ0eXAiOiJTQVQifQ",
        Header("SAT", "puc.signalwire.com", is_encrypted=True),
    ),
    (
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiUmVmcmVzaCIsImNoIjoicHVjLnNpZ25hbHdpcmUuY29tIn0",
        Header("Refresh", "puc.signalwire.com", is_encrypted=True),
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
    assert read_header(f"{first}.e30.c2ln") == Header("SAT", "puc.signalwire.com")
    assert read_header(f"{first}..aXY.Y2lwaGVy.dGFn") == NO_HEADER


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
    assert all(read_header(whole[:end]) is None for end in range(first, last + 1))
    assert read_header(whole) is not None


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"alg": "dir", "enc": "A128GCM"}, 22),
        ({"alg": "dir", "enc": "A192GCM"}, 22),
        ({"alg": "dir", "enc": "A256GCM"}, 22),
        ({"alg": "dir", "enc": "A128CBC-HS256"}, 22),
        ({"alg": "dir", "enc": "A192CBC-HS384"}, 32),
        ({"alg": "dir", "enc": "A256CBC-HS512"}, 43),
        ({"alg": "HS256", "enc": "A256GCM"}, 22),  # encrypted: the signature's algorithm doesn't count
        ({"alg": "HS256"}, 43),
        ({"alg": "HS384"}, 64),
        ({"alg": "HS512"}, 86),
        ({"alg": "ES256"}, 86),
        ({"alg": "ES384"}, 128),
        ({"alg": "ES512"}, 176),
        ({"alg": "none"}, 0),
    ],
    ids=str,
)
def test_the_last_part_s_length_follows_from_the_algorithm(header, length):
    """RFC 7518 has the sizes of tags and signatures, and four characters of Base64 hold three bytes."""
    start = encode(header) + ("..a.b." if "enc" in header else ".e30.")
    whole = start + "x" * length
    assert (read_form(whole).is_whole, read_form(whole).end) == (True, len(whole))
    assert read_form(f"{whole}more").end == len(whole)
    assert not read_form(whole[:-1]).is_whole


@pytest.mark.parametrize(
    "header", [{"alg": "RS256"}, {"alg": 7}, {"alg": ["none"]}, {"alg": "dir", "enc": "new"}], ids=str
)
def test_the_last_part_of_another_algorithm_has_any_length(header):
    """One character is enough."""
    start = encode(header) + ("..a.b." if "enc" in header else ".e30.")
    assert not read_form(start).is_whole
    for length in (1, 2, 500):
        form = read_form(start + "x" * length)
        assert (form.is_whole, form.end) == (True, len(start) + length)


@pytest.mark.parametrize(("algorithm", "is_whole"), [("RS256", False), ("none", True)])
def test_a_signed_token_without_a_signature_is_cut(algorithm, is_whole):
    """Unless its algorithm is to have none."""
    form = read_form(f"{encode({'alg': algorithm, 'typ': 'SAT'})}.e30.")
    assert (form.found, form.is_whole) == (3, is_whole)


@pytest.mark.parametrize("secret", ["hush", "hush.e30.c2ln"])
def test_what_is_no_header_is_not_kept(secret):
    """Only headers are remembered, which many tokens share."""
    before = decode_header.cache_info().currsize
    assert (read_header(secret), read_form(secret)) == (NO_HEADER, None)
    assert decode_header.cache_info().currsize == before


def test_a_few_headers_are_remembered():
    """A space's tokens share them, so 64 are enough."""
    for number in range(100):
        assert read_header(f"{encode({'alg': 'HS256', 'kid': number})}.e30.c2ln").kind is None
    assert decode_header.cache_info().currsize == 64


@pytest.mark.parametrize("junk", ["+", "/", "=", "\n", " ", "!", "é", "=="])
def test_a_header_with_anything_but_url_safe_base64_is_none(junk):
    """A reader that skips what it doesn't know would read a header that SignalWire doesn't."""
    first = REAL[0][0]
    assert read_header(f"{first}{'....'}").kind == "SAT"
    for place in (2, 10, len(first)):
        assert read_header(f"{first[:place]}{junk}{first[place:]}....") == NO_HEADER


@pytest.mark.parametrize(
    "text", ['{"alg":"none","typ":"SAT","x":"\u00fb\u00ef\u00be"}', '{"alg":"none","typ":"SAT","x":"???>>>"}']
)
def test_both_letters_that_only_url_safe_base64_has_are_read(text):
    """They are "-" and "_"."""
    first = encode(text)
    assert {"-", "_"} & set(first)
    assert read_header(f"{first}.e30.").kind == "SAT"


NO_TOKEN = ["", ".", "rubbish", "a.b.c", " \n", "c2c_1", "{}", "é", encode({"typ": "SAT"}), REAL[0][0][:-4]]


@pytest.mark.parametrize("text", NO_TOKEN, ids=ascii)
def test_what_begins_with_no_header_has_no_form(text):
    """Every token's header names an algorithm."""
    assert read_form(text) is None
    assert read_header(text) == NO_HEADER


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
        f"{REAL[0][0]}.a.b.c.d.e",
    ],
)
def test_garbage_says_nothing(value):
    """What is no token, or says what no token of the service says, has neither kind nor channel."""
    assert read_header(value)[:2] == (None, None)


@given(st.text() | st.text(alphabet="eyJhbGciOiJkaXIi.-_=", max_size=60))
def test_no_string_raises(value):
    """Any string can be asked; the answer is a known kind or none."""
    header, form = read_header(value), read_form(value)
    assert header is None or header.kind in (None, "SAT", "Refresh")
    assert set(open_claims(value)) <= {"exp", "iat"}
    assert form is None or header is not None or not form.is_whole


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


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize(
    ("time", "read_as"),
    [
        (0, 0.0),
        (0.5, 0.5),
        (1, 1.0),
        (253402300799, 253402300799.0),
        (253402300800, None),
        (-0.5, None),
        (-1, None),
        (True, None),
        ("1", None),
        (None, None),
    ],
)
def test_a_time_of_a_signed_token_is_plausible_or_left_out(name, time, read_as):
    """It is a number of seconds, from 1970 to 9999."""
    found = open_claims(f"{encode({'alg': 'none'})}.{encode({name: time})}.")
    assert found == ({} if read_as is None else {name: read_as})
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    "value",
    [
        f"{encode({'alg': 'none'})}.{DEEP}.",
        f"{encode({'alg': 'none'})}.{encode('[1]')}.",
        f"{encode({'alg': 'none'})}.{encode('not JSON')}.",
        f"{encode({'alg': 'none'})}.{encode('9' * 5000)}.",
        f"{DEEP}.e30.",
        f"{encode({'alg': 'none'})}.\ud800.",
        "..",
    ],
    ids=["deep claims", "a list", "no JSON", "a long number", "a deep header", "a surrogate", "nothing"],
)
def test_claims_that_cannot_be_read_are_none(value):
    """No text makes reading them fail."""
    assert open_claims(value) == {}


def test_an_encrypted_token_is_read_without_pyjwt(monkeypatch):
    """PyJWT takes long to import, and SignalWire's usual tokens don't need it."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert open_claims(ENCRYPTED) == {}
    with pytest.raises(ImportError):
        open_claims(SIGNED)
