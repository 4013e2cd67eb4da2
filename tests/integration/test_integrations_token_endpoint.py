"""The backend that browsers ask for their tokens: the same on each framework, over real sockets."""

import asyncio
import json
import logging
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from signalwire_tokens import (
    ConfigurationError,
    Lifetimes,
    ServerError,
    SessionClosed,
    SessionFleet,
    SessionState,
    SqliteStore,
    StoreError,
    TokenUnavailable,
    Unauthorized,
    UnexpectedResponse,
)
from signalwire_tokens.emulator import Delay, Emulator, Status
from signalwire_tokens.integrations import aiohttp_server, asgi
from signalwire_tokens.integrations.token_endpoint import level_for
from support.token_endpoints import SERVERS, who
from support.waiting import HANG, eventually

ALICE = "alice@example.com"
FRIEND, STRANGER = "https://friend.example", "https://evil.example"
THUMBPRINT = "A" * 43


@pytest.fixture
async def emulator():
    """Serve in real time: servers know no other."""
    async with Emulator() as emulator:
        yield emulator


@pytest.fixture
async def client(emulator):
    async with emulator.client(retries=0, timeout=HANG) as client:
        yield client


@pytest.fixture(params=SERVERS, ids=str)
def serve(request):
    return SERVERS[request.param]


@pytest.fixture
def open_fleet(client):
    return lambda: SessionFleet(client)


@pytest.fixture
async def page(serve, open_fleet):
    async with serve(open_fleet, allowed_origins=[FRIEND], allow_device_tokens=True) as page:
        yield page


async def test_whoever_is_signed_in_is_given_a_live_token(emulator, page):
    """And when it ends, in milliseconds; nothing else."""
    before = time.time()
    told = await page.ask()
    assert told.status == 200
    assert told.json.keys() == {"token", "expiry_at"}
    assert emulator.accepts(told.json["token"])
    assert before + 7199 < told.json["expiry_at"] / 1000 < time.time() + 7201
    assert isinstance(told.json["expiry_at"], int)
    assert told.headers["Cache-Control"] == "no-store"
    assert told.headers["Content-Type"] == "application/json"


async def test_everybody_gets_their_own_token_and_the_same_again(client, page):
    """One session for each, whoever asks how often."""
    tokens = [(await page.ask(who=name)).json["token"] for name in ("alice", "bob", "alice")]
    assert tokens[0] == tokens[2]
    infos = [await client.subscriber_info(token) for token in tokens]
    assert [info.email for info in infos] == ["alice", "bob", "alice"]


async def test_whoever_is_not_signed_in_is_told_so(emulator, page):
    """And the service is not asked."""
    told = await page.ask(who=None)
    assert told.status == 401
    assert told.headers["Content-Type"] == "application/problem+json"
    assert told.json["status"] == 401
    assert emulator.requests == []


async def test_an_application_may_take_its_time_to_find_out_who_asks(serve, open_fleet):
    """In a database, say."""

    async def identify(request):
        await asyncio.sleep(0)
        return who(request)

    async with serve(open_fleet, identify=identify) as page:
        assert (await page.ask()).status == 200
        assert (await page.ask(who=None)).status == 401


async def test_who_asks_is_a_string_or_nobody(emulator, serve, open_fleet):
    """A user's row, say, is a mistake that must not become somebody's reference."""
    async with serve(open_fleet, identify=lambda _: 5) as page:
        told = await page.ask()
    assert (told.status, told.json) == (500, None)
    assert emulator.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "http://here.example", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": STRANGER, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": None}, 415),
    ],
    ids=str,
)
async def test_pages_of_strangers_get_nothing(emulator, page, headers, status):
    """Though the browser sends along the cookie of whoever looks at them."""
    told = await page.ask(**headers)
    assert told.status == status
    assert told.headers.get("Access-Control-Allow-Origin") == (FRIEND if headers.get("Origin") == FRIEND else None)
    assert bool(emulator.requests) is (status == 200)


async def test_a_rejection_is_logged_with_its_origin_and_its_reason(page, caplog):
    """At DEBUG, because any client can cause one."""
    caplog.set_level(logging.DEBUG, logger="signalwire_tokens.backend")
    await page.ask(Content_Type="text/plain", Origin=FRIEND)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "DEBUG",
        f"rejected a token request from origin '{FRIEND}' with 415: The Content-Type must be application/json.",
    )


