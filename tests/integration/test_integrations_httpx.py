"""httpx2 and httpx: requests signed as a subscriber."""

import asyncio
import ssl
import sys
from importlib import import_module

import httpx
import httpx2
import pytest

from signalwire_tokens import ConfigurationError, RefreshPolicy, RefreshTuning, SessionClosed, SubscriberSession
from signalwire_tokens.integrations.httpx import SubscriberAuth
from support.resource_server import Api

pytestmark = pytest.mark.usefixtures("loop_time")

ALICE = "alice@example.com"
TRUST = ssl.create_default_context()  # made once, since that takes longer than most tests


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


@pytest.fixture(params=[httpx2, httpx], ids=lambda library: library.__name__)
def library(request):
    return request.param


@pytest.fixture
async def http(library, session, api):
    async with library.AsyncClient(
        verify=TRUST, auth=SubscriberAuth(session, origins=[api.origin]), follow_redirects=True
    ) as http:
        yield http


async def test_a_request_is_signed_with_the_sessions_token(session, api, http):
    """As the subscriber, with no header of the caller's."""
    assert (await http.get(f"{api.origin}/me")).status_code == 200
    assert api.tokens == [session.pair.access_token.value]


async def test_the_space_of_the_session_is_signed_for_where_nothing_else_is_said(library, session):
    """It is where most requests go."""
    async with library.AsyncClient(verify=TRUST, auth=SubscriberAuth(session), base_url=session.client.origin) as http:
        assert (await http.get("/api/fabric/subscriber/info")).json()["email"] == ALICE


@pytest.mark.parametrize(
    "body", [{}, {"content": b"bytes"}, {"json": {"a": 1}}, {"data": {"form": "field"}}], ids=lambda body: str([*body])
)
async def test_a_refused_token_is_replaced_and_the_request_repeated(emulator, session, api, http, body):
    """Once, with the same body, and whoever asked does not notice."""
    first = session.pair.access_token.value
    emulator.revoke(first)
    assert (await http.post(f"{api.origin}/me", **body)).status_code == 200
    assert api.tokens == [first, session.pair.access_token.value]
    assert len({asked.body for asked in api.asked}) == 1
    assert session.generation == 2


async def test_a_body_that_cannot_be_read_twice_is_not_sent_twice(emulator, session, api, http):
    """The refusal is the answer, and the next request has the next token."""

    async def parts():
        yield b"only once"

    emulator.revoke(session.pair.access_token)
    assert (await http.post(f"{api.origin}/me", content=parts())).status_code == 401
    assert [asked.body for asked in api.asked] == [b"only once"]
    assert (await http.get(f"{api.origin}/me")).status_code == 200


async def test_the_first_answer_is_released(library, emulator, session, api):
    """With one connection only, the second request needs the first one's."""
    emulator.revoke(session.pair.access_token)
    auth = SubscriberAuth(session, origins=[api.origin])
    async with library.AsyncClient(verify=TRUST, auth=auth, limits=library.Limits(max_connections=1)) as http:
        assert (await http.get(f"{api.origin}/me")).status_code == 200


async def test_many_requests_with_one_refused_token_are_one_renewal(emulator, session, api, http):
    """All wait for the same next token."""
    emulator.revoke(session.pair.access_token)
    api.gate.clear()
    calls = [asyncio.create_task(http.get(f"{api.origin}/me")) for _ in range(20)]
    await api.heard(20)
    api.gate.set()
    assert {response.status_code for response in await asyncio.gather(*calls)} == {200}
    assert session.generation == 2


async def test_what_no_token_opens_does_not_take_everybodys_token_away(session, api, http):
    """A token that has only just taken a refused one's place is not at fault."""
    for _ in range(5):
        assert (await http.get(f"{api.origin}/closed")).status_code == 401
    assert session.generation == 2
    assert len(api.asked) == 6
    assert (await http.get(f"{api.origin}/me")).status_code == 200


async def test_a_stranger_is_shown_no_token(session, api, http, emulator):
    """Not even where only the port is another."""
    async with Api(emulator) as stranger:
        assert (await http.get(stranger.origin)).status_code == 401
        assert (await http.get(f"{api.origin}/to", params={"url": stranger.origin})).status_code == 401
    assert stranger.tokens == [None, None]
    assert session.generation == 1, "a stranger's refusal says nothing of the token"


@pytest.mark.parametrize("origin", ["home", "stranger", "friend"])
async def test_what_was_redirected_home_is_signed_and_its_refusal_counts(library, emulator, session, api, origin):
    """The first answer is not where the token was refused; and of the way there, nothing is repeated."""
    async with Api(emulator) as elsewhere:
        first = api if origin == "home" else elsewhere
        home = [api.origin, elsewhere.origin] if origin == "friend" else [api.origin]
        auth = SubscriberAuth(session, origins=home)
        async with library.AsyncClient(verify=TRUST, auth=auth, follow_redirects=True) as http:
            emulator.revoke(session.pair.access_token)
            url = f"{first.origin}/done"
            assert (await http.post(url, params={"url": f"{api.origin}/me"}, content=b"pay")).status_code == 200
        assert [asked.body for asked in (*api.asked, *elsewhere.asked)].count(b"pay") == 1
        assert [asked.method for asked in first.asked].count("POST") == 1
        assert (elsewhere.tokens[:1] == [None]) is (origin == "stranger")
    assert session.generation == 2
    assert api.tokens[-1] == session.pair.access_token.value


