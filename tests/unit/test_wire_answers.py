"""What comes back: any status, headers and bytes become a model or an error of ours, and nothing else."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from signalwire_tokens import (
    ApiError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    Lifetimes,
    NotFound,
    Problem,
    RateLimited,
    ServerError,
    SignalWireTokenError,
    SubscriberInfo,
    TemporarilyRefused,
    TimedOut,
    Token,
    TokenPair,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    wire,
)
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire.answers import detail_of
from signalwire_tokens.wire.codes import SUBJECTS
from support.wire_samples import (
    ADDRESSES,
    EMBED,
    EVERY,
    EXCHANGE,
    FETCH,
    GUEST,
    ID,
    INFO,
    INVITE,
    ISSUE,
    PAIR,
    REFRESH,
    RENEWAL,
    ROTATE,
    SAT,
    SENT,
    answer,
    http_date,
    read,
)

MEMBERS = [
    "token",
    "refresh_token",
    "subscriber_id",
    "id",
    "data",
    "links",
    "next",
    "errors",
    "code",
    "message",
    "sat_claims",
    "cnf",
    "scope",
    "channels",
    "expires_at",
    "created_at",
    "fabric_addresses",
    "app_settings",
    "locked",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([SAT, REFRESH, ID]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(MEMBERS), inner),
    max_leaves=20,
)
header_names = st.sampled_from(["Date", "Retry-After", "X-Request-Id", "Content-Type"])
header_values = st.text() | st.sampled_from(["30", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 5000, "-1", "nan"])


@given(
    request=st.sampled_from(EVERY),
    status=st.integers(),
    headers=st.dictionaries(header_names, header_values),
    body=st.none() | st.binary() | json_values.map(lambda value: json.dumps(value).encode()),
)
@example(request=ISSUE, status=201, headers={}, body=b"[" * 200_000)
@example(request=ISSUE, status=201, headers={}, body=json.dumps({**PAIR, "token": "\ud800"}).encode())
@example(
    request=INFO, status=200, headers={}, body=json.dumps({"id": ID, "sat_claims": {"expires_at": 1e308}}).encode()
)
@example(
    request=ADDRESSES,
    status=200,
    headers={},
    body=b'{"data": [{"id": "%s"}], "links": {"next": "http://["}}' % ID.encode(),
)
@example(
    request=ADDRESSES, status=200, headers={}, body=b'{"data": [{"id": "%s"}], "links": {"next": 7}}' % ID.encode()
)
def test_any_answer_is_a_model_or_an_error_of_ours(request, status, headers, body):
    """Nothing that can arrive makes reading it fail in another way. (P18)"""
    given = wire.Answer(status=status, headers=CIMultiDict(headers), body=body, sent=SENT, lifetimes=Lifetimes())
    outcome = wire.read(request, given)
    assert isinstance(outcome, TokenPair | Token | SubscriberInfo | wire.Page | SignalWireTokenError)
    assert isinstance(outcome, SignalWireTokenError) or status // 100 == 2
    if isinstance(outcome, SignalWireTokenError):
        assert (outcome.operation, outcome.status) == (request.operation, status)
        assert outcome.retry_after is None or 0 <= outcome.retry_after < math.inf


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (100, UnexpectedResponse),
        (301, UnexpectedResponse),
        (304, UnexpectedResponse),
        (400, ApiError),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, ApiError),
        (422, ValidationFailed),
        (429, RateLimited),
        (500, ServerError),
        (503, ServerError),
        (599, ServerError),
        (600, UnexpectedResponse),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": "no"}', b"[1]", None])
def test_a_status_says_which_error_it_is(status, kind, body):
    """Whatever the body is, and where there is none that can be read."""
    error = read(ISSUE, body, status, X_Request_Id="req-1")
    assert type(error) is kind
    assert (error.operation, error.status, error.request_id) == ("create_subscriber_token", status, "req-1")


@pytest.mark.parametrize(("date", "told"), [(http_date(SENT - 86400), int(SENT) - 86400), ("today", None), ("", None)])
def test_a_refusal_tells_what_time_it_is_there(date, told):
    """Where the service says: a proof is in time by its clock."""
    assert read(ISSUE, b"", 401, Date=date).server_time == told


def test_what_a_backend_says_of_its_refusal_is_told():
    """As RFC 9457 has it, and without what it was sent in secret."""
    problem = {"detail": "Sign in first, a-secret and a-key.", "title": "Unauthorized"}
    error = read(FETCH, problem, 401, Content_Type="application/problem+json")
    assert error.message == "the backend refused the credentials (401): Sign in first, *** and ***."
    assert "Sign in" not in str(read(FETCH, problem, 401, Content_Type="application/json"))
    assert (
        str(read(FETCH, b"[", 405, Content_Type="application/problem+json"))
        == "fetch_token: the backend refused the request (405)"
    )


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (ISSUE, 401, "SignalWire refused the credentials (401); check the project id and the API token for this space"),
        (ISSUE, 403, "SignalWire doesn't allow this (403); check the scopes of the API token"),
        (ISSUE, 404, "not found (404); check the space (SIGNALWIRE_SPACE, or space=…), and any id in the request"),
        (ISSUE, 429, "SignalWire got too many requests (429); try again later"),
        (ISSUE, 500, "SignalWire failed (500); try again later"),
        (FETCH, 404, "not found (404); check the backend's url, and any id in the request"),
    ],
)
def test_a_refusal_says_what_to_check(request_, status, text):
    """The setting that is probably wrong is named."""
    assert str(read(request_, b"", status)) == f"{request_.operation}: {text}"


@pytest.mark.parametrize(
    ("request_", "status", "kind", "text"),
    [
        (ISSUE, 401, Unauthorized, "check the project id and the API token for this space"),
        (ISSUE, 403, Forbidden, "check the scopes of the API token"),
        (INFO, 401, Unauthorized, "check that it is valid and from this space"),
        (INFO, 403, Forbidden, "check the scope of the access token"),
        (FETCH, 401, Unauthorized, "check the headers of the request, or its click-to-call token"),
        (FETCH, 403, Forbidden, "check the headers of the request, or its click-to-call token"),
        (EMBED, 401, Unauthorized, "check the headers of the request, or its click-to-call token"),
        (EMBED, 403, Forbidden, "check the headers of the request, or its click-to-call token"),
    ],
)
def test_refused_credentials_are_those_that_were_sent(request_, status, kind, text):
    """The project's, a subscriber's token, or what the caller sent by itself."""
    error = read(request_, b"", status)
    assert (type(error), error.advice) == (kind, text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("rate_limit_exceeded", "try again later"),
        ("account_limit_exceeded", "check the limits of the SignalWire account"),
        ("cannot_process", "try again later"),
        ("invalid_auth_token_permissions", "check the scopes of the API token"),
        ("authblock_is_expired", "check that the subscriber exists and hasn't expired"),
        ("invalid_parameter", None),
    ],
)
def test_a_pause_replaces_the_advice_to_try_again_later(code, text):
    """One message doesn't say the same thing twice. Any other advice stays."""
    assert read(ISSUE, coded(code), 422).advice == text
    waiting = read(ISSUE, coded(code), 422, Retry_After="30")
    assert waiting.advice == (None if text == "try again later" else text)
    assert "; retry after 30 s" in str(waiting)


