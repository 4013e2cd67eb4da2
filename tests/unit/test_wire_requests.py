"""Each operation as a value: what it sends, with which authentication, and what it refuses to send."""

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest

from signalwire_tokens import InvalidRequest, Token, wire
from signalwire_tokens.models import LONGEST_LIFE
from signalwire_tokens.secret import Secret

NOW = 1_800_000_000.5
ID = UUID("0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001")
SAT = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0..aXY.Y2lwaGVy.dGFn"
REFRESH = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiUmVmcmVzaCJ9..aXY.Y2lwaGVy.dGFn"
START = datetime(2026, 1, 1, tzinfo=UTC)
PROVEN = {"proof": Secret("a-proof"), "lifetime": timedelta(minutes=15)}
WIRE = {
    "subscriber": lambda **more: wire.create_subscriber_token(**{"reference": "alice", "now": NOW, **more}),
    "guest": lambda **more: wire.create_guest_token(**{"allowed_addresses": [ID], "now": NOW, **more}),
    "invite": lambda **more: wire.create_invite_token(
        **{"address_id": ID, "subscriber_token": Secret(SAT), "now": NOW, **more}
    ),
    "embed": lambda token="c2c_1": wire.create_embed_token(wire.mask(token)),
    "refresh": lambda token="opaque": wire.refresh_subscriber_token(wire.mask(token)),
    "exchange": lambda token=SAT, **more: wire.create_device_token(wire.mask(token), **{**PROVEN, **more}),
    "renewal": lambda token=SAT, **more: wire.refresh_device_token(wire.mask(token), **{**PROVEN, **more}),
    "info": lambda token=SAT: wire.subscriber_info(wire.mask(token)),
    "addresses": lambda id_=ID: wire.subscriber_addresses(id_, origin="https://acme.signalwire.com"),
    "reachable": lambda token=SAT: wire.addresses(wire.mask(token), origin="https://acme.signalwire.com"),
    "address": lambda id_=ID, token=SAT: wire.address(id_, access_token=wire.mask(token)),
}


def body(request):
    return json.loads(request.body)


def refused(operation, **arguments):
    with pytest.raises(InvalidRequest) as caught:
        WIRE[operation](**arguments)
    return [(problem.attribute, problem.code) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("operation", "method", "path", "auth"),
    [
        ("subscriber", "POST", "/api/fabric/subscribers/tokens", wire.Auth.PROJECT),
        ("refresh", "POST", "/api/fabric/subscribers/tokens/refresh", wire.Auth.PROJECT),
        ("guest", "POST", "/api/fabric/guests/tokens", wire.Auth.PROJECT),
        ("invite", "POST", "/api/fabric/subscriber/invites", wire.Auth.SUBSCRIBER),
        ("embed", "POST", "/api/fabric/embeds/tokens", wire.Auth.NONE),
        ("exchange", "POST", "/api/fabric/subscriber/devices/token", wire.Auth.SUBSCRIBER),
        ("renewal", "POST", "/api/fabric/subscriber/devices/refresh", wire.Auth.SUBSCRIBER),
        ("info", "GET", "/api/fabric/subscriber/info", wire.Auth.SUBSCRIBER),
        ("addresses", "GET", f"/api/fabric/resources/subscribers/{ID}/addresses", wire.Auth.PROJECT),
        ("reachable", "GET", "/api/fabric/addresses", wire.Auth.SUBSCRIBER),
        ("address", "GET", f"/api/fabric/addresses/{ID}", wire.Auth.SUBSCRIBER),
    ],
)
def test_each_operation_goes_to_its_place_with_its_own_authentication(operation, method, path, auth):
    """The table of the service's reference, as values; what uses something up may not be repeated blindly. (P38)"""
    request = WIRE[operation]()
    assert (request.method, request.path, request.auth) == (method, path, auth)
    assert request.replayable is (operation not in ("refresh", "exchange", "renewal"))
    assert (request.bearer is not None) is (auth is wire.Auth.SUBSCRIBER)


