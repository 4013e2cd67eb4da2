"""The project's credentials: a string, or a function that is asked for the current one."""

import asyncio

import pytest

from signalwire_tokens import ConfigurationError, RateLimited, TimedOut, TokenClient, Unauthorized, ValidationFailed
from signalwire_tokens.client.credentials import without_tracebacks
from signalwire_tokens.emulator import Status

pytestmark = pytest.mark.usefixtures("loop_time")


def client_with(emulator, api_token, **options):
    return TokenClient(emulator.space, emulator.project_id, api_token, **{"retries": 0, **options})


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_rotated_secret_needs_no_restart(emulator, is_async):
    """The function is asked once, and again after a 401; the request that met it goes through."""
    current, asked = [emulator.api_token], []

    def ask():
        asked.append(current[0])
        return current[0]

    async def ask_async():
        await asyncio.sleep(0)
        return ask()

    async with client_with(emulator, ask_async if is_async else ask) as client:
        pair = await client.create_subscriber_token("alice")
        await client.create_subscriber_token("alice")
        assert len(asked) == 1
        current[0] = emulator.rotate_api_token()
        await client.refresh_subscriber_token(pair.refresh_token)
        assert len(asked) == 2
    assert [entry.status for entry in emulator.requests] == [200, 200, 401, 201]


async def test_a_secret_that_did_not_change_is_not_tried_again(emulator):
    """A second 401 would tell nothing new, and might lock the project out."""
    async with client_with(emulator, lambda: "wrong") as client:
        with pytest.raises(Unauthorized):
            await client.create_subscriber_token("alice")
    assert len(emulator.requests) == 1


async def test_a_secret_that_is_wrong_twice_is_given_up(emulator):
    """Asked again once for each request."""
    secrets = iter(["wrong", "wrong-too", "never asked for"])
    async with client_with(emulator, lambda: next(secrets)) as client:
        with pytest.raises(Unauthorized):
            await client.create_subscriber_token("alice")
    assert len(emulator.requests) == 2


async def test_many_requests_that_meet_a_rotation_all_go_through(emulator):
    """Whoever is refused first, those who come later find the new one in place."""
    current, asked = [emulator.api_token], []
    async with client_with(emulator, lambda: asked.append(1) or current[0]) as client:
        await client.create_subscriber_token("alice")
        current[0] = emulator.rotate_api_token()
        await asyncio.gather(*(client.create_subscriber_token(f"user-{number}") for number in range(20)))
    assert len(asked) == 2


async def test_a_code_about_a_token_asks_for_the_secret_again(emulator):
    """If only the project's credentials were sent, the code is about them, whatever the status."""
    current = [emulator.api_token]
    async with client_with(emulator, lambda: current[0]) as client:
        await client.create_subscriber_token("alice")
        current[0] = emulator.rotate_api_token()
        emulator.fail(Status(422, code="token_invalid"))
        await client.create_subscriber_token("alice")
    assert [entry.status for entry in emulator.requests] == [200, 422, 200]


async def test_a_code_about_a_refresh_token_asks_for_no_secret(emulator):
    """The API token isn't what was refused, not even with a 401."""
    asked = []
    async with client_with(emulator, lambda: asked.append(1) or emulator.api_token) as client:
        pair = await client.create_subscriber_token("alice")
        emulator.fail(Status(401, code="token_expired"))
        with pytest.raises(ValidationFailed):
            await client.refresh_subscriber_token(pair.refresh_token)
    assert asked == [1]


async def test_a_fixed_secret_is_not_asked_for(emulator):
    """A 401 is the end of it."""
    async with client_with(emulator, "wrong") as client:
        with pytest.raises(Unauthorized):
            await client.create_subscriber_token("alice")
    assert len(emulator.requests) == 1


async def test_a_401_to_a_subscriber_s_token_does_not_touch_the_project_s(emulator, client):
    """It says nothing about the API token."""
    pair = await client.create_subscriber_token("alice")
    emulator.fail(Status(401))
    asked = []
    async with client_with(emulator, lambda: asked.append(1)) as other:
        with pytest.raises(Unauthorized):
            await other.subscriber_info(pair.access_token)
    assert asked == []


@pytest.mark.parametrize("value", [None, "", "a b", "a\r\nb", 7, b"x"])
async def test_what_a_function_returns_is_checked(emulator, value):
    """As strictly as what is given at once, and with nothing sent."""
    async with client_with(emulator, lambda: value) as client:
        with pytest.raises(ConfigurationError, match="must return the API token: a string of visible ASCII"):
            await client.create_subscriber_token("alice")
    assert emulator.requests == []


async def test_a_function_that_raises_is_named(emulator):
    """Its error is the cause, without the frames in which a secret may stand."""

    def broken():
        try:
            raise KeyError("vault")
        except KeyError as error:
            raise OSError("unreachable") from error

    async with client_with(emulator, broken) as client:
        with pytest.raises(ConfigurationError, match="the api_token function raised OSError: see the cause") as caught:
            await client.create_subscriber_token("alice")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.__traceback__ is None
    assert caught.value.__cause__.__cause__.__traceback__ is None
    assert emulator.requests == []


