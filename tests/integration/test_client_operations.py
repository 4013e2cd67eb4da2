"""The client as its users see it, against the emulator over real sockets."""

import asyncio
import gc
import logging
import ssl
from datetime import timedelta
from uuid import uuid4

import aiohttp
import pytest

from signalwire_tokens import (
    ConfigurationError,
    ConnectionFailed,
    InvalidRequest,
    Lifetimes,
    NotFound,
    RateLimited,
    ServerError,
    TimedOut,
    TokenClient,
    Unauthorized,
    ValidationFailed,
    wire,
)
from signalwire_tokens.emulator import (
    HTML,
    Delay,
    Emulator,
    Huge,
    Reset,
    SkewDate,
    Stall,
    Status,
    Truncate,
)
from support.waiting import HANG, eventually

pytestmark = pytest.mark.usefixtures("loop_time")

ALICE = "alice@example.com"
MOST_CONNECTIONS = 100  # that aiohttp opens at a time


class Hurried:
    """A clock whose sleeps take no time, and are remembered."""

    def __init__(self, emulator):
        self._emulator = emulator
        self.slept = []

    def now(self):
        return self.wall()

    def wall(self):
        return self._emulator.now().timestamp()

    async def sleep(self, seconds):
        self.slept.append(seconds)


class Closing(Hurried):
    """A clock during whose sleeps the client is closed."""

    async def sleep(self, seconds):
        await super().sleep(seconds)
        await self.client.aclose()


@pytest.fixture
def clock(emulator):
    return Hurried(emulator)


@pytest.fixture
async def patient(emulator, clock):
    async with emulator.client(retries=3, clock=clock) as client:
        yield client


async def test_every_operation_sends_its_own_authentication_and_nothing_more(emulator, client):
    """The journal of the service: the API token never travels with an embed or an invite."""
    pair = await client.create_subscriber_token(ALICE)
    pair = await client.refresh_subscriber_token(pair.refresh_token)
    info = await client.subscriber_info(pair.access_token)
    addresses = [address async for address in client.subscriber_addresses(info.id)]
    assert addresses == list(info.fabric_addresses)
    assert [address async for address in client.addresses(pair.access_token)] == addresses
    assert await client.address(addresses[0].id, access_token=pair.access_token) == addresses[0]
    await client.create_guest_token([addresses[0].id])
    await client.create_invite_token(addresses[0].id, subscriber_token=pair.access_token)
    await client.create_embed_token(emulator.click_to_call)
    assert [(entry.operation, entry.auth, entry.status) for entry in emulator.requests] == [
        ("create_subscriber_token", "Basic", 200),
        ("refresh_subscriber_token", "Basic", 201),
        ("subscriber_info", "Bearer", 200),
        ("subscriber_addresses", "Basic", 200),
        ("addresses", "Bearer", 200),
        ("address", "Bearer", 200),
        ("create_guest_token", "Basic", 201),
        ("create_invite_token", "Bearer", 201),
        ("create_embed_token", None, 201),
    ]


async def test_what_is_issued_is_live(emulator, client):
    """Every token, by whichever operation it came; tokens are taken as strings and as values."""
    pair = await client.create_subscriber_token(ALICE, first_name="Alice", scope="sat:refresh")
    info = await client.subscriber_info(pair.access_token.value)
    assert (info.id, info.email, info.first_name) == (pair.subscriber_id, ALICE, "Alice")
    assert info.sat_claims.scope == ("sat:refresh",)
    room = emulator.add_address("room")
    guest = await client.create_guest_token(
        {room}, expire_at=timedelta(minutes=5), region="us-central", ch="us-central"
    )
    invite = await client.create_invite_token(
        str(room), subscriber_token=pair.access_token.value, expires_at=timedelta(minutes=1)
    )
    embed = await client.create_embed_token(emulator.click_to_call)
    renewed = await client.refresh_subscriber_token(pair.refresh_token.value)
    for token in (
        pair.access_token,
        guest.access_token,
        guest.refresh_token,
        invite,
        embed,
        renewed.access_token,
        renewed.refresh_token,
    ):
        assert emulator.accepts(token)
    assert not emulator.accepts(pair.refresh_token)