@pytest.mark.parametrize(("operation", "path"), [("exchange", wire.DEVICE_EXCHANGE), ("renewal", wire.DEVICE_REFRESH)])
def test_a_proof_goes_with_its_token(operation, path):
    """To the place that it is for, and beside what is asked."""
    request = WIRE[operation]()
    assert body(request) == {"dpop_token": "a-proof", "expire_in": 900}
    assert (request.bearer.value, request.path) == (SAT, path)
    assert "a-proof" in [secret.value for secret in request.secrets]


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [(1, 1), (900.0, 900), (timedelta(hours=1), 3600), (LONGEST_LIFE, LONGEST_LIFE.total_seconds())],
)
def test_a_lifetime_is_from_a_second_to_ten_years(lifetime, seconds):
    """It is a number of seconds or a timedelta."""
    assert body(WIRE["exchange"](lifetime=lifetime))["expire_in"] == seconds


@pytest.mark.parametrize("lifetime", [0, 0.5, 1.5, LONGEST_LIFE + timedelta(seconds=1)])
def test_a_lifetime_beyond_its_limits_is_refused(lifetime):
    """So is a part of a second."""
    assert refused("exchange", lifetime=lifetime) == [("lifetime", INVALID)]


@pytest.mark.parametrize(
    "lifetime", ["900", True, None, timedelta(0), timedelta(seconds=-1), timedelta(seconds=1.5), timedelta.max]
)
def test_a_lifetime_is_whole_seconds(lifetime):
    """And some; it is refused beside whatever else is wrong."""
    assert refused("exchange", token="", lifetime=lifetime) == [
        ("token", "missing_required_parameter"),
        ("lifetime", "invalid_parameter"),
    ]


def test_every_field_of_a_subscriber_is_sent():
    """What is documented can be said, and what is not given is not sent."""
    profile = {
        name: f"some {name}"
        for name in ("first_name", "last_name", "display_name", "job_title", "time_zone", "country", "region")
    }
    request = wire.create_subscriber_token(
        "älice@example.com",
        now=NOW,
        expire_at=1_800_003_600,
        application_id=str(ID).upper(),
        password=Secret("hush"),
        fingerprint="f" * 43,
        scope="sat:refresh",
        extra=Secret({"newer": {"than": ["this", None]}, "gone": None}),
        company_name="",
        **profile,
    )
    assert body(request) == {
        "reference": "älice@example.com",
        "expire_at": 1_800_003_600,
        "application_id": str(ID),
        "password": "hush",
        "fingerprint": "f" * 43,
        "scope": "sat:refresh",
        "company_name": "",
        "newer": {"than": ["this", None]},
        **profile,
    }
    assert body(WIRE["subscriber"]()) == {"reference": "alice"}


def test_the_service_s_two_spellings_of_an_end_are_kept():
    """Guests have `expire_at`, invites have `expires_at`."""
    until = timedelta(hours=1)
    guest = WIRE["guest"](expire_at=until, region="us-central", ch="puc")
    assert body(guest) == {
        "allowed_addresses": [str(ID)],
        "expire_at": 1_800_003_600,
        "region": "us-central",
        "ch": "puc",
    }
    assert body(WIRE["invite"](expires_at=until)) == {"address_id": str(ID), "expires_at": 1_800_003_600}


def test_tokens_travel_where_they_belong():
    """A refresh and a click-to-call token in the body, a subscriber's token in the header alone."""
    assert body(WIRE["refresh"](REFRESH)) == {"refresh_token": REFRESH}
    assert body(WIRE["embed"]("c2c_abc")) == {"token": "c2c_abc"}
    assert WIRE["info"](SAT).bearer.value == SAT


@pytest.mark.parametrize("name", WIRE)
def test_a_request_says_what_it_is_of(name):
    """Its operation is the client's method. Only a click-to-call token goes to the embed origin."""
    request = WIRE[name]()
    operation = {
        "subscriber": "create_subscriber_token",
        "refresh": "refresh_subscriber_token",
        "guest": "create_guest_token",
        "invite": "create_invite_token",
        "embed": "create_embed_token",
        "exchange": "create_device_token",
        "renewal": "refresh_device_token",
        "info": "subscriber_info",
        "addresses": "subscriber_addresses",
        "reachable": "addresses",
        "address": "address",
    }[name]
    space = "the space (SIGNALWIRE_SPACE, or space=…)"
    assert (request.operation, request.peer, request.headers) == (operation, "SignalWire", None)
    assert request.for_embeds is (name == "embed")
    assert request.presents_token is (name in ("embed", "refresh"))
    assert request.address_setting == (f"embed_origin, or without it {space}" if name == "embed" else space)


EXTRA = Secret({"pin": "4711", "deep": {"list": ["a", ("b", {"key": "c"})]}, "number": 7, "none": None})


