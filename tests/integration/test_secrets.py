"""No secret reaches a repr, a message, a log, a warning or the frames of a traceback: every operation, every fault."""

import asyncio
import json
import logging
import warnings
from base64 import b64encode
from datetime import timedelta

import aiohttp
import pytest

from signalwire_tokens import (
    ConfigurationError,
    InvalidRequest,
    SessionFleet,
    SignalWireTokenError,
    SubscriberSession,
    TokenClient,
    wire,
)
from signalwire_tokens.emulator import (
    EMPTY,
    HTML,
    Emulator,
    Huge,
    Raw,
    Redirect,
    Reset,
    SkewDate,
    Stall,
    Status,
    Truncate,
)
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.secret import Secret
from support.traceback_text import frames_shown

pytestmark = pytest.mark.usefixtures("loop_time")

MARK = "hush"
API_TOKEN, PASSWORD, EXTRA, C2C, OPAQUE, PROOF = (
    f"{MARK}-{name}" for name in ("api", "password", "extra", "c2c", "opaque", "proof")
)


@pytest.fixture
def everything(caplog):
    """Collect whatever is shown anywhere: logs at DEBUG, asyncio's and aiohttp's own included, and warnings."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield Everything(caplog, caught)


class Everything(list):
    """What a test has collected, and what was logged and warned of by now."""

    def __init__(self, caplog, caught):
        super().__init__()
        self.caplog, self.caught = caplog, caught

    def text(self):
        records = [repr(record.__dict__) for record in self.caplog.records]
        return "\n".join([*self, self.caplog.text, *records, *(str(warning.message) for warning in self.caught)])


def assert_silent(shown, *secrets):
    text = shown.text()
    for secret in (MARK, "eyJ", "Basic ", *secrets):
        assert secret not in text, f"a secret was shown around: {text[max(0, text.find(secret) - 200) :][:400]}"


def operations(client, room, pair, token):
    """Each operation, with the secrets that it sends beside the project's own."""
    access, extra = pair.access_token.value, {"pin": EXTRA}
    yield (PASSWORD, EXTRA), client.create_subscriber_token("alice", password=PASSWORD, extra=extra)
    yield (pair.refresh_token.value,), client.refresh_subscriber_token(pair.refresh_token)
    yield (OPAQUE,), client.refresh_subscriber_token(OPAQUE)
    yield (EXTRA,), client.create_guest_token([room], extra=extra)
    yield (access, EXTRA), client.create_invite_token(room, subscriber_token=access, extra=extra)
    yield (OPAQUE,), client.create_invite_token(room, subscriber_token=OPAQUE)
    yield (token,), client.create_embed_token(token)
    yield (C2C,), client.create_embed_token(C2C)
    yield (access,), client.subscriber_info(access)
    yield (OPAQUE,), client.subscriber_info(OPAQUE)
    yield (), anext(client.subscriber_addresses(pair.subscriber_id))
    yield (access,), anext(client.addresses(access))
    yield (OPAQUE,), anext(client.addresses(OPAQUE))
    yield (access,), client.address(room, access_token=access)
    yield (OPAQUE,), client.address(room, access_token=OPAQUE)
    proven = {"proof": Secret(PROOF), "lifetime": timedelta(minutes=15)}
    yield (access, PROOF), client.send(wire.create_device_token(Secret(access), **proven))
    yield (access, PROOF), client.send(wire.refresh_device_token(Secret(access), **proven))
    headers = Secret({"X-Api-Key": OPAQUE, "Cookie": f"sid={PASSWORD}"})
    yield (OPAQUE, PASSWORD, EXTRA), client.send(wire.fetch_token(Secret(f"/token?pin={EXTRA}"), headers))


def basic(emulator):
    return b64encode(f"{emulator.project_id}:{API_TOKEN}".encode()).decode()


def echo(emulator, sent):
    """Refuse, and quote every secret that was sent."""
    quoted = f"{API_TOKEN} {basic(emulator)} {' '.join(sent)}"
    return Raw(
        f'{{"errors": [{{"message": "{quoted}", "code": "{quoted}"}}], "error": "{quoted}"}}'.encode(), status=422
    )