async def test_a_field_that_is_newer_than_the_client_is_sent_as_extra(emulator, client):
    """A strict emulator refuses it, since the published description doesn't have it. Others accept it."""
    with pytest.raises(ValidationFailed, match="new_field"):
        await client.create_subscriber_token(ALICE, extra={"new_field": 1})
    emulator.strict = False
    await client.create_subscriber_token(ALICE, region="somewhere", extra={"new_field": 1})
    await client.create_guest_token([emulator.add_address("room")], region="x", ch="y", extra={"new_field": 1})


async def test_an_end_that_is_shown_is_the_end(signalwire_clock, emulator, client):
    """What a token says of its life is never more than what the service grants."""
    for until in (None, timedelta(minutes=10)):
        pair = await client.create_subscriber_token(ALICE, expire_at=until)
        emulator.advance((pair.access_token.expires_at - emulator.now()).total_seconds() - 0.01)
        assert emulator.accepts(pair.access_token)
        emulator.advance(1.02 if until else 0.02)
        assert not emulator.accepts(pair.access_token)


async def test_a_clock_that_lags_behind_the_service_s_is_made_up_for(signalwire_clock, emulator, client):
    """The service's `Date` is ahead by a minute, so the token's end is taken to be a minute nearer."""
    emulator.fail(SkewDate(60))
    pair = await client.create_subscriber_token(ALICE, expire_at=timedelta(minutes=10))
    assert 538 <= (pair.access_token.expires_at - pair.access_token.issued_at).total_seconds() <= 541


async def test_nothing_is_sent_of_a_wrong_request(emulator, client):
    """The service's answer is not needed to know better."""
    for attempt in (
        client.create_subscriber_token(""),
        client.create_guest_token([]),
        client.create_invite_token("x", subscriber_token=""),
        client.create_embed_token(""),
        client.refresh_subscriber_token(""),
        client.subscriber_info(""),
        client.address("x", access_token=""),
    ):
        with pytest.raises(InvalidRequest):
            await attempt
    with pytest.raises(InvalidRequest):
        client.subscriber_addresses("x")
    with pytest.raises(InvalidRequest):
        client.addresses("")
    assert emulator.requests == []


async def test_pages_are_followed_to_the_end():
    """However many there are; and each is asked for only when it is needed."""
    async with Emulator(page_size=2) as emulator, emulator.client() as client:
        pair = await client.create_subscriber_token(ALICE)
        for number in range(4):
            emulator.add_address(f"room-{number}", subscriber_id=pair.subscriber_id)
        names = [address.name async for address in client.subscriber_addresses(pair.subscriber_id)]
        assert names == ["alice-example-com", "room-0", "room-1", "room-2", "room-3"]
        assert len(emulator.requests) == 4
        async for _ in client.subscriber_addresses(pair.subscriber_id):
            break
        assert len(emulator.requests) == 5


async def test_a_subscriber_lists_whom_it_can_call_with_its_access_token_alone():
    """The client needs no credentials of the project. Every page is asked for with the token."""
    async with Emulator(page_size=2) as emulator:
        async with emulator.client() as client:
            pair = await client.create_subscriber_token(ALICE)
            await client.create_subscriber_token("bob")
        room = emulator.add_address("room")
        async with TokenClient(emulator.space) as caller:
            names = [address.name async for address in caller.addresses(pair.access_token.value)]
            assert names == ["alice-example-com", "bob", "room"]
            found = await caller.address(str(room), access_token=pair.access_token)
        assert (found.id, found.type) == (room, "room")
        asked = [(entry.operation, entry.auth) for entry in emulator.requests[2:]]
        assert asked == [("addresses", "Bearer")] * 2 + [("address", "Bearer")]


async def test_an_argument_that_raises_does_so_once_the_call_is_awaited(client):
    """As in a coroutine function, so that `gather()` gets the exception, too."""

    def addresses():
        raise OSError("the database is away")
        yield

    call = client.create_guest_token(addresses())
    with pytest.raises(OSError, match="the database is away"):
        await call


