"""What a success holds: tokens with the end that they are taken to have, addresses, subscribers."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import attrs
import jwt
import pytest

from signalwire_tokens import (
    Address,
    Lifetimes,
    SatClaims,
    SubscriberInfo,
    Token,
    TokenPair,
    UnexpectedResponse,
    wire,
)
from signalwire_tokens.models import LONGEST_LIFE
from support.wire_samples import (
    ADDRESS,
    ADDRESSES,
    EMBED,
    EXCHANGE,
    FETCH,
    GUEST,
    ID,
    INFO,
    INVITE,
    ISSUE,
    ORIGIN,
    PAIR,
    REACHABLE,
    REFRESH,
    RENEWAL,
    ROTATE,
    SAT,
    SENT,
    http_date,
    lives,
    read,
)


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
        ([PAIR], {}, "with JSON that isn't an object"),
        ("text", {}, "with JSON that isn't an object"),
        ({**PAIR, "token": ""}, {}, "without a usable token"),
        ({**PAIR, "token": None}, {}, "without a usable token"),
        ({**PAIR, "token": 7}, {}, "without a usable token"),
        ({**PAIR, "token": "a\nb"}, {}, "without a usable token"),
        ({**PAIR, "token": "a b"}, {}, "without a usable token"),
        ({**PAIR, "token": "é"}, {}, "without a usable token"),
        ({"token": SAT}, {}, "without a usable refresh_token"),
        ({"token": REFRESH, "refresh_token": SAT}, {}, "with a refresh token in place of an access token"),
        ({"token": REFRESH, "refresh_token": "unknown"}, {}, "with a refresh token in place of an access token"),
        ({"token": "unknown", "refresh_token": SAT}, {}, "with an access token in place of a refresh token"),
        ({"token": SAT, "refresh_token": SAT}, {}, "with an access token in place of a refresh token"),
        (
            {"token": "unknown", "refresh_token": "unknown"},
            {},
            "with the same token as access token and as refresh token",
        ),
        ({**PAIR, "token": SAT.rpartition(".")[0]}, {}, "with a token that was cut off"),
        ({**PAIR, "refresh_token": REFRESH.partition(".")[0]}, {}, "with a refresh_token that was cut off"),
    ],
)
def test_a_success_that_is_none_says_what_is_wrong_with_it(body, headers, reason):
    """An answer is taken whole and sound, or not at all; what it held is not repeated."""
    error = read(ISSUE, body, **headers)
    assert isinstance(error, UnexpectedResponse)
    assert reason in str(error)
    assert SAT not in str(error)


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (INVITE, {"token": REFRESH}),
        (EMBED, {"token": REFRESH}),
        (EXCHANGE, {"token": REFRESH}),
        (RENEWAL, {"token": REFRESH}),
        (FETCH, {"token": REFRESH, "expiry_at": (SENT + 600) * 1000}),
        (ROTATE, {"token": REFRESH, "refresh_token": SAT}),
        (GUEST, {"token": REFRESH, "refresh_token": SAT}),
    ],
    ids=lambda value: getattr(value, "operation", ""),
)
def test_a_refresh_token_is_never_taken_for_an_access_token(asked, body):
    """Whichever operation answers with it."""
    error = read(asked, body)
    assert isinstance(error, UnexpectedResponse)
    assert "with a refresh token in place of an access token" in str(error)
    assert REFRESH not in str(error)


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("text/html", "text/html"),
        (" Text/HTML ; charset=x", "text/html"),
        ("application/x.y+z-1", "application/x.y+z-1"),
        (f"{'a' * 40}/{'b' * 40}", f"{'a' * 40}/{'b' * 40}"),
        (f"{'a' * 41}/b", "something else"),
        (f"a/{'b' * 41}", "something else"),
        ("text", "something else"),
        ("text/json", "something else"),
        ("application/problem+JSON", "something else"),
        ("text/html, text/html", "something else"),
        ("text/é", "something else"),
    ],
)
def test_a_body_that_is_not_json_is_named_by_its_type(content_type, shown):
    """The type is shown if it is short and isn't that of JSON."""
    error = read(ISSUE, b"<html>", 200, Content_Type=content_type)
    assert error.message == f"SignalWire answered 200, with {shown} where JSON was expected"