@pytest.mark.parametrize(
    ("request_", "secrets"),
    [
        (WIRE["subscriber"](password=Secret("hush"), extra=EXTRA), ["hush", "4711", "a", "b", "c"]),
        (WIRE["guest"](extra=EXTRA), ["4711", "a", "b", "c"]),
        (WIRE["invite"](extra=EXTRA), [SAT, "4711", "a", "b", "c"]),
        (WIRE["embed"](), ["c2c_1"]),
        (WIRE["refresh"](), ["opaque"]),
        (WIRE["exchange"](), ["a-proof", SAT]),
        (WIRE["renewal"](), ["a-proof", SAT]),
        (WIRE["info"](), [SAT]),
        (WIRE["addresses"](), []),
        (WIRE["reachable"](), [SAT]),
        (WIRE["address"](), [SAT]),
    ],
    ids=lambda value: getattr(value, "operation", ""),
)
def test_a_request_knows_its_secrets(request_, secrets):
    """No error text may repeat them: tokens, proofs, the password, and each string of `extra`."""
    assert [secret.value for secret in request_.secrets if secret.value is not None] == secrets


@pytest.mark.parametrize("name", ["guest", "invite"])
def test_newer_fields_are_sent_with_guests_and_invites_too(name):
    """A field that has an argument of its own isn't a newer one."""
    assert body(WIRE[name](extra=Secret({"newer": 1})))["newer"] == 1
    known = {"guest": ("region", "ch", "expire_at", "allowed_addresses"), "invite": ("address_id", "expires_at")}[name]
    for field in known:
        assert refused(name, extra=Secret({field: "x"})) == [(f"extra.{field}", INVALID)]


def test_a_field_that_does_not_exist_is_not_sent():
    """A misspelled name is an error of the program."""
    with pytest.raises(TypeError, match="create_subscriber_token got an unexpected keyword argument 'nickname'"):
        wire.create_subscriber_token("alice", now=NOW, nickname="Al")


@pytest.mark.parametrize("field", ["expire_at", "application_id", "fingerprint", "scope", "country"])
def test_a_field_of_a_subscriber_is_not_a_newer_one(field):
    """It is an argument, even if its value is None."""
    assert refused("subscriber", extra=Secret({field: "x"}), **{field: None}) == [(f"extra.{field}", INVALID)]


@pytest.mark.parametrize("reference", [42, ID])
def test_a_reference_that_is_a_key_of_a_database_gets_the_advice_to_make_it_a_string(reference):
    """The message names the type, and not the value."""
    with pytest.raises(InvalidRequest) as caught:
        wire.create_subscriber_token(reference, now=NOW)
    assert str(caught.value) == (
        "create_subscriber_token: invalid arguments; nothing was sent: "
        f"reference must be a string, not {type(reference).__name__}: pass str(…) (invalid_parameter)"
    )


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        (1_800_000_001, 1_800_000_001),
        (1_800_000_099.9, 1_800_000_099),
        (timedelta(minutes=1), 1_800_000_060),
        (datetime.fromtimestamp(1_800_000_100, UTC), 1_800_000_100),
        (datetime.fromtimestamp(1_800_000_100, timezone(timedelta(hours=5, minutes=30))), 1_800_000_100),
    ],
)
def test_a_time_is_given_in_any_of_four_ways(when, seconds):
    """Unix seconds, whole or not, an aware datetime, or how long from now."""
    assert body(WIRE["subscriber"](expire_at=when))["expire_at"] == seconds


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (datetime(2030, 1, 1), "must have a time zone"),  # noqa: DTZ001 - naive on purpose
        ("tomorrow", "must be unix seconds"),
        (True, "must be unix seconds"),
        (float("nan"), "must be unix seconds"),
        (float("inf"), "must be unix seconds"),
        (float("-inf"), "must be unix seconds"),
        (253402300800, "is beyond the year 9999"),
        (1_800_003_600_000, "is beyond the year 9999"),
        (timedelta(0), "must be in the future"),
        (NOW, "must be in the future"),
    ],
)
def test_a_wrong_time_is_explained(when, message):
    """Each way to be wrong has its own message."""
    with pytest.raises(InvalidRequest, match=rf"expire_at {message}") as caught:
        WIRE["subscriber"](expire_at=when)
    assert len(caught.value.problems) == 1


