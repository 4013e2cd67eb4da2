"""Where commands get their settings from, and that no secret is taken from the command line."""

import re
from datetime import timedelta

import click
import pytest

from signalwire_tokens import TokenFields
from signalwire_tokens.cli.options import PROFILE, duration
from support.cli_runner import Terminal, run
from support.commands import COMMANDS
from support.documented import assert_listed
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.mark.parametrize("value", [None, "", " \r"])
def test_what_is_missing_is_named_all_at_once(value):
    """With the variable and the option that would give it; a blank variable counts as one that isn't set."""
    names = ("SIGNALWIRE_SPACE", "SIGNALWIRE_PROJECT_ID", "SIGNALWIRE_API_TOKEN", "SIGNALWIRE_API_TOKEN_FILE")
    result = run("create", "subscriber", "alice", **dict.fromkeys(names, value))
    assert result.exit_code == 3
    assert result.stderr == (
        "Error: not set: SIGNALWIRE_SPACE (or --space), SIGNALWIRE_PROJECT_ID (or --project-id), "
        "SIGNALWIRE_API_TOKEN (or --api-token-file)\n"
    )


def test_options_go_before_the_environment(service):
    """As everywhere."""
    settings = settings_of(service, SIGNALWIRE_SPACE="127.0.0.1:1", SIGNALWIRE_PROJECT_ID="none")
    space, project = ["--space", service.space], ["--project-id", service.project_id]
    assert run("create", "subscriber", "alice", *space, *project, **settings).exit_code == 0
    assert run("create", "subscriber", "alice", *space, **settings).exit_code == 4


def test_every_field_of_a_subscriber_has_an_option():
    """Except the secret ones, and `extra`, which is a mapping."""
    fields = TokenFields.__annotations__.keys() - {"password", "extra"}
    assert_listed("signalwire_tokens/cli/options.py", PROFILE, fields)


