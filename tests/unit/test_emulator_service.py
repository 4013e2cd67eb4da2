"""The service without a network: as strict as the real one, and never more lenient than our own client would like."""

import json
import math
import secrets
from base64 import b64encode
from datetime import timedelta
from itertools import pairwise
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import Lifetimes
from signalwire_tokens.emulator import RateLimit, Rotation
from signalwire_tokens.emulator.calls import OPERATIONS, Call, failure
from signalwire_tokens.emulator.rotation import ROTATIONS
from signalwire_tokens.emulator.sealing import Claims, TokenSealer
from signalwire_tokens.emulator.service import Service
from signalwire_tokens.wire import Header, read_header

PROJECT, API_TOKEN = "project", "PTsecret"
BASIC = "Basic " + b64encode(f"{PROJECT}:{API_TOKEN}".encode()).decode()
TOKENS, REFRESH = "/api/fabric/subscribers/tokens", "/api/fabric/subscribers/tokens/refresh"
GUESTS, INVITES, EMBEDS = "/api/fabric/guests/tokens", "/api/fabric/subscriber/invites", "/api/fabric/embeds/tokens"
INFO, ADDRESSES = "/api/fabric/subscriber/info", "/api/fabric/addresses"
C2C = "c2c_1"


class Time:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


def make(time, rotation="single-use", **options):
    service = Service(
        **{
            "now": time,
            "lifetimes": Lifetimes(),
            "rotation": ROTATIONS.get(rotation, rotation),
            "channel": "puc.example.org:8443",
            "page_size": 50,
            "project_id": PROJECT,
            "api_token": API_TOKEN,
            "key": secrets.token_bytes(32),
            "strict": True,
            **options,
        }
    )
    service.origin = "http://127.0.0.1:1"
    service.click_to_call.add(C2C)
    return service


@pytest.fixture
def service(time):
    return make(time)


def post(service, path, body, authorization=BASIC):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.handle(Call(method="POST", path=path, authorization=authorization, body=raw))


def get(service, path, authorization=BASIC, **query):
    return service.handle(Call(method="GET", path=path, authorization=authorization, query=query))


def issue(service, **fields):
    reply = post(service, TOKENS, {"reference": "alice@example.com", **fields})
    assert reply.status == 200
    return reply.body


def refresh(service, token):
    return post(service, REFRESH, {"refresh_token": token})


def complaints(reply, status=422):
    assert reply.status == status
    return sorted((problem.get("attribute"), problem["code"]) for problem in reply.body["errors"])


MISSING, INVALID = "missing_required_parameter", "invalid_parameter"


def test_tokens_are_what_the_service_s_are(service):
    """Encrypted, in five parts, of the usual length, with kind and channel to be read and nothing else."""
    body = issue(service)
    assert read_header(body["token"]) == Header("SAT", "puc.example.org:8443", is_encrypted=True)
    assert read_header(body["refresh_token"]) == Header("Refresh", "puc.example.org:8443", is_encrypted=True)
    for token in (body["token"], body["refresh_token"]):
        _, key, *_ = token.split(".")
        assert token.count(".") == 4
        assert key == ""
        assert 500 <= len(token) <= 900


def test_a_channel_is_left_out_where_there_is_none(time):
    """As in the first of the reference's examples."""
    assert read_header(issue(make(time, channel=None))["token"]) == Header("SAT", None, is_encrypted=True)


@pytest.mark.parametrize("value", ["", "x", "a.b.c.d.e", "..", "\ud800", "é....", "e30....."])
def test_a_sealer_opens_its_own_tokens_alone(value):
    """Any other string is no token, one that another service sealed included."""
    claims = Claims(id="1", kind="SAT", holder="guest", issued_at=1.0, expires_at=2.0, family="1", addresses=("a",))
    sealer = TokenSealer(None, bytes(32))
    assert sealer.open(sealer.seal(claims)) == claims
    assert sealer.open(value) is None
    assert sealer.open(TokenSealer(None, secrets.token_bytes(32)).seal(claims)) is None


