"""Every command on a terminal, as somebody sits before it."""

import json
import re

import pytest

from signalwire_tokens.cli import cli
from support.cli_runner import Terminal, run
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")
STOP = "\x03"


@pytest.fixture
def place(service):
    """Know a subscriber's pair, and where it can be reached."""
    pair = run("create", "subscriber", "alice@example.com", "--pair", **settings_of(service)).stdout
    told = run("inspect", "--ask", "--json", stdin=pair, **settings_of(service)).stdout
    return {
        "pair": json.loads(pair),
        "address": json.loads(told)["addresses"][0]["id"],
        "click_to_call": service.click_to_call,
    }


# The arguments, what is typed after what is shown, and what is shown then.
SHOWN = {
    "subscriber": (["bob@example.com"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8} of subscriber"),
    "guest": (["{address}"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8}, live until"),
    "invite": (["{address}", "--as", "alice@example.com"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8}, live until"),
    "embed": (["{click_to_call}"], [], r"eyJ[\w.-]+\s.*SAT #[0-9a-f]{8}, live until"),
    "refresh": ([], [("Refresh token: ", "{refresh_token}\n")], r'"refresh_token": "eyJ'),
    "inspect": (["--ask"], [("Token: ", "{token}\n")], r"kind +SAT.*alice@example\.com"),
    "hold": (["alice@example.com"], [("next refresh", STOP)], r"started: generation 1, token #[0-9a-f]{8}"),
    "doctor": (["--reference", "bob"], [], r"\x1b\[32mok +\x1b\[0msettings.*refresh +SAT #[0-9a-f]{8}, live until"),
    "emulator": ([], [("# click-to-call token", STOP)], r"c2c_[0-9a-f]+"),
    "demo": ([], [("generation", "")], r"longest moment without a valid token"),
    "sealing-key": ([], [], r"^[\w-]{43}="),
    "completion": (["zsh"], [], r"#compdef signalwire-tokens"),
}


@pytest.mark.slow  # each starts the command on a terminal
@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_works_on_a_terminal(service, place, name):
    """And leaves with success; what was typed where a secret is asked for is not shown."""
    arguments, typed, shown = SHOWN[name]
    facts = {**place, **place["pair"]}
    with Terminal(name, *(one.format(**facts) for one in arguments), **settings_of(service)) as terminal:
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