async def test_a_function_that_hangs_meets_the_timeout(emulator):
    """Asking is part of the call; nothing was sent."""

    async def hang():
        await asyncio.Event().wait()

    async with client_with(emulator, hang, timeout=0.1) as client:
        with pytest.raises(TimedOut) as caught:
            await client.create_subscriber_token("alice")
    assert caught.value.sent is False


async def test_callers_that_come_together_ask_once(emulator):
    """A vault is asked once for all of them, and one who is cancelled does not end it for the others."""
    asked, being_asked, may_answer = [], asyncio.Event(), asyncio.Event()

    async def ask():
        asked.append(1)
        being_asked.set()
        await may_answer.wait()
        return emulator.api_token

    async with client_with(emulator, ask) as client:
        calls = [asyncio.create_task(client.create_subscriber_token(f"user-{number}")) for number in range(20)]
        await being_asked.wait()
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        may_answer.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert len(asked) == 1
    assert [type(outcome).__name__ for outcome in outcomes] == ["CancelledError"] + ["TokenPair"] * 19


async def test_a_client_that_is_closed_stops_asking(emulator):
    """Nothing is left behind of a function that hangs."""
    being_asked, stopped = asyncio.Event(), asyncio.Event()

    async def hang():
        being_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    client = client_with(emulator, hang)
    call = asyncio.create_task(client.create_subscriber_token("alice"))
    await being_asked.wait()
    await client.aclose()
    assert stopped.is_set()
    with pytest.raises(ConfigurationError, match=r"this TokenClient (is|was) closed"):
        await call


async def test_a_function_that_hung_once_is_asked_again(emulator):
    """The last who waits for it ends it; and whoever comes then starts anew."""
    answers = iter([asyncio.Event().wait(), asyncio.sleep(0, emulator.api_token)])
    async with client_with(emulator, lambda: next(answers), timeout=0.5) as client:
        with pytest.raises(TimedOut):
            await client.create_subscriber_token("alice")
        await client.create_subscriber_token("alice")


async def test_a_call_that_is_cancelled_leaves_no_function_running(emulator):
    """Nobody waits for its answer."""
    being_asked = asyncio.Event()

    async def hang():
        being_asked.set()
        await asyncio.Event().wait()

    async with client_with(emulator, hang) as client:
        call = asyncio.create_task(client.create_subscriber_token("alice"))
        await being_asked.wait()
        call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_function_that_is_cancelled_from_within_is_named(emulator):
    """The client was not closed."""

    async def cancel():
        raise asyncio.CancelledError

    async with client_with(emulator, cancel) as client:
        with pytest.raises(ConfigurationError, match="the api_token function was cancelled from inside"):
            await client.create_subscriber_token("alice")


async def test_a_closed_client_asks_no_function(emulator):
    """It could do nothing with the answer."""
    client = client_with(emulator, lambda: 1 / 0)
    await client.aclose()
    with pytest.raises(ConfigurationError, match=r"this TokenClient (is|was) closed"):
        await client.create_subscriber_token("alice")


async def test_closing_that_is_cancelled_closes_the_connections_all_the_same(emulator):
    """Though a function takes its time to stop."""
    being_asked = asyncio.Event()

    async def linger():
        being_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)

    tokens = iter([asyncio.sleep(0, emulator.api_token), linger()])
    client = client_with(emulator, lambda: next(tokens))
    await client.create_subscriber_token("alice")
    client._credentials._refused = True
    call = asyncio.create_task(client.create_subscriber_token("alice"))
    await being_asked.wait()
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing, call])
    assert closing.cancelled()
    assert isinstance(call.exception(), ConfigurationError)
    assert not client.sender.leaks


async def test_other_failures_ask_for_no_secret(emulator):
    """Only a 401 says that the secret may be old."""
    asked = []

    def ask():
        asked.append(1)
        return emulator.api_token

    async with client_with(emulator, ask) as client:
        emulator.fail(Status(429))
        with pytest.raises(RateLimited):
            await client.create_subscriber_token("alice")
        await client.create_subscriber_token("alice")
    assert len(asked) == 1


def test_a_chain_of_errors_can_be_stripped_of_its_frames():
    """All the way down, causes and contexts alike."""

    def fail_twice():
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904 - a context on purpose

    with pytest.raises(ValueError, match="second") as caught:
        fail_twice()
    assert caught.value.__context__.__traceback__ is not None
    assert without_tracebacks(caught.value).__traceback__ is None
    assert caught.value.__context__.__traceback__ is None
    caught.value.__context__.__cause__ = caught.value
    caught.value.__cause__ = KeyError("a cause beside the context, and in a ring")
    assert without_tracebacks(caught.value) is caught.value