@pytest.mark.parametrize("path", [TOKENS, REFRESH, GUESTS])
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic !",
        "Basic é",
        "Basic " + b64encode(b"project:wrong").decode(),
        "Basic " + b64encode(b"other:PTsecret").decode(),
        BASIC.replace("Basic", "Bearer"),
        "Bearer x",
    ],
)
def test_the_project_s_operations_want_the_project(service, path, authorization):
    """Whatever else is wrong with the request, this comes first."""
    assert post(service, path, {}, authorization).status == 401
    assert post(service, path, b"{", authorization).status == 401
    assert get(service, f"/api/fabric/resources/subscribers/{uuid4()}/addresses", authorization).status == 401


def test_a_subscriber_s_operations_want_a_subscriber(service, time):
    """A live access token of a subscriber's: no refresh token, no guest's, none that is dead.

    One that is bound to a key is good without a proof for asking what it is, and for nothing else.
    """
    pair = issue(service)
    address = get(service, INFO, f"Bearer {pair['token']}").body["fabric_addresses"][0]["id"]
    guest = post(service, GUESTS, {"allowed_addresses": [address]}).body
    bound = issue(service, fingerprint="f" * 43, scope="sat:refresh")
    for authorization, status in [
        (f"Bearer {pair['token']}", 201),
        (f"bearer {pair['token']}", 201),
        (None, 401),
        (BASIC, 401),
        ("Bearer x", 401),
        (f"Bearer {pair['refresh_token']}", 401),
        (f"Bearer {bound['token']}", 401),
        (f"Bearer {guest['token']}", 403),
    ]:
        assert post(service, INVITES, {"address_id": address}, authorization).status == status
        is_exchanged = authorization == f"Bearer {bound['token']}"
        assert get(service, INFO, authorization).status == (200 if status == 201 or is_exchanged else status)
    time.now += 7200
    assert get(service, INFO, f"Bearer {pair['token']}").status == 401


@pytest.mark.parametrize("path", [TOKENS, REFRESH, GUESTS, INVITES, EMBEDS])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"expire_at": NaN}',
        b'{"expire_at": -Infinity}',
        b'\xef\xbb\xbf{"reference": "alice"}',
        '{"reference": "alice"}'.encode("utf-16"),
        '{"reference": "alice"}'.encode("utf-32-be"),
        b'{"reference": "alice", "reference": "bob"}',
        b'{"reference": "alice", "extra": {"a": 1, "a": 1}}',
        b'{"reference": "a\tb"}',
    ],
)
def test_a_body_that_rfc_8259_does_not_allow_is_a_bad_request(service, path, body):
    """NaN, Infinity, a byte order mark, UTF-16, UTF-32 and repeated members included."""
    authorization = f"Bearer {issue(service)['token']}" if path == INVITES else BASIC
    assert post(service, path, body, authorization).status == 400


@pytest.mark.parametrize("body", [{}, [], None, 7, "x", {"reference": None}, {"reference": " "}])
def test_what_is_required_is_missed(service, body):
    """A body that is no object has nothing in it."""
    assert complaints(post(service, TOKENS, body)) == [("reference", MISSING)]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        'application/json;charset = "latin-1"',
        "application/json; charset=",
        "application/json; charset=utf-8; Charset=UTF-16",
    ],
)
def test_what_is_not_declared_to_be_json_is_not_read(service, content_type):
    """As little as the service would."""
    raw = b'{"reference": "alice"}'
    call = Call(method="POST", path=TOKENS, authorization=BASIC, body=raw, content_type=content_type)
    assert complaints(service.handle(call)) == [("reference", MISSING)]
    assert service.handle(attrs.evolve(call, content_type="Application/JSON; charset=utf-8")).status == 200
    assert service.handle(attrs.evolve(call, content_type='application/json;Charset="UTF-8"')).status == 200


def test_a_subscriber_s_problems_come_all_at_once(service):
    """Every field is looked at, whatever was wrong with another."""
    wrong = {
        "reference": 7,
        "expire_at": 1,
        "application_id": "x",
        "fingerprint": "f" * 42,
        "scope": "all",
        "password": 7,
        "first_name": None,
        "last_name": [],
        "display_name": {},
        "job_title": 1,
        "time_zone": True,
        "country": 1.5,
        "region": 1,
        "company_name": 1,
    }
    assert complaints(post(service, TOKENS, wrong)) == sorted((name, INVALID) for name in wrong)