async def test_a_refused_origin_is_a_warning_once(page, caplog):
    """It says which setting to change; a page that asks again and again doesn't fill the log."""
    caplog.set_level(logging.DEBUG, logger="signalwire_tokens.backend")
    for origin in (STRANGER, STRANGER, "https://other.example"):
        assert (await page.ask(Origin=origin)).status == 403
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "WARNING"]
    assert caplog.records[0].getMessage() == (
        f"rejected a token request from origin '{STRANGER}' with 403: This origin may not request tokens. Add it to "
        "allowed_origins, or set public_origin if it is your app's."
    )


async def test_only_so_many_refused_origins_are_warnings(page, caplog):
    """Otherwise, a client that invents origins fills the log and the memory."""
    caplog.set_level(logging.WARNING, logger="signalwire_tokens.backend")
    for number in range(40):
        assert (await page.ask(Origin=f"https://{number}.example")).status == 403
    assert len(caplog.records) == 32


async def test_an_allowed_origin_may_ask_whether_it_may_ask(page):
    """As browsers do before they send JSON to another origin, and without credentials."""
    headers = {"Access-Control-Request-Method": "POST", "Content-Type": None}
    told = await page.ask(method="OPTIONS", who=None, data=None, Origin=FRIEND, **headers)
    assert (told.status, told.body) == (204, b"")
    assert told.headers["Access-Control-Allow-Origin"] == FRIEND
    assert told.headers["Access-Control-Allow-Credentials"] == "true"
    assert told.headers["Vary"] == "Origin"
    told = await page.ask(method="OPTIONS", who=None, data=None, Origin=STRANGER, **headers)
    assert told.status == 403
    assert "Access-Control-Allow-Origin" not in told.headers


PREFLIGHT = (
    f"OPTIONS /token HTTP/1.1\r\nHost: a\r\nOrigin: {FRIEND}\r\nAccess-Control-Request-Method: POST\r\n\r\n".encode()
)
LOG_OUT = (
    b"POST /logout HTTP/1.1\r\nHost: a\r\nCookie: who=alice\r\n"
    b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)


@pytest.mark.parametrize("request_", [PREFLIGHT, LOG_OUT], ids=["preflight", "logout"])
async def test_an_answer_without_content_has_no_content_length(page, request_):
    """RFC 9110, section 8.6, forbids it for 204; the connection serves the next request all the same."""
    reader, writer = await asyncio.open_connection(*page.origin.removeprefix("http://").split(":"))
    for _ in range(2):
        writer.write(request_)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        assert status == b"http/1.1 204 no content"
        assert not [line for line in lines if line.startswith((b"content-length", b"transfer-encoding"))]
    writer.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_only_post_is_answered(page, method):
    """A link or an image must not fetch a token."""
    told = await page.ask(method=method, data=None)
    assert (told.status, told.headers["Allow"]) == (405, "POST, OPTIONS")


async def in_parts(*parts):
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"fingerprint": 5}', 422),
        (b'{"a": "' + b"a" * 5000 + b'"}', 413),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_cannot_be_read_is_a_problem(emulator, page, data, status):
    """In the form that problems have."""
    told = await page.ask(data=data)
    assert told.status == status
    assert told.headers["Content-Type"] == "application/problem+json"
    assert emulator.requests == []


async def test_a_body_without_an_announced_length_is_read_no_further_than_it_may_go(page):
    """And one that comes in parts, as a whole."""
    told = await page.ask(data=in_parts(b"{", b'"a": 1', b"}"))
    assert told.status == 200
    told = await page.ask(data=in_parts(b"{", *[b" " * 1000] * 5, b"}"))
    assert told.status == 413


async def test_a_key_binds_its_own_token(emulator, client, page):
    """Issued for that device alone, and not kept: the device renews it by itself."""
    told = await page.ask(data=json.dumps({"fingerprint": THUMBPRINT}))
    assert told.status == 200
    assert told.json.keys() == {"token", "expiry_at"}
    assert emulator.accepts(told.json["token"])
    assert told.json["token"] != (await page.ask()).json["token"]
    assert page.backend.fleet.snapshot().sessions[SessionState.FRESH] == 1


async def test_no_key_binds_a_token_unless_that_is_allowed(serve, open_fleet):
    """It is said rather than ignored: another kind of token would not do."""
    async with serve(open_fleet) as page:
        assert (await page.ask(data=json.dumps({"fingerprint": THUMBPRINT}))).status == 422