async def test_a_guest_finds_only_the_addresses_that_it_may_call(emulator, client):
    """Others don't exist for it."""
    lobby, office = emulator.add_address("lobby"), emulator.add_address("office")
    guest = (await client.create_guest_token([office])).access_token
    assert [address.id async for address in client.addresses(guest)] == [office]
    with pytest.raises(NotFound) as caught:
        await client.address(lobby, access_token=guest)
    assert caught.value.operation == "address"


async def test_a_listing_with_an_expired_token_raises_unauthorized(emulator, client):
    """The same goes for a lookup. It isn't repeated: there is no other token."""
    pair = await client.create_subscriber_token(ALICE)
    emulator.advance(timedelta(hours=2))
    with pytest.raises(Unauthorized, match="refused the access token"):
        await anext(client.addresses(pair.access_token))
    with pytest.raises(Unauthorized, match="refused the access token"):
        await client.address(uuid4(), access_token=pair.access_token)
    assert len(emulator.requests) == 3


async def test_the_service_s_refusals_are_typed(emulator, client):
    """Each with its operation, its status and the service's name for the request."""
    with pytest.raises(ValidationFailed) as caught:
        await client.create_guest_token([uuid4(), uuid4()])
    assert [problem.code for problem in caught.value.errors] == ["must_belong_to_project"]
    assert caught.value.operation == "create_guest_token"
    assert caught.value.status == 422
    assert caught.value.request_id is not None
    with pytest.raises(NotFound):
        await anext(client.subscriber_addresses(uuid4()))
    async with TokenClient(emulator.space, emulator.project_id, "wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.create_subscriber_token(ALICE)


@pytest.mark.parametrize(
    ("project_id", "api_token", "needs"),
    [
        (None, None, "needs the arguments project_id and api_token: not given to TokenClient"),
        ("p", None, "needs the argument api_token: not given to TokenClient"),
        (None, "t", "needs the argument project_id: not given to TokenClient"),
        (None, lambda: "t", "needs the argument project_id: not given to TokenClient"),
    ],
    ids=["neither", "no token", "no project", "a function and no project"],
)
async def test_what_needs_no_project_works_without_one(emulator, client, project_id, api_token, needs):
    """And what needs one names all arguments that are missing, at once."""
    pair = await client.create_subscriber_token(ALICE)
    room = emulator.add_address("room")
    async with TokenClient(emulator.space, project_id, api_token) as without_tracebacks:
        await without_tracebacks.create_embed_token(emulator.click_to_call)
        await without_tracebacks.create_invite_token(room, subscriber_token=pair.access_token)
        await without_tracebacks.subscriber_info(pair.access_token)
        with pytest.raises(ConfigurationError) as caught:
            await without_tracebacks.create_subscriber_token(ALICE)
    assert str(caught.value) == f"create_subscriber_token: {needs}"


PROJECT_ID, API_TOKEN = "SIGNALWIRE_PROJECT_ID", "SIGNALWIRE_API_TOKEN"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, f"variables {PROJECT_ID} and {API_TOKEN}"),
        ({PROJECT_ID: "", API_TOKEN: " \r\n"}, f"variables {PROJECT_ID} and {API_TOKEN}"),
        ({PROJECT_ID: "p", API_TOKEN: " "}, f"variable {API_TOKEN}"),
        ({API_TOKEN: "hush"}, f"variable {PROJECT_ID}"),
    ],
    ids=["neither", "both blank", "a blank token", "no project"],
)
async def test_an_environment_without_a_project_is_named_by_the_first_operation_that_needs_one(
    plain_environment, monkeypatch, client, settings, names
):
    """All missing variables at once. What needs none works: it sends the subscriber's own token."""
    pair = await client.create_subscriber_token(ALICE)
    monkeypatch.setenv("SIGNALWIRE_SPACE", client.origin)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    async with TokenClient.from_env(clock=client.clock) as without_tracebacks:
        await without_tracebacks.subscriber_info(pair.access_token)
        with pytest.raises(ConfigurationError) as caught:
            await without_tracebacks.refresh_subscriber_token(pair.refresh_token)
    reason = f"needs the environment {names}: not set when TokenClient.from_env() was called"
    assert str(caught.value) == f"refresh_subscriber_token: {reason}"


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(503, retry_after=2), Status(429), Reset(), Reset(applied=True), Truncate()],
    ids=repr,
)
async def test_what_may_pass_is_tried_again(emulator, patient, clock, fault):
    """Three times more, with pauses that the service may set."""
    emulator.fail(fault, times=3)
    pair = await patient.create_subscriber_token(ALICE)
    assert emulator.accepts(pair.access_token)
    assert len(emulator.requests) == 4
    assert len(clock.slept) == 3
    throttled = fault == Status(429)  # for a second, since it does not say for how long
    assert all(throttled <= pause <= 1 + throttled for pause in clock.slept) or clock.slept == [2, 2, 2]
    emulator.fail(fault, times=4)
    with pytest.raises((ServerError, RateLimited, ConnectionFailed)):
        await patient.create_subscriber_token(ALICE)
    assert len(emulator.requests) == 8


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (Reset(), 1),
        (Reset(applied=True), 1),
        (Truncate(), 1),
        (Status(500), 1),
        (Status(502, applied=True), 1),
        (Status(429), 4),
        (Status(429, retry_after=1), 4),
        (Status(503, retry_after=1), 4),
        (Status(401), 1),
        (HTML, 1),
    ],
    ids=repr,
)
async def test_a_refresh_is_never_repeated_after_an_ambiguous_answer(emulator, patient, fault, requests):
    """The refresh token may be used up; only what certainly did nothing is tried again."""
    pair = await patient.create_subscriber_token(ALICE)
    emulator.fail(fault, operation="refresh_subscriber_token", times=None)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whichever kind
        await patient.refresh_subscriber_token(pair.refresh_token)
    assert getattr(caught.value, "sent", None) is not False
    assert len(emulator.requests) == 1 + requests


