"""Who looks on while a client works harms nothing."""

from contextlib import contextmanager

import pytest

from signalwire_tokens import RateLimitHint, ServerError, SubscriberSession, TokenClient, ValidationFailed, wire
from signalwire_tokens.emulator import Status
from support.unruly_server import unruly_server
from support.waiting import HANG

pytestmark = pytest.mark.usefixtures("loop_time")


class Onlooker:
    """Notes what it sees, and fails where it is told to."""

    def __init__(self, fails_at=None):
        self._fails_at, self.seen = fails_at, []

    def _note(self, what):
        self.seen.append(what)
        if what == self._fails_at:
            raise RuntimeError(what)

    @contextmanager
    def operation_started(self, operation, origin):
        self._note("begin")
        try:
            yield
        except Exception as error:  # whatever it is, it is noted and goes on
            self._note(type(error).__name__)
            raise
        finally:
            self._note("end")

    def rate_limit_reported(self, operation, origin, hint):
        self._note(hint)

    def renewed(self, left):
        self._note("renewed")


HINTS = b"HTTP/1.1 %b\r\nX-RateLimit-Limit: 13800\r\nX-RateLimit-Remaining: 7\r\nContent-Length: %d\r\n\r\n%b"
HINT = RateLimitHint(limit=13_800, remaining=7)


def hinting(status, body=b"{}"):
    """Return an answer that says how many requests are left."""
    return HINTS % (status, len(body), body)


async def test_an_observer_sees_each_hint_about_the_rate_limit(caplog):
    """Successes and errors of each attempt are included. An answer without a hint shows none."""
    onlooker, other, seen = Onlooker(HINT), Onlooker(), []
    onlooker.rate_limit_reported = lambda *what: seen.append(what)
    async with unruly_server() as server, TokenClient(server.space, "project", "hush", timeout=HANG) as client:
        client.observers = (onlooker, Onlooker(HINT), other)
        server.special += [hinting(b"500 Oops"), hinting(b"201 Created", b'{"token":"a","refresh_token":"b"}')]
        await client.create_subscriber_token("alice")
        await client.create_subscriber_token("alice")
    assert seen == [("create_subscriber_token", server.space, HINT)] * 2
    assert other.seen == ["begin", HINT, HINT, "end", "begin", "end"]
    assert caplog.text.count("an observer raised an exception") == 2


async def test_hints_are_read_only_for_an_observer_or_an_error(monkeypatch):
    """A success without observers doesn't pay for them."""
    monkeypatch.setattr(wire, "read_hint", None)  # which can't be called
    async with unruly_server() as server, TokenClient(server.space, "project", "hush", retries=0) as client:
        server.special += [hinting(b"201 Created", b'{"token":"a","refresh_token":"b"}'), hinting(b"422 No")]
        await client.create_subscriber_token("alice")
        with pytest.raises(ValidationFailed) as caught:
            await client.create_subscriber_token("alice")
    assert caught.value.rate_limit == HINT


@pytest.mark.parametrize("fails_at", [None, "begin", "end", "renewed"])
async def test_an_observer_that_fails_costs_no_pair(client, caplog, fails_at):
    """The refresh token is used up by then."""
    onlooker, other = Onlooker(fails_at), Onlooker()
    client.observers = (onlooker, other)
    async with SubscriberSession(client, "alice") as session:
        await session.refresh()
        assert session.generation == 2
        assert session.last_error is None
    assert other.seen == ["begin", "end", "begin", "end", "renewed"]
    assert ("an observer raised an exception" in caplog.text) is (fails_at is not None)


async def test_an_observer_learns_how_an_operation_ended(emulator, client):
    """And changes nothing about it."""
    onlooker = Onlooker("ServerError")
    client.observers = (onlooker,)
    emulator.fail(Status(500))
    with pytest.raises(ServerError):
        await client.create_subscriber_token("alice")
    assert onlooker.seen == ["begin", "ServerError", "end"]


async def test_an_observer_learns_which_origin_is_asked(emulator):
    """Embed requests may go to another than the space."""
    asked = []

    class Witness(Onlooker):
        def operation_started(self, operation, origin):
            asked.append((operation, origin))
            return super().operation_started(operation, origin)

    async with TokenClient("acme", embed_origin=emulator.space) as client:
        client.observers = (Witness(),)
        await client.create_embed_token(emulator.click_to_call)
    assert asked == [("create_embed_token", f"http://{emulator.space}")]


async def test_what_went_wrong_before_is_not_told_of(client):
    """Issuing anew is often what somebody does who has just failed."""
    onlooker = Onlooker()
    client.observers = (onlooker,)
    try:
        raise KeyError
    except KeyError:
        await client.create_subscriber_token("alice")
    assert onlooker.seen == ["begin", "end"]


async def test_an_observer_cannot_hide_an_error(emulator, client):
    """Whatever it answers to being told."""

    class Hider(Onlooker):
        def operation_started(self, operation, origin):
            return self

        def __enter__(self):
            return None

        def __exit__(self, *_):
            return True

    client.observers = (Hider(),)
    emulator.fail(Status(500))
    with pytest.raises(ServerError):
        await client.create_subscriber_token("alice")