async def test_the_service_is_not_asked_for_bound_tokens_when_it_wants_to_be_left_alone(emulator, page):
    """Whatever asked it last; and each request asks it once at most."""
    emulator.fail(Status(429, retry_after=30), times=None)
    for _ in range(5):
        told = await page.ask(data=json.dumps({"fingerprint": THUMBPRINT}))
        assert told.status == 503
        assert 28 <= int(told.headers["Retry-After"]) <= 30
    assert len(emulator.requests) == 1


async def test_a_service_that_is_down_is_asked_once_for_each_bound_token(emulator, page):
    """Browsers ask again by themselves."""
    emulator.fail(Status(503), times=None)
    assert (await page.ask(data=json.dumps({"fingerprint": THUMBPRINT}))).status == 503
    assert len(emulator.requests) == 1


async def test_not_everybody_is_bound_at_once(emulator, page):
    """A crowd that signs in at once is let in little by little."""
    emulator.fail(Delay(0.5), times=None)
    asks = [page.ask(who=f"p{number}", data=json.dumps({"fingerprint": THUMBPRINT})) for number in range(40)]
    told = await asyncio.gather(*asks)
    assert Counter(one.status for one in told) == {200: 32, 503: 8}
    assert {one.headers["Retry-After"] for one in told if one.status == 503} == {"1"}


@pytest.fixture
async def limited(clock, serve):
    """Serve in virtual time, with a limit of two tokens a minute for each user."""
    async with (
        Emulator(clock=clock) as emulator,
        emulator.client() as client,
        serve(
            lambda: SessionFleet(client), allow_device_tokens=True, issues_per_minute=2, allowed_origins=[FRIEND]
        ) as page,
    ):
        page.emulator = emulator
        yield page


async def bind(page, **settings):
    return await page.ask(data=json.dumps({"fingerprint": THUMBPRINT}), **settings)


async def test_a_user_has_only_so_many_tokens_issued_in_a_minute(clock, limited):
    """Of many requests at once, the rest are refused until the time that the refusal names."""
    answers = await asyncio.gather(*(bind(limited) for _ in range(20)))
    assert Counter(answer.status for answer in answers) == {200: 2, 429: 18}
    assert len(limited.emulator.requests) == 2
    refused = next(answer for answer in answers if answer.status == 429)
    assert (refused.headers["Retry-After"], refused.headers["Content-Type"]) == ("30", "application/problem+json")
    await clock.advance(29)
    assert (await bind(limited)).status == 429
    await clock.advance(1)
    assert [(await bind(limited)).status for _ in range(2)] == [200, 429]