async def test_a_refresh_is_repeated_while_nothing_leaves(emulator, clock):
    """A connection that is refused has used nothing up."""
    async with emulator.client(clock=clock) as client:
        pair = await client.create_subscriber_token(ALICE)
    async with emulator.client(clock=clock) as client:
        async with emulator.unreachable():
            with pytest.raises(ConnectionFailed) as caught:
                await client.refresh_subscriber_token(pair.refresh_token)
            assert caught.value.sent is False
            assert len(clock.slept) == 3
        await client.refresh_subscriber_token(pair.refresh_token)


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_pause_that_does_not_fit_is_not_begun(emulator, patient, clock, as_date):
    """The caller is told at once how long the service wants to be left alone."""
    emulator.fail(Status(429, retry_after=60, as_date=as_date))
    with pytest.raises(RateLimited) as caught:
        await patient.create_subscriber_token(ALICE)
    assert 59 <= caught.value.retry_after <= 60
    assert clock.slept == []


@pytest.mark.parametrize(
    ("fault", "sent"),
    [(Stall(), None), (Stall(applied=True), None), (Truncate(stall=True), True), (Delay(5), None)],
    ids=repr,
)
async def test_a_call_never_outlasts_its_timeout(emulator, fault, sent):
    """Wherever the service stops in its answer."""
    emulator.fail(fault)
    async with emulator.client(timeout=0.5) as client:
        with pytest.raises(TimedOut) as caught:
            await client.create_subscriber_token(ALICE)
        assert caught.value.sent is sent
        assert "0.5 s" in str(caught.value)
        assert str(caught.value).endswith("; check the network, or raise timeout")
        emulator.fail(Stall())
        with pytest.raises(TimedOut) as caught:
            await client.subscriber_info("opaque")
        assert caught.value.sent is None


async def test_the_timeout_bounds_all_tries_together(emulator):
    """Not each of them."""
    emulator.fail(Status(500), times=None)
    loop = asyncio.get_running_loop()
    async with emulator.client(timeout=0.3, retries=1000) as client:
        start = loop.time()
        with pytest.raises((ServerError, TimedOut)):
            await client.create_subscriber_token(ALICE)
        assert loop.time() - start < 5


async def test_a_body_without_end_is_not_read(emulator, client):
    """64 KiB are more than any answer of the service's; the rest stays where it is."""
    emulator.fail(Huge())
    with pytest.raises(Exception, match="larger than 64 KiB"):
        await client.create_subscriber_token(ALICE)
    await client.create_subscriber_token(ALICE)


