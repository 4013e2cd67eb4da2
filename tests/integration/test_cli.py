"""The command, in process and as users run it."""

import asyncio
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from importlib.metadata import entry_points

import pytest
from rich.console import Console

from signalwire_tokens import SubscriberSession, TokenClient, __main__, __version__
from signalwire_tokens.cli.demo import describe, run_demo
from signalwire_tokens.cli.telling import draw, standing_of
from signalwire_tokens.cli.trial import Held, hold
from signalwire_tokens.models import Token
from support.cli_runner import COMMAND, Terminal, run
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture(scope="module")
def demo():
    """The whole demo, once, where nothing may be warned of."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "signalwire_tokens", "demo"]
    settings = {"SIGNALWIRE_SPACE": "acme", "SIGNALWIRE_API_TOKEN": "PThush"}
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


def test_the_demo_ends_well_and_nothing_complains(demo):
    """Under Python's development mode, with warnings as errors; it says that it leaves a real space alone."""
    assert demo.returncode == 0, demo.stdout + demo.stderr
    said = [line for line in demo.stderr.splitlines() if not line.startswith("Executing <")]  # the machine was slow
    assert said == ["SIGNALWIRE_* is set, but this demo uses its own emulator: no real space is touched."]
    assert "hush" not in demo.stdout
    assert "127.0.0.1" in demo.stdout


def test_the_demo_shows_the_five_kinds(demo):
    """What each is for, its kind, how long it lives, and which authentication was sent; no token in the clear."""
    text = demo.stdout
    for operation, sent in [
        ("create_subscriber_token", "Basic"),
        ("refresh_subscriber_token", "Basic"),
        ("create_guest_token", "Basic"),
        ("create_invite_token", "Bearer"),
        ("create_embed_token", "no credentials"),
    ]:
        assert re.search(rf"^{operation} sent {sent}", text, re.MULTILINE)
    assert len(re.findall(r"^  SAT +#[0-9a-f]{8}  lives [12] h 00 min", text, re.MULTILINE)) == 5
    assert len(re.findall(r"^  Refresh +#[0-9a-f]{8}  lives 2 h 05 min", text, re.MULTILINE)) == 3
    assert not re.search(r"eyJ|PT[0-9a-f]{20}|c2c_[0-9a-f]", text)


def test_the_demo_s_session_rides_through_what_goes_wrong(demo):
    """A burst of 503 and a lost answer, told as plain lines where there is no terminal, and a summary."""
    told = re.findall(r"^ +[0-9.]+ s  ([a-z]+): generation", demo.stdout, re.MULTILINE)
    assert told[:6] == ["rotated", "degraded", "reissued", "recovered", "degraded", "reissued"]
    assert told[-1] == "closed"
    assert "\x1b" not in demo.stdout
    summary = r"([0-9]+) rotations with ([0-9]+) requests; longest moment without a live token: 0 s\n"
    rotations, requests = map(int, re.search(summary, demo.stdout).groups())
    assert 3 <= rotations < requests


async def test_a_session_without_a_live_token_for_a_while_is_found_out():
    """The demo can fail: the service stays away until the token is dead."""
    console = Console(file=io.StringIO(), force_terminal=False)
    held = await hold(console, seconds=13, burst=6)
    assert held.longest_gap > 1
    assert "longest moment without a live token: 0 s" not in console.file.getvalue()


async def test_a_demo_that_is_cancelled_leaves_nothing_behind():
    """As Ctrl-C does; the fixture looks for tasks and connections."""
    console = Console(file=io.StringIO())
    holding = asyncio.create_task(hold(console))
    await eventually(console.file.getvalue)  # it has something to tell, and so has begun
    holding.cancel()
    await asyncio.wait([holding])
    assert holding.cancelled()
    assert "503" not in console.file.getvalue()