@pytest.mark.parametrize(
    "value", ["soon", True, None, 1.5, [], 10**400, 1_900_000_000_000, 1_800_000_000, 1_799_999_999, -1]
)
def test_a_time_must_be_one_and_to_come(service, value):
    """Whole unix seconds after now."""
    assert complaints(post(service, TOKENS, {"reference": "a", "expire_at": value})) == [("expire_at", INVALID)]


def test_an_end_asked_for_is_kept(service, time):
    """The access token ends then, and the refresh token five minutes later."""
    pair = issue(service, expire_at=1_800_000_010.0)  # a whole number, however JSON writes it
    time.now += 9.5
    assert service.accepts(pair["token"])
    time.now += 0.5
    assert not service.accepts(pair["token"])
    time.now += 299
    assert refresh(service, pair["refresh_token"]).status == 201
    other = issue(service, expire_at=time.now + 10)
    time.now += 310
    assert complaints(refresh(service, other["refresh_token"])) == [("refresh_token", "token_expired")]


def test_lifetimes_are_the_documented_ones(service, time):
    """Two hours and, for the refresh token, five minutes more; a minute where nothing binds it."""
    pair, unbound = issue(service), issue(service, scope="sat:refresh", expire_at=time.now + 600)
    time.now += 60
    assert not service.accepts(unbound["token"])
    again = refresh(service, unbound["refresh_token"]).body
    time.now += 60
    assert not service.accepts(again["token"])
    time.now += 7200 - 121
    assert service.accepts(pair["token"])
    time.now += 1
    assert not service.accepts(pair["token"])
    assert service.accepts(pair["refresh_token"])
    time.now += 300
    assert not service.accepts(pair["refresh_token"])


def test_a_refresh_grants_the_full_lifetimes_anew(time):
    """Whatever end was asked for at first."""
    service = make(time, lifetimes=Lifetimes(access=timedelta(seconds=4), refresh=timedelta(seconds=6)))
    pair = issue(service, expire_at=time.now + 1)
    time.now += 2.5
    again = refresh(service, pair["refresh_token"]).body
    time.now += 3.9
    assert service.accepts(again["token"])
    time.now += 2
    assert service.accepts(again["refresh_token"])


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", MISSING),
        (None, MISSING),
        (7, INVALID),
        ("x", "invalid_token_format"),
        ("a.b", "invalid_token_format"),
        ("a.b.c", "token_invalid"),
        ("a.b.c.d.e", "token_invalid"),
    ],
)
def test_a_refresh_token_must_be_one(service, token, code):
    """The code says what is wrong with it."""
    assert complaints(refresh(service, token)) == [("refresh_token", code)]


def test_a_used_refresh_token_is_told_from_a_revoked_one(time):
    """The answer is the same, and `Entry.reason` explains it."""
    service = make(time)
    used, revoked = issue(service)["refresh_token"], issue(service, reference="bob")["refresh_token"]
    refresh(service, used)
    service.revoke(revoked)
    reasons = [refresh(service, token).reason for token in (used, revoked)]
    assert reasons == [
        "the refresh token was already used (the rotation allows no reuse now)",
        "the refresh token was revoked",
    ]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"{", "Expecting property name enclosed in double quotes, line 1 column 2"),
        (b'{"a": NaN}', "NaN isn't JSON"),
        (b'{"a": 1, "a": 2}', "a member is named twice"),
        (b"\xff", "it isn't UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
    ids=["cut off", "NaN", "twice", "bytes", "deep"],
)
def test_a_body_that_is_not_json_says_why(service, body, fault):
    """The reason quotes nothing of the body, which may hold a secret."""
    assert post(service, TOKENS, body).reason == f"the body isn't valid JSON (RFC 8259): {fault}"


def test_an_access_token_refreshes_nothing(service):
    """Its code says that it is of the wrong kind."""
    assert complaints(refresh(service, issue(service)["token"])) == [("refresh_token", "not_a_refresh_token")]