@pytest.mark.parametrize("fault", [None, Stall(), Truncate(stall=True), Delay(5)], ids=repr)
async def test_cancelling_leaves_nothing_behind(emulator, fault):
    """At every step of a call that the event loop takes; the fixture looks for tasks and connections."""
    for steps in range(40):
        if fault is not None:
            emulator.fail(fault)
        async with emulator.client(retries=0) as client:
            call = asyncio.create_task(client.create_subscriber_token(ALICE))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled() or fault is None
            http = client.sender._http
            assert http is None or not http.connector._acquired
        emulator.clear_faults()


async def test_a_life_is_counted_from_when_the_request_was_sent(signalwire_clock):
    """However long the answer takes."""
    slow = Emulator(clock=signalwire_clock, on_request=lambda _: slow.advance(30))
    async with slow as emulator, emulator.client() as client:
        before = emulator.now()
        pair = await client.create_subscriber_token(ALICE)
        assert (emulator.now() - before).total_seconds() == 30
    assert pair.access_token.issued_at == before


async def test_one_request_may_ask_for_fewer_tries(emulator, patient):
    """Whoever paces by himself sends what `wire` describes, once."""
    emulator.fail(Status(500), times=None)
    with pytest.raises(ServerError):
        await patient.send(wire.create_embed_token(wire.mask("c2c_x")), retries=0)
    assert len(emulator.requests) == 1


async def test_tls_is_verified():
    """A certificate that nobody vouches for is refused; with the authority's own file it is taken."""
    async with Emulator(tls=True) as emulator:
        asyncio.get_running_loop().set_exception_handler(lambda _, __: None)  # the server's side of a refusal
        async with TokenClient(emulator.space, retries=0) as client:
            with pytest.raises(ConnectionFailed, match=r"\(certificate not trusted\)") as caught:
                await client.create_embed_token(emulator.click_to_call)
            assert caught.value.sent is False
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        async with emulator.client() as client:
            await client.create_subscriber_token(ALICE)


async def test_settings_come_from_the_environment(monkeypatch):
    """Under the names that the official clients use, the CA file included."""
    async with Emulator(tls=True) as emulator:
        monkeypatch.setenv("SIGNALWIRE_SPACE", emulator.space)
        monkeypatch.setenv("SIGNALWIRE_PROJECT_ID", emulator.project_id)
        monkeypatch.setenv("SIGNALWIRE_API_TOKEN", emulator.api_token)
        monkeypatch.setenv("SIGNALWIRE_REST_CA_FILE", str(emulator.ca_file))
        async with TokenClient.from_env(timeout=5, lifetimes=Lifetimes(embed=timedelta(seconds=7))) as client:
            embed = await client.create_embed_token(emulator.click_to_call)
            assert (embed.expires_at - embed.issued_at).total_seconds() == 7
            await client.create_subscriber_token(ALICE)


async def test_the_lifetime_of_a_space_s_tokens_comes_from_the_environment(monkeypatch):
    """An emulator in another process may have short ones. What is passed as `lifetimes` goes before it."""
    monkeypatch.setenv("SIGNALWIRE_SPACE", "acme")
    monkeypatch.setenv("SIGNALWIRE_TOKENS_LIFETIME", "40s")
    async with TokenClient.from_env() as client, TokenClient.from_env(lifetimes=Lifetimes()) as usual:
        assert client.lifetimes == Lifetimes.of(timedelta(seconds=40))
        assert usual.lifetimes == Lifetimes()
    monkeypatch.setenv("SIGNALWIRE_TOKENS_LIFETIME", "forty seconds")
    with pytest.raises(ConfigurationError, match="SIGNALWIRE_TOKENS_LIFETIME must be"):
        TokenClient.from_env()


async def test_the_embed_origin_comes_from_the_environment(monkeypatch):
    """The argument `embed_origin` takes precedence."""
    monkeypatch.setenv("SIGNALWIRE_SPACE", "acme")
    async with TokenClient.from_env() as client:
        assert client.embed_origin == client.origin == "https://acme.signalwire.com"
    monkeypatch.setenv("SIGNALWIRE_TOKENS_EMBED_ORIGIN", " embeds.signalwire.com\r")
    async with TokenClient.from_env() as client, TokenClient.from_env(embed_origin="localhost:1") as other:
        assert client.embed_origin == "https://embeds.signalwire.com"
        assert other.embed_origin == "http://localhost:1"
    monkeypatch.setenv("SIGNALWIRE_TOKENS_EMBED_ORIGIN", "http://hunter2@example.com")
    with pytest.raises(InvalidRequest, match="embed_origin must be") as caught:
        TokenClient.from_env()
    assert "hunter2" not in str(caught.value)


