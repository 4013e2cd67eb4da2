"""The request of a `BackendSession`: its URL, its headers, what it hides, and the backend's answer."""

import json
from base64 import b64encode

import pytest

from signalwire_tokens import InvalidRequest, TokenPair, UnexpectedResponse, wire
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire.backend import split_url
from support.wire_samples import FETCH, SAT, SENT, lives, read

MISSING, INVALID = "missing_required_parameter", "invalid_parameter"
URL = "https://app.example.com/token"


def check(url=URL, headers=None):
    origin, path = wire.check_endpoint(Secret(url), Secret({} if headers is None else headers))
    return origin, path.value


def problems(url=URL, headers=None):
    with pytest.raises(InvalidRequest) as caught:
        check(url, headers)
    assert caught.value.operation == "BackendSession"
    return [(problem.attribute, problem.code) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://app.example.com/token", ("https://app.example.com", "/token")),
        ("https://app.example.com", ("https://app.example.com", "/")),
        ("https://app.example.com/", ("https://app.example.com", "/")),
        ("https://app.example.com?key=1", ("https://app.example.com", "/?key=1")),
        ("https://app.example.com/a/b/?x=1/2&y=a%20b?", ("https://app.example.com", "/a/b/?x=1/2&y=a%20b?")),
        ("https://app.example.com/token?", ("https://app.example.com", "/token")),
        ("HTTPS://App.Example.com:443/Token", ("https://app.example.com", "/Token")),
        ("https://app.example.com:8443/token", ("https://app.example.com:8443", "/token")),
        (" https://app.example.com/token/\r\n", ("https://app.example.com", "/token/")),
        ("http://localhost:8000/token", ("http://localhost:8000", "/token")),
        ("http://127.0.0.1/token", ("http://127.0.0.1", "/token")),
        ("http://[::1]:8000/token", ("http://[::1]:8000", "/token")),
        ("https://[2001:DB8::1]/token", ("https://[2001:db8::1]", "/token")),
        ("https://app.example.com/token?next=https://x", ("https://app.example.com", "/token?next=https://x")),
    ],
)
def test_a_url_has_an_origin_and_a_path_with_its_query(url, expected):
    """The path and the query are sent as they are written."""
    assert check(url) == expected


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (None, MISSING),
        ("", MISSING),
        (" \r\n", MISSING),
        (7, INVALID),
        (b"https://app.example.com", INVALID),
        ("app.example.com/token", INVALID),
        ("//app.example.com/token", INVALID),
        ("ftp://app.example.com/token", INVALID),
        ("https:///token", INVALID),
        ("https://user:hunter2@app.example.com/token", INVALID),
        ("https://app.example.com/token#part", INVALID),
        ("https://app.example.com#part", INVALID),
        ("https://app.example.com/to ken", INVALID),
        ("https://app.example.com/to\r\nken", INVALID),
        ("https://app.example.com/tökén", INVALID),
        ("https://app.example.com:0/token", INVALID),
        ("http://app.example.com/token", INVALID),
        ("http://10.0.0.1/token", INVALID),
    ],
)
def test_a_url_that_could_mislead_is_refused(url, code):
    """It must have a scheme and a host, without a user or a fragment. Plain http is for this machine alone."""
    assert problems(url) == [("url", code)]


@pytest.mark.parametrize("url", ["", 7, "ftp://app.example.com/token"])
def test_a_wrong_url_is_a_problem_and_is_not_split(url):
    """Its check returns nothing that could be used."""
    found = []
    assert split_url(found, Secret(url)) is None
    assert len(found) == 1


@pytest.mark.parametrize("headers", [{}, {"X-Key": "a b\t~"}, {"x!#$%&'*+.^_`|~0": ""}])
def test_headers_are_text_that_http_allows(headers):
    """A value may be empty, and may contain spaces."""
    assert check(headers=headers)[1] == "/token"