def test_an_answer_that_is_not_signalwire_s_says_what_to_check():
    """A proxy, a cache or another server may have answered."""
    error = read(ISSUE, b"", 302)
    assert str(error) == (
        "create_subscriber_token: SignalWire answered 302, a redirect, which the client never follows; "
        "check the space (SIGNALWIRE_SPACE, or space=…), and any proxy or cache in between"
    )
    assert read(FETCH, b"", 302).advice == "check the backend's url, and any proxy or cache in between"
    assert read(ISSUE, b"", 600).message == "SignalWire answered 600, which isn't a final HTTP status"
    assert error.subscriber_id is None


@pytest.mark.parametrize("status", [200, 299, 302, 404, 500])
def test_a_request_s_id_hides_secrets_whatever_the_answer_is(status):
    """Those of the request, and those of the client."""
    request = wire.create_subscriber_token("a", now=SENT, password=Secret("hunter2"))
    for secret in ("hunter2", "PTkey1"):
        error = read(request, b"", status, secrets=[Secret("PTkey1")], X_Request_Id=f"id-{secret}")
        assert error.request_id == "id-***"


@pytest.mark.parametrize("body", [{}, {"detail": None}, {"detail": 7}, [], b"["])
def test_a_problem_of_a_backend_may_have_no_detail(body):
    """The message is then that of the status."""
    error = read(FETCH, body, 401, Content_Type="application/problem+json; charset=utf-8")
    assert error.message == "the backend refused the credentials (401)"
    assert detail_of(answer(body, 401, Content_Type="application/problem+json"), ()) is None


