"""aiohttp's client: requests signed as a subscriber."""

import asyncio

import aiohttp
import pytest

from signalwire_tokens import ConfigurationError, RefreshPolicy, RefreshTuning, SessionClosed, SubscriberSession
from signalwire_tokens.integrations.aiohttp_client import subscriber_auth
from support.resource_server import Api

pytestmark = pytest.mark.usefixtures("loop_time")

ALICE = "alice@example.com"


@pytest.fixture
async def session(client):
    """Return a session that renews at once, and not half a second after its last request."""
    async with SubscriberSession(
        client, ALICE, policy=RefreshPolicy(tuning=RefreshTuning(min_interval=0.001))
    ) as session:
        yield session


@pytest.fixture
async def api(emulator):
    async with Api(emulator) as api:
        yield api


@pytest.fixture
async def http(session, api):
    async with aiohttp.ClientSession(middlewares=(subscriber_auth(session, origins=[api.origin]),)) as http:
        yield http


def refuse(emulator, session):
    """Have the service take a session's token no more, which the session does not know."""
    emulator.revoke(session.pair.access_token)


async def test_a_request_is_signed_with_the_sessions_token(session, api, http):
    """As the subscriber, with no header of the caller's."""
    async with http.get(f"{api.origin}/me") as response:
        assert response.status == 200
    assert api.tokens == [session.pair.access_token.value]


async def test_the_space_of_the_session_is_signed_for_where_nothing_else_is_said(session, emulator):
    """It is where most requests go."""
    async with (
        aiohttp.ClientSession(middlewares=(subscriber_auth(session),)) as http,
        http.get(f"{session.client.origin}/api/fabric/subscriber/info") as response,
    ):
        assert (await response.json())["email"] == ALICE


async def test_it_works_for_a_single_request_too(session, api):
    """aiohttp takes middlewares in either place."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(api.origin, middlewares=(subscriber_auth(session, origins=[api.origin]),)) as response,
    ):
        assert response.status == 200


async def test_a_websocket_is_signed_too(session, api, http):
    """It begins as a request, to the same origin by another name."""
    async with http.ws_connect(api.origin.replace("http", "ws")) as socket:
        await socket.receive()
    assert api.tokens == [session.pair.access_token.value]


@pytest.mark.parametrize("body", [None, b"bytes", "text", {"form": "field"}], ids=str)
async def test_a_refused_token_is_replaced_and_the_request_repeated(emulator, session, api, http, body):
    """Once, with the same body, and whoever asked does not notice."""
    first = session.pair.access_token.value
    refuse(emulator, session)
    async with http.post(f"{api.origin}/me", data=body) as response:
        assert response.status == 200
    assert api.tokens == [first, session.pair.access_token.value]
    assert len({asked.body for asked in api.asked}) == 1
    assert session.generation == 2


async def test_a_json_body_is_repeated(emulator, session, api, http):
    """It is bytes by the time it is sent."""
    refuse(emulator, session)
    async with http.post(f"{api.origin}/me", json={"a": 1}) as response:
        assert response.status == 200
    assert [asked.body for asked in api.asked] == [b'{"a": 1}'] * 2


async def test_a_body_that_cannot_be_read_twice_is_not_sent_twice(emulator, session, api, http):
    """The refusal is the answer, and the next request has the next token."""

    async def parts():
        yield b"only once"

    refuse(emulator, session)
    async with http.post(f"{api.origin}/me", data=parts()) as response:
        assert response.status == 401
    assert [asked.body for asked in api.asked] == [b"only once"]
    async with http.get(f"{api.origin}/me") as response:
        assert response.status == 200


async def test_the_first_answer_is_released(emulator, session, api):
    """With one connection only, the second request needs the first one's."""
    refuse(emulator, session)
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1), middlewares=(subscriber_auth(session, origins=[api.origin]),)
        ) as http,
        http.get(f"{api.origin}/me") as response,
    ):
        assert response.status == 200


async def test_many_requests_with_one_refused_token_are_one_renewal(emulator, session, api, http):
    """All wait for the same next token."""
    refuse(emulator, session)
    api.gate.clear()
    calls = [asyncio.create_task(http.get(f"{api.origin}/me")) for _ in range(20)]
    await api.heard(20)
    api.gate.set()
    for response in await asyncio.gather(*calls):
        assert response.status == 200
        response.release()
    assert session.generation == 2


async def test_what_was_carried_out_before_a_redirect_is_not_repeated(emulator, session, api, http):
    """It is the request that was refused that is sent again."""
    refuse(emulator, session)
    url = f"{api.origin}/done"
    async with http.post(url, params={"url": f"{api.origin}/me"}, data=b"pay") as response:
        assert response.status == 200
    assert [(asked.method, asked.path) for asked in api.asked] == [("POST", "/done"), ("GET", "/me"), ("GET", "/me")]


async def test_a_websocket_whose_token_is_refused_is_opened_with_the_next(emulator, session, api, http):
    """As any other request."""
    refuse(emulator, session)
    async with http.ws_connect(api.origin.replace("http", "ws")) as socket:
        await socket.receive()
    assert session.generation == 2


