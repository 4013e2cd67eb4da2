"""Every command on a terminal."""

import json
import re

import click
import pytest

from support.cli_runner import Terminal, run
from support.commands import COMMANDS
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")
STOP = "\x03"


@pytest.fixture
def place(service):
    """Return a subscriber's pair and address, and a click-to-call token."""
    pair = run("create", "subscriber", "alice@example.com", "--pair", **settings_of(service)).stdout
    told = run("inspect", "--ask", "--json", stdin=pair, **settings_of(service)).stdout
    return {
        "pair": json.loads(pair),
        "address": json.loads(told)["addresses"][0]["id"],
        "click_to_call": service.click_to_call,
    }


# The arguments, what is typed after what is shown, and what is shown then.
SHOWN = {
    "create subscriber": (["bob@example.com"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8} of subscriber"),
    "create guest": (["{address}"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8}, valid until"),
    "create invite": (["{address}", "--as", "alice@example.com"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8}, valid until"),
    "create embed": (["{click_to_call}"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8}, valid until"),
    "refresh": ([], [("Refresh token: ", "{refresh_token}\n")], r'"refresh_token": "eyJ'),
    "inspect": (["--ask"], [("Token: ", "{token}\n")], r"kind +SAT.*alice@example\.com"),
    "keep": (["alice@example.com"], [("next refresh", STOP)], r"started: generation 1, token #[0-9a-f]{8}"),
    "doctor": (["--reference", "bob"], [], r"\x1b\[32mok +\x1b\[0msettings.*refresh +SAT #[0-9a-f]{8}, valid until"),
    "emulator": ([], [("# click-to-call token", STOP)], r"c2c_[0-9a-f]+"),
    "demo": ([], [("generation", "")], r"longest moment without a valid token"),
    "generate-key": ([], [], r"^[\w-]{43}="),
}


def names():
    """Yield the whole name of each command."""
    for name, command in COMMANDS.items():
        yield from (f"{name} {one}" for one in command.commands) if isinstance(command, click.Group) else [name]


@pytest.mark.slow  # each starts the command on a terminal
@pytest.mark.parametrize("name", sorted(names()))
def test_every_command_works_on_a_terminal(service, place, name):
    """It ends with success. A secret that is typed at a prompt isn't shown."""
    arguments, typed, shown = SHOWN[name]
    facts = {**place, **place["pair"]}
    with Terminal(*name.split(), *(one.format(**facts) for one in arguments), **settings_of(service)) as terminal:
        seen = ""
        for prompt, answer in typed:
            seen += terminal.read_until(prompt)
            terminal.type(answer.format(**facts))
        rest, code = terminal.end()
    text = (seen + rest).replace("\r\n", "\n")
    if name == "demo":  # whether it goes well depends on the machine
        assert code == (0 if "longest moment without a valid token: 0 s" in text else 1)
    else:
        assert code == 0
    assert re.search(shown, text, re.DOTALL), f"the terminal doesn't show {shown}"
    for secret in (service.api_token, place["pair"]["refresh_token"], place["pair"]["token"]):
        assert secret not in seen + rest