def test_a_time_may_be_any_whole_second_after_now():
    """The next one is the first, and the last is in the year 9999."""
    assert body(WIRE["subscriber"](now=1_800_000_000, expire_at=1_800_000_001))["expire_at"] == 1_800_000_001
    assert body(WIRE["subscriber"](expire_at=253402300799))["expire_at"] == 253402300799
    assert refused("subscriber", now=1_800_000_000, expire_at=1_800_000_000) == [("expire_at", INVALID)]


@pytest.mark.parametrize(
    "when",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001 - naive on purpose
        datetime(1999, 1, 1, tzinfo=UTC),
        timedelta(0),
        timedelta(seconds=-5),
        timedelta(milliseconds=100),
        NOW,
        0,
        -1,
        1_799_999_999,
        1_800_003_600_000,
        10**400,
        True,
        float("nan"),
        float("inf"),
        float("-inf"),
        "1800003600",
        "tomorrow",
        [],
    ],
)
@pytest.mark.parametrize(
    ("operation", "name"), [("subscriber", "expire_at"), ("guest", "expire_at"), ("invite", "expires_at")]
)
def test_a_time_that_is_none_is_refused(operation, name, when):
    """Naive, past, in milliseconds, or not a time at all."""
    assert refused(operation, **{name: when}) == [(name, "invalid_parameter")]


MISSING, INVALID = "missing_required_parameter", "invalid_parameter"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"reference": ""}, [("reference", MISSING)]),
        ({"reference": "  \t"}, [("reference", MISSING)]),
        ({"reference": None}, [("reference", MISSING)]),
        ({"reference": 7}, [("reference", INVALID)]),
        ({"reference": b"alice"}, [("reference", INVALID)]),
        ({"reference": "\ud800"}, [("reference", INVALID)]),
        ({"application_id": "x"}, [("application_id", INVALID)]),
        ({"application_id": ""}, [("application_id", MISSING)]),
        ({"application_id": f"{{{ID}}}"}, [("application_id", INVALID)]),
        ({"application_id": ID.hex}, [("application_id", INVALID)]),
        ({"application_id": 7}, [("application_id", INVALID)]),
        ({"password": Secret(7)}, [("password", INVALID)]),
        ({"password": Secret("\udfff")}, [("password", INVALID)]),
        ({"first_name": 7}, [("first_name", INVALID)]),
        ({"fingerprint": "f" * 42}, [("fingerprint", INVALID)]),
        ({"fingerprint": "f" * 44}, [("fingerprint", INVALID)]),
        ({"fingerprint": "f" * 42 + "="}, [("fingerprint", INVALID)]),
        ({"fingerprint": 7}, [("fingerprint", INVALID)]),
        ({"scope": "everything"}, [("scope", INVALID)]),
        ({"scope": ""}, [("scope", INVALID)]),
        ({"scope": ["sat:refresh"]}, [("scope", INVALID)]),
        ({"extra": Secret([1])}, [("extra", INVALID)]),
        ({"extra": Secret(7)}, [("extra", INVALID)]),
        ({"extra": Secret("ab")}, [("extra", INVALID)]),
        ({"extra": Secret(["ab"])}, [("extra", INVALID)]),
        ({"extra": Secret({"a": 1, 2: 3})}, [("extra", INVALID)]),
        ({"extra": Secret({1: 2})}, [("extra", INVALID)]),
        ({"extra": Secret({"a": {1, 2}})}, [("extra", INVALID)]),
        ({"extra": Secret({"a": float("nan")})}, [("extra", INVALID)]),
        ({"extra": Secret({"a": "\ud800"})}, [("extra", INVALID)]),
        (
            {"extra": Secret({"reference": "bob", "password": "x"})},
            [("extra.reference", INVALID), ("extra.password", INVALID)],
        ),
        (
            {"reference": "", "expire_at": True, "scope": "x", "fingerprint": "x", "country": 1},
            [
                ("expire_at", INVALID),
                ("reference", MISSING),
                ("scope", INVALID),
                ("fingerprint", INVALID),
                ("country", INVALID),
            ],
        ),
    ],
)
def test_a_subscriber_s_arguments_are_checked_all_at_once(arguments, expected):
    """Each problem is named in the service's vocabulary, and none hides another."""
    assert refused("subscriber", **arguments) == expected


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (None, [("allowed_addresses", MISSING)]),
        ([], [("allowed_addresses", MISSING)]),
        (str(ID), [("allowed_addresses", INVALID)]),
        (b"x", [("allowed_addresses", INVALID)]),
        ({ID: 1}, [("allowed_addresses", INVALID)]),
        (7, [("allowed_addresses", INVALID)]),
        ([ID, "x", None], [("allowed_addresses[1]", INVALID), ("allowed_addresses[2]", MISSING)]),
        ([ID, str(ID).upper()], [("allowed_addresses", INVALID)]),
        ([uuid4() for _ in range(11)], [("allowed_addresses", "allowed_address_limit_exceeded")]),
    ],
)
def test_a_guest_s_addresses_are_checked(addresses, expected):
    """One to ten different UUIDs, as any collection but a string."""
    assert refused("guest", allowed_addresses=addresses) == expected