@pytest.fixture
async def spaces():
    """Run the same space twice: once for all operations but embeds, and once for these."""
    async with Emulator(seed="embeds") as space, Emulator(seed="embeds") as embeds:
        yield space, embeds


def asking_both(spaces, **settings):
    """Return a client whose embed requests go to the second emulator."""
    space, embeds = spaces
    settings = {"embed_origin": embeds.space, "retries": 0, **settings}
    return TokenClient(space.space, space.project_id, space.api_token, **settings)


async def test_embed_requests_go_to_the_embed_origin_and_all_others_to_the_space(spaces):
    """Nothing else is sent there, and no credentials."""
    space, embeds = spaces
    async with asking_both(spaces) as client:
        pair = await client.create_subscriber_token(ALICE)
        await client.refresh_subscriber_token(pair.refresh_token)
        info = await client.subscriber_info(pair.access_token)
        guest = await client.create_embed_token(space.click_to_call)
        addresses = [address.id async for address in client.subscriber_addresses(info.id)]
        await client.create_guest_token(addresses)
        await client.create_invite_token(addresses[0], subscriber_token=pair.access_token)
    assert space.accepts(guest)
    assert [(entry.operation, entry.auth) for entry in embeds.requests] == [("create_embed_token", None)]
    assert "create_embed_token" not in [entry.operation for entry in space.requests]
    assert len(space.requests) == 6


async def test_a_throttle_of_the_embed_origin_is_its_own(spaces, clock):
    """It keeps no request from the space, and a success at one origin lifts no throttle of the other."""
    space, embeds = spaces
    async with asking_both(spaces, retries=1, timeout=5.0, clock=clock) as client:
        embeds.fail(Status(429, retry_after=30))
        with pytest.raises(RateLimited):
            await client.create_embed_token(space.click_to_call)
        assert client.throttle.left(clock.now()) == 0
        await client.create_subscriber_token(ALICE)
        embeds.fail(Status(500))
        with pytest.raises(ServerError):
            await client.create_embed_token(space.click_to_call)  # the retry would have to wait for the throttle's end
        assert clock.slept == []
        space.fail(Status(429, retry_after=30))
        with pytest.raises(RateLimited):
            await client.create_subscriber_token(ALICE)
        await client.create_embed_token(space.click_to_call)
        assert client.throttle.left(clock.now()) > 20


async def test_a_client_closes_the_connections_to_both_origins(spaces):
    """Embed requests then fail as all others do."""
    space, _ = spaces
    client = asking_both(spaces)
    await client.create_subscriber_token(ALICE)
    await client.create_embed_token(space.click_to_call)
    assert all(sender.leaks for sender in client._senders())
    await client.aclose()
    assert not any(sender.leaks for sender in client._senders())
    with pytest.raises(ConfigurationError, match="closed"):
        await client.create_embed_token(space.click_to_call)


async def test_a_client_that_only_asked_the_embed_origin_is_to_be_closed_too(spaces):
    """If it isn't, there is a warning."""
    client = asking_both(spaces)
    await client.create_embed_token(spaces[0].click_to_call)
    http = client._embeds[1]._http
    with pytest.warns(ResourceWarning, match="unclosed <TokenClient"):  # noqa: PT031 - one act of two
        del client
        gc.collect()
    await http.close()


@pytest.mark.parametrize("form", [" {} ", "{}\r", "\t{}\n"])
async def test_blanks_around_a_variable_do_not_count(monkeypatch, form):
    """Files with variables may end their lines as Windows does, or have blanks within the quotes."""
    async with Emulator(tls=True) as emulator:
        monkeypatch.setenv("SIGNALWIRE_SPACE", form.format(emulator.space))
        monkeypatch.setenv("SIGNALWIRE_PROJECT_ID", form.format(emulator.project_id))
        monkeypatch.setenv("SIGNALWIRE_API_TOKEN", form.format(emulator.api_token))
        monkeypatch.setenv("SIGNALWIRE_REST_CA_FILE", form.format(emulator.ca_file))
        async with TokenClient.from_env() as client:
            await client.create_subscriber_token(ALICE)
        assert client.project_id == emulator.project_id


