"""What a browser may ask of a backend, and what it is told: tables of cases."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import (
    ConfigurationError,
    ConnectionFailed,
    InvalidRequest,
    RateLimited,
    ServerError,
    SessionClosed,
    SessionExpired,
    StoreError,
    TemporarilyRefused,
    TokenUnavailable,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from signalwire_tokens.integrations.token_rules import (
    EndpointAnswer,
    IssueLimit,
    Rules,
    TokenRequest,
    admit,
    admit_health,
    answer_detail,
    answer_for,
    answer_with,
    ask_later,
    parse_body,
    pause_before_bound_token,
    problem_answer,
    read_request,
    with_headers,
)
from signalwire_tokens.throttle import Throttle

HOME, FRIEND, STRANGER = "https://app.example", "https://friend.example", "https://evil.example"
RULES = Rules(allowed_origins=[FRIEND], public_origin=HOME)
THUMBPRINT = "A" * 43


def asked(method="POST", **headers):
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return read_request(method, [(name, value) for name, value in named.items() if value is not None])


@pytest.mark.parametrize(
    ("origin", "site", "is_allowed"),
    [
        (None, None, True),  # no browser
        (None, "same-origin", True),
        (None, "none", False),  # typed in by somebody: not what a page's script asks
        (None, "same-site", False),
        (None, "cross-site", False),
        (HOME, "same-origin", True),
        (HOME, None, True),  # a browser that does not say
        (HOME, "same-site", False),
        (HOME, "cross-site", False),  # whoever says so has another idea of where home is
        ("https://other.example", "same-origin", True),  # home by a name that was not configured
        (FRIEND, "cross-site", True),
        (FRIEND, "same-site", True),
        (FRIEND, None, True),
        (STRANGER, "cross-site", False),
        (STRANGER, "same-site", False),
        (STRANGER, None, False),
        ("null", "same-origin", False),
        ("null", "cross-site", False),
        ("null", None, False),
        (f"{FRIEND}, {FRIEND}", None, False),
        (f"{FRIEND}/", None, False),
        (FRIEND.upper(), None, False),
        (f"{FRIEND}:443", None, False),
        (f"{FRIEND}.evil.example", None, False),
        ("http://friend.example", None, False),
        (HOME, "same-origin, cross-site", False),
        (HOME, "", False),
        ("", None, False),
    ],
)
def test_only_the_applications_own_pages_may_ask(origin, site, is_allowed):
    """And those of allowed origins, and what is no browser."""
    answer = admit(asked(Origin=origin, Sec_Fetch_Site=site), RULES)
    assert (answer is None) is is_allowed
    assert is_allowed or answer.status == 403


def test_nothing_is_home_where_none_was_configured():
    """A browser that does not say where a page is from is refused then."""
    assert admit(asked(Origin=HOME), Rules()).status == 403
    assert admit(asked(), Rules()) is None


def test_what_is_said_twice_is_not_believed():
    """Once by a browser, and once by whoever stands in between."""
    headers = [("Content-Type", "application/json"), ("Origin", FRIEND), ("origin", FRIEND)]
    assert admit(read_request("POST", headers), RULES).status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "post", "QUERY"])
def test_only_post_is_answered(method):
    """A token is no resource that links lead to."""
    answer = admit(asked(method, Origin=FRIEND), RULES)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        (" application/json ;x=y", True),
        ("text/plain", False),  # what a page of another origin may send unasked
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data", False),
        ("text/plain; application/json", False),
        ("application/json, text/plain", False),
        ("application/json; a, text/plain", False),
        ("application/jsonp", False),
        ("", False),
        (None, False),
    ],
)
def test_a_body_must_be_declared_to_be_json(content_type, is_json):
    """Which no form of another site can do."""
    answer = admit(asked(**{"Content-Type": content_type}), RULES)
    assert (answer is None) is is_json
    assert is_json or answer.status == 415


@pytest.mark.parametrize(("encoding", "is_read"), [("identity", True), ("gzip", False), ("deflate, br", False)])
def test_a_body_is_not_compressed(encoding, is_read):
    """How long it is would be known too late."""
    answer = admit(asked(Content_Encoding=encoding), RULES)
    assert (answer is None) is is_read
    assert is_read or answer.status == 415


def test_a_repeated_header_is_one_value():
    """The values are joined as RFC 9110 has it. A repeated `Origin` then equals no allowed one."""
    assert read_request("GET", [("X", "1"), ("Y", "2"), ("x", "3")]).headers == {"x": "1, 3", "y": "2"}


def test_only_options_is_a_preflight():
    """Any other request may have the preflight's header by mistake."""
    assert admit(asked("POST", Access_Control_Request_Method="POST"), RULES) is None