@pytest.mark.parametrize("encoding", ["gzip", " GZIP ", "identity, gzip", "none"])
def test_a_compressed_body_is_not_read(encoding):
    """The request forbade it, and it could become very large."""
    error = read(ISSUE, PAIR, Content_Encoding=encoding)
    assert error.message == "SignalWire answered 201, with a compressed body, which the request forbade"


@pytest.mark.parametrize("encoding", ["", " ", "identity", " Identity "])
def test_a_body_that_is_declared_not_to_be_compressed_is_read(encoding):
    """Some servers send the header all the same."""
    assert isinstance(read(ISSUE, PAIR, Content_Encoding=encoding), TokenPair)


def test_json_that_is_too_deep_is_no_json():
    """The reader gives up, and so does the client."""
    assert "something else where JSON" in read(ISSUE, b"[" * 200_000).message


@pytest.mark.parametrize("kind", [None, "Other", 7])
def test_tokens_whose_kind_is_unknown_are_taken(kind):
    """A header need not name a kind that this version knows."""
    header = jwt.utils.base64url_encode(json.dumps({"alg": "dir", "typ": kind}).encode()).decode()
    pair = read(ISSUE, {"token": f"{header}..a.b.c", "refresh_token": f"{header}..d.e.f"})
    assert (pair.access_token.kind, pair.refresh_token.kind) == (None, None)


def test_a_declared_charset_cannot_garble_json():
    """JSON is always in UTF-8."""
    assert isinstance(read(ISSUE, PAIR, Content_Type="application/json; charset=utf-16"), TokenPair)
    error = read(ISSUE, json.dumps(PAIR).encode("utf-16"), Content_Type="text/plain")
    assert error.message == "SignalWire answered 201, with text/plain where JSON was expected"


def test_a_byte_order_mark_is_skipped():
    """Some frameworks begin their JSON with one."""
    assert isinstance(read(ISSUE, b"\xef\xbb\xbf" + json.dumps(PAIR).encode()), TokenPair)


def test_a_pair_lives_from_when_it_was_asked_for():
    """Two hours, and two hours and five minutes, from the sending; what its header says is read along."""
    pair = read(ISSUE, PAIR)
    assert pair.access_token.issued_at == datetime.fromtimestamp(SENT, UTC)
    assert lives(pair.access_token) == 7200
    assert lives(pair.refresh_token) == 7500
    assert (pair.access_token.kind, pair.refresh_token.kind, pair.subscriber_id) == ("SAT", "Refresh", UUID(ID))


@pytest.mark.parametrize("id_", [None, "", "no", 7, ID + "0"])
def test_a_pair_is_good_without_a_readable_subscriber(id_):
    """The tokens are what was asked for."""
    assert read(ISSUE, {**PAIR, "subscriber_id": id_}).subscriber_id is None


def test_other_lifetimes_can_be_set():
    """A client set to other lifetimes counts with those."""
    short = Lifetimes(access=timedelta(seconds=4), refresh=timedelta(seconds=5), embed=timedelta(seconds=3))
    pair = read(ISSUE, PAIR, lifetimes=short)
    assert (lives(pair.access_token), lives(pair.refresh_token)) == (4, 5)
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
    assert lives(pair.access_token) == seconds
    assert lives(pair.refresh_token) == seconds + 300


def test_an_unbound_token_lives_a_minute():
    """`sat:refresh` without a fingerprint; with one, it is an ordinary token."""
    unbound = wire.create_subscriber_token("alice", now=SENT, scope="sat:refresh")
    assert lives(read(unbound, PAIR).access_token) == 60
    longer = wire.create_subscriber_token("alice", now=SENT, scope="sat:refresh", expire_at=timedelta(hours=1))
    assert lives(read(longer, PAIR).access_token) == 60
    bound = wire.create_subscriber_token("alice", now=SENT, scope="sat:refresh", fingerprint="f" * 43)
    assert lives(read(bound, PAIR).access_token) == 7200


def refresh_of(seconds):
    """Describe a refresh with a refresh token that lives for so long."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return wire.refresh_subscriber_token(
        Token(value=REFRESH, issued_at=start, expires_at=start + timedelta(seconds=seconds))
    )


@pytest.mark.parametrize("seconds", [361, 900, 7500, 86400])
def test_a_refreshed_pair_has_the_standard_lifetimes(seconds):
    """The lifetime of the replaced pair doesn't matter."""
    pair = read(refresh_of(seconds), PAIR)
    assert (lives(pair.access_token), lives(pair.refresh_token)) == (7200, 7500)


