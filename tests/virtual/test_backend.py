"""Sessions that renew from an application's backend: over real sockets, in time that passes when told."""

import asyncio
from datetime import timedelta

import aiohttp
import pytest
from yarl import URL

from signalwire_tokens import (
    ApiError,
    BackendSession,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    RefreshPolicy,
    ServerError,
    SessionClosed,
    SessionFleet,
    SessionState,
    TimedOut,
    TokenClient,
    TokenUnavailable,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.keeper import engine_of
from support.scripted_backend import Answer, Desk
from support.scripted_session import start_badly
from support.traceback_text import frames_shown

HOUR, LIFE = 3600.0, 7200.0
HUSH = "hush-hush"


@pytest.fixture
async def emulator(clock):
    async with Emulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
async def desk(clock, client):
    """A backend that keeps a token alive in a fleet, and hands out the one at hand."""
    async with SessionFleet(client) as fleet:

        async def give():
            session = fleet.session("alice")
            await session.token(60)
            return session.pair.access_token.value, clock.wall() + session.expires_in.total_seconds()

        async with Desk(give, clock) as desk:
            yield desk


@pytest.fixture
def tokens(clock):
    """A backend's tokens, in the order in which it gives them out: each with the seconds that it has left."""
    return Tokens(clock)


class Tokens:
    def __init__(self, clock):
        self.clock, self.lives, self.given = clock, [], 0

    async def __call__(self):
        self.given += 1
        life = self.lives.pop(0) if self.lives else LIFE
        return f"token-{self.given}", self.clock.wall() + life


@pytest.fixture
async def plain(clock, tokens):
    """A backend that gives out another token each time."""
    async with Desk(tokens, clock) as desk:
        yield desk


def open_at(desk, clock, **settings):
    return BackendSession(desk.url, clock=clock, **settings)


async def test_a_day_passes_and_every_token_is_accepted(emulator, clock, desk):
    """The backend's session renews by the project's credentials, and this one by asking the backend."""
    async with open_at(desk, clock) as session:
        for _ in range(24 * 6):
            await clock.advance(10 * 60)
            assert emulator.accepts(await session.token())
        assert repr(session).startswith(f"<BackendSession of {desk.url.removesuffix('/token')} {session.state.value}, ")
    assert 12 <= session.generation <= 30
    assert len(desk.asked) <= 12 * session.generation


async def test_a_backend_is_asked_as_a_browser_asks(clock, plain):
    """By POST, with an empty object, and nothing that says who asks but what the caller gives."""
    async with open_at(plain, clock, headers={"X-Api-Key": HUSH}):
        pass
    (request,) = plain.asked
    assert (request.method, request.path, plain.bodies) == ("POST", "/token", [{}])
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-Api-Key"] == HUSH
    assert "Authorization" not in request.headers
    assert "Cookie" not in request.headers


@pytest.mark.parametrize("is_async", [False, True])
async def test_auth_is_asked_before_each_request(clock, plain, is_async):
    """So a credential may change; it stands beside the headers, and above them."""
    numbers = iter(range(9))

    def auth():
        return {"authorization": f"Bearer {next(numbers)}"}

    async def auth_later():
        await asyncio.sleep(0)
        return auth()

    headers = {"authorization": "none", "X-Who": "me"}
    async with open_at(plain, clock, headers=headers, auth=auth_later if is_async else auth) as session:
        await clock.advance(5)
        await session.refresh()
    assert [request.headers["Authorization"] for request in plain.asked] == ["Bearer 0", "Bearer 1"]
    assert {request.headers["X-Who"] for request in plain.asked} == {"me"}


async def test_a_query_is_sent_as_it_is(clock, plain):
    """As the URL has it."""
    async with BackendSession(f"{plain.url}?who=a%20b&x", clock=clock):
        assert plain.asked[0].raw_path == "/token?who=a%20b&x"
    async with BackendSession(plain.url.removesuffix("/token"), clock=clock):
        assert plain.asked[1].raw_path == "/"


async def test_blanks_around_a_url_do_not_count(clock, plain):
    """They come with what is copied, or with a line of a file; a slash at the end of a path stays."""
    async with BackendSession(f" {plain.url}/\r\n", clock=clock) as session:
        assert plain.asked[0].raw_path == "/token/"
        assert plain.url.startswith(session.client.origin)


async def test_a_backend_that_has_no_later_token_is_asked_again_later(clock, plain, tokens):
    """That is no fault of anybody's: nobody is told, and the token at hand is the one."""
    heard = []
    async with open_at(plain, clock) as session:
        token, ends = session.pair.access_token.value, clock.wall() + LIFE
        session.subscribe(lambda event: heard.append(event.kind))
        plain.give = always(token, ends)
        await clock.advance(0.95 * LIFE - 1)
        assert session.state is SessionState.DUE
        assert await session.token() == token
        assert isinstance(session.last_error, UnexpectedResponse)
        assert "no later token" in str(session.last_error)
        assert 2 <= len(plain.asked) <= 24
        assert heard == []
        plain.give = tokens
        await clock.advance(0.04 * LIFE)
        assert session.pair.access_token.value == "token-2"
        assert session.last_error is None
    assert heard[:1] == ["reissued"]


async def test_once_the_token_ends_a_backend_without_a_later_one_is_at_fault(clock, plain, tokens):
    """Subscribers are told, and that it is over as well."""
    heard = []
    async with open_at(plain, clock) as session:
        session.subscribe(lambda event: heard.append(event.kind))
        plain.give = always(session.pair.access_token.value, clock.wall() + LIFE)
        await clock.advance(LIFE - 1)
        assert heard == ["degraded"]
        await clock.advance(60)
        assert session.state is SessionState.UNAVAILABLE
        call = asyncio.create_task(session.token())
        await clock.advance(15)
        assert isinstance(call.exception(), TokenUnavailable)
        plain.give = tokens
        await clock.advance(20)
        assert await session.token() == "token-2"
        await clock.advance(0)
    assert heard[:3] == ["degraded", "reissued", "recovered"]


def always(token, ends):
    async def give():
        return token, ends

    return give


async def test_a_token_that_ends_no_later_is_not_taken(clock, plain, tokens):
    """Another worker of the backend's may have it; ours lives longer."""
    async with open_at(plain, clock) as session:
        ends = session.pair.access_token.expires_at
        tokens.lives = [LIFE * 0.1]
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert "no later token" in str(caught.value.cause)
        assert (session.pair.access_token.value, session.pair.access_token.expires_at) == ("token-1", ends)
        tokens.lives = [LIFE * 1.1]
        assert (await session.refresh()).access_token.value == "token-3"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 20 * LIFE, -20 * LIFE])
