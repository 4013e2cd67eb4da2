"""The pictures of the pages are those that their programs draw."""

import io
import os
import re
import runpy

import pytest
from rich.console import Console

from integration.test_cli import in_virtual_time
from signalwire_tokens.cli.demo import run_demo
from signalwire_tokens.keeper import engine
from support.cli_runner import Terminal
from support.paths import ROOT
from support.processes import settings_of
from support.terminal_pictures import WIDTH, picture_of, show, texts_of

FOLDER = ROOT / "docs/pictures"
SCRIPT = "docs/pictures/draw.py"
DRAW = runpy.run_path(str(ROOT / SCRIPT))
DRAWN = DRAW["files"]()
SIZE = {"COLUMNS": str(WIDTH), "LINES": "40"}
SMALLEST = 12  # pixels, of letters, at the width at which hosts show a README


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_the_one_that_is_drawn(name):
    """The file has what the script draws."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == DRAWN[name], f"run `python {SCRIPT}`, or change the picture there"


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_readable_at_the_width_of_a_readme(name):
    """It is 850 pixels wide, and no letter is smaller than twelve."""
    assert 'viewBox="0 0 850 ' in DRAWN[name]
    assert min(int(size) for size in re.findall(r'font-size="(\d+)"', DRAWN[name])) >= SMALLEST


def test_the_life_of_a_pair_is_to_scale():
    """The bars of two hours and of two hours and five minutes are as 120 to 125, and renewals begin at 60 to 80 %."""
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="(\d+)"', DRAWN["life-of-a-pair.svg"])
    due, *pairs = [(float(x), float(width), int(height)) for x, width, height in bars]
    (access, refresh, next_access, next_refresh) = pairs
    minute = access[1] / 120
    assert refresh[1] == pytest.approx(125 * minute)
    assert (next_access[1], next_refresh[1]) == (access[1], refresh[1])
    assert due[0] - access[0] == pytest.approx(0.6 * 120 * minute)
    assert due[1] == pytest.approx(0.2 * 120 * minute)
    assert due[0] <= next_access[0] == next_refresh[0] <= due[0] + due[1]


def check(name, output, rows):
    """Compare a picture with what a command prints now; with `UPDATE_PICTURES` in the environment, draw it again."""
    path = FOLDER / f"{name}.svg"
    drawn = picture_of(show(output, rows), f"signalwire-tokens {name}")
    if "UPDATE_PICTURES" in os.environ:
        path.write_text(drawn, encoding="utf-8")
    assert texts_of(path.read_text(encoding="utf-8")) == texts_of(drawn), (
        f"docs/pictures/{name}.svg shows what the command doesn't print: run `UPDATE_PICTURES=1 pytest {__file__}`"
    )


async def test_the_picture_of_the_demo_is_true(clock, monkeypatch):
    """It shows how the demo ends on a terminal of 34 lines."""
    monkeypatch.setattr(engine, "random_draw", lambda: 0.5)
    console = Console(file=io.StringIO(), force_terminal=True, width=WIDTH, highlight=False, soft_wrap=True)
    await in_virtual_time(clock, run_demo(console, clock=clock))
    check("demo", console.file.getvalue(), 34)


@pytest.mark.slow  # it starts the command on a terminal
@pytest.mark.usefixtures("plain_environment")
def test_the_picture_of_keep_is_true(service, tmp_path):
    """It shows a session that has just begun."""
    with Terminal("keep", "alice@example.com", "--output", tmp_path / "token", **settings_of(service), **SIZE) as one:
        shown = one.read_until("written: ") + one.read_until("next refresh") + one.read_until("none")
        one.interrupt()
    check("keep", f"$ signalwire-tokens keep alice@example.com --output token\n{shown}", 20)


@pytest.mark.slow  # it starts the command on a terminal
@pytest.mark.usefixtures("plain_environment")
def test_the_picture_of_doctor_is_true(service):
    """It shows what to do about a wrong API token."""
    settings = settings_of(service) | {"SIGNALWIRE_API_TOKEN": "wrong"}
    with Terminal("doctor", **settings, **SIZE) as terminal:
        shown, code = terminal.end()
    assert code == 1
    check("doctor", f"$ signalwire-tokens doctor\n{shown}", 20)
