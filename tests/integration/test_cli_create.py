"""The commands that issue tokens, in the process of the test and in one of their own."""

import json
import os
import re
import signal
import time
from asyncio.subprocess import PIPE

import click
import pytest

from signalwire_tokens.cli import cli, create
from signalwire_tokens.emulator import Delay, Reset
from signalwire_tokens.testing.in_thread import emulator_in_thread
from support.cli_runner import Terminal, run, run_apart, run_in_shell, started_command, stoppable
from support.processes import last_lines, settings_of
from support.waiting import HANG, eventually

pytestmark = pytest.mark.usefixtures("plain_environment")


def issue_pair(service, *options):
    return json.loads(
        run("create", "subscriber", "alice@example.com", "--pair", *options, **settings_of(service)).stdout
    )


def address_of(service, reference="alice@example.com"):
    token = run("create", "subscriber", reference, **settings_of(service)).stdout
    told = run("inspect", "--ask", "--json", stdin=token, **settings_of(service)).stdout
    return json.loads(told)["addresses"][0]["id"]


@pytest.mark.parametrize(
    "way",
    [run, pytest.param(run_apart, marks=pytest.mark.slow)],  # the second starts the command in a process
)
def test_a_token_is_alone_on_standard_output(service, way):
    """And what is known of it on standard error, where it can be read without being piped."""
    result = way("create", "subscriber", "alice@example.com", "--first-name", "Alice", **settings_of(service))
    assert service.accepts(result.stdout.removesuffix("\n"))
    assert re.fullmatch(
        r"SAT #[0-9a-f]{8} of subscriber [0-9a-f-]{36}, valid until [0-9TZ:-]+, for puc\.signalwire\.com\n"
        r"its refresh token isn't shown: --pair prints both\n",
        result.stderr,
    )
    info = json.loads(run("inspect", "--ask", "--json", stdin=result.stdout, **settings_of(service)).stdout)
    assert info["subscriber"]["email"] == "alice@example.com"


def test_a_pair_is_json_with_both_halves(service):
    """For whoever renews it by hand."""
    pair = issue_pair(service)
    assert service.accepts(pair["token"])
    assert service.accepts(pair["refresh_token"])
    assert pair.keys() == {
        *("token", "kind", "channel", "issued_at", "expires_at"),
        *("subscriber_id", "refresh_token", "refresh_expires_at"),
    }


def test_json_holds_no_refresh_token_unless_the_pair_is_asked_for(service):
    """It goes further than a token does."""
    told = json.loads(run("create", "subscriber", "alice", "--json", **settings_of(service)).stdout)
    assert told.keys() == {"token", "kind", "channel", "issued_at", "expires_at", "subscriber_id"}


def test_a_lifetime_is_as_long_as_was_asked_for(service):
    """By the service's own word."""
    pair = issue_pair(service, "--lifetime", "10m")
    service.advance(9 * 60)
    assert service.accepts(pair["token"])
    service.advance(2 * 60)
    assert not service.accepts(pair["token"])


def test_a_guest_is_let_to_addresses(service):
    """One or more, by their ids."""
    result = run("create", "guest", address_of(service), address_of(service, "bob"), **settings_of(service))
    assert service.accepts(result.stdout.strip())
    assert json.loads(run("create", "guest", address_of(service), "--pair", **settings_of(service)).stdout)[
        "refresh_token"
    ]


def test_arguments_are_refused_in_the_services_words(service):
    """Before anything is sent."""
    result = run("create", "guest", "lobby", "kitchen", **settings_of(service))
    assert result.exit_code == 5
    assert "allowed_addresses[0] must be a UUID" in result.stderr
    assert "allowed_addresses[1] must be a UUID" in result.stderr
    assert not service.requests


def test_an_invitation_is_sent_in_a_subscriber_s_name(service):
    """With that subscriber's token, and not the project's."""
    result = run("create", "invite", address_of(service), "--as", "alice@example.com", **settings_of(service))
    assert service.accepts(result.stdout.strip())
    assert [(entry.operation, entry.auth) for entry in service.requests[-2:]] == [
        ("create_subscriber_token", "Basic"),
        ("create_invite_token", "Bearer"),
    ]
    assert "refresh" not in result.stderr


def test_an_embed_token_needs_no_credentials(service):
    """And gets none."""
    result = run(
        "create", "embed", service.click_to_call, SIGNALWIRE_SPACE=service.space, SIGNALWIRE_API_TOKEN="PThush"
    )
    assert service.accepts(result.stdout.strip())
    assert service.requests[-1].auth is None
    told = json.loads(run("create", "embed", service.click_to_call, "--json", SIGNALWIRE_SPACE=service.space).stdout)
    assert told["kind"] == "SAT"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_an_embed_token_may_be_asked_for_elsewhere(service, by):
    """Nothing listens at the space."""
    option = ["--embed-origin", service.space] if by == "option" else []
    variable = {} if by == "option" else {"SIGNALWIRE_TOKENS_EMBED_ORIGIN": f"{service.space} \n"}
    result = run("create", "embed", service.click_to_call, *option, SIGNALWIRE_SPACE="127.0.0.1:1", **variable)
    assert service.accepts(result.stdout.strip())


def test_an_embed_origin_that_cannot_be_right_is_named(service):
    """The error names its variable, together with those of all other wrong settings."""
    result = run("create", "embed", "c2t_1", "--embed-origin", "http://example.com", SIGNALWIRE_SPACE="a b")
    assert result.exit_code == 3
    assert result.stderr.startswith("Error: SIGNALWIRE_SPACE must be ")
    assert "; SIGNALWIRE_TOKENS_EMBED_ORIGIN must be reached by https" in result.stderr
    assert not service.requests