async def test_on_a_terminal_the_session_is_drawn_as_it_stands():
    """Its state, its runway, its generation, the next refresh and the last error."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    await hold(console, seconds=0.3)
    drawn = console.file.getvalue()
    for word in ("fresh", "runway", "━", "generation", "next refresh  in", "last error"):
        assert word in drawn


async def test_a_session_with_nothing_planned_is_drawn_too(client):
    """Before it is open."""
    console = Console(file=io.StringIO(), width=100)
    console.print(draw(standing_of(SubscriberSession(client, "alice"))))
    assert re.search("next refresh +none", console.file.getvalue())


@pytest.mark.parametrize(
    ("gap", "status", "said"), [(0.0, 0, ""), (1.5, 1, "Error: there was a moment without a live token\n")]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_how_the_demo_went_is_its_exit_status(monkeypatch, gap, status, said, as_json):
    """Said in one line where it did not go well, or in JSON."""

    async def run_demo(_):
        return Held(rotations=3, requests=4, longest_gap=gap)

    monkeypatch.setattr("signalwire_tokens.cli.demo.run_demo", run_demo)
    result = run("demo", *["--json"] * as_json)
    assert result.exit_code == status
    if as_json:
        assert json.loads(result.stdout) == {"rotations": 3, "requests": 4, "longest_gap": gap}
        assert bool(result.stderr) == bool(gap)
    else:
        assert (result.stdout, result.stderr) == ("", said)


def test_a_demo_that_cannot_write_says_so(monkeypatch):
    """Its disk is full, or whoever read it has gone."""

    async def run_demo(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("signalwire_tokens.cli.demo.run_demo", run_demo)
    result = run("demo")
    assert (result.exit_code, result.stderr) == (1, "Error: the demo broke off: No space left on device\n")


async def test_the_demo_runs_in_process():
    """And tells that all was well."""
    console = Console(file=io.StringIO())
    assert (await run_demo(console)).went_well
    assert "0 s" in console.file.getvalue()


def test_a_token_of_unknown_kind_is_described_too(emulator):
    """As far as it can be."""
    token = Token(value="x", issued_at=emulator.now(), expires_at=emulator.now())
    assert describe(token, emulator.now()).startswith("unknown  #")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_the_commands(flag):
    """Each with a sentence."""
    text = run(flag).output
    assert re.search(r"demo +Show", text)
    assert re.search(r"emulator +Run", text)


def test_the_version_is_the_package_s():
    """One number, wherever it is asked for."""
    assert run("--version").output == f"signalwire-tokens, version {__version__}\n"
    module = subprocess.run(
        [sys.executable, "-m", "signalwire_tokens", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == f"signalwire-tokens, version {__version__}\n"


def test_the_command_is_installed_under_its_name():
    """And starts where `python -m` starts."""
    (script,) = entry_points(group="console_scripts", name="signalwire-tokens")
    assert script.load() is __main__.main


def test_the_extra_that_is_missing_is_named(monkeypatch):
    """Without click there is no command, but there is a way to it."""
    monkeypatch.setitem(sys.modules, "signalwire_tokens.cli", None)
    with pytest.raises(SystemExit, match=re.escape("pip install 'signalwire-tokens[cli]'")):
        __main__.main()


def test_the_command_runs(monkeypatch, capsys):
    """From the arguments of the process."""
    monkeypatch.setattr(sys, "argv", ["signalwire-tokens", "--version"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"signalwire-tokens, version {__version__}\n"


def test_what_cannot_even_be_printed_is_an_error():
    """Not a traceback."""
    result = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(COMMAND)} --help > /dev/full"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr.splitlines()[0]) == (1, "Error: No space left on device")


def test_a_demo_that_is_told_to_stop_leaves_the_terminal_as_it_was():
    """Its cursor is shown again."""
    with Terminal("demo") as terminal:
        shown = terminal.read_until("next refresh")
        terminal.signal(signal.SIGTERM)
        rest, code = terminal.end()
    assert code == 130
    assert (shown + rest).rindex("\x1b[?25h") > (shown + rest).rindex("\x1b[?25l")
    assert "Error: interrupted" in rest


@pytest.mark.parametrize("arguments", [[], ["--tls"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_emulator_serves_until_it_is_told_to_stop(monkeypatch, arguments, number):
    """Its settings come as assignments for a shell, each request as a line, and the end is a clean one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "signalwire_tokens", "emulator", *arguments), stdout=PIPE, stderr=PIPE
    )
    lines = [(await process.stdout.readline()).decode() for _ in range(5 if arguments else 4)]
    for line in lines:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            monkeypatch.setenv(name, value)
    async with TokenClient.from_env() as client:
        await client.create_subscriber_token("alice")
        await client.create_embed_token(lines[-1].split()[-1])
    process.send_signal(number)
    _, log = await process.communicate()
    assert process.returncode == 0
    assert re.findall(r"\w+ 201 auth=\w+", log.decode()) == [
        "create_subscriber_token 201 auth=Basic",
        "create_embed_token 201 auth=none",
    ]


async def test_the_emulator_speaks_json(plain_environment):
    """Its settings as an object, and one for each request."""
    process = await asyncio.create_subprocess_exec(*COMMAND, "emulator", "--json", stdout=PIPE, stderr=PIPE)
    settings = json.loads(await process.stdout.readline())
    async with TokenClient(settings["SIGNALWIRE_SPACE"]) as client:
        await client.create_embed_token(settings["click_to_call"])
    process.terminate()
    _, log = await process.communicate()
    assert process.returncode == 0
    told = json.loads(log)
    assert (told["operation"], told["status"], told["auth"]) == ("create_embed_token", 201, None)


def test_a_port_that_is_taken_is_said_in_one_line(emulator):
    """Not in a traceback."""
    result = run("emulator", "--port", str(emulator.port))
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: cannot serve port \d+: .*address already in use\n", result.stderr)