def test_cookies_may_come_in_several_lines():
    """As HTTP/2 sends them."""
    assert read_request("POST", [("Cookie", "a=1"), ("cookie", "b=2")]).headers == {"cookie": "a=1; b=2"}


@pytest.mark.parametrize(
    ("length", "is_refused"),
    [
        ("0", False),
        ("4096", False),
        ("4097", True),
        ("9" * 5000, True),
        ("²", False),
        ("", False),
        ("-1", False),
        ("0000000005", False),
        ("0000004097", True),
        (" 4097 ", True),
        ("~5000", False),
        ("10000", True),
    ],
)
def test_a_body_that_is_announced_to_be_long_is_not_read(length, is_refused):
    """What is no number is for the server to refuse; what it lets pass is read up to the same limit."""
    answer = admit(asked(Content_Length=length), RULES)
    assert (answer is not None) is is_refused
    assert not is_refused or answer.status == 413


def test_an_allowed_origins_preflight_is_answered():
    """With credentials, for the one method, and for that origin alone."""
    request = asked("OPTIONS", Origin=FRIEND, Access_Control_Request_Method="POST")
    answer = with_headers(admit(request, RULES), request, RULES)
    assert answer.status == 204
    assert answer.body == b""
    assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
    assert answer.headers["Access-Control-Max-Age"] == "600"
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", [STRANGER, "null", HOME, "*", None])
def test_any_other_origins_preflight_is_refused(origin):
    """Home asks for none: its requests are of the same origin."""
    request = asked("OPTIONS", Origin=origin, Access_Control_Request_Method="POST")
    answer = with_headers(admit(request, RULES), request, RULES)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(("origin", "may_read"), [(FRIEND, True), (HOME, False), (STRANGER, False), (None, False)])
@pytest.mark.parametrize("status", [401, 403, 503])
def test_answers_are_readable_for_allowed_origins_and_kept_by_nobody(origin, may_read, status):
    """Refusals too: a page can see why."""
    request = asked(Origin=origin)
    answer = with_headers(problem_answer(status, "no", headers={"Retry-After": "5"}), request, RULES)
    readable = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "Retry-After",
    }
    assert answer.headers == {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(answer.body)),
        "Retry-After": "5",
        "Cache-Control": "no-store",
        "Vary": "Origin",
        "X-Content-Type-Options": "nosniff",
        **(readable if may_read else {}),
    }


def test_the_common_headers_change_neither_status_nor_body():
    """They are added to whatever the answer is."""
    bare = EndpointAnswer(status=401, headers={"X": "1"}, body=b"no")
    answer = with_headers(bare, asked(), RULES)
    assert (answer.status, answer.body, answer.headers["X"]) == (401, b"no", "1")
    assert bare.headers == {"X": "1"}


def test_a_token_is_answered_as_json():
    """The body has no spaces, and the status is 200."""
    answer = answer_with({"token": "é", "expiry_at": 1})
    assert (answer.status, answer.headers) == (200, {"Content-Type": "application/json"})
    assert answer.body == b'{"token":"\\u00e9","expiry_at":1}'


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (400, "Bad Request"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (405, "Method Not Allowed"),
        (413, "Content Too Large"),
        (415, "Unsupported Media Type"),
        (422, "Unprocessable Content"),
        (429, "Too Many Requests"),
        (500, "Internal Server Error"),
        (502, "Bad Gateway"),
        (503, "Service Unavailable"),
    ],
)
def test_a_rejection_is_a_problem_in_the_form_of_rfc_9457(status, title):
    """Its title is the status's name in RFC 9110 or RFC 6585."""
    answer = problem_answer(status, "Sign in.", headers={"Allow": "GET"})
    assert answer.status == status
    assert answer.headers == {"Content-Type": "application/problem+json", "Allow": "GET"}
    problem = {"type": "about:blank", "title": title, "status": status, "detail": "Sign in."}
    assert json.loads(answer.body) == problem
    assert answer_detail(answer) == "Sign in."
    assert problem_answer(status, "Sign in.").headers == {"Content-Type": "application/problem+json"}


@pytest.mark.parametrize(
    ("pause", "seconds"),
    [
        (0.0, "1"),
        (0.5, "1"),
        (1.0, "1"),
        (1.1, "2"),
        (5.0 + 0.9e-6, "5"),
        (5.0 + 1.05e-6, "6"),
        (5.01, "6"),
        (59.5, "60"),
        (60.5, "60"),
    ],
)
def test_a_pause_is_whole_seconds_up_to_a_minute(pause, seconds):
    """It is rounded up, except for the error of a calculation."""
    answer = ask_later(429, "Too many tokens.", pause)
    assert (answer.status, answer.headers["Retry-After"]) == (429, seconds)
    assert answer_detail(answer) == "Too many tokens."