def test_a_guest_may_have_ten_addresses():
    """SignalWire allows no more."""
    ids = [uuid4() for _ in range(10)]
    assert body(WIRE["guest"](allowed_addresses=ids))["allowed_addresses"] == [str(one) for one in ids]


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (None, "must be a list of UUIDs"),
        (str(ID), "must be a list of UUIDs"),
        (b"x", "must be a list of UUIDs"),
        ({ID: 1}, "must be a list of UUIDs"),
        ([], "must have at least one address"),
        ([ID, ID], "must not name an address twice"),
    ],
)
def test_wrong_addresses_are_explained(addresses, message):
    """Each way to be wrong has its own message."""
    with pytest.raises(InvalidRequest, match=rf"allowed_addresses {message} \("):
        WIRE["guest"](allowed_addresses=addresses)


def test_of_too_many_addresses_the_first_eleven_are_checked():
    """More of them say nothing new."""
    found = refused("guest", allowed_addresses=["x"] * 20)
    assert found[0] == ("allowed_addresses", "allowed_address_limit_exceeded")
    assert found[1:] == [(f"allowed_addresses[{place}]", INVALID) for place in range(11)]


def test_addresses_come_from_any_collection():
    """A generator that never ends is refused, not waited for."""
    assert body(WIRE["guest"](allowed_addresses={ID}))["allowed_addresses"] == [str(ID)]
    endless = iter(uuid4, None)
    assert refused("guest", allowed_addresses=endless) == [("allowed_addresses", "allowed_address_limit_exceeded")]


@pytest.mark.parametrize(
    ("operation", "token", "code"),
    [
        ("refresh", None, MISSING),
        ("refresh", "", MISSING),
        ("refresh", 7, INVALID),
        ("refresh", SAT, INVALID),
        ("refresh", Token(value=SAT, issued_at=START, expires_at=START), INVALID),
        ("embed", SAT, INVALID),
        ("embed", REFRESH, INVALID),
        ("embed", "", MISSING),
        ("info", REFRESH, INVALID),
        ("info", "a\r\nX-Evil: 1", INVALID),
        ("info", "a b", INVALID),
        ("info", "é", INVALID),
        ("info", SAT.rpartition(".")[0], INVALID),
        ("refresh", REFRESH.partition(".")[0], INVALID),
        ("reachable", REFRESH, INVALID),
        ("reachable", None, MISSING),
        ("address", REFRESH, INVALID),
        ("address", "", MISSING),
    ],
)
def test_a_token_that_cannot_be_right_is_refused(operation, token, code):
    """Its header names another kind or more parts, or it would split the header that it goes into."""
    names = {"refresh": "refresh_token", "embed": "token", "info": "subscriber_token"}
    name = names.get(operation, "access_token")
    assert refused(operation, token=token) == [(name, code)]


@pytest.mark.parametrize("name", ["region", "ch"])
def test_a_guest_s_texts_are_checked(name):
    """None isn't sent."""
    assert refused("guest", **{name: 7}) == [(name, INVALID)]
    assert body(WIRE["guest"](**{name: None})) == {"allowed_addresses": [str(ID)]}