async def test_an_end_is_reckoned_by_the_backend_s_clock(clock, plain, ahead):
    """Whatever this machine's own says."""
    plain.ahead = ahead
    async with open_at(plain, clock) as session:
        assert timedelta(seconds=LIFE - 2) <= session.expires_in <= timedelta(seconds=LIFE)


async def test_an_end_is_reckoned_by_our_clock_where_the_backend_has_none(clock, plain):
    """That is all there is to go by."""
    plain.says_time, plain.ahead = False, 600
    async with open_at(plain, clock) as session:
        assert session.expires_in == pytest.approx(timedelta(seconds=LIFE + 600), abs=timedelta(seconds=1))


async def test_tokens_of_one_end_are_not_taken_for_later_ones(clock, plain, tokens):
    """However the seconds of a `Date` fall."""
    end = clock.wall() + LIFE

    async def give():
        tokens.given += 1
        return f"token-{tokens.given}", end

    plain.give = give
    async with open_at(plain, clock) as session:
        for _ in range(30):
            await clock.advance(0.13)
            with pytest.raises(TokenUnavailable, match="no new token for session"):
                await session.refresh()
        assert session.generation == 1


async def test_a_token_with_little_left_is_renewed_in_time_whatever_goes_wrong(clock, plain, tokens):
    """A backend that blinks is asked again before the end, and not after a pause for longer lives."""
    tokens.lives = [14.0]
    async with open_at(plain, clock) as session:
        plain.script = [Answer(401, {})]
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        await clock.advance(13)
        assert session.last_error is None
        assert await session.token() == "token-2"


async def test_a_caller_who_wants_more_than_the_backend_has_does_not_press_it(clock, plain):
    """It is asked once, and left alone when it has nothing later: the token at hand is given."""
    async with open_at(plain, clock) as session:
        plain.give = always(session.pair.access_token.value, clock.wall() + LIFE)
        await clock.advance(0.85 * LIFE)
        asked = len(plain.asked)
        for _ in range(10):
            call = asyncio.create_task(session.token(min_ttl=1400))
            await clock.advance(11)
            assert call.result() == "token-1"
        assert len(plain.asked) <= asked + 2