def half(emulator, sent):
    """Answer with a token and nothing else that is right."""
    return Raw(b'{"token": "hush-token", "refresh_token": 7, "data": [{"id": "hush"}], "id": "hush"}', status=201)


FAULTS = {
    "none": lambda *_: None,
    "401": lambda *_: Status(401),
    "403": lambda *_: Status(403),
    "404": lambda *_: Status(404),
    "429": lambda *_: Status(429, retry_after=9),
    "500": lambda *_: Status(500),
    "reset": lambda *_: Reset(),
    "lost": lambda *_: Reset(applied=True),
    "stall": lambda *_: Stall(),
    "truncate": lambda *_: Truncate(),
    "hang": lambda *_: Truncate(stall=True),
    "html": lambda *_: HTML,
    "empty": lambda *_: EMPTY,
    "huge": lambda *_: Huge(),
    "redirect": lambda *_: Redirect(f"http://evil.example/?{MARK}"),
    "skew": lambda *_: SkewDate(99999),
    "echo": echo,
    "half": half,
}


# Each takes a third of a second, most of which goes into showing every frame of every traceback.
OFTEN = ("none", "401", "lost", "stall", "echo")


@pytest.mark.parametrize(
    "fault", [fault if fault in OFTEN else pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS]
)
async def test_no_operation_shows_a_secret_whatever_happens_to_it(emulator, everything, fault):
    """Errors, their chains and frames, values, logs and warnings are searched for marked secrets. (P37)"""
    asyncio.get_running_loop().set_debug(True)
    emulator.service.api_token = API_TOKEN
    room = emulator.add_address("room")
    async with emulator.client() as client:
        pair = await client.create_subscriber_token("alice")
    timeout = 0.5 if fault in ("stall", "hang") else 10
    async with TokenClient(emulator.space, emulator.project_id, API_TOKEN, retries=0, timeout=timeout) as client:
        secrets = [pair.access_token.value, pair.refresh_token.value, emulator.click_to_call, basic(emulator)]
        for sent, operation in operations(client, room, pair, emulator.click_to_call):
            made = FAULTS[fault](emulator, sent)
            if made is not None:
                emulator.fail(made)
            try:
                everything.append(repr(await operation))
            except SignalWireTokenError as error:
                everything.append(frames_shown(error))
        everything += [repr(client), str(client), repr(vars(client)), repr(emulator), repr(emulator.requests)]
    assert len(emulator.requests) >= 16
    assert_silent(everything, *secrets)


async def test_no_connection_shows_a_secret(everything):
    """Nothing was reached, so there is nothing to tell but where it was looked for."""
    client = TokenClient("127.0.0.1:9", "project", API_TOKEN, retries=1, proxy=None)
    with pytest.raises(SignalWireTokenError) as caught:
        await client.create_subscriber_token("alice", password=PASSWORD)
    everything.append(frames_shown(caught.value))
    await client.aclose()
    assert_silent(everything)


async def test_a_proxy_s_password_is_not_shown(everything):
    """Neither by the client nor by what aiohttp makes of it."""
    async with TokenClient("acme", "project", API_TOKEN, retries=0, proxy=f"http://user:{MARK}@127.0.0.1:9") as client:
        with pytest.raises(SignalWireTokenError) as caught:
            await client.create_subscriber_token("alice", password=PASSWORD)
    everything.append(frames_shown(caught.value))
    with pytest.raises(SignalWireTokenError) as caught:
        TokenClient("acme", proxy=f"socks5://user:{MARK}@127.0.0.1:9")
    everything.append(frames_shown(caught.value))
    assert_silent(everything)


