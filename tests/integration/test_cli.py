"""The command, in process and as users run it."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import entry_points

import pytest
from rich.console import Console

from signalwire_tokens import (
    Lifetimes,
    RateLimited,
    SubscriberSession,
    TokenClient,
    ValidationFailed,
    __main__,
    __version__,
)
from signalwire_tokens.cli.demo import CHECK_EVERY, Result, keep_session, run_demo, show_kinds, token_facts
from signalwire_tokens.cli.emulator import print_entry, print_entry_as_json, rate, serve
from signalwire_tokens.cli.output import status_view
from signalwire_tokens.emulator import Emulator, RateLimit
from signalwire_tokens.models import Token
from support.cli_runner import Terminal, run, run_in_shell, run_to_the_end, started_command, stoppable
from support.processes import last_lines
from support.waiting import HANG, eventually

pytestmark = pytest.mark.usefixtures("plain_environment")
SUMMARY = r"([0-9]+) rotations with ([0-9]+) requests; longest moment without a valid token: ([0-9.e+]+) s\n"


async def in_virtual_time(clock, demo):
    """Let virtual time pass until a demo has ended; return what it returns."""
    running = asyncio.create_task(demo)
    while not running.done():
        await clock.advance(CHECK_EVERY)
    return await running


def assert_five_kinds(text):
    for operation, sent in [
        ("create_subscriber_token", "Basic"),
        ("refresh_subscriber_token", "Basic"),
        ("create_guest_token", "Basic"),
        ("create_invite_token", "Bearer"),
        ("create_embed_token", "no credentials"),
    ]:
        assert re.search(rf"^{operation} sent {sent}", text, re.MULTILINE)
    assert len(re.findall(r"^  SAT +#[0-9a-f]{8}  valid for [12] h,", text, re.MULTILINE)) == 5
    assert len(re.findall(r"^  Refresh +#[0-9a-f]{8}  valid for 2 h 5 min,", text, re.MULTILINE)) == 3
    assert not re.search(r"eyJ|PT[0-9a-f]{20}|c2c_[0-9a-f]", text)


@pytest.mark.slow  # it runs for 16 s
def test_the_demo_ends_by_itself_and_nothing_complains():
    """Under Python's development mode, with warnings as errors; it says that it leaves a real space alone.

    Whether there was a live token all the time depends on the machine, and the exit status on that alone.
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "signalwire_tokens", "demo"]
    demo = run_to_the_end(command, SIGNALWIRE_SPACE="acme", SIGNALWIRE_API_TOKEN="PThush")
    _, _, gap = re.search(SUMMARY, demo.stdout).groups()
    assert demo.returncode == (0 if gap == "0" else 1)
    said = [line for line in demo.stderr.splitlines() if not line.startswith("Executing <")]  # the machine was slow
    assert said == [
        "SIGNALWIRE_* is set, but the demo uses its own emulator, and no real space.",
        *([] if gap == "0" else ["Error: there was a moment without a valid token"]),
    ]
    assert "hush" not in demo.stdout
    assert "127.0.0.1" in demo.stdout
    assert_five_kinds(demo.stdout)


async def test_the_demo_shows_the_five_kinds(clock):
    """What each is for, its kind, how long it lives, and which authentication was sent; no token in the clear."""
    console = Console(file=io.StringIO(), soft_wrap=True)
    await in_virtual_time(clock, show_kinds(console, clock))
    assert_five_kinds(console.file.getvalue())


async def test_the_demo_s_session_rides_through_what_goes_wrong(clock):
    """A burst of 503 and a lost answer, told as plain lines where there is no terminal, and a summary."""
    console = Console(file=io.StringIO(), soft_wrap=True)
    result = await in_virtual_time(clock, run_demo(console, clock=clock))
    text = console.file.getvalue()
    told = re.findall(r"^ +[0-9.]+ s  ([a-z]+): generation", text, re.MULTILINE)
    assert told[:6] == ["rotated", "degraded", "reissued", "recovered", "degraded", "reissued"]
    assert told[-1] == "closed"
    assert "\x1b" not in text
    rotations, requests, gap = re.search(SUMMARY, text).groups()
    assert (result.rotations, result.requests, result.longest_gap) == (int(rotations), int(requests), 0)
    assert gap == "0"
    assert result.is_success
    assert 3 <= result.rotations < result.requests