async def test_a_backend_that_answers_again_is_well_though_it_has_no_later_token(clock, plain):
    """Subscribers are told, of the trouble and of its end."""
    heard = []
    async with open_at(plain, clock) as session:
        session.subscribe(lambda event: heard.append((event.kind, event.error is None)))
        plain.script = [Answer(500, {})]
        plain.give = always(session.pair.access_token.value, clock.wall() + LIFE)
        await clock.advance(0.85 * LIFE)
        assert heard == [("degraded", False), ("recovered", True)]


async def test_a_policy_s_minimum_says_nothing_of_a_backend_s_tokens(clock, plain):
    """Whatever it is."""
    async with open_at(plain, clock, policy=RefreshPolicy(min_lifetime=99999)) as session:
        assert await session.token() == "token-1"


async def test_a_refresh_token_is_not_taken_for_a_token(client, clock, plain):
    """A backend that gives out the wrong half is told so."""
    pair = await client.create_subscriber_token("alice")
    plain.give = always(pair.refresh_token.value, clock.wall() + LIFE)
    session = open_at(plain, clock)
    starting = await start_badly(session, clock)
    assert "a refresh token in place of an access token" in str(session.last_error)
    await clock.advance(11)
    with pytest.raises(TokenUnavailable):
        await starting


async def test_a_token_with_seconds_left_is_taken(clock, plain, tokens):
    """A backend has kept it for a while; the next one comes soon."""
    tokens.lives = [12.0, 12.0]
    async with open_at(plain, clock, policy=RefreshPolicy(min_lifetime=60)) as session:
        assert session.expires_in <= timedelta(seconds=12)
        assert session.last_error is None
        await clock.advance(30)
        assert session.generation == 3
        assert session.expires_in > timedelta(hours=1)


async def test_a_token_that_is_dead_is_none(clock, plain, tokens):
    """The next attempt brings a live one; until then it is said that it may be a matter of clocks."""
    tokens.lives = [0.0, -600.0]
    session = open_at(plain, clock)
    starting = await start_badly(session, clock)
    assert "has already expired: check the clocks of both machines" in str(session.last_error)
    await clock.advance(5)
    await starting
    assert (session.generation, await session.token()) == (1, "token-3")
    await session.aclose()


async def test_how_much_life_may_be_asked_for_does_not_depend_on_what_a_token_has_left(clock, plain, tokens):
    """A caller who asks for a minute gets the next token, and not an error."""
    tokens.lives = [30.0]
    async with open_at(plain, clock) as session:
        assert engine_of(session).cycle.longest_ttl == pytest.approx(0.2 * LIFE)
        await clock.advance(1)
        assert await session.token(min_ttl=60) == "token-2"
        with pytest.raises(ValueError, match="1440"):
            await session.token(min_ttl=1441)


async def test_a_refused_token_is_asked_for_anew(clock, plain, tokens):
    """One that is no other is not taken for another."""
    async with open_at(plain, clock) as session:
        await clock.advance(1)
        session.invalidate("token-1")
        assert await session.token() == "token-2"
        plain.give = always("token-2", clock.wall() + LIFE)
        await clock.advance(61)
        session.invalidate("token-2")
        call = asyncio.create_task(session.token())
        await clock.advance(11)
        assert isinstance(call.exception(), TokenUnavailable)


