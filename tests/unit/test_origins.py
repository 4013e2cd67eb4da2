"""Where something is reached: how it is read, and how it is written."""

import pytest

from signalwire_tokens import ConfigurationError
from signalwire_tokens.origins import check_origins, is_loopback, read_place, write_origin


@pytest.mark.parametrize(
    ("origin", "written"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example:443", "https://app.example"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("http://localhost:80", "http://localhost"),
        ("http://127.0.0.1:443", "http://127.0.0.1:443"),
        ("https://[0:0:0:0:0:0:0:1]", "https://[::1]"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://app.example/", "https://app.example"),
        (" https://app.example:8443/\r\n", "https://app.example:8443"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(origin, written):
    """So that two spellings of one are equal."""
    assert check_origins("origins", [origin]) == {written}


@pytest.mark.parametrize(
    "origin",
    [
        "app.example",
        "https://",
        "https://app.example//",
        "https://app.example /",
        "https://app.example/path",
        "https://app.example/?",
        "https://app.example/#",
        "https:// app.example",
        "https:///",
        "/",
        "https://user:hunter2@app.example",
        "https://*.example",
        "https://app.example:0",
        "https://app.example:65536",
        "https://[::g]",
        "https://[:::]",
        "ftp://app.example",
        "null",
        "*",
        None,
        5,
    ],
)
def test_what_is_no_origin_is_refused_and_not_quoted(origin):
    """It may hold a password."""
    with pytest.raises(ConfigurationError, match="origins must be exact") as caught:
        check_origins("origins", [origin])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("origin", ["http://app.example", "http://10.0.0.1", "http://localhost.example"])
def test_only_this_machine_is_reached_without_tls(origin):
    """A token would be there for everybody to read."""
    with pytest.raises(ConfigurationError, match="origins must use https"):
        check_origins("origins", [origin])


@pytest.mark.parametrize("origins", ["https://app.example", b"https://app.example", None, 5], ids=repr)
def test_a_list_is_a_list(origins):
    """One string would be a list of letters."""
    with pytest.raises(ConfigurationError, match="origins must be a list"):
        check_origins("origins", origins)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("localhost", True), ("127.3.2.1", True), ("[::1]", True), ("::1", True), ("example", False), ("10.0.0.1", False)],
)
def test_this_machine_is_known_by_its_addresses(host, is_here):
    """And by one name."""
    assert is_loopback(host) is is_here


def test_a_place_is_read_with_what_was_said():
    """And with nothing that was not."""
    assert read_place("Acme") == (None, "acme", None)
    assert read_place("https://acme.example:8443") == ("https", "acme.example", 8443)
    assert write_origin("wss", "acme.example", 443) == "wss://acme.example:443"
