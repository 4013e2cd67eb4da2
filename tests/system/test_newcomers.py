"""Newcomers get a valid token by following the README and one guide, in a fresh checkout."""

import pytest

from support.discord_server import DiscordServer
from support.newcomer import Newcomer
from support.paths import TESTS
from support.waiting import eventually

LAUNCHER = TESTS / "system" / "discord_bot.py"
MOST_WORDS = 1000
MOST_COMMANDS = 9

pytestmark = pytest.mark.slow  # each installs the package in a virtual environment of its own


@pytest.fixture
async def newcomer(tmp_path):
    newcomer = Newcomer(tmp_path)
    await newcomer.begin()
    return newcomer


def check(newcomer, path, capsys):
    """Print what it took, and fail if that is too much."""
    with capsys.disabled():
        print(f"\n{newcomer.report(path)}")
    assert newcomer.failures == []
    assert newcomer.words <= MOST_WORDS
    assert len(newcomer.commands) <= MOST_COMMANDS
    assert len(newcomer.pages) <= 2


async def test_a_bot_author_gets_a_token(newcomer, capsys):
    """The bot of the guide answers its first command, for which SignalWire has accepted its token."""
    newcomer.read("README.md", until="docs/guides/discord-bots.md")
    newcomer.read("docs/guides/discord-bots.md", until="## Answer within three seconds")
    await newcomer.type("pip install '.[cli]' 'discord.py>=2.7'")
    async with DiscordServer() as discord, newcomer.terminal("signalwire-tokens emulator") as emulator:
        await newcomer.paste_settings(emulator)
        newcomer.environment["DISCORD_TOKEN"] = discord.token
        launch = {"bot.py": f"{LAUNCHER} bot.py {discord.api} {discord.gateway}"}
        async with newcomer.terminal("python bot.py", **launch) as bot:
            await eventually(lambda: discord.identified.is_set() or bot.returncode is not None)
            assert await discord.type_command("whoami") == "I am bot@example.com."
    check(newcomer, "Discord bot", capsys)