@pytest.mark.parametrize(
    ("rotation", "at_once", "later"),
    [("single-use", 422, 422), ("reusable", 201, 201), ("grace", 201, 422), ("family", 422, 422)],
)
def test_a_used_refresh_token_is_what_the_rotation_says(time, rotation, at_once, later):
    """The service does not document it, so every way that is in use can be chosen."""
    service = make(time, rotation)
    first = issue(service)
    second = refresh(service, first["refresh_token"]).body
    assert refresh(service, first["refresh_token"]).status == at_once
    time.now += 11
    assert refresh(service, first["refresh_token"]).status == later
    assert service.accepts(second["token"])
    expected = 422 if rotation == "family" else 201
    assert refresh(service, second["refresh_token"]).status == expected


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        (409, "token_expired", {"errors": [("refresh_token", "token_expired")]}),
        (401, None, {"error": "Unauthorized"}),
    ],
)
def test_a_rotation_says_how_a_used_refresh_token_is_refused(time, status, code, body):
    """It sets the status, and the code if there is one."""
    service = make(time, Rotation(status=status, code=code))
    token = issue(service)["refresh_token"]
    refresh(service, token)
    reply = refresh(service, token)
    assert reply.status == status
    assert body == (reply.body if code is None else {"errors": complaints(reply, status)})


@pytest.mark.parametrize("wrong", [{"reuse_for": -1.0}, {"reuse_for": math.nan}, {"status": 200}, {"status": 600}])
def test_a_rotation_that_cannot_be_is_refused(wrong):
    """`reuse_for` can't be negative, and `status` is an error's."""
    with pytest.raises(ValueError, match="must be"):
        Rotation(**wrong)


def test_a_refresh_revokes_the_access_token_if_the_rotation_says_so(time):
    """Only the replaced token is revoked. Without such a rotation, all are accepted until they expire."""
    for revokes in (False, True):
        service = make(time, Rotation(refresh_revokes_access=revokes))
        first, other = issue(service), issue(service)
        second = refresh(service, first["refresh_token"]).body
        assert service.accepts(first["token"]) is not revokes
        assert get(service, INFO, f"Bearer {first['token']}").status == (401 if revokes else 200)
        assert service.accepts(second["token"])
        assert service.accepts(other["token"])


@pytest.mark.parametrize(
    ("rotation", "status"), [("single-use", 422), ("reusable", 201), ("grace", 201), ("family", 422)]
)
def test_a_clock_that_is_set_back_changes_nothing_for_a_used_refresh_token(time, rotation, status):
    """It is accepted or refused as at the moment of its first use."""
    service = make(time, rotation)
    token = issue(service)["refresh_token"]
    refresh(service, token)
    time.now -= 30
    assert refresh(service, token).status == status


@pytest.mark.parametrize("access", [False, True])
@pytest.mark.parametrize("refreshing", [False, True])
def test_an_issue_revokes_earlier_tokens_if_the_rotation_says_so(time, access, refreshing):
    """Tokens of the same subscriber are revoked, refreshed ones included. Others stay valid."""
    service = make(time, Rotation(issue_revokes_access=access, issue_revokes_refresh=refreshing))
    first, other = issue(service), issue(service, reference="bob")
    guest = post(service, GUESTS, {"allowed_addresses": [service.add_address("room")]}).body
    first = refresh(service, first["refresh_token"]).body
    second = issue(service)
    assert service.accepts(first["token"]) is not access
    assert service.accepts(first["refresh_token"]) is not refreshing
    assert refresh(service, first["refresh_token"]).status == (422 if refreshing else 201)
    assert all(service.accepts(pair[half]) for pair in (second, other, guest) for half in ("token", "refresh_token"))


def test_the_family_of_another_is_left_alone(time):
    """Reuse revokes the refresh tokens of its own line, not the subscriber's others."""
    service = make(time, "family")
    first, other = issue(service), issue(service)
    refresh(service, first["refresh_token"])
    refresh(service, first["refresh_token"])
    assert refresh(service, other["refresh_token"]).status == 201


def test_used_refresh_tokens_are_forgotten_when_they_have_expired(service, time):
    """A service that runs for long does not grow for it."""
    for _ in range(3):
        refresh(service, issue(service)["refresh_token"])
    time.now += 7501
    refresh(service, issue(service)["refresh_token"])
    assert len(service.history._used) == 1


def test_a_subscriber_is_created_once_and_kept_up_to_date(service):
    """The reference identifies; what is given is written, and what is not stays."""
    first = issue(service, first_name="Alice", country="NL")
    second = issue(service, first_name="Alicia")
    assert first["subscriber_id"] == second["subscriber_id"]
    info = get(service, INFO, f"Bearer {first['token']}").body
    assert (info["first_name"], info["country"], info["email"]) == ("Alicia", "NL", "alice@example.com")