def test_only_a_problem_has_a_detail():
    """Any other body may be anything."""
    assert detail_of(answer({"detail": "no"}, 401, Content_Type="application/json"), ()) is None
    assert detail_of(answer({"detail": "no"}, 401, Content_Type="application/problem+json"), ()) == "no"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            wire.refresh_subscriber_token(wire.mask("opaque")),
            "SignalWire refused the refresh token (422): not now (token_expired); issue a new pair",
        ),
        (
            wire.create_embed_token(wire.mask("c2c_x")),
            "SignalWire refused the click-to-call token (422): not now (token_expired); check the token",
        ),
        (
            wire.subscriber_info(wire.mask("opaque")),
            (
                "SignalWire refused the access token (422): not now (token_expired); "
                "check that it is valid and from this space"
            ),
        ),
    ],
)
def test_a_refused_token_is_named_by_its_kind(request_, text):
    """A caller sees which of its tokens isn't valid."""
    assert str(read(request_, coded("token_expired"), 422)) == f"{request_.operation}: {text}"


@pytest.mark.parametrize(
    ("path", "headers", "said", "shown"),
    [
        ("/token", {"Cookie": "sid=hush-hush; a=b"}, "no such sid: hush-hush", "no such sid: ***"),
        ("/token?key=hush%20hush", {}, "hush hush hush%20hush", "*** ***"),
        ("/token?hush+hush", {}, "hush hush", "***"),
        ("/token?key=aHVzaC1odXNoLQ==", {}, "no such key: aHVzaC1odXNoLQ==", "no such key: ***"),
        ("/hooks/hush-hush-hush-hush/token", {}, "at /hooks/hush-hush-hush-hush/token", "at /hooks/***/token"),
        ("/token", {"Authorization": "Basic bWU6bWVsbG9u"}, "wrong password mellon", "wrong password ***"),
        ("/token", {"Authorization": "Basic hush-hush!"}, "hush-hush!", "***"),
        ("/token?the=three&is=two", {}, "the token is required", "the token is required"),
    ],
)
def test_a_backend_that_quotes_what_it_was_sent_is_not_quoted(path, headers, said, shown):
    """Neither as it was sent nor as it was meant; but the words around it are."""
    request = wire.fetch_token(Secret(path), Secret(headers))
    assert read(request, {"errors": [{"message": said}]}, 422).errors[0].message == shown


