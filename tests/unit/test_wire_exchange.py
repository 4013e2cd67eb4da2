"""A request and an answer: what they say of themselves, and what they hide."""

import time
from datetime import UTC, datetime

import attrs
import pytest
from multidict import CIMultiDict

from signalwire_tokens import wire
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire.exchange import parse_http_date
from support.wire_samples import SENT, answer


def test_a_request_and_an_answer_hide_what_they_carry():
    """They stand in frames, so they show nothing."""
    request = wire.create_subscriber_token("a", now=SENT, password=Secret("hush"))
    shown = repr(request) + repr(attrs.evolve(request, bearer=Secret("hush"))) + repr(answer({"token": "hush"}))
    assert "hush" not in shown


def test_a_backend_s_path_and_headers_are_hidden():
    """Either may hold a secret."""
    shown = repr(wire.fetch_token(Secret("/hush"), Secret({"Cookie": "hush"}))) + repr(answer(b"", X_Key="hush"))
    assert "hush" not in shown


@pytest.mark.parametrize("value", [wire.create_subscriber_token("a", now=SENT), answer(b"")], ids=["request", "answer"])
def test_a_request_and_an_answer_never_change(value):
    """A repetition sends what was checked."""
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize("value", [wire.create_subscriber_token("a", now=SENT), answer(b"")], ids=["request", "answer"])
def test_a_request_and_an_answer_are_made_by_name(value):
    """So a field can be added between two others."""
    with pytest.raises(TypeError):
        type(value)(*(getattr(value, field.name) for field in attrs.fields(type(value))))


def test_a_request_shows_what_it_is_for_and_no_more():
    """Neither its path, its body nor the function that reads its answer is in its repr."""
    shown = repr(wire.create_subscriber_token("a", now=SENT))
    assert shown.startswith("Request(operation='create_subscriber_token', method='POST', ")
    assert not [name for name in ("path", "body", "read") if f"{name}=" in shown]


@pytest.mark.parametrize("written", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_a_header_is_found_in_any_case(written):
    """Servers write names as they like."""
    assert answer(b"", Other="2", **{written: "1"}).header("retry-after") == "1"


def test_a_header_that_is_missing_is_empty():
    """Readers need no other case for it."""
    assert answer(b"", Other="2").header("retry-after") == ""


def test_of_a_repeated_header_the_first_counts():
    """The order is that of the answer."""
    headers = CIMultiDict([("Retry-After", "1"), ("retry-after", "2")])
    repeated = wire.Answer(status=200, headers=headers, body=b"", sent=SENT, lifetimes=Lifetimes())
    assert repeated.header("retry-after") == "1"


def test_tokens_count_as_issued_when_their_request_was_sent():
    """In UTC, so that no time zone of this machine matters."""
    issued_at = answer(b"").issued_at
    assert issued_at == datetime.fromtimestamp(SENT, UTC)
    assert issued_at.tzinfo is UTC


@pytest.fixture
def eastern(monkeypatch):
    """Set this machine's time zone to 5 h 30 min before UTC."""
    monkeypatch.setenv("TZ", "EASTERN-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("eastern")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:00:10 GMT", 10.0),
        ("Thu, 01 Jan 1970 01:00:10 +0100", 10.0),
        ("Thu, 01 Jan 1970 00:00:10 -0000", 10.0),  # an unknown zone
        ("Thu, 01 Jan 1970 00:00:10", 10.0),
        ("1 Jan 1970 00:00:10 GMT", 10.0),
        ("Thu, 32 Jan 1970 00:00:10 GMT", None),
        ("Thu, 01 Jan 99999 00:00:10 GMT", None),
        ("Thu, 01 Jan 1970 00:00:10 +9999999999999999999", None),
        ("today", None),
        ("", None),
        (" ", None),
        ("Thu, 01", None),
        ("7", None),
    ],
)
def test_an_http_date_is_read_or_left_out(text, seconds):
    """A date without a time zone is in UTC, wherever this machine is."""
    assert parse_http_date(text) == seconds
    assert answer(b"", Date=text).server_time == seconds


def test_an_answer_without_a_date_has_no_time():
    """This machine's clock isn't the server's."""
    assert answer(b"").server_time is None