async def test_the_limit_of_one_user_does_not_touch_another(limited):
    """Nor the page's own view of the answer, which may be on another allowed origin."""
    statuses = [(await bind(limited)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await bind(limited, who="bob")).status == 200
    refused = await bind(limited, Origin=FRIEND)
    assert refused.headers["Access-Control-Expose-Headers"] == "Retry-After"


async def test_signing_out_and_in_again_is_limited_too(clock, limited):
    """Each time, a token is issued."""
    statuses = []
    for _ in range(4):
        statuses.append(((await limited.ask()).status, (await limited.ask("/logout")).status))
        await clock.advance(1)  # the fleet begins only so many renewals in a second
    assert statuses == [(200, 204), (200, 204), (429, 204), (429, 204)]
    assert len(limited.emulator.requests) == 2
    assert (await bind(limited)).status == 429, "there is one allowance for both"


async def test_a_token_that_is_kept_is_handed_out_without_a_limit(limited):
    """Nothing is issued for it, however many tabs a user has."""
    assert {(await limited.ask()).status for _ in range(10)} == {200}
    assert len(limited.emulator.requests) == 1


async def test_a_request_that_is_put_off_uses_no_allowance(clock, limited):
    """SignalWire wants to be left alone, and isn't asked."""
    limited.emulator.fail(Status(429, retry_after=10))
    assert [(await bind(limited)).status for _ in range(5)] == [503] * 5
    await clock.advance(10)
    assert [(await bind(limited)).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("module", [asgi, aiohttp_server], ids=lambda module: module.__name__)
async def test_an_application_that_starts_again_begins_without_counts(client, module):
    """Its clock may be another one by then."""
    backend = module.TokenBackend(lambda: SessionFleet(client), identify=who, issues_per_minute=1)
    async with backend._open():
        assert [backend._limit.take(ALICE, now=1e6) is None for _ in range(2)] == [True, False]
    async with backend._open():
        assert backend._limit.take(ALICE, now=-1e6) is None


async def test_a_token_that_ends_soon_is_renewed_first(emulator, page):
    """The browser comes back five seconds before its end: it gets the next one, and not the same again."""
    first = (await page.ask()).json
    emulator.advance(7195)
    second = (await page.ask()).json
    assert second["token"] != first["token"]
    assert second["expiry_at"] > first["expiry_at"] + 7190_000


async def test_a_token_of_a_minute_is_handed_out_too(serve):
    """No longer time is asked for than every token has left."""
    async with (
        Emulator(lifetimes=Lifetimes(access=minutes(1), refresh=minutes(1.1))) as emulator,
        emulator.client() as client,
        serve(lambda: SessionFleet(client)) as page,
    ):
        first = (await page.ask()).json
        emulator.advance(55)
        assert (await page.ask()).json["token"] != first["token"]


def minutes(number):
    return Lifetimes().unbound * number


async def test_a_token_that_is_live_is_given_while_the_service_is_down(emulator, page):
    """With what is left of it."""
    first = (await page.ask()).json
    emulator.advance(6900)
    emulator.fail(Status(503), times=None)
    second = await page.ask()
    assert second.status == 200
    assert second.json["token"] == first["token"]
    assert emulator.accepts(second.json["token"])


async def test_a_service_that_is_down_and_no_token_is_a_503(emulator, page):
    """With when to come back; from the first request on, and after the last token's end."""
    emulator.fail(Status(503, retry_after=20), times=None)
    told = await page.ask(Origin=FRIEND)
    assert told.status == 503
    assert 1 <= int(told.headers["Retry-After"]) <= 60
    assert told.headers["Access-Control-Allow-Origin"] == FRIEND
    assert b"503" in told.body
    emulator.clear_faults()


async def test_what_the_service_says_is_not_passed_on(emulator, serve, client, caplog):
    """Settings that are wrong are for whoever runs the backend to know."""
    emulator.rotate_api_token()
    async with serve(lambda: SessionFleet(client)) as page:
        told = await page.ask()
    assert told.status == 502
    assert b"Unauthorized" not in told.body
    assert "a browser got no token" in caplog.text
    assert emulator.api_token not in caplog.text


async def test_a_reference_that_cannot_be_is_the_applications_fault(page):
    """It is said in the log, and the browser can do nothing about it."""
    assert (await page.ask(who="")).status == 500


async def test_a_reference_that_cannot_be_uses_no_allowance(limited):
    """The answer goes on to say that the app is misconfigured, and not that it asks too often."""
    assert [(await limited.ask(who="")).status for _ in range(3)] == [500] * 3


async def test_a_fleet_that_was_never_opened_is_a_warning(serve, client, caplog):
    """It says what to do: nothing else would, since no renewal ever begins."""
    async with serve(SessionFleet(client)) as page:
        assert (await page.ask()).status == 503
    (record,) = records_of(caplog)
    assert record.levelname == "WARNING"
    assert "the fleet isn't open yet: use `async with`" in record.getMessage()


async def test_an_answer_that_is_not_signalwires_is_a_warning(emulator, page, caplog):
    """A proxy in front of SignalWire, say, which the app's operator must look at."""
    emulator.fail(Status(302), times=None)
    assert (await bind(page)).status == 503
    assert [record.levelname for record in records_of(caplog)] == ["WARNING"]


async def test_an_outage_is_logged_once_where_keys_bind_tokens(emulator, page, caplog):
    """And its end, because the fleet has no part in it. Browsers that ask in between don't fill the log."""
    caplog.set_level(logging.DEBUG, logger="signalwire_tokens.backend")
    emulator.fail(Status(503), times=3)
    assert [(await bind(page)).status for _ in range(4)] == [503] * 3 + [200]
    assert (await bind(page)).status == 200
    first, last = records_of(caplog)
    assert (first.levelname, last.levelname) == ("WARNING", "INFO")
    assert "no tokens can be issued for devices" in first.getMessage()
    assert last.getMessage() == "tokens can be issued for devices again"


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (TokenUnavailable("x"), logging.DEBUG),
        (ServerError("x", status=500), logging.DEBUG),
        (SessionClosed("x"), logging.WARNING),
        (StoreError("x"), logging.WARNING),
        (UnexpectedResponse("x"), logging.WARNING),
        (Unauthorized("x", status=401), logging.ERROR),
        (ConfigurationError("x"), logging.ERROR),
    ],
    ids=repr,
)
def test_an_error_that_needs_attention_is_logged_louder_than_an_outage(error, level):
    """An outage is logged once elsewhere, and these aren't."""
    assert level_for(error) == level