def test_info_tells_the_claims_that_a_token_hides(service, time):
    """Scope and end; the end is what the client could not read."""
    unbound = issue(service, scope="sat:refresh")
    claims = get(service, INFO, f"Bearer {unbound['token']}").body["sat_claims"]
    assert claims == {"scope": ["sat:refresh"], "expires_at": time.now + 60}


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (None, MISSING),
        ("x", INVALID),
        (["x", "y"], INVALID),
        ([7], INVALID),
        ([str(uuid4())], "must_belong_to_project"),
        ([str(uuid4()), str(uuid4())], "must_belong_to_project"),
    ],
)
def test_a_guest_s_addresses_are_the_project_s(service, addresses, expected):
    """Unknown addresses are refused. Several with the same problem are one problem."""
    assert complaints(post(service, GUESTS, {"allowed_addresses": addresses})) == [("allowed_addresses", expected)]


def test_a_guest_may_be_given_up_to_ten_addresses(service):
    """No address and a repeated one are accepted, as in the published schema. Eleven aren't."""
    ids = [service.add_address(f"room-{number}") for number in range(11)]
    for accepted in (ids[:10], [], [ids[0], ids[0].upper()]):
        assert post(service, GUESTS, {"allowed_addresses": accepted}).status == 201
    over = post(service, GUESTS, {"allowed_addresses": ids})
    assert complaints(over) == [("allowed_addresses", "allowed_address_limit_exceeded")]


def test_a_guest_s_ch_stands_in_the_header_of_both_tokens(service):
    """It takes the place of the usual channel, and is kept when the pair is refreshed."""
    guest = post(service, GUESTS, {"allowed_addresses": [], "ch": "us-central"}).body
    again = refresh(service, guest["refresh_token"]).body
    assert [read_header(pair["token"]).channel for pair in (guest, again)] == ["us-central"] * 2
    assert read_header(guest["refresh_token"]) == Header("Refresh", "us-central", is_encrypted=True)


def test_what_is_not_published_is_refused_if_strict(time):
    """Unlisted members of a body and other regions are refused only if strict."""
    bodies = [(TOKENS, {"reference": "a", "region": "eu", "new": 1}), (GUESTS, {"allowed_addresses": [], "ch": "x"})]
    for path, body in bodies:
        assert post(make(time, strict=False), path, body).status in (200, 201)
    assert [complaints(post(make(time), path, body)) for path, body in bodies] == [
        [("new", INVALID), ("region", INVALID)],
        [("ch", INVALID)],
    ]
    assert complaints(post(make(time), EMBEDS, {"token": C2C, "new": None}, None)) == [("new", INVALID)]


def test_problems_of_unknown_members_come_in_the_order_of_the_body(time):
    """The same request has the same answer in each process."""
    names = ["zeta", "alpha", "mu", "beta", "omega"]
    reply = post(make(time), TOKENS, {"reference": "a", **dict.fromkeys(names, 1)})
    assert [problem["attribute"] for problem in reply.body["errors"]] == names


def test_problems_have_the_published_form(service):
    """Type, code, message and address of the documentation; `attribute` is absent if a problem is about none."""
    url = "https://signalwire.com/docs/apis/error-codes"
    bearer = f"Bearer {issue(service)['token']}"
    for path, body, authorization, code, attribute, message in [
        (TOKENS, {}, BASIC, MISSING, "reference", "Required parameter is missing"),
        (EMBEDS, {}, None, MISSING, "token", "token is required"),
        (INVITES, {"address_id": str(uuid4())}, bearer, INVALID, "address_id", "Address is invalid"),
        (
            GUESTS,
            {"allowed_addresses": [str(uuid4())]},
            BASIC,
            "must_belong_to_project",
            "allowed_addresses",
            "The addresses must belong to the project",
        ),
    ]:
        assert post(service, path, body, authorization).body == {
            "errors": [
                {"type": "validation_error", "code": code, "message": message, "attribute": attribute, "url": url}
            ]
        }
    assert "attribute" not in failure(422, code="cannot_process").body["errors"][0]


