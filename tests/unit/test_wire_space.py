"""Where a space is, and which settings are refused."""

from base64 import b64decode
from datetime import timedelta

import pytest

from signalwire_tokens import InvalidRequest, Lifetimes
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire import basic_authorization, check_client_settings, is_api_token
from signalwire_tokens.wire.codes import INVALID, MISSING
from signalwire_tokens.wire.space import embeds_origin, space_origin


def check(**given):
    settings = {"timeout": 10.0, "retries": 3, "lifetimes": Lifetimes(), "project_id": "project", **given}
    place, token = Secret(settings.pop("space", "acme")), Secret(settings.pop("api_token", "token"))
    embeds = Secret(settings.pop("embed_origin", None))
    return check_client_settings(place, settings.pop("project_id"), token, embed_origin=embeds, **settings)


def problems(**settings):
    with pytest.raises(InvalidRequest) as caught:
        check(**settings)
    return {problem.attribute: problem.code for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("acme", "https://acme.signalwire.com"),
        ("ACME", "https://acme.signalwire.com"),
        ("a-1", "https://a-1.signalwire.com"),
        ("acme.signalwire.com", "https://acme.signalwire.com"),
        ("tokens.example.org:8443", "https://tokens.example.org:8443"),
        ("https://acme.signalwire.com", "https://acme.signalwire.com"),
        ("https://gateway:0443", "https://gateway"),
        ("gateway:443", "https://gateway"),
        ("localhost", "http://localhost"),
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.1.2.3", "http://127.1.2.3"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("https://127.0.0.1:1", "https://127.0.0.1:1"),
        ("[2001:db8::1]", "https://[2001:db8::1]"),
        ("10.0.0.1", "https://10.0.0.1"),
        ("127.0.0.1.example.org", "https://127.0.0.1.example.org"),
        ("https://acme.signalwire.com/", "https://acme.signalwire.com"),  # as browsers show it
        ("acme.signalwire.com/", "https://acme.signalwire.com"),
        ("acme/", "https://acme.signalwire.com"),
        (" acme ", "https://acme.signalwire.com"),
        ("acme\r\n", "https://acme.signalwire.com"),
        ("\tlocalhost:8080/\n", "http://localhost:8080"),
    ],
)
def test_a_space_is_a_name_a_host_or_an_origin(space, expected):
    """Plain http is for this machine's own addresses only. A slash at the end, and blanks around it, don't count."""
    assert check(space=space) == (expected, expected)


@pytest.mark.parametrize(
    "space",
    [
        None,
        "",
        7,
        " ",
        "/",
        "acme//",
        "acme /",
        "a b",
        "acme\r\nHost: evil",
        "acme\x00",
        "user@acme",
        "user:pass@acme.signalwire.com",
        "https://user@acme.signalwire.com",
        "acme/path",
        "https://acme.signalwire.com/path",
        "https://acme.signalwire.com/?x=1",
        "https://acme.signalwire.com/#x",
        "acme?x=1",
        "acme#x",
        "ftp://acme",
        "http://acme.signalwire.com",
        "http://10.0.0.1",
        "http://[::2]",
        "http://localhost.example.org",
        "acme:0",
        "acme:65536",
        "acme:x",
        "-acme",
        "acme..com",
        "аcme.signalwire.com",  # noqa: RUF001 - a Cyrillic letter that looks like ours
        "[::1",
        "[:::]",
        "[127.0.0.1]",
        "a" * 64,
    ],
)
def test_a_space_that_could_mislead_is_refused(space):
    """Nothing but a host is taken for a space: not what hides another host, a header or a path in it."""
    assert set(problems(space=space)) == {"space"}


@pytest.mark.parametrize("space", ["https://acme.signalwire.com/dashboard", "acme?x=1", "hunter2@acme.signalwire.com"])
def test_what_a_space_looks_like_is_shown(space):
    """The error has an example of each form, and doesn't quote what may be a password."""
    with pytest.raises(
        InvalidRequest, match=r"'acme'.*'acme\.signalwire\.com'.*'https://acme\.signalwire\.com'"
    ) as caught:
        check(space=space)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("space", "code"), [(None, MISSING), ("", MISSING), (" \r\n", MISSING), (7, INVALID)])
def test_a_space_that_is_blank_is_missing(space, code):
    """Its code says so."""
    assert problems(space=space) == {"space": code}


@pytest.mark.parametrize("value", ["", "a b", "a\r\nb", "é", "a\x00b", 7, b"bytes"])
def test_credentials_that_would_split_a_header_are_refused(value):
    """Neither half of the credentials can smuggle anything into the request."""
    assert problems(project_id=value, api_token=value) == {
        "project_id": "invalid_parameter",
        "api_token": "invalid_parameter",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("project_id", "must be visible ASCII characters, without a colon"),
        ("api_token", "must be visible ASCII characters, or a function that returns them"),
        ("timeout", "must be seconds or a timedelta, more than 0"),
        ("retries", "must be a whole number, 0 or more"),
        ("lifetimes", "must be a Lifetimes"),
    ],
)
def test_a_wrong_setting_is_explained(name, message):
    """Each has its own message."""
    with pytest.raises(InvalidRequest) as caught:
        check(**{name: "a b"})
    assert [(problem.attribute, problem.message) for problem in caught.value.problems] == [(name, message)]