async def test_a_body_that_was_redirected_is_repeated_if_it_can_be(emulator, session, api, http):
    """It is the same one."""
    emulator.revoke(session.pair.access_token)
    answer = await http.post(f"{api.origin}/to", params={"url": f"{api.origin}/me"}, content=b"bytes")
    assert answer.status_code == 200
    assert [asked.path for asked in api.asked] == ["/to", "/me", "/me"]
    assert {asked.body for asked in api.asked} == {b"bytes"}


async def test_a_request_that_is_sent_again_is_signed_anew(library, emulator, session, api, http):
    """What was written into it was not the caller's."""
    request = library.Request("GET", f"{api.origin}/me")
    assert (await http.send(request)).status_code == 200
    await session.refresh()
    emulator.revoke(api.tokens[0])
    assert (await http.send(request)).status_code == 200
    assert api.tokens[1] == session.pair.access_token.value
    assert "Authorization" not in request.headers


async def test_a_redirect_that_is_followed_by_hand_is_signed_anew(library, emulator, session, api):
    """The request that the client proposes is nobody's own."""
    async with library.AsyncClient(verify=TRUST, auth=SubscriberAuth(session, origins=[api.origin])) as http:
        answer = await http.get(f"{api.origin}/to", params={"url": f"{api.origin}/me"})
        await session.refresh()
        emulator.revoke(api.tokens[0])
        assert (await http.send(answer.next_request)).status_code == 200
    assert api.tokens[1] == session.pair.access_token.value


async def test_nothing_of_an_exchange_keeps_the_token(session, api, http):
    """Neither on the way nor at its end."""
    twice = f"{api.origin}/to?url={api.origin}/me"
    answer = await http.get(f"{api.origin}/to", params={"url": twice})
    assert answer.status_code == 200
    assert len(answer.history) == 2
    for one in (answer, *answer.history):
        assert "Authorization" not in one.request.headers


async def test_a_token_does_not_go_from_https_to_http(library, emulator, session, tls):
    """An origin is its scheme as well."""
    server, context_trusting = tls
    async with Api(emulator, context=server) as api, Api(emulator) as plain:
        auth = SubscriberAuth(session, origins=[api.origin])
        async with library.AsyncClient(auth=auth, verify=context_trusting, follow_redirects=True) as http:
            assert (await http.get(f"{api.origin}/to", params={"url": f"{plain.origin}/x"})).status_code == 401
    assert api.tokens == [session.pair.access_token.value]
    assert plain.tokens == [None]


async def test_an_authorization_of_the_callers_own_is_left_alone(session, api, http):
    """Whoever writes one means it."""
    assert (await http.get(f"{api.origin}/me", headers={"Authorization": "Bearer mine"})).status_code == 401
    assert api.tokens == ["mine"]
    assert session.generation == 1


async def test_a_closed_session_is_told_of(session, api, http):
    """Rather than asking unsigned."""
    await session.aclose()
    with pytest.raises(SessionClosed):
        await http.get(f"{api.origin}/me")
    assert api.asked == []


async def test_a_client_without_an_event_loop_is_refused(library, session, api):
    """The token is kept alive by one."""
    with library.Client(auth=SubscriberAuth(session)) as http, pytest.raises(ConfigurationError, match="AsyncClient"):
        http.get(f"{api.origin}/me")


async def test_an_ipv6_address_is_an_origin_as_any(session):
    """It is written in brackets in one place, and without them in the other."""
    auth = SubscriberAuth(session, origins=["http://[::1]:8080"])
    flow = auth.async_auth_flow(httpx2.Request("GET", "http://[::1]:8080/me"))
    assert (await anext(flow)).headers["Authorization"] == f"Bearer {session.pair.access_token.value}"
    await flow.aclose()


@pytest.mark.parametrize("hidden", ["httpx", "httpx2"])
def test_either_of_the_two_will_do(monkeypatch, hidden):
    """The module works if only one of them is installed."""
    monkeypatch.setitem(sys.modules, hidden, None)
    assert import_again(monkeypatch, SubscriberAuth.__module__).SubscriberAuth is not SubscriberAuth


def test_without_either_of_the_two_the_import_names_what_is_missing(monkeypatch):
    """The error names both."""
    for name in ("httpx", "httpx2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match="SubscriberAuth needs httpx2 or httpx: pip install httpx2"):
        import_again(monkeypatch, SubscriberAuth.__module__)


def import_again(monkeypatch, name):
    """Import a module as if for the first time; the test's end brings back the one that was there."""
    monkeypatch.setattr(name, sys.modules[name])
    monkeypatch.delitem(sys.modules, name)
    return import_module(name)