def records_of(caplog):
    """Return what the backend logged, without DEBUG."""
    return [
        record
        for record in caplog.records
        if record.name == "signalwire_tokens.backend" and record.levelno > logging.DEBUG
    ]


async def test_logging_out_ends_the_session(page):
    """Whoever asks again is given another token."""
    first = (await page.ask()).json["token"]
    told = await page.ask("/logout")
    assert (told.status, told.body) == (204, b"")
    assert sum(page.backend.fleet.snapshot().sessions.values()) == 0
    assert (await page.ask()).json["token"] != first
    assert (await page.ask("/logout", who="nobody-yet")).status == 204


async def test_no_strangers_page_logs_anybody_out(page):
    """The same rules hold as for the token."""
    await page.ask()
    assert (await page.ask("/logout", Origin=STRANGER)).status == 403
    assert (await page.ask("/logout", who=None)).status == 401
    assert (await page.ask("/logout", method="GET", data=None)).status == 405
    assert page.backend.fleet.snapshot().sessions[SessionState.FRESH] == 1


async def test_health_is_told_without_names(emulator, page):
    """For whoever watches the backend; nobody needs to sign in for it."""
    await page.ask()
    told = await page.ask("/health", method="GET", who=None, data=None)
    assert told.status == 200
    assert told.json["status"] == "ok"
    assert told.json["sessions"] == {"fresh": 1, "due": 0, "expiring": 0, "unavailable": 0, "expired": 0, "closed": 0}
    assert told.json["breaker"] == "closed"
    assert told.headers["Cache-Control"] == "no-store"
    assert ALICE.encode() not in told.body


async def test_health_tells_of_a_service_that_is_down(clock, serve):
    """By the name of what went wrong, once the look at all sessions is older than a second."""
    async with (
        Emulator(clock=clock) as emulator,
        emulator.client() as client,
        serve(lambda: SessionFleet(client)) as page,
    ):
        assert (await page.ask("/health", method="GET", data=None)).json["last_error"] is None
        assert (await page.ask("/health", data=None)).status == 405
        emulator.fail(Status(429, retry_after=60), times=None)
        assert (await page.ask()).status == 503
        told = await page.ask("/health", method="GET", data=None)
        assert told.json["status"] == "ok", "a look is good for a second"
        await clock.advance(2)
        told = await page.ask("/health", method="GET", data=None)
    assert told.json["status"] == "degraded"
    assert told.json["last_error"] == "RateLimited"
    assert told.status == 200


async def test_no_refresh_token_is_in_any_answer(emulator, page):
    """Whatever is asked for."""
    await page.ask()
    held = page.backend.fleet.session(ALICE).pair.refresh_token.value
    answers = [
        await page.ask(),
        await page.ask(data=json.dumps({"fingerprint": THUMBPRINT})),
        await page.ask("/health", method="GET", data=None),
        await page.ask(data=b"["),
        await page.ask("/logout"),
    ]
    assert all(held.encode() not in answer.body for answer in answers)
    assert all(b'"refresh' not in answer.body for answer in answers)


async def test_the_fleet_lives_as_long_as_the_application(emulator, serve):
    """With its client and store, each made where the application runs and closed after it."""
    closed = []

    @asynccontextmanager
    async def open_fleet():
        async with emulator.client() as client, SessionFleet(client) as fleet:
            yield fleet
        closed.append(True)

    async with serve(open_fleet) as page:
        assert (await page.ask()).status == 200
    assert closed == [True]
    with pytest.raises(ConfigurationError, match="lifespan"):
        _ = page.backend.fleet


async def test_a_fleet_that_the_application_has_opened_will_do(serve, client):
    """Whoever has opened it closes it."""
    async with SessionFleet(client) as fleet:
        async with serve(fleet) as page:
            assert (await page.ask()).status == 200
        assert fleet.session(ALICE).generation == 1
        async with serve(fleet) as page:
            await fleet.aclose()
            assert (await page.ask()).status == 503
            told = await page.ask("/health", method="GET", data=None)
            assert (told.status, told.headers["Cache-Control"]) == (503, "no-store")