def test_a_pair_refreshed_by_a_string_has_the_standard_lifetimes():
    """It isn't known how long a string lived."""
    pair = read(ROTATE, PAIR)
    assert (lives(pair.access_token), lives(pair.refresh_token)) == (7200, 7500)


@pytest.mark.parametrize("seconds", [0, 30, 330, 360])
def test_a_pair_that_replaces_an_unbound_one_lives_for_a_minute_again(seconds):
    """Both may have the scope `sat:refresh` without a fingerprint."""
    pair = read(refresh_of(seconds), PAIR)
    assert (lives(pair.access_token), lives(pair.refresh_token)) == (60, 360)


@pytest.mark.parametrize(("seconds", "access", "refresh"), [(15, 10, 15), (16, 40, 45)])
def test_which_pairs_are_short_lived_is_said_by_the_settings(seconds, access, refresh):
    """A space's lifetimes may differ."""
    lifetimes = Lifetimes(access=timedelta(seconds=40), refresh=timedelta(seconds=45), unbound=timedelta(seconds=10))
    pair = read(refresh_of(seconds), PAIR, lifetimes=lifetimes)
    assert (lives(pair.access_token), lives(pair.refresh_token)) == (access, refresh)


def test_the_end_of_a_signed_token_still_comes_first():
    """A refreshed token may say that it expires sooner."""
    soon = jwt.encode({"exp": int(SENT) + 600}, "a key that is long enough to sign with it")
    assert lives(read(refresh_of(7500), {**PAIR, "token": soon}).access_token) == pytest.approx(600, abs=1)


@pytest.mark.parametrize(
    ("says", "headers", "seconds"),
    [
        ({}, {}, 900),
        ({"expires_in": 600}, {}, 600),
        ({"expires_in": 3600}, {}, 3600),
        ({"expires_in": 600, "expires_at": SENT + 700}, {}, 600),
        ({"expires_in": 600, "expires_at": int(SENT) + 600}, {"Date": http_date(SENT)}, 600),
        ({"expires_in": 600, "expires_at": SENT + 300}, {"Date": http_date(SENT)}, 301.25),
        ({"expires_at": SENT + 600}, {}, 600),
        ({"expires_at": SENT + 600}, {"Date": http_date(SENT)}, 599.25),
        ({"expires_at": SENT + 87000}, {"Date": http_date(SENT + 86400)}, 599.25),
        ({"expires_at": SENT + 600}, {"Date": http_date(SENT - 86400)}, 86999.25),
        ({"expires_in": "600"}, {}, 900),
        ({"expires_in": True, "expires_at": True}, {}, 900),
        ({"expires_in": -1, "expires_at": -1}, {}, 900),
        ({"expires_in": None, "expires_at": None}, {}, 900),
        ({"expires_in": 1e300, "expires_at": 1e300}, {}, 900),
        ({"expires_in": 253402300800, "expires_at": 253402300800}, {}, 900),
        ({"expires_in": 253402300799}, {}, LONGEST_LIFE.total_seconds()),
        ({"expires_in": 1e11}, {}, LONGEST_LIFE.total_seconds()),
        ({"expires_in": 0.5}, {}, 0.5),
        ({"expires_at": SENT + 0.5}, {}, 0.5),
        ({"expires_in": -0.5, "expires_at": -0.5}, {}, 900),
    ],
)
@pytest.mark.parametrize("asked", [EXCHANGE, RENEWAL], ids=lambda asked: asked.operation)
def test_a_bound_token_lives_as_its_answer_says_or_as_was_asked(asked, says, headers, seconds):
    """By the service's clock, where the answer tells a time of day."""
    pair = read(asked, {"token": SAT, **says}, **headers)
    assert lives(pair.access_token) == pytest.approx(seconds)
    assert pair.refresh_token is pair.access_token
    assert pair.access_token.kind == "SAT"


@pytest.mark.parametrize(
    "answer",
    [
        {"token": SAT, "expires_in": 0},
        {"token": SAT, "expires_at": SENT},
        {"token": SAT, "expires_in": 900, "expires_at": 1},
        {"token": REFRESH},
        {"token": ""},
    ],
)
@pytest.mark.parametrize("asked", [EXCHANGE, RENEWAL], ids=lambda asked: asked.operation)
def test_a_bound_token_that_has_ended_is_none(asked, answer):
    """The one at hand is better; and so it is where a token of another kind comes."""
    assert isinstance(read(asked, answer), UnexpectedResponse)


