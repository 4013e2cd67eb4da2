"""The messages that the page on troubleshooting quotes are those of the package."""

import ast
import re

import pytest

from signalwire_tokens import (
    ConfigurationError,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    RefreshPolicy,
    SessionClosed,
    SessionExpired,
    SqliteStore,
    SubscriberSession,
    TimedOut,
    TokenClient,
    TokenUnavailable,
    Unauthorized,
    UnexpectedResponse,
)
from signalwire_tokens.emulator import HTML, Emulator, Redirect, Reset, Stall, Status
from support.paths import PACKAGE, ROOT, tree_of

NAME = "docs/troubleshooting.md"
TEXT = (ROOT / NAME).read_text(encoding="utf-8")
ALICE = "alice@example.com"
# What an item of the page begins with, except what other programs say and what isn't a message.
QUOTED = [
    quote
    for row in re.findall(r"^- (`[^`]+`(?:[^`:]|`[^`]+`)*?): ", TEXT, re.MULTILINE)
    for quote in re.findall(r"`([^`]+)`(?:,| \(|$)", row)
    if not quote.endswith("()")
]


def literals(tree):
    """Yield the texts of a module, with what is filled in left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


MESSAGES = [text for path in PACKAGE.rglob("*.py") for text in literals(tree_of(path))]


@pytest.mark.parametrize("quote", QUOTED)
def test_a_quoted_message_is_in_the_package(quote):
    """A user who searches for it finds it."""
    assert any(quote in message for message in MESSAGES), f"correct `{quote}` in {NAME}: no message has it"


def test_messages_are_quoted():
    """The pattern finds them."""
    assert len(QUOTED) >= 40


def assert_quoted(error):
    """Fail unless the page quotes a part of an error's message."""
    assert any(quote in str(error) for quote in QUOTED), f"add a row for this message to {NAME}: {error}"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(401), Unauthorized),
        (Status(403), Forbidden),
        (Status(404), NotFound),
        (Status(429), RateLimited),
        (HTML, UnexpectedResponse),
        (Redirect("https://elsewhere.example.com"), UnexpectedResponse),
        (Reset(), ConnectionError),
        (Stall(), TimedOut),
    ],
)
async def test_the_message_of_a_failed_request_is_on_the_page(fault, kind, emulator, loop_time):
    """Each of the usual faults has a row."""
    async with emulator.client(retries=0) as client:
        emulator.fail(fault)
        with pytest.raises(kind) as failed:
            await client.create_subscriber_token(ALICE)
    assert_quoted(failed.value)


async def test_the_messages_of_clients_are_on_the_page(emulator, plain_environment, reserved_port, tmp_path):
    """Missing settings, wrong arguments, refused connections and closed clients have rows."""
    with pytest.raises(ConfigurationError) as unset:
        TokenClient.from_env()
    with pytest.raises(ConfigurationError) as keyless:
        SqliteStore(tmp_path / "tokens.db")
    async with emulator.client(retries=0) as client:
        with pytest.raises(InvalidRequest) as wrong:
            await client.create_subscriber_token("")
    with pytest.raises(ConfigurationError) as closed:
        await client.create_subscriber_token(ALICE)
    async with TokenClient(f"127.0.0.1:{reserved_port}", "project", "token", retries=0) as client:
        with pytest.raises(ConnectionError) as refused:
            await client.create_subscriber_token(ALICE)
    for raised in (unset, keyless, wrong, closed, refused):
        assert_quoted(raised.value)


async def test_the_messages_of_sessions_are_on_the_page(loop_time):
    """Sessions that aren't open, have no token or have expired have rows, and so has too long a `min_ttl`."""
    policy = RefreshPolicy(wait_timeout=0.1)
    async with Emulator() as emulator, emulator.client(retries=0) as client:
        session = SubscriberSession(client, ALICE, policy=policy)
        with pytest.raises(SessionClosed) as unopened:
            await session.token()
        async with session:
            with pytest.raises(ValueError, match="min_ttl") as greedy:
                await session.token(min_ttl=7000)
            emulator.fail(Status(503), times=None)
            emulator.advance(9 * 3600)
            with pytest.raises(TokenUnavailable) as unavailable:
                await session.token()
        with pytest.raises(SessionClosed) as closed:
            await session.token()
        emulator.clear_faults()
        pair = await client.create_subscriber_token(ALICE)
        async with SubscriberSession.from_pair(client, pair, policy=policy) as session:
            emulator.advance(9 * 3600)
            with pytest.raises(SessionExpired) as expired:
                await session.token()
    for raised in (unopened, greedy, unavailable, closed, expired):
        assert_quoted(raised.value)