@pytest.mark.parametrize(
    ("headers", "attributes"),
    [
        ("X: 1", ["headers"]),
        ([("X", "1")], ["headers"]),
        ({7: "1"}, ["headers"]),
        ({"": "1"}, ["headers"]),
        ({"X Y": "1"}, ["headers"]),
        ({"X:": "1"}, ["headers"]),
        ({"X\n": "1"}, ["headers"]),
        ({"é": "1"}, ["headers"]),
        ({"X": 1}, ["headers.X"]),
        ({"X": None}, ["headers.X"]),
        ({"X": "a\r\nY: 1"}, ["headers.X"]),
        ({"X": "a\n"}, ["headers.X"]),
        ({"X": "é"}, ["headers.X"]),
        ({"X": "\x7f"}, ["headers.X"]),
        ({"X": "\x00"}, ["headers.X"]),
        ({"X": "a\n", "good": "1", "Y Z": "1", "Host": "x"}, ["headers.X", "headers", "headers.Host"]),
    ],
)
def test_a_header_that_could_add_to_the_request_is_refused(headers, attributes):
    """Each wrong one is named."""
    assert problems(headers=headers) == [(attribute, INVALID) for attribute in attributes]


@pytest.mark.parametrize(
    "name",
    [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "upgrade",
    ],
)
@pytest.mark.parametrize("write", [str.lower, str.title, str.upper])
def test_a_header_of_the_request_s_own_body_or_connection_is_refused(name, write):
    """The client sets these headers itself."""
    assert problems(headers={write(name): "x"}) == [(f"headers.{write(name)}", INVALID)]


def test_a_wrong_url_does_not_hide_a_wrong_header():
    """One error lists the problems of both."""
    assert problems("", {"Host": "x"}) == [("url", MISSING), ("headers.Host", INVALID)]
    assert problems("ftp://x", {"Host": "x"}) == [("url", INVALID), ("headers.Host", INVALID)]


def test_added_headers_replace_those_of_the_same_name():
    """Names are compared without case. All others stay."""
    headers, added = Secret({"authorization": "none", "X-Who": "me"}), Secret({"Authorization": "Bearer 1", "Y": "2"})
    merged = wire.add_headers(headers, added)
    assert merged.value == {"X-Who": "me", "Authorization": "Bearer 1", "Y": "2"}
    assert headers.value == {"authorization": "none", "X-Who": "me"}


@pytest.mark.parametrize(
    ("added", "attribute"), [(None, "headers"), ({"X": "a\n"}, "headers.X"), ({"Host": "x"}, "headers.Host")]
)
def test_added_headers_are_checked_like_all_others(added, attribute):
    """A function of the app returned them."""
    with pytest.raises(InvalidRequest) as caught:
        wire.add_headers(Secret({}), Secret(added))
    assert caught.value.operation == "BackendSession"
    assert [problem.attribute for problem in caught.value.problems] == [attribute]


def test_a_backend_is_sent_an_empty_object():
    """The request is a POST with the caller's headers, and has no credentials of the client's."""
    path, headers = Secret("/token?x=1"), Secret({"X-Key": "1"})
    request = wire.fetch_token(path, headers)
    assert (request.operation, request.method, request.path) == ("fetch_token", "POST", "/token?x=1")
    assert (request.auth, request.bearer, json.loads(request.body)) == (wire.Auth.NONE, None, {})
    assert request.headers is headers
    assert (request.replayable, request.presents_token, request.for_embeds) == (True, False, False)