@pytest.mark.parametrize("space", [None, "", " \r"])
def test_an_environment_without_a_space_is_refused(plain_environment, monkeypatch, space):
    """With the names of all that is missing."""
    if space is not None:
        monkeypatch.setenv("SIGNALWIRE_SPACE", space)
    for missing in (f"SIGNALWIRE_SPACE, {PROJECT_ID}, {API_TOKEN}", f"SIGNALWIRE_SPACE, {API_TOKEN}"):
        with pytest.raises(ConfigurationError, match=f"^not set: {missing}. The space is a name, a host or an origin"):
            TokenClient.from_env()
        monkeypatch.setenv(PROJECT_ID, "p")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_holds_none_is_refused(monkeypatch, tmp_path, content):
    """Absent, or not what it should be."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv("SIGNALWIRE_SPACE", "acme")
    monkeypatch.setenv("SIGNALWIRE_REST_CA_FILE", str(path))
    with pytest.raises(ConfigurationError, match="SIGNALWIRE_REST_CA_FILE"):
        TokenClient.from_env()


async def test_an_unclosed_client_says_so(emulator):
    """Connections of its own that nobody closed; one that was never used has none."""
    client = emulator.client()
    await client.create_subscriber_token(ALICE)
    await client.aclose()
    client = emulator.client()
    await client.create_subscriber_token(ALICE)
    http = client.sender._http
    with pytest.warns(ResourceWarning, match="unclosed <TokenClient http://127.0.0.1"):  # noqa: PT031 - one act of two
        del client
        gc.collect()
    await http.close()
    TokenClient("acme")
    gc.collect()


async def test_a_closed_client_says_so(emulator):
    """Closing twice is closing once; using after is a mistake that is named."""
    client = emulator.client()
    await client.aclose()
    await client.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await client.create_subscriber_token(ALICE)


async def test_closing_in_the_middle_of_a_call_ends_it_with_its_own_failure():
    """Not with a second try that finds the client closed."""
    arrived = asyncio.Event()
    async with Emulator(on_request=lambda _: arrived.set()) as emulator:
        emulator.fail(Stall())
        client = emulator.client()
        call = asyncio.create_task(client.create_subscriber_token(ALICE))
        await arrived.wait()
        await client.aclose()
        with pytest.raises(
            ConnectionFailed, match=r"the TokenClient was closed before 127\.0\.0\.1:\d+ had answered"
        ) as caught:
            await call
    assert caught.value.sent is None
    assert len(emulator.requests) == 1


async def test_closing_ends_calls_that_wait_for_a_connection(emulator):
    """aiohttp cancels them, which a `TaskGroup` would take for a cancellation by your code."""
    emulator.fail(Stall(), times=None)
    client = emulator.client(timeout=HANG)
    calls = [asyncio.create_task(client.create_subscriber_token(ALICE)) for _ in range(MOST_CONNECTIONS + 5)]
    await eventually(lambda: len(emulator.requests) == MOST_CONNECTIONS)
    await client.aclose()
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in failures} == {ConnectionFailed}
    assert [failure.sent for failure in failures].count(False) == 5


async def test_a_given_session_that_closes_ends_calls(emulator):
    """Those that run, and those that wait for a connection."""
    emulator.fail(Stall(), times=None)
    http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
    credentials = emulator.project_id, emulator.api_token
    async with TokenClient(emulator.space, *credentials, http_session=http, timeout=HANG, retries=0) as client:
        calls = [asyncio.create_task(client.create_subscriber_token(ALICE)) for _ in range(2)]
        await eventually(lambda: emulator.requests)
        await http.close()
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == 2 * [ConnectionFailed]
    assert all("the aiohttp.ClientSession given as http_session was closed" in str(failure) for failure in failures)
    assert [failure.sent for failure in failures] == [None, False]


async def test_a_call_that_is_cancelled_while_it_waits_for_a_connection_is_cancelled(emulator):
    """Also if the client closes at the same time."""
    emulator.fail(Stall(), times=None)
    client = emulator.client(timeout=HANG)
    calls = [asyncio.create_task(client.create_subscriber_token(ALICE)) for _ in range(MOST_CONNECTIONS + 1)]
    await eventually(lambda: len(emulator.requests) == MOST_CONNECTIONS)
    calls[-1].cancel()
    await client.aclose()
    with pytest.raises(asyncio.CancelledError):
        await calls[-1]
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_timeout_names_the_host_and_the_limit(emulator):
    """The error also says what to check."""
    emulator.fail(Stall())
    async with emulator.client(timeout=0.5) as client:
        with pytest.raises(TimedOut) as caught:
            await client.create_subscriber_token(ALICE)
    assert str(caught.value) == (
        f"create_subscriber_token: no answer from {emulator.space} within 0.5 s; check the network, or raise timeout"
    )


async def test_a_timeout_of_a_session_s_own_doesn_t_advise_to_raise_the_client_s(emulator):
    """A session with a store limits its requests by its lease, so a longer `timeout` changes nothing."""
    emulator.fail(Stall())
    async with emulator.client(timeout=9) as client:
        with pytest.raises(TimedOut, match=r"within 0\.5 s; check the network$"):
            await client.send(wire.create_embed_token(wire.mask("c2c_x")), limit=0.5)


async def test_an_api_token_function_that_hangs_is_named(emulator):
    """The error blames the function, and not the network."""

    async def hang():
        await asyncio.Event().wait()

    async with TokenClient(emulator.space, emulator.project_id, hang, timeout=0.5) as client:
        with pytest.raises(TimedOut, match=r"the api_token function hasn't returned within 0\.5 s$"):
            await client.create_subscriber_token(ALICE)


async def test_closing_during_a_pause_ends_a_call_with_what_went_before(emulator):
    """The service's last word, which the pause was for."""
    emulator.fail(Status(500))
    client = emulator.client(clock=Closing(emulator))
    client.clock.client = client
    with pytest.raises(ServerError):
        await client.create_subscriber_token(ALICE)