GOOD_END = 1_900_000_000_000


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"token": "t"}, "expiry_at"),
        ({"token": "t", "expiry_at": None}, "expiry_at"),
        ({"token": "t", "expiry_at": "1900000000000"}, "expiry_at"),
        ({"token": "t", "expiry_at": True}, "expiry_at"),
        ({"token": "t", "expiry_at": GOOD_END // 1000}, "milliseconds"),
        ({"token": "t", "expiry_at": GOOD_END * 1000}, "milliseconds"),
        ({"token": "t", "expiry_at": -GOOD_END}, "milliseconds"),
        ({"token": "", "expiry_at": GOOD_END}, "token"),
        ({"token": "a b", "expiry_at": GOOD_END}, "token"),
        ({"token": 7, "expiry_at": GOOD_END}, "token"),
        ({"expiry_at": GOOD_END}, "token"),
        ([], "isn't an object"),
    ],
    ids=repr,
)
async def test_an_answer_that_cannot_be_read_is_none(clock, plain, body, says):
    """It is said what is wrong with it, and asked again."""
    plain.script = [Answer(body=body)]
    session = open_at(plain, clock)
    starting = await start_badly(session, clock)
    assert isinstance(session.last_error, UnexpectedResponse)
    assert says in str(session.last_error)
    await clock.advance(5)
    await starting
    assert await session.token() == "token-1"
    await session.aclose()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ApiError), (401, Unauthorized), (403, Forbidden), (404, NotFound), (415, ApiError), (422, ValidationFailed)],
)
async def test_a_refusal_is_told_at_the_start_and_survived_later(clock, plain, status, kind):
    """Somebody has to mend the settings; the session does not die of it, and goes on when they are mended."""
    plain.script = [Answer(status=status, body={"detail": "no"})]
    with pytest.raises(kind) as caught:
        await open_at(plain, clock).start()
    assert caught.value.status == status
    async with open_at(plain, clock) as session:
        plain.script = [Answer(status=status, body={"detail": "no"})] * 99
        await clock.advance(0.85 * LIFE)
        assert session.state is SessionState.DUE
        assert isinstance(session.last_error, kind)
        assert len(plain.asked) <= 9
        plain.script = []
        await clock.advance(0.14 * LIFE)
        assert session.last_error is None
        assert await session.token() == "token-2"


async def test_a_redirect_is_not_followed(clock, plain):
    """The caller's headers are for this URL alone."""
    plain.script = [Answer(status=307, text="", headers={"Location": "/elsewhere"})]
    session = open_at(plain, clock, headers={"X-Api-Key": HUSH})
    starting = asyncio.create_task(session.start())
    await clock.advance(5)
    await starting
    assert [request.path for request in plain.asked] == ["/token", "/token"]
    await session.aclose()


@pytest.mark.parametrize(
    "answer", [Answer(429, {}, headers={"Retry-After": "40"}), Answer(503, {}, headers={"Retry-After": "40"})]
)
async def test_a_backend_that_asks_for_quiet_is_given_it(clock, plain, answer):
    """For as long as it says, while the token lives."""
    async with open_at(plain, clock) as session:
        plain.script = [answer]
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert isinstance(caught.value.cause, RateLimited | ServerError)
        await clock.advance(39)
        assert len(plain.asked) == 2
        await clock.advance(0.8 * LIFE)
        assert session.last_error is None


ABSURD = Answer(429, {}, headers={"Retry-After": "1000000000"})


async def test_a_backend_that_asks_for_years_of_quiet_gets_a_minute_without_a_token(clock, plain):
    """Callers learn when the next attempt is."""
    plain.script = [ABSURD]
    with pytest.raises(TokenUnavailable) as caught:
        await open_at(plain, clock).start()
    assert 0 < caught.value.retry_after <= 60
    plain.script = [ABSURD]
    session = open_at(plain, clock, policy=RefreshPolicy(wait_timeout=61))
    starting = await start_badly(session, clock)
    await clock.advance(60)
    await starting
    assert await session.token() == "token-1"
    await session.aclose()


async def test_a_backend_that_asks_for_years_of_quiet_is_asked_again_before_the_token_expires(clock, plain):
    """The session keeps its valid token, and has the next one in time."""
    async with open_at(plain, clock) as session:
        plain.script = [ABSURD]
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert isinstance(caught.value.cause, RateLimited)
        assert await session.token() == "token-1"
        await clock.advance(0.99 * LIFE)
        assert await session.token() == "token-2"


async def test_a_backend_that_is_down_is_waited_for(clock, plain):
    """The token lives on; when it has ended, callers are told within ten seconds, and served as soon as it is back."""
    async with open_at(plain, clock) as session:
        await plain.close()
        await clock.advance(0.9 * LIFE)
        assert isinstance(session.last_error, ConnectionFailed)
        assert await session.token() == "token-1"
        await clock.advance(0.2 * LIFE)
        call = asyncio.create_task(session.token())
        await clock.advance(10)
        assert isinstance(call.exception(), TokenUnavailable)
        await plain.open()
        await clock.advance(20)
        assert await session.token() == "token-2"


async def test_a_suspended_night_is_followed_by_a_live_token(clock, emulator, desk):
    """For the first who asks."""
    async with open_at(desk, clock) as session:
        clock.suspend(9 * HOUR)
        assert session.state is SessionState.UNAVAILABLE
        assert emulator.accepts(await session.token())


