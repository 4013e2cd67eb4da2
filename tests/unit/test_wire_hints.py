"""What answers report about the rate limit is read with care, and no decision depends on it."""

import pickle
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from signalwire_tokens import RateLimitHint, ServerError, ValidationFailed, wire
from signalwire_tokens.errors import is_throttle, is_transient
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.throttle import Throttle
from support.wire_samples import EMBED, ISSUE, SENT, answer, read

LIMIT, REMAINING, RESET = "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"
MOMENT = datetime.fromtimestamp(SENT, UTC)


def hint_of(**headers):
    return wire.read_hint(answer(b"", 200, **headers))


def with_headers(*headers):
    """Return an answer with headers that may be repeated."""
    return wire.Answer(status=200, headers=CIMultiDict(headers), body=b"", sent=SENT, lifetimes=Lifetimes())


def test_what_an_answer_says_about_the_rate_limit_is_read():
    """The case of the headers' names doesn't matter."""
    hint = wire.read_hint(with_headers(("x-ratelimit-limit", "13800"), (REMAINING, " 0 "), ("X-RATELIMIT-RESET", "7")))
    assert hint == RateLimitHint(limit=13_800, remaining=0, reset_at=MOMENT + timedelta(seconds=7))


def test_an_answer_that_says_nothing_gives_no_hint():
    """Nor does one whose values can't be read."""
    assert hint_of() is None
    assert hint_of(X_RateLimit_Limit="soon", X_RateLimit_Reset="") is None


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "many", "-1", "+1", "1.5", "1e3", "0x10", "1_000", "1 000", "1,000", "1, 1", "1;w=10"),
        *("１", "1000000001", "9999999999", "9" * 400, "nan", "inf", "None"),  # noqa: RUF001 - digits of another script
    ],
)
@pytest.mark.parametrize("name", ["limit", "remaining"])
def test_a_number_of_requests_that_is_none_is_left_out(name, value):
    """Malformed, negative or huge; the other number is still read."""
    other = {"limit": "remaining", "remaining": "limit"}[name]
    headers = {f"X_RateLimit_{name}": value, f"X_RateLimit_{other}": "5"}
    assert hint_of(**headers) == RateLimitHint(**{other: 5})


@pytest.mark.parametrize("name", ["limit", "remaining"])
def test_a_number_of_requests_is_at_most_a_thousand_million(name):
    """No account may send more in a window."""
    assert hint_of(**{f"X_RateLimit_{name}": "1000000000"}) == RateLimitHint(**{name: 1_000_000_000})


@pytest.mark.parametrize("name", [LIMIT, REMAINING, RESET])
def test_a_repeated_header_is_left_out(name):
    """It isn't known which of the values is meant, even if they are the same."""
    headers = dict.fromkeys((LIMIT, REMAINING, RESET), "10")
    hint = wire.read_hint(with_headers(*headers.items(), (name.lower(), "10")))
    whole = wire.read_hint(with_headers(*headers.items()))
    field = {LIMIT: "limit", REMAINING: "remaining", RESET: "reset_at"}[name]
    assert None not in (whole.limit, whole.remaining, whole.reset_at)
    assert hint == attrs.evolve(whole, **{field: None})


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("0", MOMENT),
        ("10", MOMENT + timedelta(seconds=10)),
        ("31622400", MOMENT + timedelta(days=366)),
        ("31622401", None),
        ("999999999", None),
        ("1000000000", datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        (f"{SENT:.0f}", datetime.fromtimestamp(round(SENT), UTC)),
        ("9999999999", datetime(2286, 11, 20, 17, 46, 39, tzinfo=UTC)),
        ("1800000000000", None),  # milliseconds
        ("-10", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_a_reset_is_seconds_from_now_or_unix_seconds(value, moment):
    """Its size decides. A value that is neither is left out."""
    assert hint_of(X_RateLimit_Limit="1", X_RateLimit_Reset=value) == RateLimitHint(limit=1, reset_at=moment)


texts = st.text() | st.integers().map(str) | st.sampled_from(["9" * 5000, "nan", "-0", "1e9"])
pairs = st.tuples(st.sampled_from([LIMIT, REMAINING, RESET, "x-ratelimit-limit"]), texts)


@given(headers=st.lists(pairs, max_size=6))
@example(headers=[(RESET, "9999999999")])
def test_no_header_makes_reading_it_fail(headers):
    """Each field is credible or None. (P18)"""
    given = with_headers(*headers)
    hint = wire.read_hint(given)
    error = wire.read(ISSUE, wire.Answer(status=500, headers=given.headers, body=b"", sent=SENT, lifetimes=Lifetimes()))
    assert error.rate_limit == hint
    assert (error.retry_after, is_throttle(error), is_transient(error)) == (None, False, True)
    if hint is not None:
        assert all(one is None or 0 <= one <= 1e9 for one in (hint.limit, hint.remaining))
        assert hint.reset_at is None or hint.reset_at.tzinfo is UTC


@pytest.mark.parametrize(("status", "kind"), [(422, ValidationFailed), (500, ServerError)])
def test_an_error_has_what_its_answer_says(status, kind):
    """It keeps that if it is pickled. Without such headers, it has nothing."""
    error = read(ISSUE, b"", status, X_RateLimit_Limit="13800", X_RateLimit_Remaining="3")
    assert type(error) is kind
    assert error.rate_limit == RateLimitHint(limit=13_800, remaining=3)
    assert pickle.loads(pickle.dumps(error)).rate_limit == error.rate_limit  # noqa: S301 - made here
    assert read(ISSUE, b"", status).rate_limit is None


HINTS = {"X_RateLimit_Limit": "13800", "X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "3600"}


@pytest.mark.parametrize("request_", [ISSUE, EMBED], ids=lambda value: value.operation)
@pytest.mark.parametrize(
    ("status", "code", "more"),
    [
        (429, None, {}),
        (429, None, {"Retry_After": "2"}),
        (503, None, {"Retry_After": "2"}),
        (500, None, {}),
        (422, "cannot_process", {}),
        (422, None, {}),
        (401, None, {}),
    ],
)
def test_a_hint_changes_neither_a_pause_nor_a_throttle(request_, status, code, more):
    """`Retry-After`, codes and statuses decide."""
    body = {"errors": [{"code": code, "message": "no"}]}
    plain, hinted = read(request_, body, status, **more), read(request_, body, status, **more, **HINTS)
    pauses, throttles = [], []
    for error in (plain, hinted):
        pauses.append(wire.pause_before_retry(request_, error, failures=1, draw=0.5, left=100.0))
        throttles.append(Throttle())
        throttles[-1].note(error, sent=1.0, now=2.0)
    assert hinted.rate_limit is not None
    assert plain.rate_limit is None
    assert (type(plain), str(plain), plain.retry_after) == (type(hinted), str(hinted), hinted.retry_after)
    assert pauses[0] == pauses[1]
    assert throttles[0].until == throttles[1].until
    assert is_throttle(plain) == is_throttle(hinted)
