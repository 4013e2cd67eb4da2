"""What all commands have in common."""

import json
import logging
import re
from datetime import UTC, datetime
from uuid import UUID

import click
import pytest
from click.testing import CliRunner

from signalwire_tokens import (
    ApiError,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    SessionExpired,
    StoreError,
    TimedOut,
    TokenUnavailable,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from signalwire_tokens.cli import cli
from signalwire_tokens.cli.command import Command, Exit, exit_of, print_json
from signalwire_tokens.cli.options import PROFILE
from signalwire_tokens.emulator import Status
from support.cli_runner import code_of, run, run_apart
from support.commands import COMMANDS
from support.documented import assert_documented
from support.paths import ROOT
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")
APART = pytest.param(run_apart, marks=pytest.mark.slow)  # it starts the command in a process
NAME = "docs/reference/command-line.md"
PAGE = (ROOT / NAME).read_text()
TOKEN = f"eyJ{'x' * 200}..{'y' * 40}"


def fail_with(error, *arguments):
    """Run a command that fails so."""

    @click.command(cls=Command)
    def broken(**_):
        raise error

    return CliRunner().invoke(broken, arguments)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ConfigurationError, 3),
        (Unauthorized, 4),
        (Forbidden, 4),
        (NotFound, 4),
        (ValidationFailed, 5),
        (InvalidRequest, 5),
        (ApiError, 5),
        (RateLimited, 6),
        (ServerError, 6),
        (ConnectionFailed, 6),
        (TimedOut, 6),
        (TokenUnavailable, 6),
        (SessionExpired, 7),
        (UnexpectedResponse, 1),
        (StoreError, 1),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_exit_code_says_who_can_mend_it(kind, code):
    """And whether to try again."""
    error = kind("it went wrong")
    assert exit_of(error) == code
    result = fail_with(error)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "Error: it went wrong\n")


def test_every_exit_code_is_documented():
    """Each in a line of its own, and no others."""
    documented = re.findall(r"^\| ([0-9]+) \|", PAGE, re.MULTILINE)
    assert_documented(f"{NAME}, under Exit codes", documented, [str(int(one)) for one in Exit], in_order=True)


# Options that the page describes once for all commands.
COMMON = {
    "--json",
    "--debug",
    "--space",
    "--project-id",
    "--api-token-file",
    "--ca-file",
    *(f"--{name.replace('_', '-')}" for name in PROFILE),
}


def commands():
    """Yield each command with its whole name."""
    for name, command in COMMANDS.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {one}", inner) for one, inner in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), [*commands()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_speaks_json_and_is_documented(name, command):
    """Its help has a short summary, examples or exit codes, and its page lists all options."""
    text = run(*name.split(), "--help").output
    assert "--json" in text
    assert "--debug" in text
    assert "Exit codes: 0 done" in text
    assert len(command.get_short_help_str(200)) <= 45
    assert all(one.help for one in command.params if isinstance(one, click.Option))
    start = re.search(rf"^`signalwire-tokens {name}\b", PAGE, re.MULTILINE)
    assert start, f"document `signalwire-tokens {name}` in {NAME}, at the beginning of a line"
    own = PAGE[start.end() :].partition("\n`signalwire-tokens ")[0]
    options = {one for param in command.params for one in param.opts if one.startswith("-")}
    missing = sorted(one for one in options if (f"`{one}" not in PAGE if one in COMMON else one not in own))
    assert not missing, "\n".join(f"document `{one}` in {NAME}, for `signalwire-tokens {name}`" for one in missing)


def test_an_error_is_one_line_whatever_it_says():
    """For logs, and for whoever reads them."""
    assert fail_with(ConnectionFailed("one\n  two\x1b[31m")).stderr == "Error: one two [31m\n"


def test_an_error_in_json_is_its_facts(service):
    """On standard error, beside the exit code."""
    service.fail(Status(429, retry_after=3600), times=None)  # too long to be waited for
    result = run("create", "guest", "00000000-0000-4000-8000-000000000000", "--json", **settings_of(service))
    told = json.loads(result.stderr)
    assert result.stdout == ""
    assert told["exit_code"] == result.exit_code == 6
    assert told["error"]["type"] == "RateLimited"
    assert told["error"]["status"] == 429
    assert told["error"]["retry_after"] == 3600
    assert told["error"]["operation"] == "create_guest_token"


def test_other_failures_in_json_have_the_same_form():
    """Whatever has gone wrong."""
    told = json.loads(fail_with(click.ClickException("no"), "--json").stderr)
    assert told == {"error": {"type": "Failed", "message": "no"}, "exit_code": 1}


def test_a_file_that_is_at_fault_is_named():
    """As the system says it."""
    assert fail_with(FileNotFoundError(2, "No such file or directory", "here")).stderr == (
        "Error: here: No such file or directory\n"
    )
    assert fail_with(OSError(28, "No space left on device")).stderr == "Error: No space left on device\n"