def test_any_success_is_success():
    """The reference says 201; 200 and 204 would be as good, if a token came with them."""
    assert read(ISSUE, PAIR, 200) == read(ISSUE, PAIR, 201)
    assert isinstance(read(ISSUE, b"", 204), UnexpectedResponse)


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7),
        (" 7 ", None, 7),
        ("0", None, 0),
        ("9" * 50, None, 1e9),
        ("0" * 50 + "7", None, 7),
        (http_date(SENT + 30), SENT, 30),
        (http_date(SENT + 30), SENT + 20, 10),
        (http_date(SENT - 30), SENT, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", SENT, 1e9),
        ("999999999", None, 999_999_999),
        ("1000000001", None, 1e9),
        ("²", None, None),
        ("٣", None, None),
        (http_date(int(SENT) + 30), None, 29.75),
        ("-7", None, None),
        ("1.5", None, None),
        ("soon", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(value, date, seconds):
    """Seconds, or a date that is compared with the service's own clock."""
    headers = {name: text for name, text in (("Retry_After", value), ("Date", date and http_date(date))) if text}
    assert read(ISSUE, b"", 429, **headers).retry_after == seconds
    assert read(ISSUE, b"", 503, **headers).retry_after == seconds


def test_every_problem_of_a_refusal_is_read():
    """A 422 may hold several; what is odd about one does not hide another."""
    items = [
        {
            "type": "validation_error",
            "code": "invalid_parameter",
            "message": "no",
            "attribute": "ch",
            "url": "https://x",
        },
        {"code": "token_expired", "message": "late", "attribute": None},
        "odd",
        {"code": 7, "message": None, "attribute": 7},
    ]
    error = read(ISSUE, {"errors": items}, 422)
    assert [(item.code, item.attribute) for item in error.errors] == [
        ("invalid_parameter", "ch"),
        ("token_expired", None),
        ("unknown", None),
    ]
    assert error.errors[0].url == "https://x"
    assert read(ISSUE, {"errors": "all of it"}, 422).errors == ()


def test_the_service_s_own_words_are_kept_whatever_was_sent():
    """A password that is one of them, or a letter, changes nothing that a program looks at, and gives nothing away."""
    item = {
        "type": "validation_error",
        "code": "invalid_parameter",
        "message": "is e bad idea",
        "attribute": "password",
    }
    for password in ("password", "invalid_parameter", "invalid", "validation", "e"):
        request = wire.create_subscriber_token("a", now=SENT, password=Secret(password))
        (problem,) = read(request, {"errors": [item]}, 422, X_Request_Id="req-e1").errors
        assert (problem.type, problem.code, problem.attribute) == ("validation_error", "invalid_parameter", "password")
        assert problem.message == ("is *** bad idea" if password == "e" else "is e bad idea")


def test_what_an_item_of_a_refusal_lacks_has_a_default():
    """Its message is never empty, and its code isn't taken for one of SignalWire's."""
    (problem,) = read(ISSUE, {"errors": [{}]}, 400).errors
    assert problem == Problem(code="unknown", message="is refused", attribute=None, type="unknown", url=None)


@pytest.mark.parametrize("body", [{"errors": {}}, {"errors": None}, {}, [], b"", b"[", None])
def test_a_refusal_without_items_has_none(body):
    """Its status says what it is."""
    assert read(ISSUE, body, 400).errors == ()


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("secret", "a secretive secret", "a ***ive ***"),  # six letters
        ("other", "others, other and another", "others, *** and another"),
        ("e", "e, the e-mail", "***, the ***-mail"),
        ("a.c", "a.c, abc", "***, abc"),
        ("", "not here", "not here"),
    ],
)
def test_a_short_secret_is_removed_as_a_word_and_a_long_one_everywhere(secret, text, shown):
    """A short one may be part of ordinary words."""
    request = wire.create_subscriber_token("alice", now=SENT, extra=Secret({"pin": secret}))
    assert read(request, {"errors": [{"message": text}]}, 422).errors[0].message == shown


@pytest.mark.parametrize(("length", "end"), [(299, "x"), (300, "x"), (301, "x…")])
def test_a_text_has_at_most_three_hundred_characters(length, end):
    """A longer one is cut."""
    message = read(ISSUE, {"errors": [{"message": "x" * length}]}, 422).errors[0].message
    assert len(message.rstrip("…")) == min(length, 300)
    assert message.endswith(end)