async def test_a_session_without_a_live_token_for_a_while_is_found_out(clock):
    """The demo can fail: the service stays away until the token is dead."""
    console = Console(file=io.StringIO(), force_terminal=False)
    result = await in_virtual_time(clock, keep_session(console, seconds=13, outage=6, clock=clock))
    assert result.longest_gap > 1
    assert not result.is_success
    assert "longest moment without a valid token: 0 s" not in console.file.getvalue()


async def test_a_demo_that_is_cancelled_leaves_nothing_behind(clock):
    """As Ctrl-C does; the fixture looks for tasks and connections."""
    console = Console(file=io.StringIO())
    holding = asyncio.create_task(keep_session(console, clock=clock))
    await eventually(console.file.getvalue)  # it has something to tell, and so has begun
    holding.cancel()
    await asyncio.wait([holding])
    assert holding.cancelled()
    assert "answers 503" not in console.file.getvalue()


async def test_on_a_terminal_the_session_is_drawn_as_it_stands(clock):
    """Its state, how long its token is valid, its generation, the next refresh and the last error."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    await in_virtual_time(clock, keep_session(console, seconds=0.3, clock=clock))
    drawn = console.file.getvalue()
    for word in ("fresh", "expires in", "━", "generation", "last error"):
        assert word in drawn
    assert re.search(r"next refresh  in [2-3](\.[0-9])? s", drawn)


async def test_a_session_with_nothing_planned_is_drawn_too(client):
    """Before it is open."""
    console = Console(file=io.StringIO(), width=100)
    console.print(status_view(SubscriberSession(client, "alice")))
    assert re.search("next refresh +none", console.file.getvalue())


@pytest.mark.parametrize(
    ("gap", "status", "said"), [(0.0, 0, ""), (1.5, 1, "Error: there was a moment without a valid token\n")]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_how_the_demo_went_is_its_exit_status(monkeypatch, gap, status, said, as_json):
    """Said in one line where it did not go well, or in JSON."""

    async def run_demo(_):
        return Result(rotations=3, requests=4, longest_gap=gap)

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
    assert (result.exit_code, result.stderr) == (1, "Error: the demo has stopped: No space left on device\n")


def test_a_demo_that_is_told_to_stop_says_so(monkeypatch):
    """By the exit code that shells know."""

    async def run_demo(_):
        raise asyncio.CancelledError

    monkeypatch.setattr("signalwire_tokens.cli.demo.run_demo", run_demo)
    result = run("demo")
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")


def test_a_token_of_unknown_kind_is_described_too(emulator):
    """As far as it can be."""
    token = Token(value="x", issued_at=emulator.now(), expires_at=emulator.now())
    assert token_facts(token, emulator.now()).startswith("unknown  #")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_the_commands(flag):
    """Each with a sentence."""
    text = run(flag).output
    assert re.search(r"demo +Show", text)
    assert re.search(r"emulator +Run an emulator of SignalWire", text)


def test_the_version_is_the_package_s():
    """One number, wherever it is asked for."""
    assert run("--version").output == f"signalwire-tokens, version {__version__}\n"


def test_the_version_of_the_module_is_the_package_s():
    """As `python -m signalwire_tokens` prints it."""
    result = run_to_the_end([sys.executable, "-m", "signalwire_tokens", "--version"])
    assert result.stdout == f"signalwire-tokens, version {__version__}\n"
    assert result.returncode == 0


def test_the_command_is_installed_under_its_name():
    """And starts where `python -m` starts."""
    (script,) = entry_points(group="console_scripts", name="signalwire-tokens")
    assert script.load() is __main__.main


def test_the_extra_that_is_missing_is_named(monkeypatch):
    """Without click there is no command, but there is a way to it."""
    monkeypatch.setitem(sys.modules, "signalwire_tokens.cli", None)
    with pytest.raises(SystemExit, match="install it with its extra `cli`"):
        __main__.main()


def test_the_command_runs(monkeypatch, capsys):
    """From the arguments of the process."""
    monkeypatch.setattr(sys, "argv", ["signalwire-tokens", "--version"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"signalwire-tokens, version {__version__}\n"


@pytest.mark.slow  # it starts the command in a process
def test_what_cannot_even_be_printed_is_an_error():
    """Not a traceback."""
    result = run_in_shell("--help > /dev/full")
    assert (result.returncode, result.stderr.splitlines()[0]) == (1, "Error: No space left on device")


def test_an_error_of_the_system_s_outside_a_command_is_one_line(monkeypatch):
    """Not a traceback."""

    def run_out(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("signalwire_tokens.cli.cli", run_out)
    with pytest.raises(SystemExit, match=r"^Error: No space left on device$"):
        __main__.main()


async def test_a_demo_that_is_told_to_stop_shows_the_cursor_again(clock):
    """And is cancelled."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with stoppable():
        running = asyncio.create_task(run_demo(console, clock=clock))
        await eventually(lambda: "next refresh" in console.file.getvalue())
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait([running])
    assert running.cancelled()
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")


