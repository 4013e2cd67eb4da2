"""What a token says openly, and that no string can upset the reading."""

import json
from base64 import urlsafe_b64encode

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.wire.header import open_claims, read_header

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


@pytest.mark.parametrize(("first", "found"), REAL)
def test_real_headers_are_read(first, found):
    """Kind and channel of the service's own tokens are read, of five parts or of three."""
    assert read_header(f"{first}..aXY.Y2lwaGVy.dGFn") == found
    assert read_header(f"{first}.e30.c2ln") == found


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
        f"{encode({'typ': 'JWT'})}....",
        f"{encode({'typ': ['SAT']})}....",
        f"{encode({'ch': 'two words'})}....",
        f"{encode({'ch': 'evil.example/path'})}....",
        f"{encode({'ch': 7})}....",
        f"{encode('[' * 100_000)}....",
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