@pytest.mark.parametrize(
    ("origin_of", "value"), [(space_origin, None), (space_origin, "a b"), (embeds_origin, None), (embeds_origin, "a b")]
)
def test_a_wrong_place_is_a_problem_and_has_no_origin(origin_of, value):
    """Its check returns nothing that could be used."""
    found = []
    assert origin_of(found, value) is None
    assert len(found) == 1


def test_a_colon_in_the_project_is_refused():
    """It would move the boundary between the two halves."""
    assert set(problems(project_id="a:b")) == {"project_id"}


def test_credentials_may_be_absent_or_a_function():
    """What is not needed need not be given, and a secret that rotates is asked for."""
    usual = check()
    assert check(project_id=None, api_token=None) == usual
    assert check(api_token=lambda: "t") == usual


@pytest.mark.parametrize("timeout", [0.001, 1, 0.5, timedelta(milliseconds=1), timedelta(days=1), 1e9 - 1])
@pytest.mark.parametrize("retries", [0, 1, 1000])
def test_a_timeout_is_a_duration_and_retries_are_a_number(timeout, retries):
    """No retries, and a timeout of years, are fine."""
    assert check(timeout=timeout, retries=retries) == check()


@pytest.mark.parametrize("timeout", [1e9, timedelta(0), timedelta(seconds=-1), timedelta.max])
def test_a_timeout_has_a_limit(timeout):
    """Longer ones don't fit into the event loop's clock."""
    assert problems(timeout=timeout) == {"timeout": INVALID}


API_TOKEN = "PT" + "0123456789abcdef" * 2


@pytest.mark.parametrize("name", ["space", "project_id"])
@pytest.mark.parametrize("value", [API_TOKEN, API_TOKEN.lower(), f"https://{API_TOKEN}.example", "PT" + "0" * 20])
def test_an_api_token_in_the_place_of_another_setting_is_not_shown(name, value):
    """The settings were probably swapped. The error names the setting alone."""
    with pytest.raises(InvalidRequest, match=rf"{name} looks like an API token") as caught:
        check(**{name: value, "timeout": "wrong"})
    assert [(problem.attribute, problem.code) for problem in caught.value.problems] == [(name, INVALID)]
    assert value not in str(caught.value)


def test_both_settings_that_look_like_an_api_token_are_named():
    """Neither hides the other."""
    assert problems(space=API_TOKEN, project_id=API_TOKEN) == {"space": INVALID, "project_id": INVALID}


@pytest.mark.parametrize("value", ["PT" + "0" * 19, "XPT" + "0" * 20, "PT" + "g" * 20, "", None, 7])
def test_an_api_token_has_a_form(value):
    """It begins with "PT", and at least 20 hex digits follow."""
    assert not is_api_token(value)


def test_all_problems_name_the_client():
    """The error says where the settings were passed."""
    for wrong in ({"space": API_TOKEN}, {"timeout": 0}):
        with pytest.raises(InvalidRequest) as caught:
            check(**wrong)
        assert caught.value.operation == "TokenClient"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 10**400, True, "10", None])
@pytest.mark.parametrize("retries", [-1, 1.5, True, "3", None])
def test_all_that_is_wrong_is_said_at_once(timeout, retries):
    """A caller mends every setting in one go."""
    found = problems(space="a b", embed_origin="a b", timeout=timeout, retries=retries, lifetimes=7200)
    assert set(found) == {"space", "embed_origin", "timeout", "retries", "lifetimes"}


@pytest.mark.parametrize(
    ("embed_origin", "expected"),
    [
        (None, "https://acme.signalwire.com"),
        ("embeds.signalwire.com", "https://embeds.signalwire.com"),
        ("https://embeds.signalwire.com", "https://embeds.signalwire.com"),
        (" HTTPS://EMBEDS.signalwire.com:443/ ", "https://embeds.signalwire.com"),
        ("gateway:8443", "https://gateway:8443"),
        ("https://gateway", "https://gateway"),
        ("localhost", "http://localhost"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://[::1]:8080", "https://[::1]:8080"),
    ],
)
def test_an_embed_origin_is_a_host_or_an_origin(embed_origin, expected):
    """By default, it is the space's."""
    assert check(embed_origin=embed_origin) == ("https://acme.signalwire.com", expected)


@pytest.mark.parametrize(
    "embed_origin",
    [
        "",
        " ",
        7,
        b"embeds.signalwire.com",
        "embeds",  # which isn't a space's name
        "http://embeds.signalwire.com",
        "http://10.0.0.1",
        "https://user:hunter2@embeds.signalwire.com",
        "https://embeds.signalwire.com/api",
        "https://embeds.signalwire.com?x=1",
        "ftp://embeds.signalwire.com",
        "embeds.signalwire.com\r\nHost: evil",
    ],
)
def test_an_embed_origin_that_could_mislead_is_refused(embed_origin):
    """The error doesn't quote it, since it may hold a password."""
    with pytest.raises(InvalidRequest, match=r"embed_origin must be") as caught:
        check(embed_origin=embed_origin)
    assert [problem.attribute for problem in caught.value.problems] == ["embed_origin"]
    assert "hunter2" not in str(caught.value)


def test_the_authorization_is_basic():
    """The header is what every HTTP server expects, and hides itself."""
    header = basic_authorization("project", Secret("token"))
    assert b64decode(header.value.removeprefix("Basic ")) == b"project:token"
    assert "***" in repr(header)
