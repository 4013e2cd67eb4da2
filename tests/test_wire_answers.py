"""What comes back: any status, headers and bytes become a model or an error of ours, and nothing else."""

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import attrs
import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signalwire_tokens import (
    ApiError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    Lifetimes,
    NotFound,
    RateLimited,
    ServerError,
    SignalWireTokenError,
    SubscriberInfo,
    TimedOut,
    Token,
    TokenPair,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    wire,
)
from signalwire_tokens.models import Secret

SENT = 1_800_000_000.25
ORIGIN = "https://acme.signalwire.com"
ID = "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001"
SAT = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0..aXY.Y2lwaGVy.dGFn"
REFRESH = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiUmVmcmVzaCJ9..aXY.Y2lwaGVy.dGFn"
PAIR = {"subscriber_id": ID, "token": SAT, "refresh_token": REFRESH}
ISSUE = wire.create_subscriber_token("alice", now=SENT)
ROTATE = wire.refresh_subscriber_token(Secret(REFRESH))
INVITE = wire.create_invite_token(ID, subscriber_token=Secret(SAT), now=SENT)
EMBED = wire.create_embed_token(Secret("c2c_1"))
INFO = wire.subscriber_info(Secret(SAT))
ADDRESSES = wire.subscriber_addresses(ID, origin=ORIGIN)
EVERY = [ISSUE, ROTATE, wire.create_guest_token([ID], now=SENT), INVITE, EMBED, INFO, ADDRESSES]


def answer(body=None, status=201, *, sent=SENT, lifetimes=None, **headers):
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return wire.Answer(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=raw,
        sent=sent,
        lifetimes=lifetimes or Lifetimes(),
    )


def read(request, body=None, status=201, **more):
    secrets = more.pop("secrets", ())
    return wire.read(request, answer(body, status, **more), secrets=secrets)


def http_date(seconds):
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def lives(token):
    return (token.expires_at - token.issued_at).total_seconds()


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
    """Nothing that can arrive makes reading it fail in another way."""
    given = wire.Answer(status=status, headers=headers, body=body, sent=SENT, lifetimes=Lifetimes())
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


def test_any_success_is_success():
    """The reference says 201; 200 and 204 would be as good, if a token came with them."""
    assert read(ISSUE, PAIR, 200) == read(ISSUE, PAIR, 201)
    assert isinstance(read(ISSUE, b"", 204), UnexpectedResponse)


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"", {}, "answered 201, with nothing where JSON was expected"),
        (b"<html>", {"Content_Type": "text/HTML; charset=x"}, "with text/html where"),
        (b"<html>", {"Content_Type": "application/json"}, "with something else where"),
        (b"<html>", {"Content_Type": "evil\r\ntype"}, "with something else where"),
        (b'{"token": "abc', {}, "with something else where"),
        (b"\xff\xfe", {}, "with something else where"),
        (None, {}, "with a body larger than 64 KiB"),
        ([PAIR], {}, "with JSON that is not an object"),
        ("text", {}, "with JSON that is not an object"),
        ({**PAIR, "token": ""}, {}, "without a usable token"),
        ({**PAIR, "token": None}, {}, "without a usable token"),
        ({**PAIR, "token": 7}, {}, "without a usable token"),
        ({**PAIR, "token": "a\nb"}, {}, "without a usable token"),
        ({**PAIR, "token": "a b"}, {}, "without a usable token"),
        ({**PAIR, "token": "é"}, {}, "without a usable token"),
        ({"token": SAT}, {}, "without a usable refresh_token"),
    ],
)
def test_a_success_that_is_none_says_what_is_wrong_with_it(body, headers, reason):
    """An answer is taken whole and sound, or not at all; what it held is not repeated."""
    error = read(ISSUE, body, **headers)
    assert isinstance(error, UnexpectedResponse)
    assert reason in str(error)
    assert SAT not in str(error)


def test_a_declared_charset_cannot_garble_json():
    """JSON says by itself how it is encoded."""
    assert isinstance(read(ISSUE, PAIR, Content_Type="application/json; charset=utf-16"), TokenPair)
    assert isinstance(read(ISSUE, json.dumps(PAIR).encode("utf-16"), Content_Type="text/plain"), TokenPair)


def test_a_pair_lives_from_when_it_was_asked_for():
    """Two hours, and two hours and five minutes, from the sending; what its header says is read along."""
    pair = read(ISSUE, PAIR)
    assert pair.token.issued_at == datetime.fromtimestamp(SENT, UTC)
    assert lives(pair.token) == 7200
    assert lives(pair.refresh_token) == 7500
    assert (pair.token.kind, pair.refresh_token.kind, pair.subscriber_id) == ("SAT", "Refresh", UUID(ID))