@pytest.mark.parametrize(
    ("status", "length"), [(200, "2"), (503, "2"), (100, None), (101, None), (199, None), (204, None), (304, None)]
)
def test_an_answer_has_a_length_unless_its_status_forbids_one(status, length):
    """RFC 9110, section 8.6; 304 has no content either."""
    assert (
        with_headers(EndpointAnswer(status=status, body=b"{}"), asked(), RULES).headers.get("Content-Length") == length
    )


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"{}", TokenRequest()),
        (b' {"more": [1, {"a": null}]} ', TokenRequest()),
        (f'{{"fingerprint": "{THUMBPRINT}"}}'.encode(), TokenRequest(THUMBPRINT)),
        (b"", 400),
        (b"not JSON", 400),
        (b'{"a": 1', 400),
        (b"\xff", 400),
        (b"[" * 4096, 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"text"', 400),
        (b'{"fingerprint": null}', 422),
        (b'{"fingerprint": 5}', 422),
        (b'{"fingerprint": "short"}', 422),
        (f'{{"fingerprint": "{THUMBPRINT}\\n"}}'.encode(), 422),
        (f'{{"fingerprint": "{"/" * 43}"}}'.encode(), 422),
        (b'{"a": "' + b"a" * 4087 + b'"}', TokenRequest()),  # 4096 bytes
        (b'{"a": "' + b"a" * 4088 + b'"}', 413),
    ],
)
def test_a_body_is_read_strictly(body, result):
    """What has the wrong form is a problem, and says which."""
    found = parse_body(body, Rules(allow_device_tokens=True))
    if isinstance(result, TokenRequest):
        assert found == result
    else:
        assert found.status == result
        assert found.headers["Content-Type"] == "application/problem+json"
        assert json.loads(found.body).keys() == {"type", "title", "status", "detail"}


def test_a_bound_token_is_given_only_where_that_is_allowed():
    """Nobody is given another kind of token than was asked for."""
    assert parse_body(f'{{"fingerprint": "{THUMBPRINT}"}}'.encode(), RULES).status == 422


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reader(body):
    """Whatever it is."""
    found = parse_body(body, RULES)
    assert isinstance(found, TokenRequest) or found.status in (400, 422)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (TokenUnavailable("x"), 503, "5"),
        (TokenUnavailable("x", retry_after=0.2), 503, "1"),
        (TokenUnavailable("x", retry_after=7.01), 503, "8"),
        (ConnectionFailed("x"), 503, "5"),
        (ServerError("x", status=500), 503, "5"),
        (RateLimited("x", status=429, retry_after=30), 503, "30"),
        (RateLimited("x", status=429, retry_after=1e9), 503, "60"),
        (TemporarilyRefused("x", status=422), 503, "5"),
        (SessionClosed("x"), 503, "5"),
        (Unauthorized("x", status=401), 502, None),
        (ValidationFailed("x", status=422), 502, None),
        (SessionExpired("x"), 502, None),
        (InvalidRequest("x"), 500, None),
        (ConfigurationError("x"), 500, None),
        (UnexpectedResponse("x"), 503, "5"),
        (StoreError("x"), 503, "5"),
    ],
    ids=repr,
)
def test_errors_are_told_apart_and_not_passed_on(error, status, retry_after):
    """Whether to ask again is all that a browser needs to know."""
    error.args = ("the service said: hunter2",)
    answer = answer_for(error)
    assert (answer.status, answer.headers.get("Retry-After")) == (status, retry_after)
    assert b"hunter2" not in answer.body


@pytest.mark.parametrize(
    "origins", [["*"], ["null"], ["https://a.example/path"], ["a.example"], ["http://a.example"], HOME]
)
def test_allowed_origins_are_exact(origins):
    """A pattern would let somebody in whom nobody thought of."""
    with pytest.raises(ConfigurationError, match="allowed_origins must"):
        Rules(allowed_origins=origins)


def test_origins_are_written_as_browsers_write_them():
    """In lower case, without the usual port; this machine's own may be plain."""
    rules = Rules(
        allowed_origins=["HTTPS://App.Example:443", "http://localhost:3000"], public_origin="https://a.example:443"
    )
    assert rules.allowed_origins == {"https://app.example", "http://localhost:3000"}
    assert rules.public_origin == "https://a.example"


@pytest.mark.parametrize("origin", ["*", "a.example", 5])
def test_the_public_origin_is_exact(origin):
    """It is compared as it stands."""
    with pytest.raises(ConfigurationError, match="public_origin must"):
        Rules(public_origin=origin)


