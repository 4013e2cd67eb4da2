"""Newcomers get a valid token by following the README and one guide, in a fresh checkout."""

import re
import shlex
import shutil

import pytest

from support.chromium import find_chromium, find_npm, open_page
from support.discord_server import DiscordServer
from support.newcomer import Newcomer
from support.paths import TESTS
from support.processes import is_open
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
    assert newcomer.words <= MOST_WORDS
    assert len(newcomer.commands) <= MOST_COMMANDS
    assert len(newcomer.pages) <= 2


async def test_a_web_developer_gets_a_token(newcomer, reserved_port, capsys):
    """The app of the guide answers with what SignalWire knows of its subscriber."""
    if shutil.which("curl") is None:
        curl = newcomer.folder / ".venv" / "bin" / "curl"
        curl.write_text(
            "#!/usr/bin/env python3\nimport sys, urllib.request as u\nprint(u.urlopen(sys.argv[-1]).read())\n"
        )
        curl.chmod(0o755)
    newcomer.read("README.md", until="docs/guides/fastapi.md")
    newcomer.read("docs/guides/fastapi.md", until="## One subscriber for each user")
    await newcomer.type("pip install '.[cli]' fastapi uvicorn")
    port = {":8000": f":{reserved_port}", "app:app": f"app:app --port {reserved_port}"}
    async with newcomer.terminal("signalwire-tokens emulator") as emulator:
        await newcomer.paste_settings(emulator)
        async with newcomer.terminal("uvicorn app:app", **port) as server:
            await eventually(lambda: is_open(reserved_port) or server.returncode is not None)
            answer = await newcomer.type("curl http://127.0.0.1:8000/me", **port)
    assert "service@example.com" in answer
    check(newcomer, "FastAPI", capsys)


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


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed: apt-get install chromium")
async def test_a_browser_author_gets_a_token(newcomer, reserved_port, capsys):
    """The page of the guide connects with a token that its backend has had issued for the browser's key."""
    npm = newcomer.folder / ".venv" / "bin" / "npm"  # where the machine has none, the one of the tests' packages
    npm.write_text(f'#!/bin/sh\nexec {shlex.join(find_npm())} "$@"\n')
    npm.chmod(0o755)
    program = newcomer.folder / "docs/examples/browser/backend.py"
    program.write_text(program.read_text().replace("8000", str(reserved_port)))  # another program may have that port
    newcomer.read("README.md", until="docs/guides/browser-apps.md")
    newcomer.read("docs/guides/browser-apps.md", until="## What the SDK does")
    await newcomer.type("pip install '.[cli]'")
    await newcomer.type("npm install --no-save @signalwire/js@4.0.0-beta.12")
    command = "python docs/examples/browser/backend.py node_modules/@signalwire/js/dist"
    async with newcomer.terminal(command) as backend:
        shown = (await backend.stdout.readline()).decode()
        pin, origin = re.search(r"--ignore-certificate-errors-spki-list=(\S+) (\S+)/$", shown).groups()
        newcomer.commands.append(shown)
        async with open_page(pin, origin) as page:
            await page.goto("/")
            await page.get_by_text("connected", exact=True).wait_for()
    check(newcomer, "browser app", capsys)