@pytest.mark.parametrize("id_", [None, "", "no", 7, ID + "0"])
def test_a_pair_is_good_without_a_readable_subscriber(id_):
    """The tokens are what was asked for."""
    assert read(ISSUE, {**PAIR, "subscriber_id": id_}).subscriber_id is None


def test_other_lifetimes_can_be_set():
    """A client set to other lifetimes counts with those."""
    short = Lifetimes(access=timedelta(seconds=4), refresh=timedelta(seconds=5), embed=timedelta(seconds=3))
    pair = read(ISSUE, PAIR, lifetimes=short)
    assert (lives(pair.token), lives(pair.refresh_token)) == (4, 5)
    assert lives(read(EMBED, {"token": SAT}, lifetimes=short)) == 3
    assert lives(read(INVITE, {"token": SAT}, lifetimes=short)) == 4


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (None, 1000.75),  # nothing but our own clock
        ("rubbish", 1000.75),
        (SENT, 1000.0),  # the service's clock shows whole seconds: one is taken off
        (SENT + 400, 600.0),  # its clock is ahead of ours: the token ends by its clock
        (SENT - 400, 1000.75),  # behind: ours is the careful one
        (SENT + 5000, 0.0),  # it says that the time has passed
    ],
)
def test_an_end_asked_for_is_reckoned_by_the_more_careful_clock(date, seconds):
    """`expire_at` is a time on the service's clock, which may differ from ours."""
    request = wire.create_subscriber_token("alice", now=SENT, expire_at=int(SENT) + 1001)
    headers = {} if date is None else {"Date": date if isinstance(date, str) else http_date(date)}
    pair = read(request, PAIR, **headers)
    assert lives(pair.token) == seconds
    assert lives(pair.refresh_token) == seconds + 300


def test_an_unbound_token_lives_a_minute():
    """`sat:refresh` without a fingerprint; with one, it is an ordinary token."""
    unbound = wire.create_subscriber_token("alice", now=SENT, scope="sat:refresh")
    assert lives(read(unbound, PAIR).token) == 60
    bound = wire.create_subscriber_token("alice", now=SENT, scope="sat:refresh", fingerprint="f" * 43)
    assert lives(read(bound, PAIR).token) == 7200