def test_a_refusal_does_not_hand_secrets_back():
    """A service that quotes what it was sent is not quoted; neither are line ends, nor texts without end."""
    request = wire.create_subscriber_token("a", now=SENT, password=Secret("hunter2"), extra=Secret({"pin": "4711"}))
    message = f"hunter2, 4711, PTkey, {SAT} and eyJhbGciOi cut\r\nshort" + "x" * 1000
    error = read(
        request,
        {"errors": [{"message": message, "code": "hunter2"}]},
        422,
        secrets=[Secret("PTkey")],
        X_Request_Id="PTkey",
    )
    shown = repr(error) + str(error) + repr(error.errors) + repr(error.request_id)
    for secret in ("hunter2", "4711", "PTkey", "eyJ", "\r", "\n", "x" * 301):
        assert secret not in shown
    assert error.errors[0].message.startswith("***, ***, ***, *** and *** cut  short")


@pytest.mark.parametrize("given", ["x" * 80, "a-Z_0.9:/=+", "7"])
def test_a_request_id_is_letters_digits_and_a_few_signs(given):
    """Support asks for it."""
    assert read(ISSUE, b"", 500, X_Request_Id=given).request_id == given


@pytest.mark.parametrize("given", ["a b", "x" * 81, "évil", "", "a\r\nb"])
def test_what_is_no_request_id_is_left_out(given):
    """It goes into logs, so it must look like one."""
    assert read(ISSUE, b"", 500, X_Request_Id=given).request_id is None


THROTTLED = RateLimited("429", retry_after=3.0)
BUSY = ServerError("503", status=503, retry_after=3.0)


@pytest.mark.parametrize(
    ("error", "replayable", "once_only"),
    [
        (ConnectionFailed("refused", sent=False), True, True),
        (ConnectionFailed("reset", sent=None), True, False),
        (ConnectionFailed("cut", sent=True), True, False),
        (TimedOut("late", sent=None), True, False),
        (RateLimited("429"), True, True),
        (THROTTLED, True, True),
        (BUSY, True, True),
        (TemporarilyRefused("422"), True, True),
        (ServerError("500"), True, False),
        (ServerError("500", status=500, retry_after=3.0), True, False),
        (Unauthorized("401"), False, False),
        (ValidationFailed("422"), False, False),
        (UnexpectedResponse("html"), False, False),
        (InvalidRequest("no"), False, False),
    ],
)
def test_only_what_may_help_is_repeated(error, replayable, once_only):
    """And a refresh, which can be done once, only where it was certainly not done."""

    def repeated(request):
        return wire.pause_before_retry(request, error, failures=0, draw=0.5, left=10.0) is not None

    assert repeated(ISSUE) is replayable
    assert repeated(ROTATE) is once_only


@given(failures=st.integers(0, 1000), draw=st.floats(0, 1), left=st.floats(-10, 100))
def test_a_pause_grows_within_bounds_and_within_the_time_left(failures, draw, left):
    """Full jitter under a bound that doubles; never a pause that ends too late."""
    pause = wire.pause_before_retry(ISSUE, ServerError("500"), failures=failures, draw=draw, left=left)
    if pause is None:
        assert draw * min(8, 0.25 * 2 ** min(failures, 10)) >= left
    else:
        assert 0 <= pause <= min(8, 0.25 * 2 ** min(failures, 10))
        assert pause < left