@pytest.mark.parametrize("module", [asgi, aiohttp_server], ids=lambda module: module.__name__)
async def test_what_opens_no_fleet_is_refused_when_the_application_starts(client, module):
    """And not when the first browser asks."""

    async def generator():
        yield SessionFleet(client)

    for source, match in ((generator, "asynccontextmanager"), (lambda: client, "SessionFleet")):
        backend = module.TokenBackend(source, identify=who)
        with pytest.raises(ConfigurationError, match=match):
            async with backend._open():
                pass


async def test_what_is_being_renewed_is_waited_for(emulator, serve, client, tmp_path):
    """No refresh token is used up without its successor being kept."""
    async with SqliteStore(tmp_path / "tokens", plaintext=True) as store:
        async with serve(lambda: SessionFleet(client, store=store)) as page:
            first = (await page.ask()).json["token"]
            emulator.fail(Delay(0.2), operation="refresh_subscriber_token")
            session = page.backend.fleet.session(ALICE)
            renewing = asyncio.create_task(session.refresh())
            await eventually(lambda: not emulator.faults)  # it has been met: the refresh token is being presented
        await asyncio.wait([renewing])
        renewing.exception()
        async with serve(lambda: SessionFleet(client, store=store)) as page:
            second = (await page.ask()).json["token"]
    assert second != first
    assert [entry.operation for entry in emulator.requests] == ["create_subscriber_token", "refresh_subscriber_token"]


@pytest.mark.parametrize("body", [b"{", b"{}        "], ids=["in the body", "before the answer"])
async def test_whoever_hangs_up_harms_nobody(emulator, page, caplog, capfd, body):
    """Nor fills the log."""
    emulator.fail(Delay(0.2))
    _, writer = await asyncio.open_connection(*page.origin.removeprefix("http://").split(":"))
    writer.write(b"POST /token HTTP/1.1\r\nHost: a\r\nCookie: who=alice\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 10\r\n\r\n" + body)
    await writer.drain()
    told = await page.ask("/health", method="GET", data=None)  # by now the first request has been begun
    writer.transport.abort()
    assert told.status == 200
    assert (await page.ask()).status == 200
    assert "Traceback" not in caplog.text + capfd.readouterr().err


async def test_an_application_of_aiohttps_may_have_read_the_body_already(open_fleet):
    """It is kept."""

    async def identify(request):
        return (await request.json())["who"]

    async with SERVERS["aiohttp.web"](open_fleet, identify=identify) as page:
        assert (await page.ask(data=b'{"who": "alice"}')).status == 200


async def test_a_body_that_breaks_off_is_no_json(page):
    """As the framework reads it."""
    reader, writer = await asyncio.open_connection(*page.origin.removeprefix("http://").split(":"))
    writer.write(b"POST /token HTTP/1.1\r\nHost: a\r\nCookie: who=alice\r\nContent-Type: application/json\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nnonsense\r\n")
    assert b" 400 " in await reader.readline()
    writer.transport.abort()


@pytest.mark.parametrize("module", [asgi, aiohttp_server], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    "settings",
    [
        {"fleet": None},
        {"fleet": 5},
        {"identify": None},
        {"allowed_origins": ["*"]},
        {"allowed_origins": FRIEND},
        {"public_origin": "app.example"},
        {"issues_per_minute": 0},
    ],
    ids=str,
)
async def test_settings_that_cannot_be_right_are_refused(client, module, settings):
    """At once, and not when the first browser asks."""
    given = {"fleet": lambda: SessionFleet(client), "identify": who, **settings}
    with pytest.raises(ConfigurationError):
        module.TokenBackend(given.pop("fleet"), **given)


@pytest.mark.parametrize("module", [asgi, aiohttp_server], ids=lambda module: module.__name__)
async def test_a_backend_without_an_open_fleet_says_what_is_missing(client, module):
    """Its lifespan was not given to the application."""
    backend = module.TokenBackend(lambda: SessionFleet(client), identify=who)
    with pytest.raises(ConfigurationError, match="lifespan"):
        _ = backend.fleet
    assert backend._health("GET").status == 503, "a monitor must see it, too"