@pytest.mark.parametrize(
    ("span", "access", "refresh"), [(900, 600, 900), (7500, 7200, 7500), (9999, 7200, 7500), (200, 200, 200)]
)
def test_a_refreshed_pair_lives_no_longer_than_the_one_it_replaces(span, access, refresh):
    """What the service grants anew is not known, so it is not counted on."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old = Token(value=REFRESH, issued_at=start, expires_at=start + timedelta(seconds=span))
    pair = read(wire.refresh_subscriber_token(old), PAIR)
    assert (lives(pair.token), lives(pair.refresh_token)) == (access, refresh)
    assert lives(read(ROTATE, PAIR).token) == 7200


@pytest.mark.parametrize(
    ("claims", "headers", "seconds"),
    [
        ({"exp": 2000, "iat": 1000}, {}, 1000),
        ({"exp": 99999, "iat": 1000}, {}, 7200),
        ({"exp": 1000, "iat": 2000}, {}, 0),
        ({"exp": SENT + 50}, {}, 50),
        ({"exp": int(SENT) + 50}, {"Date": http_date(SENT + 20)}, 30),
        ({"iat": 1000}, {}, 7200),
        ({"exp": True}, {}, 7200),
        ({"exp": "soon"}, {}, 7200),
    ],
)
def test_a_signed_token_s_end_can_only_shorten_its_life(claims, headers, seconds):
    """Nobody verified it, so it is believed only where that is careful."""
    header, _, _ = jwt.encode({}, "k" * 32, algorithm="HS256").split(".")
    payload = jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()
    lifetimes = Lifetimes(embed=timedelta(hours=2))
    token = read(EMBED, {"token": f"{header}.{payload}.c2ln"}, lifetimes=lifetimes, **headers)
    assert lives(token) == seconds


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7),
        (" 7 ", None, 7),
        ("0", None, 0),
        ("9" * 50, None, 999_999_999),
        (http_date(SENT + 30), SENT, 30),
        (http_date(SENT + 30), SENT + 20, 10),
        (http_date(SENT - 30), SENT, 0),
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


@pytest.mark.parametrize("given", ["a b", "x" * 81, "évil", "", "a\r\nb"])
def test_what_is_no_request_id_is_left_out(given):
    """It goes into logs, so it must look like one."""
    assert read(ISSUE, b"", 500, X_Request_Id=given).request_id is None


def page(data, following=None, *, wrapped=False):
    value = {"data": data, "links": {"self": "x", "first": "x", "next": following}}
    return read(ADDRESSES, [value] if wrapped else value, 200)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_page_of_addresses_is_read(wrapped):
    """As the service gives it, and wrapped in an array as its schema has it; what is unknown is ignored."""
    full = {
        "id": ID,
        "name": "lobby",
        "display_name": "Lobby",
        "type": "room",
        "cover_url": None,
        "preview_url": "https://x",
        "locked": True,
        "channels": {"audio": "/public/lobby", "odd": 7},
        "created_at": "2026-01-02T03:04:05Z",
        "newer": 1,
    }
    (address,) = page([full], wrapped=wrapped).addresses
    assert (address.id, address.name, address.type, address.locked) == (UUID(ID), "lobby", "room", True)
    assert address.channels == {"audio": "/public/lobby"}
    assert address.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("following", "path"),
    [
        (f"{ORIGIN}/api/x?page=2", "/api/x?page=2"),
        ("/api/x?page=2", "/api/x?page=2"),
        ("https://ACME.signalwire.com/api/x", "/api/x"),
        (None, None),
        ("", None),
    ],
)
def test_the_next_page_is_a_path(following, path):
    """On the origin that was asked."""
    assert page([{"id": ID}], following).next == path
    assert page([], following).next is None


@pytest.mark.parametrize(
    "following",
    [
        "https://evil.example/api/x",
        "http://acme.signalwire.com/api/x",
        "https://acme.signalwire.com:444/api/x",
        "https://user@acme.signalwire.com/api/x",
        "//evil.example/x",
        "https://[",
        "/a b",
        7,
        ["/x"],
    ],
)
def test_the_next_page_is_never_elsewhere(following):
    """The API token would travel with the request."""
    assert isinstance(page([{"id": ID}], following), UnexpectedResponse)


@pytest.mark.parametrize("data", [None, {}, "x", [7], [{}], [{"id": "no"}]])
def test_addresses_without_an_id_are_none(data):
    """A list of addresses is one, each with an id."""
    assert isinstance(page(data), UnexpectedResponse)


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("yesterday", None),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1e300, None),
        (True, None),
        (None, None),
    ],
)
def test_a_time_is_read_where_it_is_one(value, read_as):
    """Unix seconds or ISO 8601, and nothing where it is neither."""
    assert page([{"id": ID, "created_at": value}]).addresses[0].created_at == read_as


def test_who_a_token_is_for_is_read():
    """The profile, the addresses, and the claims that a client cannot read from the token itself."""
    info = read(
        INFO,
        {
            "id": ID,
            "email": "alice@example.com",
            "first_name": None,
            "push_notification_key": "hush",
            "app_settings": {"a": 1},
            "fabric_addresses": [{"id": ID}],
            "sat_claims": {"scope": ["sat:refresh"], "cnf": {"jkt": "thumb"}, "expires_at": 1_800_000_000},
        },
        200,
    )
    assert (info.id, info.email, info.first_name) == (UUID(ID), "alice@example.com", None)
    assert info.sat_claims.scope == ("sat:refresh",)
    assert info.sat_claims.fingerprint == "thumb"
    assert info.sat_claims.expires_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert "hush" not in repr(info)
    bare = read(INFO, {"id": ID, "sat_claims": {"scope": "x", "cnf": 7}}, 200)
    assert bare.fabric_addresses == ()
    assert bare.sat_claims.scope == ()
    assert bare.sat_claims.fingerprint is None
    assert read(INFO, {"id": ID}, 200).sat_claims is None
    assert isinstance(read(INFO, {}, 200), UnexpectedResponse)


THROTTLED = RateLimited("429", retry_after=3.0)
BUSY = ServerError("503", retry_after=3.0)


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
        (ServerError("500"), True, False),
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


@pytest.mark.parametrize("error", [THROTTLED, BUSY])
def test_a_pause_asked_for_is_kept_or_not_begun(error):
    """What does not fit into the call's time is said at once."""
    assert wire.pause_before_retry(ISSUE, error, failures=5, draw=0.9, left=3.5) == 3.0
    assert wire.pause_before_retry(ISSUE, error, failures=5, draw=0.9, left=3.0) is None


def test_a_request_and_an_answer_hide_what_they_carry():
    """They stand in frames, so they show nothing."""
    request = wire.create_subscriber_token("a", now=SENT, password=Secret("hush"))
    shown = repr(request) + repr(attrs.evolve(request, bearer=Secret("hush"))) + repr(answer({"token": "hush"}))
    assert "hush" not in shown
