"""What is ASGI's own in the backend."""

import pytest

from signalwire_tokens import SessionFleet
from signalwire_tokens.integrations.asgi import Request, TokenBackend

pytestmark = pytest.mark.usefixtures("loop_time")


async def receive_nothing():
    raise AssertionError("there is nothing to receive")


async def send_nothing(message):
    raise AssertionError(f"nothing was to be sent, and {message['type']} was")


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_it_serves_http_only(client, kind):
    """A route for anything else is a mistake of the application's."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda _: "alice")
    with pytest.raises(ValueError, match=f"the token endpoint got a {kind} scope"):
        await backend.token({"type": kind}, receive_nothing, send_nothing)


async def test_whoever_hangs_up_is_answered_nothing(emulator, client):
    """In the middle of a body."""
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda _: "alice")
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    async with backend.lifespan():
        await backend.token(scope, receive, send_nothing)
    assert emulator.requests == []


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        (None, {}),
        ("", {}),
        ("who=alice", {"who": "alice"}),
        ('who="alice"; theme=dark;  x = y ', {"who": "alice", "theme": "dark", "x": "y"}),
        ("a=b=c; nothing", {"a": "b=c"}),
        ("bad name=x; who=alice", {"bad name": "x", "who": "alice"}),  # which the standard library gives up on
        ("who=alice; who=mallory", {"who": "alice"}),
    ],
)
def test_cookies_are_read_as_they_came(header, cookies):
    """One that is odd takes no other with it; the first of a name counts, as it is the most specific one."""
    assert Request({}, {} if header is None else {"cookie": header}).cookies == cookies


async def test_headers_are_found_however_they_are_written(client):
    """Nobody remembers how."""
    seen = []
    backend = TokenBackend(
        lambda: SessionFleet(client), identify=lambda request: seen.append(request.headers["X-User"])
    )
    headers = [(b"content-type", b"application/json"), (b"x-user", b"alice")]

    async def send(message):
        seen.append(message["type"])

    await backend.token({"type": "http", "method": "POST", "headers": headers}, receive_nothing, send)
    assert seen == ["alice", "http.response.start", "http.response.body"]


def test_a_request_does_not_show_what_it_holds():
    """Its cookies are somebody's sign-in."""
    assert "alice" not in repr(Request({"headers": [(b"cookie", b"who=alice")]}, {"cookie": "who=alice"}))