def test_a_problem_s_status_can_be_chosen_by_its_code(time):
    """SignalWire doesn't publish these statuses. The default is 422."""
    service = make(time, statuses={MISSING: 400})
    assert complaints(post(service, TOKENS, {}), 400) == [("reference", MISSING)]
    assert complaints(refresh(service, "x")) == [("refresh_token", "invalid_token_format")]


def test_a_request_of_a_wrong_form_is_a_bad_request(service):
    """Even if its credentials are right, and if none are needed."""
    for path in (TOKENS, EMBEDS):
        call = Call(
            method="POST", path=path, authorization=BASIC, malformed_because="of a test", body=b'{"reference": "a"}'
        )
        assert service.handle(call).status == 400


def test_requests_above_the_rate_limit_are_throttled(time):
    """Only POST requests count here. Each answer reports how many are left, and the next period starts at zero."""
    service = make(time, rate_limit=RateLimit(2, 10))

    def seen(reply):
        names = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After")
        return (reply.status, *(reply.headers.get(name) for name in names))

    assert seen(post(service, TOKENS, {"reference": "a"})) == (200, "2", "1", "10", None)
    assert seen(get(service, INFO)) == (401, "2", "1", "10", None)
    time.now += 2.5
    assert seen(post(service, TOKENS, {"reference": "a"})) == (200, "2", "0", "8", None)
    refused = post(service, TOKENS, {"reference": "a"})
    assert seen(refused) == (429, "2", "0", "8", "8")
    assert complaints(refused, 429) == [(None, "rate_limit_exceeded")]
    time.now += 7.5
    assert seen(post(service, TOKENS, {"reference": "a"})) == (200, "2", "1", "10", None)
    time.now -= 3600  # the wall clock is set
    assert seen(post(service, TOKENS, {"reference": "a"})) == (200, "2", "1", "10", None)


def test_without_a_rate_limit_nothing_is_said_about_one(service):
    """No answer has headers about it."""
    assert post(service, TOKENS, {"reference": "a"}).headers == {}


def test_an_invitation_is_to_an_address_of_the_project(service, time):
    """By a subscriber, until a time that may be asked for."""
    pair = issue(service)
    bearer = f"Bearer {pair['token']}"
    room = service.add_address("room")
    invite = post(service, INVITES, {"address_id": room, "expires_at": time.now + 5}, bearer)
    assert invite.status == 201
    time.now += 5
    assert not service.accepts(invite.body["token"])
    assert complaints(post(service, INVITES, {"expires_at": 1}, bearer)) == [
        ("address_id", MISSING),
        ("expires_at", INVALID),
    ]
    stranger = post(service, INVITES, {"address_id": str(uuid4())}, bearer)
    assert complaints(stranger) == [("address_id", INVALID)]


def test_a_click_to_call_token_must_be_valid(service, time):
    """No credentials are asked for; a token that is not set up is forbidden."""
    embed = post(service, EMBEDS, {"token": C2C}, None)
    assert embed.status == 201
    assert set(embed.body) == {"token"}
    time.now += 3600
    assert not service.accepts(embed.body["token"])
    assert post(service, EMBEDS, {"token": "c2c_2"}, None).status == 403
    assert complaints(post(service, EMBEDS, {}, None)) == [("token", MISSING)]


def test_addresses_come_in_pages(time):
    """With links between them, and none past the ends."""
    service = make(time, page_size=2)
    id_ = issue(service)["subscriber_id"]
    for number in range(4):
        service.add_address(f"room-{number}", subscriber_id=id_)
    path = f"/api/fabric/resources/subscribers/{id_}/addresses"
    pages = [get(service, path).body]
    while following := pages[-1]["links"].get("next"):
        assert urlsplit(following).path == path
        pages.append(get(service, path, **dict(parse_qsl(urlsplit(following).query))).body)
    assert [len(page["data"]) for page in pages] == [2, 2, 1]
    assert {address["type"] for page in pages for address in page["data"]} == {"subscriber"}
    assert [sorted(page["links"]) for page in pages] == [
        ["first", "next", "self"],
        ["first", "next", "prev", "self"],
        ["first", "prev", "self"],
    ]
    assert pages[0]["links"]["first"] == f"{service.origin}{path}?page_number=0&page_size=2"
    for page, following in pairwise(pages):
        assert page["links"]["next"] == following["links"]["self"]
        assert dict(parse_qsl(urlsplit(following["links"]["prev"]).query)).keys() == {
            "page_number",
            "page_size",
            "page_token",
        }
    assert get(service, path.replace(id_, str(uuid4()))).status == 404