def test_a_client_belongs_to_one_event_loop():
    """Its connections do."""
    client = TokenClient("127.0.0.1:9", retries=0)

    async def use():
        with pytest.raises(ConnectionFailed):
            await client.create_embed_token("c2c_x")

    async def use_again():
        with pytest.raises(ConfigurationError, match=r"run_coroutine_threadsafe\(\). See 'Celery, RQ and Django'"):
            await client.create_embed_token("c2c_x")

    with asyncio.Runner() as runner:
        runner.run(use())
        asyncio.run(use_again())
        runner.run(client.aclose())


def test_a_client_shows_where_it_points_and_no_more():
    """Space and project, and nothing that is secret."""
    assert repr(TokenClient("acme", "project", "hush")) == "<TokenClient https://acme.signalwire.com project project>"
    assert repr(TokenClient("acme")) == "<TokenClient https://acme.signalwire.com project not set>"


async def test_a_log_tells_what_happened(emulator, patient, caplog):
    """At DEBUG, a line for each try; nothing above it, since the caller is told anyway."""
    emulator.fail(Status(500))
    with caplog.at_level(logging.DEBUG, "signalwire_tokens"):
        await patient.create_subscriber_token(ALICE)
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * len(caplog.records)
    assert "answered with status 500" in caplog.text
    assert "repeating the request in " in caplog.text
    assert "answered with status 200" in caplog.text


async def test_a_caller_s_session_is_used_and_left_open(emulator):
    """The caller opened it, so the caller closes it."""
    async with aiohttp.ClientSession() as http:
        async with TokenClient(emulator.space, emulator.project_id, emulator.api_token, http_session=http) as client:
            await client.create_subscriber_token(ALICE)
        assert not http.closed
        late = TokenClient(emulator.space, emulator.project_id, emulator.api_token, http_session=http)
    with pytest.raises(ConfigurationError, match="http_session is closed: keep it open"):
        await late.create_subscriber_token(ALICE)