def test_no_option_takes_a_secret():
    """What could hold one is a file, or a URL whose password is refused. (P42)"""
    commands = [*COMMANDS.values(), *COMMANDS["create"].commands.values()]
    options = {option for command in commands for one in command.params for option in one.opts}
    suspicious = {one for one in options if re.search(r"token|secret|password|key|credential", one)}
    assert suspicious == {"--api-token-file", "--encryption-key-file"}


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_api_token_may_be_in_a_file(service, tmp_path, by):
    """Which goes before the variable: whoever names it means it."""
    file = tmp_path / "api-token"
    file.write_text(f"{service.api_token}\n")
    settings = settings_of(service, SIGNALWIRE_API_TOKEN="PTanother")
    if by == "option":
        result = run("create", "subscriber", "alice", "--api-token-file", file, **settings)
    else:
        result = run("create", "subscriber", "alice", **settings, SIGNALWIRE_API_TOKEN_FILE=str(file))
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't read {file}: No such file or directory"),
        (" \n", "{file}: the file is empty"),
        ("PThush\nPThush", "{file} must hold visible ASCII characters, in one line"),
    ],
)
def test_a_file_that_holds_no_api_token_is_named(service, tmp_path, content, said):
    """Before anything is sent."""
    file = tmp_path / "api-token"
    if content is not None:
        file.write_text(content)
    result = run("create", "subscriber", "alice", "--api-token-file", file, **settings_of(service))
    assert (result.exit_code, result.stderr) == (3, f"Error: {said.format(file=file)}\n")
    assert not service.requests


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGNALWIRE_SPACE", "a b"),
        ("SIGNALWIRE_SPACE", "http://example.com"),
        ("SIGNALWIRE_PROJECT_ID", "a:b"),
        ("SIGNALWIRE_API_TOKEN", "two words"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(service, name, value):
    """By its variable, and with the exit code of settings."""
    result = run("create", "subscriber", "alice", **settings_of(service, **{name: value}))
    assert result.exit_code == 3
    assert result.stderr.startswith(f"Error: {name} must be ")
    assert "two words" not in result.stderr


@pytest.mark.parametrize("name", ["SIGNALWIRE_SPACE", "SIGNALWIRE_PROJECT_ID", "SIGNALWIRE_API_TOKEN_FILE"])
def test_an_api_token_in_the_wrong_place_is_not_shown(service, name):
    """The error says where it is, and nothing is sent."""
    token = f"PT{'0a' * 24}"
    result = run("create", "subscriber", "alice", **settings_of(service, **{name: token}))
    assert result.exit_code == 3
    assert "looks like an API token" in result.stderr
    assert token not in result.output.upper() + result.output
    assert not service.requests


def test_what_editors_and_shells_add_to_a_secret_is_no_part_of_it(service, tmp_path):
    """A line's end, and a mark of the order of bytes."""
    file = tmp_path / "api-token"
    file.write_text(f"\ufeff{service.api_token}\r\n", encoding="utf-8")
    assert run("create", "subscriber", "alice", "--api-token-file", file, **settings_of(service)).exit_code == 0
    settings = settings_of(service, SIGNALWIRE_API_TOKEN=f"{service.api_token}\n")
    assert run("create", "subscriber", "alice", **settings).exit_code == 0


@pytest.mark.parametrize("form", [" {} ", "{}\r", "\t{}\n"])
def test_blanks_around_a_variable_or_an_option_do_not_count(service, tmp_path, form):
    """As for the library."""
    settings = {name: form.format(value) for name, value in settings_of(service).items()}
    assert run("create", "subscriber", "alice", **settings).exit_code == 0
    file = tmp_path / "api-token"
    file.write_text(service.api_token)
    files = {"SIGNALWIRE_API_TOKEN_FILE": form.format(file), "SIGNALWIRE_REST_CA_FILE": form.format("")}
    settings |= {"SIGNALWIRE_API_TOKEN": "PTanother", **files}
    options = ["--space", form.format(f"{service.space}/"), "--project-id", form.format(service.project_id)]
    assert run("create", "subscriber", "alice", *options, **settings).exit_code == 0


def test_certificates_to_trust_are_named_in_a_file(service, tmp_path):
    """By the variable of the official client, or by an option."""
    result = run("create", "subscriber", "alice", "--ca-file", tmp_path / "none.pem", **settings_of(service))
    assert result.exit_code == 3
    assert "can't read certificates from" in result.stderr


@pytest.mark.slow  # it starts the command on a terminal
def test_on_a_terminal_what_is_missing_is_asked_for_and_the_secret_is_not_shown(service):
    """So that nobody has to put it anywhere."""
    with Terminal("create", "subscriber", "alice@example.com") as terminal:
        terminal.read_until("Space: ")
        terminal.type(f"{service.space}\n")
        terminal.read_until("Project id: ")
        terminal.type(f"{service.project_id}\n")
        terminal.read_until("API token: ")
        terminal.type(f"{service.api_token}\n")
        shown, code = terminal.end()
    assert code == 0
    assert service.api_token not in shown
    token = re.search(r"eyJ[\w.\-]+", shown.replace("\r\n", ""))[0]
    assert "SAT #" in shown
    assert token.startswith("eyJ")
    assert service.requests[-1].status == 200


@pytest.mark.slow  # it starts the command on a terminal
def test_an_answer_that_is_refused_on_a_terminal_leaves_at_once():
    """Ctrl-C where the API token is asked for."""
    with Terminal(
        "create", "subscriber", "alice", SIGNALWIRE_SPACE="acme", SIGNALWIRE_PROJECT_ID="project"
    ) as terminal:
        terminal.read_until("API token: ")
        terminal.interrupt()
        shown, code = terminal.end()
    assert code == 130
    assert "Error: interrupted" in shown


@pytest.mark.parametrize(
    ("text", "meant"),
    [("90s", timedelta(seconds=90)), ("15m", timedelta(minutes=15)), ("2h", timedelta(hours=2)), ("1d", timedelta(1))],
)
def test_a_length_of_time_is_a_number_and_its_unit(text, meant):
    """As people write it."""
    assert duration(text) == meant


@pytest.mark.parametrize("text", ["", "15", "m", "1.5h", "-1s", "1h30m", "1w", "0s"])
def test_any_other_length_of_time_is_refused(text):
    """With what to write."""
    with pytest.raises(click.BadParameter, match="isn't a duration of more than 0: write 90s, 15m, 2h or 1d"):
        duration(text)