def test_a_page_may_be_as_long_as_asked(time):
    """Up to a thousand addresses."""
    service = make(time, page_size=2)
    id_ = issue(service)["subscriber_id"]
    for number in range(4):
        service.add_address(f"room-{number}", subscriber_id=id_)
    path = f"/api/fabric/resources/subscribers/{id_}/addresses"
    for size, expected in [("1", 1), ("4", 4), ("1000", 5)]:
        assert len(get(service, path, page_size=size).body["data"]) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("page_size", value) for value in ("0", "1001", "-1", "x", "", "1.0", "+1", "\u0663", "9" * 5000)),
        *(("page_number", value) for value in ("-1", "x", "", "2147483648")),
    ],
)
def test_a_wrong_number_in_a_query_is_refused(time, name, value):
    """With 400, as a request that makes no sense."""
    service = make(time)
    path = f"/api/fabric/resources/subscribers/{issue(service)['subscriber_id']}/addresses"
    assert get(service, path, **{name: value}).status == 400


def test_an_unknown_parameter_of_a_query_is_refused_if_strict(time):
    """With 400, by every operation."""
    service = make(time)
    pair = issue(service)
    path = f"/api/fabric/resources/subscribers/{pair['subscriber_id']}/addresses"
    for is_strict, statuses in ((True, (400, 400)), (False, (200, 200))):
        service.strict = is_strict
        info = get(service, "/api/fabric/subscriber/info", f"Bearer {pair['token']}", page_size="1")
        assert (get(service, path, page="1").status, info.status) == statuses
        bearer = f"Bearer {pair['token']}"
        listed = get(service, ADDRESSES, bearer, page="1")
        one = get(service, f"{ADDRESSES}/{service.add_address('room')}", bearer, page_size="1")
        assert (listed.status, one.status) == statuses


def test_a_further_page_needs_the_token_of_its_list(time):
    """A client that makes up links instead of following them is refused."""
    service = make(time, page_size=1)
    id_ = issue(service)["subscriber_id"]
    service.add_address("room", subscriber_id=id_)
    path = f"/api/fabric/resources/subscribers/{id_}/addresses"
    token = dict(parse_qsl(urlsplit(get(service, path).body["links"]["next"]).query))["page_token"]
    assert get(service, path, page_number="1", page_size="1", page_token=token).status == 200
    assert get(service, path, page_number="9", page_size="1", page_token=token).body["data"] == []
    assert get(service, path, page_number="1", page_size="1").status == 404
    assert get(service, path, page_number="1", page_size="2", page_token=token).status == 404
    assert get(service, path, page_token="PAx").status == 404


def names_of(reply):
    """Return the names of the addresses on a page."""
    assert reply.status == 200
    return [address["name"] for address in reply.body["data"]]


def test_a_subscriber_reaches_every_address_of_the_project(service):
    """Its own, those of other subscribers, and rooms, by list and by id."""
    bearer = f"Bearer {issue(service)['token']}"
    bob = issue(service, reference="bob")["subscriber_id"]
    service.add_address("desk", subscriber_id=bob)
    room = service.add_address("room")
    listed = get(service, ADDRESSES, bearer)
    assert names_of(listed) == ["alice-example-com", "bob", "desk", "room"]
    for address in listed.body["data"]:
        reply = get(service, f"{ADDRESSES}/{address['id']}", bearer)
        assert (reply.status, reply.body) == (200, address)
    assert get(service, f"{ADDRESSES}/{room.upper()}", bearer).body["name"] == "room"
    for unknown in (str(uuid4()), "x", "%2F"):
        assert get(service, f"{ADDRESSES}/{unknown}", bearer).status == 404