@pytest.mark.parametrize(
    ("failures", "longest"), [(0, 0.25), (1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (10**6, 8.0)]
)
def test_the_limit_of_a_pause_doubles_up_to_eight_seconds(failures, longest):
    """The pause is a random part of it."""
    for draw in (0.0, 0.5, 1.0):
        pause = wire.pause_before_retry(ISSUE, ServerError("500"), failures=failures, draw=draw, left=10.0)
        assert pause == draw * longest


@pytest.mark.parametrize("error", [THROTTLED, BUSY])
def test_a_pause_asked_for_is_kept_or_not_begun(error):
    """What does not fit into the call's time is said at once."""
    assert wire.pause_before_retry(ISSUE, error, failures=5, draw=0.9, left=3.5) == 3.0
    assert wire.pause_before_retry(ISSUE, error, failures=5, draw=0.9, left=3.0) is None


def test_a_retry_waits_for_the_end_of_a_throttle():
    """Another request was throttled in the meantime."""
    error = ServerError("500", status=500)
    assert wire.pause_before_retry(ISSUE, error, failures=0, draw=0.5, left=10.0, quiet=4.0) == 4.125
    assert wire.pause_before_retry(ISSUE, THROTTLED, failures=0, draw=0.5, left=10.0, quiet=4.0) == 4.0
    assert wire.pause_before_retry(ISSUE, error, failures=0, draw=0.5, left=10.0, quiet=60.0) is None


TOKEN_CODES = ["token_expired", "token_invalid", "not_a_refresh_token", "invalid_token_format"]
CODED = [
    ("rate_limit_exceeded", RateLimited),
    ("account_limit_exceeded", TemporarilyRefused),
    ("cannot_process", TemporarilyRefused),
    ("invalid_auth_token_permissions", Forbidden),
    *((code, Unauthorized) for code in TOKEN_CODES),
    ("authblock_is_invalid", Forbidden),
    ("authblock_is_expired", Forbidden),
    ("missing_required_parameter", ValidationFailed),
    ("invalid_parameter", ValidationFailed),
    ("must_belong_to_project", ValidationFailed),
    ("allowed_address_limit_exceeded", ValidationFailed),
]


def coded(*codes, **more):
    return {"errors": [{"code": code, "message": "not now", **more} for code in codes]}


@pytest.mark.parametrize(("code", "kind"), CODED)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
def test_a_code_decides_before_the_status(code, kind, status):
    """SignalWire doesn't document with which status each code comes."""
    error = read(ISSUE, coded("odd", code), status)
    assert type(error) is kind
    assert (error.status, error.errors[1].code) == (status, code)
    assert f"({status})" in str(error)


def test_every_published_code_is_known():
    """Each is about one thing."""
    assert set(SUBJECTS) == {code for code, _ in CODED}
    assert set(SUBJECTS.values()) == set(wire.Subject)


@pytest.mark.parametrize("code", TOKEN_CODES)
@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (ROTATE, ValidationFailed),
        (EMBED, ValidationFailed),
        (INVITE, Unauthorized),
        (INFO, Unauthorized),
        (ADDRESSES, Unauthorized),
        (EXCHANGE, Unauthorized),
        (RENEWAL, Unauthorized),
        (ISSUE, Unauthorized),
        (GUEST, Unauthorized),
        (FETCH, Unauthorized),
    ],
    ids=lambda value: getattr(value, "operation", ""),
)
def test_a_code_about_a_token_is_about_the_one_that_was_sent(request_, kind, code):
    """A token in the body makes the request invalid. A token sent as credentials isn't accepted."""
    for status in (400, 401, 403, 404, 422, 500):
        assert type(read(request_, coded(code), status)) is kind


@pytest.mark.parametrize(("code", "kind"), CODED)
def test_of_several_codes_the_first_in_the_table_decides(code, kind):
    """Their order in the answer doesn't matter. A throttle comes before any other code."""
    later = [*dict(CODED)][[*dict(CODED)].index(code) :]
    for other in later:
        assert type(read(ISSUE, coded(code, other), 422)) is kind
        assert type(read(ISSUE, coded(other, code), 422)) is kind


@pytest.mark.parametrize(("status", "kind"), [(400, ApiError), (401, Unauthorized), (422, ValidationFailed)])
@pytest.mark.parametrize("code", ["odd", "Token_Expired", None, 7, ["token_expired"]])
def test_an_unknown_code_goes_by_its_status(code, status, kind):
    """SignalWire may have codes that this version doesn't know."""
    assert type(read(ROTATE, coded(code), status)) is kind


@pytest.mark.parametrize("more", [{}, {"attribute": None}, {"attribute": 7}, {"attribute": "refresh_token"}])
def test_an_attribute_may_be_missing_or_null(more):
    """The code decides all the same."""
    error = read(ROTATE, coded("token_expired", **more), 403)
    attribute = "refresh_token" if more == {"attribute": "refresh_token"} else None
    assert type(error) is ValidationFailed
    assert error.errors == (Problem(code="token_expired", message="not now", attribute=attribute, type="unknown"),)
    assert str(error.errors[0]).startswith(attribute or "not now")