@pytest.mark.parametrize(
    ("name", "arguments", "operation"),
    [
        ("subscriber", {"reference": ""}, "create_subscriber_token"),
        ("refresh", {"token": ""}, "refresh_subscriber_token"),
        ("guest", {"allowed_addresses": ()}, "create_guest_token"),
        ("invite", {"address_id": ""}, "create_invite_token"),
        ("embed", {"token": ""}, "create_embed_token"),
        ("exchange", {"token": ""}, "create_device_token"),
        ("renewal", {"token": ""}, "refresh_device_token"),
        ("info", {"token": ""}, "subscriber_info"),
        ("addresses", {"id_": ""}, "subscriber_addresses"),
        ("reachable", {"token": ""}, "addresses"),
        ("address", {"id_": ""}, "address"),
    ],
)
def test_an_error_about_arguments_names_the_operation(name, arguments, operation):
    """It is the client's method."""
    with pytest.raises(InvalidRequest) as caught:
        WIRE[name](**arguments)
    assert caught.value.operation == operation


def test_an_invitation_names_all_that_is_wrong_with_it():
    """The address, the token and the time, at once."""
    assert refused("invite", address_id="", subscriber_token=Secret(REFRESH), expires_at=0) == [
        ("expires_at", INVALID),
        ("subscriber_token", INVALID),
        ("address_id", MISSING),
    ]


@pytest.mark.parametrize(("operation", "name"), [("addresses", "subscriber_id"), ("address", "address_id")])
def test_an_id_in_a_path_must_be_one(operation, name):
    """A path is never built from what could change its meaning."""
    assert refused(operation, id_="../../evil") == [(name, INVALID)]
    assert refused(operation, id_=None) == [(name, MISSING)]


def test_a_lookup_of_an_address_names_all_that_is_wrong_with_it():
    """The id and the token, at once."""
    assert refused("address", id_="", token="") == [("address_id", MISSING), ("access_token", MISSING)]


@pytest.mark.parametrize("name", ["info", "reachable", "address"])
def test_a_lookup_carries_the_access_token_that_was_given(name):
    """It has no body."""
    token = Token(value=SAT, issued_at=START, expires_at=START)
    request = WIRE[name](token=token)
    assert request.bearer is token
    assert request.body is None


@pytest.mark.parametrize(
    ("value", "advice"), [(7, True), (ID, True), ([], False), (b"a", False), (1.5, False)], ids=repr
)
def test_only_a_key_of_a_database_gets_the_advice_to_make_it_a_string(value, advice):
    """The text of any other value would hardly be what is meant."""
    with pytest.raises(InvalidRequest) as caught:
        wire.create_subscriber_token(value, now=NOW)
    message = f"must be a string, not {type(value).__name__}" + (": pass str(…)" if advice else "")
    assert [problem.message for problem in caught.value.problems] == [message]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "must not be empty"),
        ("a b", "must be visible ASCII characters"),
        (" ", "must be visible ASCII characters"),
        ("\x7f", "must be visible ASCII characters"),
        (SAT.rpartition(".")[0], "must be a whole token"),
        (REFRESH, r"must be an access token \(SAT\), but its header says Refresh"),
        (None, "must be a token, as a string or a Token"),
        (7, "must be a token, as a string or a Token"),
    ],
)
def test_a_wrong_token_is_explained(token, message):
    """The message doesn't show it."""
    with pytest.raises(InvalidRequest, match=f"subscriber_token {message}"):
        WIRE["info"](token)


@pytest.mark.parametrize(
    ("operation", "token", "wanted"), [("refresh", SAT, "a refresh token"), ("embed", SAT, "a click-to-call token")]
)
def test_a_token_of_another_kind_is_named(operation, token, wanted):
    """So is the kind that its header has."""
    with pytest.raises(InvalidRequest, match=f"must be {wanted}, but its header says SAT"):
        WIRE[operation](token)


def test_any_visible_ascii_can_be_a_token():
    """Its form isn't known, if its header can't be read."""
    token = "".join(map(chr, range(0x21, 0x7F)))
    assert WIRE["info"](token).bearer.value == token


def test_a_body_is_short_json_in_utf_8():
    """It has no spaces, and letters of any script stand in it as they are."""
    request = wire.create_subscriber_token("älice", now=NOW, extra=Secret({"list": [1, None]}))
    assert request.body == '{"reference":"älice","list":[1,null]}'.encode()


def test_fields_that_are_too_deep_for_json_are_refused():
    """The encoder gives up."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert refused("subscriber", extra=Secret({"deep": deep})) == [("extra", INVALID)]


def test_a_refusal_shows_no_secret():
    """An error about a secret does not quote it."""
    with pytest.raises(InvalidRequest) as caught:
        wire.create_subscriber_token("", now=NOW, password=Secret("\ud800hush"))
    assert "hush" not in str(caught.value) + repr(caught.value)
