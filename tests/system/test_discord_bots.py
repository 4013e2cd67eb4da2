"""The bot of the page on Discord bots, with discord.py, against stand-ins for Discord and SignalWire."""

import asyncio
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from signalwire_tokens import RefreshPolicy
from signalwire_tokens.emulator import Delay, Emulator
from signalwire_tokens.keeper import session
from support.discord_server import DiscordServer
from support.pages import BLOCK, paste
from support.paths import ROOT
from support.presented import note_presented
from support.processes import run_program, settings_of
from support.waiting import HANG, eventually

PAGE = "docs/guides/discord-bots.md"
BOT, USERS, HEALTH = BLOCK.findall((ROOT / PAGE).read_text(encoding="utf-8"))
LAUNCHER = Path(__file__).with_name("discord_bot.py")
ISSUE, INFO, REFRESH = "create_subscriber_token", "subscriber_info", "refresh_subscriber_token"
WORKS = "I am bot@example.com."
FAILS = "SignalWire can't be reached. Try again in a minute."


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Make sessions in the test's process wait as long as a slow machine needs."""
    monkeypatch.setattr(session, "DEFAULT_POLICY", RefreshPolicy(wait_timeout=HANG, close_timeout=HANG))


@pytest.fixture
async def discord(monkeypatch):
    async with DiscordServer() as discord:
        monkeypatch.setattr(Route, "BASE", discord.api)
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(discord.gateway))
        yield discord


@pytest.fixture
async def emulator(monkeypatch):
    async with Emulator() as emulator:
        for name, value in settings_of(emulator).items():
            monkeypatch.setenv(name, value)
        yield emulator


@asynccontextmanager
async def connected_bot(discord, *blocks):
    """Run blocks of the page on the test's event loop, and yield their bot once it has connected; then close it."""
    namespace = {"__name__": "bot"}
    for block in blocks:
        exec(block, namespace)  # noqa: S102 - what the page says
    async with namespace["bot"] as bot:
        bot._connection.guild_ready_timeout = 0  # seconds for which it waits for guilds, of which there are none
        running = asyncio.create_task(bot.start(discord.token))
        waiting = asyncio.create_task(bot.wait_until_ready())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert not running.done(), running.exception()
        yield bot
        await bot.close()
        await running


async def test_the_program_runs_until_sigterm(tmp_path):
    """Its command works, also after SignalWire has refused the token, and SIGTERM ends it with exit code 0."""
    paste(PAGE, tmp_path)
    async with Emulator() as emulator, DiscordServer() as discord:
        presented, settings = note_presented(emulator), settings_of(emulator, DISCORD_TOKEN=discord.token)
        arguments = (LAUNCHER, "bot.py", discord.api, discord.gateway)
        async with run_program(*arguments, env=settings, cwd=tmp_path) as process:
            await eventually(lambda: discord.identified.is_set() or process.returncode is not None)
            assert process.returncode is None, "the bot has ended before it connected"
            assert await discord.type_command("whoami") == WORKS
            emulator.revoke(presented[-1])
            assert await discord.type_command("whoami") == WORKS
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            await discord.closed.wait()
    assert discord.events == ["identified", "deferred", "answered", "deferred", "answered", "closed"]
    assert [(entry.operation, entry.status) for entry in emulator.requests] == [
        (ISSUE, 200),
        (INFO, 200),
        (INFO, 401),
        (REFRESH, 201),
        (INFO, 200),
    ]


async def test_closing_waits_for_a_renewal(emulator, discord, monkeypatch):
    """The bot stays connected meanwhile, and leaves no task and no connection behind."""
    released, presented = asyncio.Event(), note_presented(emulator)
    monkeypatch.setattr(emulator, "_wait", lambda _: released.wait())  # how long a `Delay` is
    async with connected_bot(discord, BOT, HEALTH) as bot:
        assert await discord.type_command("whoami") == WORKS
        emulator.revoke(presented[-1])
        emulator.fail(Delay(HANG), operation=REFRESH)
        command = asyncio.create_task(discord.type_command("whoami"))
        await eventually(lambda: not emulator.faults)  # the renewal is under way
        closing = asyncio.create_task(bot.close())
        assert await command == FAILS
        assert "token valid for" in await discord.type_command("health")
        assert not closing.done()
        released.set()
        await closing
    assert discord.events[-1] == "closed"


async def test_an_outage_is_answered(emulator, discord):
    """A command whose request can't reach SignalWire says that, and the next one works again."""
    async with connected_bot(discord, BOT):
        async with emulator.unreachable():
            assert await discord.type_command("whoami") == FAILS
        assert await discord.type_command("whoami") == WORKS


async def test_each_user_is_a_subscriber(emulator, discord):
    """With a fleet, a command is signed with the token of the user who types it, and recovers from a 401."""
    presented = note_presented(emulator)
    async with connected_bot(discord, BOT, USERS):
        first, other = [await discord.type_command("me", user=user) for user in ("9001", "9002")]
        emulator.revoke(presented[0])
        again = await discord.type_command("me", user="9001")
    assert first.startswith("You are ")
    assert again == first != other
    assert len({*presented}) == 3


async def test_health_is_shown(emulator, discord):
    """With the state of the session, how long its token is valid, and its last error."""
    async with connected_bot(discord, BOT, HEALTH):
        shown = await discord.type_command("health")
    assert shown.startswith("fresh, token valid for 1:")
    assert shown.endswith("last error: None")