@pytest.mark.parametrize(
    ("ends", "headers", "seconds"),
    [
        (SENT + 600, {}, 600),
        (SENT + 600, {"Date": http_date(SENT)}, 599.25),
        (SENT - 600, {}, 0),
        (SENT + 600 - 86400, {"Date": http_date(SENT - 86400)}, 599.25),
        (SENT + 600 + 86400, {"Date": "today"}, 87000),
        (253402300000, {"Date": http_date(0)}, LONGEST_LIFE.total_seconds()),
    ],
)
def test_what_a_backend_gives_ends_by_the_backend_s_clock(ends, headers, seconds):
    """Or by this machine's, where the backend does not tell the time."""
    pair = read(FETCH, {"token": SAT, "expiry_at": ends * 1000}, **headers)
    assert lives(pair.access_token) == pytest.approx(seconds)
    assert pair.refresh_token is pair.access_token


@pytest.mark.parametrize(
    ("claims", "headers", "seconds"),
    [
        ({"exp": 2000, "iat": 1000}, {}, 1000),
        ({"exp": 99999, "iat": 1000}, {}, 7200),
        ({"exp": 1000, "iat": 2000}, {}, 0),
        ({"exp": 1000, "iat": 0}, {}, 1000),
        ({"exp": 0}, {}, 0),
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


def test_one_address_is_read():
    """It is like an item of a list. Only the id is needed."""
    fields = {"id": ID, "name": "lobby", "locked": False}
    assert read(ADDRESS, fields, 200) == Address(id=UUID(ID), name="lobby", locked=False)
    for body in ({"name": "lobby"}, [fields], b"null"):
        assert isinstance(read(ADDRESS, body, 200), UnexpectedResponse)


def test_links_of_a_holder_s_list_start_from_its_own_path():
    """One to another origin is an error."""
    value = {"data": [{"id": ID}], "links": {"next": "?page_number=1"}}
    assert read(REACHABLE, [value], 200).next == "/api/fabric/addresses?page_number=1"
    value["links"]["next"] = "https://evil.example/api/fabric/addresses"
    assert isinstance(read(REACHABLE, value, 200), UnexpectedResponse)


@pytest.mark.parametrize("body", [[], [{"data": []}, {"data": []}], [[{"data": []}]], 7, b"null"])
def test_a_page_is_one_object(body):
    """An array with anything but one object in it isn't a page."""
    assert "with JSON that isn't an object" in read(ADDRESSES, body, 200).message


@pytest.mark.parametrize("links", [None, [], "x", {}, {"next": None}])
def test_a_page_without_a_link_is_the_last_one(links):
    """Whatever is there in place of the links."""
    assert read(ADDRESSES, {"data": [{"id": ID}], "links": links}, 200).next is None


def test_a_page_is_made_by_name():
    """So a field can be added between two others."""
    with pytest.raises(TypeError):
        wire.Page((), None)


def test_a_page_needs_nothing_but_its_addresses():
    """Links and whatever else is there may be missing."""
    assert read(ADDRESSES, {"data": []}, 200) == wire.Page(addresses=(), next=None)


def test_every_field_of_an_address_is_read():
    """Each has the name that SignalWire gives it."""
    fields = {
        "id": ID,
        "name": "lobby",
        "display_name": "Lobby",
        "type": "room",
        "cover_url": "https://cover",
        "preview_url": "https://preview",
        "locked": False,
        "channels": {"audio": "/a", "video": "/v"},
        "created_at": "2026-01-02T03:04:05+01:00",
    }
    (address,) = page([fields]).addresses
    parsed = {"id": UUID(ID), "created_at": datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)}
    assert attrs.asdict(address) == fields | parsed


@pytest.mark.parametrize("odd", [7, [], True, {"audio": None}, None])
def test_an_odd_field_of_an_address_is_left_out(odd):
    """Only the id is needed."""
    names = ("name", "display_name", "type", "cover_url", "preview_url", "channels")
    (address,) = page([{"id": ID, "locked": "no", **dict.fromkeys(names, odd)}]).addresses
    assert address == Address(id=UUID(ID))


def test_the_order_of_addresses_is_that_of_the_answer():
    """SignalWire sorts them."""
    ids = [str(UUID(int=number)) for number in (3, 1, 2)]
    assert [str(address.id) for address in page([{"id": one} for one in ids]).addresses] == ids


@pytest.mark.parametrize(
    ("following", "path"),
    [
        (f"{ORIGIN}/api/x?page=2", "/api/x?page=2"),
        ("/api/x?page=2", "/api/x?page=2"),
        ("https://ACME.signalwire.com/api/x", "/api/x"),
        ("https://acme.signalwire.com:443/api/x", "/api/x"),
        ("?page_number=1", f"/api/fabric/resources/subscribers/{ID}/addresses?page_number=1"),
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
        "mailto:alice@example.com",
        "javascript:1",
        "/a b",
        7,
        ["/x"],
    ],
)
def test_the_next_page_is_never_elsewhere(following):
    """The credentials would travel with the request."""
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
        ("2026-01-02T03:04:05.5+05:30", datetime(2026, 1, 1, 21, 34, 5, 500000, tzinfo=UTC)),
        ("", None),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (0.5, datetime(1970, 1, 1, microsecond=500000, tzinfo=UTC)),
        (253402300799, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (253402300800, None),
        (-1, None),
        (-0.5, None),
        (1e300, None),
        (True, None),
        (None, None),
    ],
)
def test_a_time_is_read_where_it_is_one(value, read_as):
    """Unix seconds or ISO 8601, and nothing where it is neither."""
    assert page([{"id": ID, "created_at": value}]).addresses[0].created_at == read_as


