"""The tree of errors: facts inside, sentences outside."""

import copy
import math
import pickle
from datetime import timedelta

import attrs
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


@pytest.mark.parametrize(
    ("attribute", "message", "text"),
    [
        (None, "Is odd", "Is odd (c)"),
        (None, " is odd", " is odd (c)"),  # no attribute's name is left out of it
        ("", "is odd", "is odd (c)"),
        ("scope", "", "scope  (c)"),
        ("scope", "must be known", "scope must be known (c)"),
        ("scope", "Scope is unknown", "scope: Scope is unknown (c)"),
        ("scope", "scope is unknown", "scope is unknown (c)"),
        ("scope", "scopes are unknown", "scope scopes are unknown (c)"),
    ],
)
def test_a_problem_names_its_attribute_once(attribute, message, text):
    """The library's messages continue the name, and SignalWire's are whole sentences that may begin with it."""
    assert str(errors.Problem(code="c", message=message, attribute=attribute)) == text


def test_a_problem_is_one_of_validation_unless_the_answer_names_another_type():
    """SignalWire's bodies have this type, and the library's own checks use it."""
    problem = errors.Problem(code="c", message="m")
    assert (problem.type, problem.attribute, problem.url) == ("validation_error", None, None)


@pytest.mark.parametrize(
    ("count", "shown", "end"), [(20, 20, "m (c)"), (21, 20, "m (c); and 1 more"), (30, 20, "10 more")]
)
def test_an_error_with_hundreds_of_problems_is_still_a_line(count, shown, end):
    """It says the first 20 of them and how many more there are, and holds all."""
    problems = (errors.Problem(code="c", message="m"),) * count
    error = errors.ValidationFailed("refused", errors=problems)
    assert str(error).count("m (c)") == shown
    assert str(error).endswith(end)
    assert len(error.errors) == count


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_a_fact_that_is_unknown_is_none(kind):
    """An error has every attribute of its kind, whatever it was made with."""
    error = kind("no")
    assert (error.message, error.args, error.errors) == ("no", ("no",), ())
    unknown = {"operation", "status", "request_id", "retry_after", "advice"}
    if isinstance(error, errors.TransportError):
        unknown |= {"sent"}
    if isinstance(error, errors.ApiError):
        unknown |= {"server_time", "rate_limit"}
    if isinstance(error, errors.UnexpectedResponse):
        unknown |= {"subscriber_id"}
    if isinstance(error, errors.SessionError):
        unknown |= {"cause"}
    assert {name: getattr(error, name) for name in unknown} == dict.fromkeys(unknown)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_an_error_keeps_the_facts_that_it_is_given(kind):
    """They are attributes for programs, besides the text for people."""
    facts = {"operation": "op", "status": 500, "request_id": "abc", "advice": "check it"}
    if issubclass(kind, errors.TransportError):
        facts["sent"] = False
    else:
        facts |= {"errors": (errors.Problem(code="c", message="m"),), "retry_after": 1.5}
    error = kind("no", **facts)
    assert {name: getattr(error, name) for name in facts} == facts


@pytest.mark.parametrize(
    "value",
    [errors.Problem(code="c", message="m"), errors.RateLimitHint(limit=1)],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen_and_made_by_name(value):
    """So a field can be added between two others."""
    with pytest.raises(TypeError):
        type(value)(*attrs.astuple(value))
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, "other")


def test_a_hint_that_reports_nothing_has_nothing():
    """Each field is None unless the answer reports it."""
    assert attrs.astuple(errors.RateLimitHint()) == (None, None, None)


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


def test_the_error_of_a_connection_includes_its_cause():
    """If that is an error of the library, whose text has no secret."""
    error = caused(errors.RealtimeError("given up", advice="check host"), errors.SessionExpired("no way left"))
    assert str(error) == "given up; check host: no way left"
    assert str(caused(errors.RealtimeError("given up"), OSError("secret"))) == "given up"


def test_a_call_may_have_had_an_effect():
    """Unless its error says that nothing was sent. A refusal without a code has 0."""
    assert errors.CallInterrupted("no").sent is True
    assert errors.CallRefused("no").code == 0


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_one_function_says_what_is_transient(kind):
    """Only what may pass by itself is transient: the way there, too many requests, the service's own failure."""
    passing = {
        errors.CallInterrupted,
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


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_session_s_error_includes_its_cause_and_the_next_attempt():
    """The cause's operation, pause and advice are left out: the session tries again by itself."""
    cause = errors.ConnectionFailed(
        "cannot connect to acme.signalwire.com (name not resolved)", operation="create_subscriber_token", advice="wait"
    )
    error = caused(errors.TokenUnavailable("no valid token for session #ca978112", retry_after=23.8528), cause)
    assert str(error) == (
        "no valid token for session #ca978112: cannot connect to acme.signalwire.com (name not resolved); "
        "next attempt in 23.9 s"
    )


def test_a_session_s_error_includes_the_advice_of_a_cause_that_does_not_pass():
    """A wrong setting stays wrong until it is corrected, so the message says what to check."""
    cause = errors.Unauthorized("refused (401)", request_id="abc", advice="check the API token")
    error = caused(errors.TokenUnavailable("no valid token", retry_after=5.0), cause)
    assert str(error) == ("no valid token: refused (401) [request id abc]; next attempt in 5 s; check the API token")


def test_a_session_s_error_has_one_advice():
    """Its own replaces that of the cause."""
    cause = errors.ValidationFailed("the refresh token was refused", advice="issue a new pair")
    error = caused(errors.SessionExpired("session #1 can't be renewed", advice="open another session"), cause)
    assert str(error) == "session #1 can't be renewed: the refresh token was refused; open another session"


def test_a_cause_that_is_not_the_library_s_is_not_quoted():
    """The text of any other exception may hold a secret."""
    assert str(caused(errors.SessionClosed("closed"), ValueError("hush"))) == "closed"


@pytest.mark.parametrize("cause", [errors.ServerError("no"), ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_session_s_error_has_its_cause_as_an_attribute(cause):
    """It is the same as `__cause__`, of whatever kind."""
    assert caused(errors.SessionError("no"), cause).cause is cause


def test_the_problems_and_the_cause_of_a_cause_are_included():
    """Each error of a session says all that it knows of the reason."""
    problem = errors.Problem(code="c", message="is odd", attribute="scope")
    innermost = errors.ValidationFailed("refused (422)", errors=(problem,), request_id="abc")
    cause = caused(errors.TokenUnavailable("no valid token", retry_after=9.0), innermost)
    error = caused(errors.SessionClosed("closed", operation="op", request_id="own"), cause)
    assert str(error) == (
        "op: closed: no valid token: refused (422): scope is odd (c) [request id abc] [request id own]"
    )


def test_an_error_without_a_session_does_not_repeat_its_cause():
    """Its own message has the reason already."""
    assert str(caused(errors.ConnectionFailed("refused"), errors.StoreError("hush"))) == "refused"


def test_an_error_ends_with_its_advice_and_request_id():
    """What to do comes after what failed."""
    error = errors.ApiError("refused", operation="op", retry_after=0.5, advice="check it", request_id="abc")
    assert str(error) == "op: refused; retry after 0.5 s; check it [request id abc]"


def test_a_pause_is_seconds_or_a_timedelta():
    """It is seconds in the error. A pause without an end can be shown, too."""
    assert errors.RateLimited("no", retry_after=timedelta(minutes=1)).retry_after == 60.0
    assert "retry after inf s" in str(errors.RateLimited("no", retry_after=math.inf))