@pytest.mark.parametrize(("method", "may_look"), [("GET", True), ("HEAD", True), ("POST", False), ("OPTIONS", False)])
def test_whoever_looks_only_looks(method, may_look):
    """Health is told, and nothing is taken."""
    answer = admit_health(method)
    assert (answer is None) is may_look
    assert may_look or (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("asked_at", "seconds", "under_way", "pause"),
    [
        (None, None, 31, None),  # SignalWire has not asked for anything
        (90.0, 9, 31, None),  # the throttle is over
        (90.0, 10, 0, None),
        (90.0, 40, 0, 30.0),
        (90.0, 10.5, 0, 1.0),  # no sooner than in a second
        (90.0, 86400, 0, 50.0),  # never longer than a minute from when it asked
        (40.0, 86400, 0, None),
        (99.5, None, 0, 1.0),  # it did not say for how long
        (None, None, 32, 1.0),  # too many at a time
        (90.0, 40, 32, 30.0),
    ],
)
def test_tokens_that_a_key_binds_are_asked_for_in_moderation(asked_at, seconds, under_way, pause):
    """At a hundred seconds of some clock."""
    throttle = Throttle()
    if asked_at is not None:
        throttle.note(RateLimited("x", retry_after=seconds), sent=asked_at, now=asked_at)
    assert pause_before_bound_token(throttle, now=100.0, under_way=under_way) == pause


@pytest.mark.parametrize(("most", "pauses"), [(1, [60, 60]), (3, [20, 20, 20]), (20, [3] * 20), (7, [60 / 7] * 7)])
def test_a_reference_has_its_allowance_at_once_and_gets_it_back_evenly(most, pauses):
    """Each further token is there after the pause that the limit names, and no sooner."""
    limit, now = IssueLimit(most), 1e6
    assert [limit.take("alice", now=now) for _ in range(most)] == [None] * most
    for pause in pauses:
        assert limit.take("alice", now=now) == pytest.approx(pause)
        assert limit.take("alice", now=now + pause - 0.01) == pytest.approx(0.01)
        now += pause
        assert limit.take("alice", now=now) is None


def test_a_reference_does_not_use_the_allowance_of_another():
    """Whatever the first one asked for."""
    limit = IssueLimit(1)
    assert [limit.take("alice", now=0.0) for _ in range(3)] == [None, 60.0, 60.0]
    assert limit.take("bob", now=0.0) is None


def test_the_allowance_does_not_grow_beyond_its_size():
    """However long a reference has asked for nothing."""
    limit = IssueLimit(2)
    limit.take("alice", now=0.0)
    assert [limit.take("alice", now=86400.0) for _ in range(3)] == [None, None, 30.0]


def test_references_that_stopped_asking_are_forgotten():
    """Those of the last minute are kept, and no others."""
    limit = IssueLimit(20)
    for number in range(5000):
        limit.take(f"user-{number}", now=number / 10)
        limit.take("the-same", now=number / 10)
    assert len(limit._restored) <= 601


def test_a_limit_has_a_bound():
    """A million tokens a minute are as good as no limit."""
    assert IssueLimit(1_000_000).most == 1_000_000


def test_a_reference_is_forgotten_once_it_has_its_whole_allowance():
    """Those that asked later are still known."""
    limit = IssueLimit(1)
    limit.take("alice", now=0.0)
    limit.take("bob", now=30.0)
    assert limit.take("carol", now=60.0) is None
    assert list(limit._restored) == ["bob", "carol"]
    assert limit.take("bob", now=60.0) == 30.0


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None, "20", 1_000_001, 10**400])
def test_a_limit_is_a_whole_number(most):
    """None, or a larger number than makes sense, is a mistake."""
    with pytest.raises(ConfigurationError, match="issues_per_minute must be a whole number"):
        IssueLimit(most)


def test_values_do_not_show_what_they_hold():
    """Neither a header, which may be a cookie, nor the token."""
    assert "secret" not in repr(asked(Cookie="secret"))
    assert "detail" not in repr(answer_for(TokenUnavailable("x")))


@pytest.mark.parametrize(
    "value",
    [Rules(), read_request("POST", []), TokenRequest(), EndpointAnswer(status=200)],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen(value):
    """One request can't change the rules for the next one."""
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize("value", [Rules(), EndpointAnswer(status=200)], ids=lambda value: type(value).__name__)
def test_values_with_several_fields_are_made_by_name(value):
    """So a field can be added between two others."""
    with pytest.raises(TypeError):
        type(value)(*attrs.astuple(value))


def test_a_body_without_a_fingerprint_is_for_the_usual_token():
    """No device's key binds it."""
    assert parse_body(b"{}", RULES).fingerprint is None


def test_rules_allow_nothing_by_default():
    """Neither another origin, nor tokens for devices."""
    assert attrs.astuple(Rules()) == (frozenset(), None, False)