@pytest.mark.parametrize("wrong", ["reference", "secret"])
async def test_a_refusal_of_arguments_shows_no_secret(emulator, client, everything, wrong):
    """Neither of those that are wrong nor of those beside them."""
    broken = "\ud800" if wrong == "secret" else ""
    reference = "" if wrong == "reference" else "alice"
    control = "\n" if wrong == "secret" else ""
    for operation in (
        client.create_subscriber_token(reference, password=PASSWORD + broken, extra={"pin": EXTRA + broken}),
        client.create_guest_token([], extra={"pin": EXTRA}),
        client.create_invite_token("x", subscriber_token=OPAQUE + control, extra={"pin": EXTRA}),
        client.refresh_subscriber_token(f"eyJ{OPAQUE}\n"),
        client.create_embed_token(f"{C2C} "),
        client.subscriber_info(f"{OPAQUE}\r\nX: 1"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await operation
        everything.append(frames_shown(caught.value))
    for project_id, api_token in (("a b", API_TOKEN), ("project", f"{API_TOKEN}\n")):
        with pytest.raises(InvalidRequest) as caught:
            TokenClient("acme", project_id, api_token)
        everything.append(frames_shown(caught.value))
    assert_silent(everything)


async def test_a_function_s_secret_is_not_shown(everything):
    """Whether what it returns is good or not."""
    for secret in (API_TOKEN, f"{API_TOKEN}\n"):
        async with TokenClient("127.0.0.1:9", "project", lambda given=secret: given, retries=0) as client:
            with pytest.raises(SignalWireTokenError) as caught:
                await client.create_subscriber_token("alice")
            everything.append(frames_shown(caught.value))
    assert_silent(everything)


@pytest.mark.parametrize("name", ["logged", "warned"])
def test_what_is_logged_and_warned_of_is_looked_at(everything, name):
    """A test that cannot fail would prove nothing."""
    assert_silent(everything)
    if name == "logged":
        logging.getLogger("signalwire_tokens").debug("sent %s", PASSWORD)
    else:
        warnings.warn(PASSWORD, stacklevel=1)
    with pytest.raises(AssertionError, match="a secret was shown"):
        assert_silent(everything)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.create_subscriber_token("alice", password=PASSWORD, extra={"pin": EXTRA}),
        lambda client: client.refresh_subscriber_token(OPAQUE),
        lambda client: client.create_guest_token([], extra={"pin": EXTRA}),
        lambda client: client.create_invite_token("x", subscriber_token=OPAQUE, extra={"pin": EXTRA}),
        lambda client: client.create_embed_token(C2C),
        lambda client: client.subscriber_info(OPAQUE),
    ],
    ids=["issue", "refresh", "guest", "invite", "embed", "info"],
)
async def test_a_call_that_is_cancelled_before_its_first_step_shows_no_secret(client, everything, call):
    """Its arguments are in a frame all the same."""
    task = asyncio.create_task(call(client))
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    everything.append(frames_shown(caught.value))
    assert_silent(everything)


async def test_a_retry_and_a_secret_in_the_depths_show_nothing(emulator, everything):
    """The service quotes what it was sent, twice, and an API token that has changed in the meantime."""
    current = [API_TOKEN]

    def quote(entry):
        current[0] = f"{API_TOKEN}-next"

    body = {"errors": [{"message": f"{MARK}-deep and {API_TOKEN}", "code": "invalid_parameter"}]}
    emulator._on_request = quote
    async with TokenClient(emulator.space, emulator.project_id, lambda: current[0], retries=1) as client:
        emulator.fail(Status(503))
        emulator.fail(Raw(json.dumps(body).encode(), status=422, content_type="application/json"))
        with pytest.raises(SignalWireTokenError) as caught:
            await client.create_subscriber_token("alice", extra={"device": [{"pin": f"{MARK}-deep"}]})
    everything.append(frames_shown(caught.value))
    assert_silent(everything)


@pytest.mark.parametrize("steps", range(0, 40, 2))
async def test_a_cancelled_call_shows_no_secret(emulator, everything, steps):
    """A cancellation may stop us in any frame."""
    emulator.service.api_token = API_TOKEN
    async with TokenClient(emulator.space, emulator.project_id, API_TOKEN) as client:
        call = asyncio.create_task(client.create_subscriber_token("alice", password=PASSWORD))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        try:
            everything.append(repr(await call))
        except asyncio.CancelledError as error:
            everything.append(frames_shown(error))
    assert_silent(everything)