def test_every_text_of_a_subscriber_is_read():
    """Each has the name that SignalWire gives it."""
    names = ["email", "first_name", "last_name", "display_name", "job_title", "time_zone", "country", "region"]
    fields = {name: f"some {name}" for name in [*names, "company_name", "push_notification_key"]}
    info = read(INFO, {"id": ID, **fields}, 200)
    assert {name: getattr(info, name) for name in fields} == fields


@pytest.mark.parametrize("odd", [7, [], "", None, False])
def test_an_odd_field_of_a_subscriber_is_left_out(odd):
    """Only the id is needed."""
    names = ("app_settings", "sat_claims", "fabric_addresses") if not odd else ("app_settings", "sat_claims")
    assert read(INFO, {"id": ID, **dict.fromkeys(names, odd)}, 200) == SubscriberInfo(id=UUID(ID))


@pytest.mark.parametrize("odd", [7, "x", {"id": ID}, [7], [{}]])
def test_a_subscriber_s_addresses_are_a_list(odd):
    """Each item of it has an id."""
    assert isinstance(read(INFO, {"id": ID, "fabric_addresses": odd}, 200), UnexpectedResponse)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, SatClaims()),
        ({"scope": ["a", 7]}, SatClaims(scope=("a", "7"))),
        ({"scope": {"a": 1}, "cnf": {}, "expires_at": "x"}, SatClaims()),
        ({"cnf": {"jkt": 7}}, SatClaims()),
        ({"cnf": {"jkt": "thumb"}}, SatClaims(fingerprint="thumb")),
        ({"expires_at": 0}, SatClaims(expires_at=datetime(1970, 1, 1, tzinfo=UTC))),
    ],
)
def test_the_claims_of_a_token_are_read_one_by_one(claims, expected):
    """One that is odd doesn't hide another."""
    assert read(INFO, {"id": ID, "sat_claims": claims}, 200).sat_claims == expected


@pytest.mark.parametrize("id_", [None, "", 7, "no", ID + "0", f"{{{ID}}}", ID.replace("-", "")])
def test_a_subscriber_has_an_id(id_):
    """It has the usual form of a UUID."""
    error = read(INFO, {"id": id_}, 200)
    assert error.message == "SignalWire answered 200, without a usable id"


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
    without_tracebacks = read(INFO, {"id": ID, "sat_claims": {"scope": "x", "cnf": 7}}, 200)
    assert without_tracebacks.fabric_addresses == ()
    assert without_tracebacks.sat_claims.scope == ()
    assert without_tracebacks.sat_claims.fingerprint is None
    assert read(INFO, {"id": ID}, 200).sat_claims is None
    assert isinstance(read(INFO, {}, 200), UnexpectedResponse)
