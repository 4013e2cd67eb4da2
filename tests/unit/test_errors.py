"""The tree of errors: facts inside, sentences outside."""

import copy
import pickle

import pytest

from signalwire_tokens import errors

EVERY_ERROR = [
    error
    for name in errors.__all__
    if isinstance(error := getattr(errors, name), type) and issubclass(error, errors.SignalWireTokenError)
]


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_survives_pickling_and_copying(kind):
    """An error that crosses a process keeps its kind, its words and its facts."""
    error = kind("it broke", operation="create_guest_token", status=422)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - made here
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert (twin.operation, twin.status) == ("create_guest_token", 422)


def test_an_error_says_all_it_knows():
    """Operation, reason, every problem, the pause asked for and the request's id stand in one line."""
    problems = (
        errors.Problem(code="invalid_parameter", message="must be a UUID", attribute="address_id"),
        errors.Problem(code="unknown", message="is odd"),
        errors.Problem(code="token_expired", message="Token has expired.", attribute="refresh_token"),
        errors.Problem(code="missing_required_parameter", message="token is required", attribute="token"),
    )
    error = errors.ApiError("refused", operation="op", errors=problems, retry_after=2.5, request_id="abc")
    assert str(error) == (
        "op: refused: address_id must be a UUID (invalid_parameter); is odd (unknown); "
        "refresh_token: Token has expired. (token_expired); "
        "token is required (missing_required_parameter); retry after 2.5 s [request id abc]"
    )
    assert str(errors.SignalWireTokenError("plain")) == "plain"


def test_an_error_with_hundreds_of_problems_is_still_a_line():
    """It says the first of them and how many more there are, and holds all."""
    problems = (errors.Problem(code="c", message="m"),) * 30
    error = errors.ValidationFailed("refused", errors=problems)
    assert str(error).endswith("m (c); and 10 more")
    assert len(error.errors) == 30


@pytest.mark.parametrize(
    ("kind", "standard"),
    [
        (errors.InvalidRequest, ValueError),
        (errors.ConnectionFailed, ConnectionError),
        (errors.TimedOut, TimeoutError),
    ],
)
def test_errors_are_the_standard_library_s_where_that_is_true(kind, standard):
    """Code that knows only the standard library's errors catches ours."""
    assert issubclass(kind, standard)


def test_a_refused_request_lists_its_problems():
    """`problems` is the name under which a caller looks for what is wrong with arguments."""
    problem = errors.Problem(code="invalid_parameter", message="must be a UUID")
    assert errors.InvalidRequest("no", errors=(problem,)).problems == (problem,)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_one_function_says_what_is_transient(kind):
    """Only what may pass by itself is transient: the way there, too many requests, the service's own failure."""
    passing = {
        errors.TransportError,
        errors.ConnectionFailed,
        errors.TimedOut,
        errors.RateLimited,
        errors.TemporarilyRefused,
        errors.ServerError,
        errors.TokenUnavailable,
    }
    assert errors.is_transient(kind("no")) is (kind in passing)


@pytest.mark.parametrize(
    ("error", "is_throttle"),
    [
        (errors.RateLimited("429", status=429), True),
        (errors.RateLimited("422", status=422), True),
        (errors.ServerError("503", status=503, retry_after=0.0), True),
        (errors.ServerError("503", status=503), False),
        (errors.ServerError("500", status=500, retry_after=1.0), False),
        (errors.TemporarilyRefused("422", status=422), False),
        (errors.TemporarilyRefused("422", status=422, retry_after=9.0), True),
        (errors.TemporarilyRefused("429", status=429), True),
        (errors.TemporarilyRefused("503", status=503, retry_after=9.0), True),
        (errors.ValidationFailed("a code about the request", status=429, retry_after=9.0), False),
        (errors.Unauthorized("a code about the token", status=503, retry_after=9.0), False),
        (errors.TimedOut("late"), False),
    ],
)
def test_one_function_decides_what_a_throttle_is(error, is_throttle):
    """Only an answer that says that SignalWire did nothing, and that it wants to be left alone."""
    assert errors.is_throttle(error) is is_throttle


def test_the_drawing_in_the_docstring_names_every_error():
    """The tree as drawn is the tree as built."""
    for kind in EVERY_ERROR:
        assert f" {kind.__name__} " in errors.__doc__ or f"\n    {kind.__name__}\n" in errors.__doc__