def secrets(path="/token", headers=None):
    return {secret.value for secret in wire.fetch_token(Secret(path), Secret(headers or {})).secrets}


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/token", set()),
        ("/hooks/fifteen-letters", set()),
        ("/hooks/sixteen-letters-/token", {"sixteen-letters-"}),
        ("/token?key=hush", {"hush"}),
        ("/token?hush", {"hush"}),
        ("/token?a=one&b=two&three", {"one", "two", "three"}),
        ("/token?key=a=b", {"a=b"}),
        ("/token?key=", set()),
        ("/token?key=a%20b", {"a%20b", "a b"}),
        ("/token?a%20b", {"a%20b", "a b"}),
        ("/token?key=a+b", {"a+b", "a b"}),
        ("/token?key=a?b", {"a?b"}),
    ],
)
def test_what_may_be_secret_in_a_url_is_hidden(path, hidden):
    """It is each value of the query, and each long part of the path. The name of a value isn't secret."""
    assert secrets(path) == hidden


BASIC = b64encode(b"me:mellon:1").decode()


@pytest.mark.parametrize(
    ("headers", "hidden"),
    [
        ({"X-Key": "hush"}, {"hush"}),
        ({"Authorization": "Bearer hush"}, {"Bearer hush", "hush"}),
        ({"Authorization": "Bearer a b"}, {"Bearer a b", "a b"}),
        ({"X-Key": ""}, set()),
        ({"Cookie": "a=1; sid=hush=; b"}, {"a=1; sid=hush=; b", "1", "hush=", "sid=hush=; b"}),
        ({"cookie": "sid=hush"}, {"sid=hush", "hush"}),
        ({"X-Other": "sid=hush"}, {"sid=hush"}),
        ({"Authorization": f"Basic {BASIC}"}, {f"Basic {BASIC}", BASIC, "mellon:1"}),
        ({"X-Auth": f"bASIC {BASIC}"}, {f"bASIC {BASIC}", BASIC, "mellon:1"}),
        ({"Authorization": f"Bearer {BASIC}"}, {f"Bearer {BASIC}", BASIC}),
        ({"Authorization": "Basic hush!"}, {"Basic hush!", "hush!"}),
        ({"Authorization": "Basic bWU6+bWVs="}, {"Basic bWU6+bWVs=", "bWU6+bWVs="}),
        (
            {"Authorization": f"Basic {BASIC[:4]}!{BASIC[4:]}"},
            {f"Basic {BASIC[:4]}!{BASIC[4:]}", f"{BASIC[:4]}!{BASIC[4:]}"},
        ),
        ({"Authorization": "Basic /////w=="}, {"Basic /////w==", "/////w=="}),
    ],
)
def test_what_may_be_secret_in_headers_is_hidden(headers, hidden):
    """It is each value, what follows its first word, each cookie, and the password of `Basic`."""
    assert secrets(headers=headers) == hidden


@pytest.mark.parametrize("ends", [None, True, "1800000600000", [], {}])
def test_a_backend_s_token_needs_an_expiry(ends):
    """It must be a number."""
    error = read(FETCH, {"token": SAT, "expiry_at": ends})
    assert isinstance(error, UnexpectedResponse)
    assert error.message == "the backend answered 201, without a usable expiry_at"


@pytest.mark.parametrize("ends", [0, -1, 1, SENT + 600, 1e11 - 1, 253402300800000, 1e300, float("nan"), float("inf")])
def test_a_backend_s_expiry_is_in_milliseconds(ends):
    """A number that was meant as seconds, or is beyond the year 9999, is refused."""
    error = read(FETCH, {"token": SAT, "expiry_at": ends})
    assert isinstance(error, UnexpectedResponse)
    assert error.message == "the backend answered 201, with an expiry_at that isn't in milliseconds since the epoch"


@pytest.mark.parametrize(
    ("ends", "seconds"),
    [(1e11, 0), (int(SENT + 600) * 1000, 599.75), ((SENT + 600) * 1000, 600), (253402300799999, 315_619_200)],
)
def test_a_backend_s_expiry_is_a_whole_number_or_a_fraction(ends, seconds):
    """The first one is in the year 1973, and the last one in the year 9999. No token lives for more than ten years."""
    pair = read(FETCH, {"token": SAT, "expiry_at": ends})
    assert isinstance(pair, TokenPair)
    assert lives(pair.access_token) == pytest.approx(seconds)