@pytest.mark.parametrize("fault", [Status(401), Status(422), Status(503), Reset(applied=True), HTML], ids=repr)
async def test_a_session_shows_no_secret_whatever_happens_to_it(clock, everything, fault):
    """In its repr, its events, its errors and their frames, and in what it logs. (P37)"""
    async with Emulator(clock=clock, strict=False) as emulator:  # for `extra`
        emulator.service.api_token = API_TOKEN
        async with TokenClient(emulator.space, emulator.project_id, API_TOKEN, clock=clock) as client:
            session = SubscriberSession(client, "alice", password=PASSWORD, extra={"pin": EXTRA})
            everything += [repr(session), repr(engine_of(session).renewal.fields)]
            session.subscribe(lambda event: everything.append(repr(event)))
            async with session:
                secrets = [session.pair.access_token.value, session.pair.refresh_token.value]
                emulator.fail(fault, times=None)
                call = asyncio.create_task(session.refresh())
                await asyncio.wait([call])
                everything.append(frames_shown(call.exception()))
                clock.suspend(9 * 3600)
                call = asyncio.create_task(session.token())
                await clock.advance(20)
                everything.append(frames_shown(call.exception()))
                everything += [repr(session), repr(session.pair), repr(session.last_error)]
            emulator.clear_faults()
    assert_silent(everything, *secrets)


@pytest.mark.parametrize("fault", [Status(401), Status(422), Status(503), Reset(applied=True), HTML], ids=repr)
async def test_a_fleet_shows_no_secret_whatever_happens_to_it(clock, everything, fault):
    """Nor does it when it refuses what it is given. (P37)"""
    async with Emulator(clock=clock, strict=False) as emulator:  # for `extra`
        emulator.service.api_token = API_TOKEN
        client = TokenClient(emulator.space, emulator.project_id, API_TOKEN, clock=clock)
        async with client, SessionFleet(client) as fleet:
            for wrong in ({"password": PASSWORD, "scope": "no"}, {"password": PASSWORD, "extra": EXTRA}):
                with pytest.raises(InvalidRequest) as caught:
                    fleet.session("alice", **wrong)
                everything.append(frames_shown(caught.value))
            session = fleet.session("alice", password=PASSWORD, extra={"pin": EXTRA})
            secrets = [await session.token(), session.pair.refresh_token.value]
            with pytest.raises(ConfigurationError) as refused:
                fleet.session("alice", password=PASSWORD, extra={"pin": f"{EXTRA}s"})
            everything.append(frames_shown(refused.value))
            emulator.fail(fault, times=None)
            clock.suspend(9 * 3600)
            call = asyncio.create_task(fleet.token("alice"))
            await clock.advance(20)
            everything.append(frames_shown(call.exception()))
            everything += [repr(fleet), repr(fleet.snapshot()), repr(session)]
        emulator.clear_faults()
    assert_silent(everything, *secrets)


async def test_a_slow_answer_that_is_given_up_shows_no_secret(emulator, everything):
    """Cancelled in the middle of an answer's body."""
    emulator.fail(Truncate(stall=True))
    async with emulator.client() as client:
        call = asyncio.create_task(client.create_subscriber_token("alice", password=PASSWORD))
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(call, 0.2)
    everything.append(frames_shown(caught.value))
    assert_silent(everything)


async def test_a_space_that_holds_a_secret_does_not_show_it(everything):
    """Whoever writes credentials into an address is refused, and not quoted."""
    with pytest.raises(InvalidRequest) as caught:
        TokenClient(f"https://project:{API_TOKEN}@acme.signalwire.com")
    everything.append(frames_shown(caught.value))
    assert_silent(everything)


async def test_what_a_caller_s_own_code_raises_is_the_caller_s(emulator):
    """Only what is aiohttp's becomes ours."""
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(explode)
    async with aiohttp.ClientSession(trace_configs=[trace]) as http:
        client = TokenClient(emulator.space, emulator.project_id, emulator.api_token, http_session=http)
        with pytest.raises(ZeroDivisionError):
            await client.create_subscriber_token("alice")


async def explode(session, context, parameters):
    raise ZeroDivisionError


async def test_an_emulator_shows_its_secrets_to_none(everything):
    """They are throw-away, but a user's habits are not."""
    async with Emulator() as emulator:
        everything.append(repr(emulator))
        assert_silent(everything, emulator.api_token, emulator.click_to_call)