def test_other_holders_reach_the_addresses_that_their_tokens_name(service):
    """A guest the allowed ones, an invited person one, and a visitor with an embed token none."""
    rooms = [service.add_address(name) for name in ("lobby", "office", "attic")]
    alice = f"Bearer {issue(service)['token']}"
    guest = post(service, GUESTS, {"allowed_addresses": [rooms[2], rooms[0].upper()]}).body["token"]
    invite = post(service, INVITES, {"address_id": rooms[1]}, alice).body["token"]
    embed = post(service, EMBEDS, {"token": C2C}, None).body["token"]
    for token, expected in [(guest, ["lobby", "attic"]), (invite, ["office"]), (embed, [])]:
        assert names_of(get(service, ADDRESSES, f"Bearer {token}")) == expected
        found = [get(service, f"{ADDRESSES}/{room}", f"Bearer {token}") for room in rooms]
        assert [reply.body["name"] for reply in found if reply.status == 200] == expected
        assert {reply.status for reply in found} <= {200, 404}


def test_reachable_addresses_want_a_valid_access_token(service, time):
    """A bound one would need a proof."""
    pair, bound = issue(service), issue(service, fingerprint="f" * 43, scope="sat:refresh")
    room = service.add_address("room")
    refused = [None, BASIC, "Bearer x", f"Bearer {pair['refresh_token']}", f"Bearer {bound['token']}"]
    paths = (ADDRESSES, f"{ADDRESSES}/{room}", f"{ADDRESSES}/{uuid4()}")
    for path in paths:
        assert [get(service, path, authorization).status for authorization in refused] == [401] * len(refused)
    time.now += 7200
    assert [get(service, path, f"Bearer {pair['token']}").status for path in paths] == [401] * 3


def test_reachable_addresses_come_in_pages(time):
    """Links work with the token's successors, and neither for another holder nor for another list."""
    service = make(time, page_size=2)
    pair, bob = issue(service), issue(service, reference="bob")
    for name in ("lobby", "office"):
        service.add_address(name)
    guests = [post(service, GUESTS, {"allowed_addresses": list(service._addresses)}).body for _ in range(2)]
    mine = f"/api/fabric/resources/subscribers/{pair['subscriber_id']}/addresses"
    for holder, other in ((pair, bob), guests):
        first = get(service, ADDRESSES, f"Bearer {holder['token']}")
        assert sorted(first.body["links"]) == ["first", "next", "self"]
        link = urlsplit(first.body["links"]["next"])
        assert link.path == ADDRESSES
        query = dict(parse_qsl(link.query))
        renewed = refresh(service, holder["refresh_token"]).body
        second = get(service, ADDRESSES, f"Bearer {renewed['token']}", **query)
        assert names_of(first) + names_of(second) == ["alice-example-com", "bob", "lobby", "office"]
        assert sorted(second.body["links"]) == ["first", "prev", "self"]
        assert get(service, ADDRESSES, f"Bearer {other['token']}", **query).status == 404
        assert get(service, mine, **query).status == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", TOKENS), ("POST", INFO), ("PUT", TOKENS), ("POST", TOKENS + "/"), ("GET", "/")]
)
def test_what_is_no_operation_is_not_found(service, method, path):
    """By path and by method."""
    assert service.handle(Call(method=method, path=path, authorization=BASIC)).status == 404


def test_a_token_of_a_service_is_accepted_by_that_service_alone(service, time):
    """And a used refresh token by none."""
    pair = issue(service)
    assert not make(time).accepts(pair["token"])
    assert not service.accepts("rubbish")
    refresh(service, pair["refresh_token"])
    assert not service.accepts(pair["refresh_token"])


@given(
    operation=st.sampled_from(sorted(OPERATIONS)),
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["reference", "expire_at", "scope", "refresh_token", "allowed_addresses", "token", "address_id"]
                ),
                inner,
            )
        ),
    ),
    authorization=st.none() | st.text() | st.just(BASIC),
)
def test_any_call_has_a_reply(operation, body, authorization):
    """Nothing that can be sent makes the service fail."""
    method, _ = OPERATIONS[operation]
    path = (
        INFO
        if operation == "subscriber_info"
        else {"create_guest_token": GUESTS, "refresh_subscriber_token": REFRESH}.get(operation, TOKENS)
    )
    service = make(Time())
    raw = json.dumps(body).encode()
    reply = service.handle(Call(method=method, path=path, authorization=authorization, body=raw))
    assert reply.status in {200, 201, 400, 401, 404, 422}