@pytest.mark.slow  # it starts the command on a terminal
def test_a_demo_that_is_told_to_stop_leaves_the_terminal_as_it_was():
    """Its cursor is shown again."""
    with Terminal("demo") as terminal:
        shown = terminal.read_until("next refresh")
        terminal.signal(signal.SIGTERM)
        rest, code = terminal.end()
    assert code == 130
    assert (shown + rest).rindex("\x1b[?25h") > (shown + rest).rindex("\x1b[?25l")
    assert "Error: interrupted" in rest


@asynccontextmanager
async def serving(*, as_json=False, **settings):
    """Run the command `emulator` in this process; a signal ends it."""
    with stoppable():
        emulator = Emulator(**settings, on_request=print_entry_as_json if as_json else print_entry)
        server = asyncio.create_task(serve(emulator, port=0, as_json=as_json))
        try:
            yield server
        finally:
            if not server.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await server


async def printed_by(server, capsys, lines):
    """Return what the server has printed, as soon as it is so many lines."""
    printed = ""

    def read():
        nonlocal printed
        printed += capsys.readouterr().out
        return server.done() or printed.count("\n") >= lines

    await eventually(read)
    return printed.splitlines()


def use_settings(lines, monkeypatch):
    """Set the environment as a shell does that reads the lines; return the click-to-call token in the last one."""
    script = "\n".join([*lines, "env -0"])
    shell = subprocess.run(
        ["/bin/sh", "-eu"], input=script, env={"PATH": os.environ["PATH"]}, capture_output=True, check=True, text=True
    )
    assert shell.stderr == ""
    for entry in shell.stdout.split("\0"):
        name, _, value = entry.partition("=")
        if name.startswith("SIGNALWIRE_"):
            monkeypatch.setenv(name, value)
    return lines[-1].split()[-1]


@pytest.mark.parametrize("folder", ["plain", "a blank", "$HOME;`id`", 'it\'s "quoted" \\ & more'])
async def test_the_emulator_s_settings_can_be_pasted_into_a_shell(tmp_path, monkeypatch, capsys, folder):
    """Whatever the folder of its certificate is called."""
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    async with serving(tls=True) as server:
        use_settings(await printed_by(server, capsys, 6), monkeypatch)
        async with TokenClient.from_env(timeout=HANG) as client:
            await client.create_subscriber_token("alice")


@pytest.mark.parametrize("tls", [False, True])
async def test_the_emulator_prints_its_settings_and_its_requests(monkeypatch, capsys, tls):
    """Its settings come as assignments for a shell, each request as a line."""
    async with serving(tls=tls) as server:
        click_to_call = use_settings(await printed_by(server, capsys, 6 if tls else 5), monkeypatch)
        async with TokenClient.from_env(timeout=HANG) as client:
            await client.create_subscriber_token("alice")
            await client.create_embed_token(click_to_call)
    assert re.findall(r"\w+ 20. auth=\w+", capsys.readouterr().err) == [
        "create_subscriber_token 200 auth=Basic",
        "create_embed_token 201 auth=none",
    ]


async def test_the_emulator_s_tokens_live_as_long_as_told_and_its_settings_say_so(monkeypatch, capsys):
    """So an application with these settings renews them in time."""
    lifetimes = Lifetimes.of(timedelta(seconds=40))
    async with serving(lifetimes=lifetimes) as server:
        use_settings(await printed_by(server, capsys, 6), monkeypatch)
        async with TokenClient.from_env(timeout=HANG) as client:
            pair = await client.create_subscriber_token("alice")
            info = await client.subscriber_info(pair.access_token)
            assert client.lifetimes == lifetimes
            life = info.sat_claims.expires_at - pair.access_token.issued_at
            assert lifetimes.access - timedelta(seconds=1) <= life < timedelta(hours=1)