async def test_an_auth_that_raises_is_asked_again(clock, plain):
    """As what may pass."""
    answers = [RuntimeError(HUSH), {"X-Api-Key": "good"}]

    def auth():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    session = open_at(plain, clock, auth=auth)
    starting = asyncio.create_task(session.start())
    await clock.advance(5)
    await starting
    assert plain.asked[0].headers["X-Api-Key"] == "good"
    await session.aclose()


async def test_an_auth_that_raises_is_told_where_it_keeps_a_token_away(clock, plain):
    """By the kind of its error; what that says stands in the chain alone."""

    async def auth():
        raise RuntimeError(HUSH)

    starting = asyncio.create_task(open_at(plain, clock, auth=auth).start())
    await clock.advance(11)
    error = starting.exception()
    assert isinstance(error, TokenUnavailable)
    assert isinstance(error.cause, TransportError)
    assert "the auth function raised RuntimeError" in str(error.cause)
    assert HUSH not in str(error.cause)
    assert isinstance(error.cause.__cause__, RuntimeError)
    assert plain.asked == []


async def test_an_auth_that_hangs_is_given_up(clock, plain):
    """In the time that a request gets."""
    asked = []

    async def auth():
        asked.append(1)
        if len(asked) == 1:
            await asyncio.Event().wait()
        return {}

    session = open_at(plain, clock, auth=auth, timeout=0.5)
    starting = await start_badly(session, clock)
    assert isinstance(session.last_error, TimedOut)
    assert "the auth function hasn't returned within 0.5 s" in str(session.last_error)
    await clock.advance(5)
    await starting
    assert (session.generation, len(asked)) == (1, 2)
    await session.aclose()


async def test_an_auth_s_own_errors_keep_their_meaning(clock, plain):
    """One of this library's is told as it is."""

    def auth():
        raise Unauthorized("the login has ended")

    with pytest.raises(Unauthorized, match="login"):
        await open_at(plain, clock, auth=auth).start()


@pytest.mark.parametrize("answer", [None, "x", {"Host": "x"}, {"X": 1}, {"X": "a\nb"}, {1: "x"}], ids=repr)
async def test_an_auth_that_answers_nonsense_is_told(clock, plain, answer):
    """It will do so again."""
    with pytest.raises(InvalidRequest, match="headers"):
        await open_at(plain, clock, auth=lambda: answer).start()
    assert plain.asked == []


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"url": ""}, InvalidRequest, "url"),
        ({"url": None}, InvalidRequest, "url"),
        ({"url": 7}, InvalidRequest, "url"),
        ({"url": "app.example.com/token"}, InvalidRequest, "https://app"),
        ({"url": "ftp://app.example.com/token"}, InvalidRequest, "https://app"),
        ({"url": "https://"}, InvalidRequest, "https://app"),
        ({"url": f"https://me:{HUSH}@app.example.com/token"}, InvalidRequest, "without user"),
        ({"url": "https://app.example.com/token#x"}, InvalidRequest, "fragment"),
        ({"url": "https://app.example.com/to ken"}, InvalidRequest, "https://app"),
        ({"url": "https://app.example.com/é"}, InvalidRequest, "ASCII"),
        ({"url": "http://app.example.com/token"}, InvalidRequest, "must be reached by https"),
        ({"url": f"http://app.example.com/?key={HUSH}"}, InvalidRequest, "must be reached by https"),
        ({"url": f"https://app.example.com/?key={HUSH}", "headers": {"X": 1}}, InvalidRequest, "headers.X"),
        ({"url": f"https://app.example.com/?key={HUSH}", "proxy": "x"}, ConfigurationError, "proxy"),
        ({"headers": HUSH}, InvalidRequest, "headers must be a mapping"),
        ({"headers": {"a b": HUSH}}, InvalidRequest, "names"),
        ({"headers": {"X": f"{HUSH}\r\nY: z"}}, InvalidRequest, "one line"),
        (
            {"headers": {"Content-Length": "7"}},
            InvalidRequest,
            "Content-Length can't be set: the client sets this header itself",
        ),
        ({"url": "", "headers": {"X": 1}}, InvalidRequest, "url.*headers.X"),
        ({"auth": HUSH}, ConfigurationError, "auth must be a function"),
        ({"timeout": 0}, InvalidRequest, "timeout"),
        ({"cookies": {"x": HUSH}}, TypeError, "BackendSession got an unexpected keyword argument 'cookies'"),
    ],
    ids=repr,
)
async def test_wrong_arguments_are_refused_when_the_session_is_made(arguments, error, match):
    """All that is wrong at once, and without showing a secret."""
    with pytest.raises(error, match=match) as caught:
        BackendSession(**{"url": "https://app.example.com/token", **arguments})
    assert HUSH not in frames_shown(caught.value)