@pytest.mark.parametrize("form", ["alone", "pair"])
def test_a_refresh_token_is_exchanged_for_a_pair(service, form):
    """Given on standard input, alone or as `--pair` printed it."""
    pair = issue_pair(service)
    given = f"{pair['refresh_token']}\n" if form == "alone" else f"\ufeff{json.dumps(pair)}"
    result = run("refresh", stdin=given, **settings_of(service))
    renewed = json.loads(result.stdout)
    assert service.accepts(renewed["token"])
    assert service.accepts(renewed["refresh_token"])
    assert not service.accepts(pair["refresh_token"])
    again = run("refresh", "--json", stdin=given, **settings_of(service))
    assert again.exit_code == 5
    assert json.loads(again.stderr)["error"]["type"] == "ValidationFailed"


@pytest.mark.parametrize("given", ["", " \n", "{}", "{", '{"refresh_token": 5}', '{"token": "hush"}', "hush" * 20000])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
def test_what_is_no_token_is_not_sent_and_not_quoted(service, given, form):
    """It may be half of one."""
    result = run("refresh", *form, stdin=given, **settings_of(service))
    assert result.exit_code == 2
    assert not service.requests
    assert "hush" not in result.stderr
    if form:
        assert json.loads(result.stderr)["error"]["type"] == "UsageError"


@pytest.mark.slow  # each starts the command in a process
@pytest.mark.parametrize(
    ("arguments", "stream", "said"),
    [
        ("create subscriber alice", ">&-", "standard output is closed, so the token would be lost"),
        ("refresh", "<&-", "standard input is closed: it must hold a token"),
        ("inspect", "<&-", "standard input is closed: it must hold a token"),
        ("create subscriber alice --project-id ''", "<&-", "not set: SIGNALWIRE_PROJECT_ID"),
        ("refresh", ">/dev/full", "can't print the new pair, so it is lost; create another one: No space left"),
        ("create subscriber alice", ">/dev/full", "No space left on device"),
    ],
)
def test_a_stream_that_is_not_there_is_named(service, arguments, stream, said):
    """Rather than an error of Python's."""
    pair = issue_pair(service)
    result = run_in_shell(f"{arguments} {stream}", pair["refresh_token"], **settings_of(service))
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode != 0


@pytest.mark.parametrize("command", [["refresh"], ["inspect"]])
def test_a_closed_standard_input_is_named(service, monkeypatch, command):
    """In the place of an error of Python's."""
    monkeypatch.setattr(create.sys, "stdin", None)
    with pytest.raises(click.UsageError, match="standard input is closed: it must hold a token"):
        cli.main(command, standalone_mode=False, prog_name="signalwire-tokens")
    assert not service.requests


@pytest.mark.slow  # it starts the command in a process
def test_a_reader_that_has_gone_is_told_nothing(service):
    """It has heard enough."""
    result = run_in_shell("create subscriber alice --json | true", **settings_of(service))
    assert "Traceback" not in result.stderr
    assert "roken pipe" not in result.stderr


@pytest.mark.slow  # it starts the command on a terminal
def test_on_a_terminal_the_refresh_token_is_asked_for_and_not_shown(service):
    """As a password is."""
    pair = issue_pair(service)
    with Terminal("refresh", **settings_of(service)) as terminal:
        terminal.read_until("Refresh token: ")
        terminal.type(f"{pair['refresh_token']}\n")
        shown, code = terminal.end()
    assert code == 0
    assert pair["refresh_token"] not in shown
    assert '"refresh_token": "eyJ' in shown


def test_a_refresh_that_is_told_to_stop_waits_for_its_answer(plain_environment):
    """The refresh token may be used up, and the new one is in the answer."""

    def tell_to_stop(entry):
        """Send a signal before the answer; return when the command has heard it."""
        if entry.operation == "refresh_subscriber_token":
            before, give_up = signal.getsignal(signal.SIGTERM), time.monotonic() + HANG
            os.kill(os.getpid(), signal.SIGTERM)
            while signal.getsignal(signal.SIGTERM) is before and time.monotonic() < give_up:
                time.sleep(0.001)

    with emulator_in_thread(on_request=tell_to_stop) as service, stoppable():
        result = run("refresh", stdin=issue_pair(service)["refresh_token"], **settings_of(service))
        assert result.exit_code == 0
        assert service.accepts(json.loads(result.stdout)["refresh_token"])
        assert result.stderr == "waiting for the answer, which holds the new pair\n"


@pytest.mark.slow  # it starts the command in a process
async def test_a_process_that_refreshes_waits_for_its_answer_too(plain_environment, emulator):
    """Told to stop, it still prints the new pair."""
    async with emulator.client() as client:
        pair = await client.create_subscriber_token("alice")
    emulator.fail(Delay(HANG), operation="refresh_subscriber_token")
    async with started_command("refresh", stdin=PIPE, **settings_of(emulator)) as process:
        process.stdin.write(pair.refresh_token.value.encode())
        process.stdin.close()
        await eventually(lambda: not emulator.faults)
        process.send_signal(signal.SIGTERM)
        assert await process.stderr.readline() == b"waiting for the answer, which holds the new pair\n"
        emulator._closing.set()  # which ends the delay
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), last_lines(err)
    assert emulator.accepts(json.loads(out)["refresh_token"])


def test_a_refresh_whose_answer_is_lost_says_that_the_token_may_be_used_up(service):
    """And that the way on is to issue anew."""
    pair = issue_pair(service)
    service.fail(Reset(applied=True))
    result = run("refresh", stdin=pair["refresh_token"], **settings_of(service))
    assert result.exit_code == 6
    assert result.stderr.count("\n") == 1