async def test_the_emulator_prints_json(capsys):
    """Its settings as an object, and one for each request."""
    async with serving(as_json=True) as server:
        (line,) = await printed_by(server, capsys, 1)
        settings = json.loads(line)
        async with TokenClient(settings["SIGNALWIRE_SPACE"], timeout=HANG) as client:
            await client.create_embed_token(settings["click_to_call"])
    told = json.loads(capsys.readouterr().err)
    assert (told["operation"], told["status"], told["auth"]) == ("create_embed_token", 201, None)


@pytest.mark.slow  # each starts the command in a process
@pytest.mark.parametrize("arguments", [[], ["--tls"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_emulator_serves_until_it_is_told_to_stop(monkeypatch, arguments, number):
    """Its settings come as assignments for a shell, each request as a line, and the end is a clean one."""
    async with started_command("emulator", *arguments) as process:
        lines = [(await process.stdout.readline()).decode() for _ in range(6 if arguments else 5)]
        click_to_call = use_settings(lines, monkeypatch)
        async with TokenClient.from_env(timeout=HANG) as client:
            await client.create_subscriber_token("alice")
            await client.create_embed_token(click_to_call)
        process.send_signal(number)
        _, log = await process.communicate()
    assert process.returncode == 0, last_lines(log)
    assert re.findall(r"\w+ 20. auth=\w+", log.decode()) == [
        "create_subscriber_token 200 auth=Basic",
        "create_embed_token 201 auth=none",
    ]


@pytest.mark.slow  # it starts the command in a process
async def test_the_emulator_speaks_json(plain_environment):
    """Its settings as an object, and one for each request."""
    async with started_command("emulator", "--json") as process:
        settings = json.loads(await process.stdout.readline())
        async with TokenClient(settings["SIGNALWIRE_SPACE"], timeout=HANG) as client:
            await client.create_embed_token(settings["click_to_call"])
        process.terminate()
        _, log = await process.communicate()
    assert process.returncode == 0, last_lines(log)
    told = json.loads(log)
    assert (told["operation"], told["status"], told["auth"]) == ("create_embed_token", 201, None)


@pytest.mark.slow  # it starts the command in a process
async def test_the_emulator_behaves_as_its_options_say(plain_environment):
    """The options set lifetime, rotation, rate limit and strictness. The printed settings include the lifetime."""
    options = ["--rotation", "reusable", "--lifetime", "40s", "--rate-limit", "4/1d", "--strict"]
    async with started_command("emulator", "--json", *options) as process:
        settings = json.loads(await process.stdout.readline())
        place = [settings[f"SIGNALWIRE_{name}"] for name in ("SPACE", "PROJECT_ID", "API_TOKEN")]
        assert settings["SIGNALWIRE_TOKENS_LIFETIME"] == "40s"
        async with TokenClient(*place, timeout=HANG, retries=0) as client:
            pair = await client.create_subscriber_token("alice")
            for _ in range(2):
                await client.refresh_subscriber_token(pair.refresh_token)
            with pytest.raises(ValidationFailed):
                await client.create_subscriber_token("alice", extra={"new_field": 1})
            with pytest.raises(RateLimited) as caught:
                await client.create_subscriber_token("alice")
            claims = (await client.subscriber_info(pair.access_token)).sat_claims
    assert caught.value.retry_after > 3600
    assert claims.expires_at - pair.access_token.issued_at < timedelta(minutes=1)


@pytest.mark.parametrize(("text", "meant"), [("5/1s", RateLimit(5, 1)), ("100/2m", RateLimit(100, 120))])
def test_a_rate_is_a_number_of_requests_and_a_length_of_time(text, meant):
    """As the option takes it."""
    assert rate(text) == meant


@pytest.mark.parametrize("text", ["", "5", "5/", "5/0s", "-1/1s", "5/1y", "5 / 1s", "1.5/1s"])
def test_a_rate_that_is_none_is_refused(text):
    """The error has examples of rates."""
    result = run("emulator", "--rate-limit", text)
    assert result.exit_code == 2
    assert "write 100/10s or 5/1m" in result.stderr


def test_a_port_that_is_taken_is_said_in_one_line(emulator):
    """Not in a traceback."""
    result = run("emulator", "--port", str(emulator.port))
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: can't serve port \d+: .*address already in use\n", result.stderr)