def test_what_should_not_have_happened_says_nothing_of_itself():
    """It might quote anything."""
    result = fail_with(KeyError("hush"))
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: unexpected KeyError: run the command with --debug, and report what it prints\n",
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupted_command_says_so(error):
    """By the code that shells know."""
    result = fail_with(error)
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")


@pytest.mark.parametrize("way", [run, APART])
def test_debug_shows_the_chain_and_the_log_without_a_secret(service, way):
    """In a process of its own, too, as users have it."""
    for fault in (None, Status(503, retry_after=3600)):  # too long to be waited for
        if fault:
            service.fail(fault, times=None)
        settings = settings_of(service, SIGNALWIRE_API_TOKEN="PThush")
        result = way("create", "subscriber", "alice", "--debug", **settings)
        assert code_of(result) == (6 if fault else 4)
        assert "Traceback" in result.stderr
        assert "signalwire_tokens.client: create_subscriber_token: answered" in result.stderr
        assert "hush" not in result.stderr
        assert result.stderr.splitlines()[-1].startswith("Error: create_subscriber_token: ")


def test_the_log_is_left_as_it_was(service):
    """For whoever runs a command in a process that goes on."""
    logger = logging.getLogger("signalwire_tokens")
    before = (logger.level, [*logger.handlers])
    assert run("create", "subscriber", "alice", "--debug", **settings_of(service)).exit_code == 0
    assert (logger.level, logger.handlers) == before


def test_values_are_written_as_json_has_them(capsys):
    """Times with their zone, ids as text; anything else is a mistake."""
    print_json({"at": datetime(2026, 11, 22, 3, 4, 5, 6, UTC), "id": UUID(int=1)})
    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-11-22T03:04:05Z",
        "id": "00000000-0000-0000-0000-000000000001",
    }
    with pytest.raises(TypeError, match="no form for set"):
        print_json(set())


def test_a_reader_that_has_gone_is_told_nothing():
    """There is nobody to tell."""
    result = fail_with(BrokenPipeError(32, "Broken pipe"))
    assert (result.exit_code, result.output) == (1, "")


def test_a_command_that_was_miswritten_says_so_in_json_too():
    """Before it has run."""
    for arguments in (["create", "guest", "--json"], ["keep", "--json", "alice", "--lifetime", "soon"]):
        result = run(*arguments)
        told = json.loads(result.stderr)
        assert (result.exit_code, result.stdout) == (2, "")
        assert (told["exit_code"], told["error"]["type"]) == (2, "UsageError")


@pytest.mark.parametrize(
    "arguments", [[TOKEN], ["create", TOKEN], ["create", "subscriber", "alice", TOKEN], ["inspect", "--ask", TOKEN]]
)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
def test_a_token_in_the_wrong_place_is_not_repeated(arguments, form):
    """Neither by a command nor by a group."""
    result = run(*arguments, *form)
    assert result.exit_code == 2
    assert TOKEN[:40] not in result.output


@pytest.mark.parametrize("command", ["inspect", "refresh"])
def test_a_token_as_an_argument_is_refused_with_the_way_to_pass_it(command):
    """On standard input."""
    result = run(command, "hush")
    assert (result.exit_code, "hush" in result.output) == (2, False)
    assert "pass the token on standard input" in result.stderr


def test_a_command_that_was_miswritten_says_how_it_goes():
    """With the code that is the same everywhere."""
    result = run("create", "subscriber")
    assert result.exit_code == 2
    assert "Missing argument 'REFERENCE'" in result.stderr


def test_a_command_that_does_not_exist_is_answered_with_one_that_does():
    """Although no command is imported for that."""
    result = run("inspec")
    assert result.exit_code == 2
    assert "No such command 'inspec'. Did you mean 'inspect'?" in result.stderr


def run_named(**environment):
    """Run the command without arguments in this process, under its own name."""
    return CliRunner(env=environment).invoke(cli, prog_name="signalwire-tokens")


@pytest.mark.parametrize("way", [run_named, APART])
@pytest.mark.parametrize(("typed", "offered"), [("ke", "keep"), ("keep --ou", "--output")])
def test_completion_completes(typed, offered, way):
    """Commands, and their options."""
    words = f"signalwire-tokens {typed}"
    settings = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_SIGNALWIRE_TOKENS_COMPLETE": "bash_complete",
    }
    result = way(**settings)
    assert offered in result.stdout
    assert code_of(result) == 0


def test_an_encryption_key_is_one_that_stores_take():
    """Another each time."""
    first, second = run("generate-key").output, json.loads(run("generate-key", "--json").output)["key"]
    assert first.strip() != second
    assert len(first.strip()) == len(second) == 44