async def test_a_caller_s_http_session_is_used_and_not_closed(clock, plain):
    """It carries the caller's headers, and adds none of its own."""
    async with aiohttp.ClientSession(headers={"X-Added": "x", "accept": "text/html"}) as http:
        async with open_at(plain, clock, http_session=http, headers={"X-Api-Key": "k", "user-agent": "me/1"}):
            pass
        assert not http.closed
    (request,) = plain.asked
    assert "X-Added" not in request.headers
    assert request.headers["X-Api-Key"] == "k"
    assert request.headers.getall("User-Agent") == ["me/1"]
    assert request.headers["Accept"] == "application/json"


async def test_a_caller_s_cookies_are_those_that_were_given(clock, plain):
    """And not the ones that its HTTP session has besides."""
    async with (
        aiohttp.ClientSession() as http,
        open_at(plain, clock, http_session=http, headers={"Cookie": "sid=mine"}) as session,
    ):
        http.cookie_jar.update_cookies({"tracking": "jar"}, URL(plain.url))
        await clock.advance(5)
        await session.refresh()
    assert [request.headers["Cookie"] for request in plain.asked] == ["sid=mine"] * 2


async def test_headers_are_those_that_were_checked(clock, plain):
    """Whatever becomes of the mapping that they were given in."""
    headers = {"X-Api-Key": "k"}
    async with open_at(plain, clock, headers=headers) as session:
        headers["Host"] = "evil.example.com"
        await clock.advance(5)
        await session.refresh()
    assert not plain.asked[1].headers["Host"].startswith("evil")


async def test_what_a_session_was_given_and_gets_is_shown_nowhere(clock, plain, caplog):
    """Neither headers nor query nor token: in no log, error or frame."""
    caplog.set_level("DEBUG")
    given = {"Authorization": f"Bearer {HUSH}"}
    plain.script = [Answer(422, {"errors": [{"message": f"{HUSH} and q-{HUSH}"}]})]
    session = BackendSession(f"{plain.url}?key=q-{HUSH}", headers=given, clock=clock)
    with pytest.raises(ValidationFailed) as caught:
        await session.start()
    assert HUSH not in frames_shown(caught.value)
    assert caught.value.errors[0].message == "*** and ***"
    async with BackendSession(f"{plain.url}?key=q-{HUSH}", auth=lambda: given, clock=clock) as session:
        assert HUSH not in repr(session)
        assert "token-1" not in repr(session.pair)
    assert HUSH not in caplog.text
    assert "token-1" not in caplog.text


async def test_a_session_closes_what_it_has_opened(clock, plain):
    """Its connections, also where it could not start; and it gives no token then."""
    async with open_at(plain, clock) as session:
        assert session.client.sender.leaks
    assert not session.client.sender.leaks
    with pytest.raises(SessionClosed):
        await session.token()
    plain.script = [Answer(401, {})]
    failed = open_at(plain, clock)
    with pytest.raises(Unauthorized):
        await failed.start()
    assert not failed.client.sender.leaks


async def test_a_request_that_hangs_is_given_up(clock, plain):
    """In the time that it gets."""
    stuck = asyncio.Event()
    give, calls = plain.give, []

    async def hang():
        calls.append(1)
        if len(calls) == 1:
            await stuck.wait()
        return await give()

    plain.give = hang
    session = open_at(plain, clock, timeout=0.5)
    starting = await start_badly(session, clock)
    assert isinstance(session.last_error, TimedOut)
    stuck.set()
    await clock.advance(5)
    await starting
    await session.aclose()


async def test_a_session_that_was_never_opened_can_be_closed(clock, plain):
    """And is not opened after that."""
    session = open_at(plain, clock)
    await session.aclose()
    with pytest.raises(SessionClosed):
        await session.start()
    assert plain.asked == []


async def test_a_backend_session_makes_its_own_client():
    """The error for a client in place of the URL says what to pass."""
    async with TokenClient("acme") as client:
        with pytest.raises(ConfigurationError, match="makes its own client: pass the URL of your app's backend as url"):
            BackendSession(client)