async def test_whoever_repeats_a_request_does_so_with_the_token_of_then(emulator, session, api):
    """What stands in it is not the caller's."""

    async def repeat(request, handler):
        response = await handler(request)
        response.release()
        await session.refresh()
        emulator.revoke(api.tokens[0])
        return await handler(request)

    sign = subscriber_auth(session, origins=[api.origin])
    async with aiohttp.ClientSession(middlewares=(repeat, sign)) as http, http.get(f"{api.origin}/me") as response:
        assert response.status == 200
    assert api.tokens[1] == session.pair.access_token.value != api.tokens[0]


async def test_an_error_does_not_show_the_token(session, api, http):
    """aiohttp's quote a request's headers."""
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        await http.get(f"{api.origin}/closed", raise_for_status=True)
    shown = repr(caught.value) + str(caught.value.request_info) + str(caught.value.history)
    assert "Bearer" not in shown
    assert all(token not in shown for token in api.tokens)


async def test_what_no_token_opens_does_not_take_everybodys_token_away(emulator, session, api, http):
    """A token that has only just taken a refused one's place is not at fault."""
    for _ in range(5):
        async with http.get(f"{api.origin}/closed") as response:
            assert response.status == 401
    assert session.generation == 2
    assert len(api.asked) == 6
    async with http.get(f"{api.origin}/me") as response:
        assert response.status == 200
    emulator.advance(61)
    refuse(emulator, session)
    async with http.get(f"{api.origin}/me") as response:
        assert response.status == 200, "a token that is really refused is replaced, a minute later at the latest"
    assert session.generation == 3


async def test_an_address_that_refuses_at_random_takes_nobodys_token_away(session, api, http):
    """The token that came last goes on being used, though it is refused here and there."""
    for _ in range(3):
        async with http.get(f"{api.origin}/closed") as response:
            assert response.status == 401
        async with http.get(f"{api.origin}/me") as response:
            assert response.status == 200
        async with aiohttp.ClientSession(middlewares=(subscriber_auth(session, origins=[api.origin]),)) as other:
            async with other.get(f"{api.origin}/closed") as response:
                assert response.status == 401
            await session.token()
    assert session.generation == 2


async def test_a_stranger_is_shown_no_token(session, api, http, emulator):
    """Not even where only the port is another."""
    async with Api(emulator) as stranger, http.get(stranger.origin) as response:
        assert response.status == 401
    assert stranger.tokens == [None]


async def test_a_token_does_not_follow_a_redirect_to_a_stranger(session, api, http, emulator):
    """And the stranger's refusal says nothing of it."""
    async with (
        Api(emulator) as stranger,
        http.get(f"{api.origin}/to", params={"url": f"{stranger.origin}/x"}) as response,
    ):
        assert response.status == 401
    assert stranger.tokens == [None]
    assert session.generation == 1


async def test_a_redirect_from_a_stranger_is_signed_where_it_leads_home(session, api, http, emulator):
    """Each hop is judged by where it goes."""
    async with (
        Api(emulator) as stranger,
        http.get(f"{stranger.origin}/to", params={"url": f"{api.origin}/x"}) as response,
    ):
        assert response.status == 200
    assert stranger.tokens == [None]


async def test_a_token_does_not_go_from_https_to_http(emulator, session, tls):
    """An origin is its scheme as well."""
    server, context_trusting = tls
    async with (
        Api(emulator, context=server) as api,
        Api(emulator) as plain,
        aiohttp.ClientSession(
            middlewares=(subscriber_auth(session, origins=[api.origin, "https://other.example"]),)
        ) as http,
        http.get(f"{api.origin}/to", params={"url": f"{plain.origin}/x"}, ssl=context_trusting) as response,
    ):
        assert response.status == 401
    assert api.tokens == [session.pair.access_token.value]
    assert plain.tokens == [None]


async def test_an_authorization_of_the_callers_own_is_left_alone(session, api, http):
    """Whoever writes one means it."""
    async with http.get(f"{api.origin}/me", headers={"Authorization": "Bearer mine"}) as response:
        assert response.status == 401
    assert api.tokens == ["mine"]
    assert session.generation == 1


async def test_a_closed_session_is_told_of(session, api, http):
    """Rather than asking unsigned."""
    await session.aclose()
    with pytest.raises(SessionClosed):
        await http.get(f"{api.origin}/me")
    assert api.asked == []


async def test_a_session_that_closes_while_a_request_is_under_way_is_told_of(emulator, session, api, http):
    """There is no next token to wait for."""
    refuse(emulator, session)
    api.gate.clear()
    call = asyncio.create_task(http.get(f"{api.origin}/me"))
    await api.heard(1)
    await session.aclose()
    api.gate.set()
    with pytest.raises(SessionClosed):
        await call


@pytest.mark.parametrize(
    "origins",
    [
        "https://a.example",
        [],
        ["a.example"],
        ["https://a.example/path"],
        ["http://a.example"],
        ["https://*.example"],
        [5],
        5,
    ],
    ids=repr,
)
async def test_origins_must_be_exact(session, origins):
    """Whatever else is given is refused at once."""
    with pytest.raises(ConfigurationError, match="origins must"):
        subscriber_auth(session, origins=origins)


async def test_a_session_is_needed(client):
    """A client has no token of a subscriber."""
    with pytest.raises(ConfigurationError, match="SubscriberSession"):
        subscriber_auth(client)
