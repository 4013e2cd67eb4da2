"""The pictures of the pages are those that their programs draw.

`python docs/pictures/draw.py` draws the diagrams again. `UPDATE_PICTURES=1 pytest tests/integration/test_pictures.py`
draws the pictures of commands again. Look at what has changed before you commit it.
"""

import asyncio
import io
import os
import pty
import re
import runpy
import threading
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from integration.test_cli import in_virtual_time
from signalwire_tokens import SubscriberSession
from signalwire_tokens.cli import output
from signalwire_tokens.cli.demo import run_demo
from signalwire_tokens.cli.keep import Outputs, keep_valid
from signalwire_tokens.cli.output import EventLog, Printer
from signalwire_tokens.cli.token_file import TokenFile
from signalwire_tokens.emulator import Status
from signalwire_tokens.keeper import engine
from support.cli_runner import Terminal, stoppable
from support.paths import ROOT
from support.processes import settings_of
from support.terminal_pictures import WIDTH, picture_of, show, texts_of
from support.waiting import HANG, eventually

FOLDER = ROOT / "docs/pictures"
SCRIPT = "docs/pictures/draw.py"
DRAW = runpy.run_path(str(ROOT / SCRIPT))
DRAWN = DRAW["files"]()
COMMANDS = ("demo", "keep", "doctor")
SIZE = {"COLUMNS": str(WIDTH), "LINES": "40"}
README = 850  # pixels: the width at which hosts show a picture in a README
SMALLEST = 13  # pixels, of letters at that width
MORNING = datetime(2026, 12, 1, 9, tzinfo=UTC)  # when the pictures begin, by the virtual clock
NOW = "this is now"
NEXT_VIEW = "\r\x1b[2K"  # what a view begins with, to replace the one before it
CONTRAST = 4.5  # what WCAG 2 asks of text at level AA


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_the_one_that_is_drawn(name):
    """The file has what the script draws."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == DRAWN[name], f"run `python {SCRIPT}`, or change the picture there"


def test_every_picture_is_checked():
    """Each file in the folder is drawn by the script or shows a command."""
    assert {path.name for path in FOLDER.glob("*.svg")} == {*DRAWN, *(f"{name}.svg" for name in COMMANDS)}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.svg")))
def test_a_picture_is_readable_at_the_width_of_a_readme(name):
    """No letter is smaller than 13 pixels there."""
    svg = (FOLDER / name).read_text(encoding="utf-8")
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1])
    sizes = re.findall(r'font-size(?:="|: )([\d.]+)', svg)
    assert sizes
    assert min(map(float, sizes)) * README / width >= SMALLEST


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.svg")))
def test_a_picture_has_a_title_and_loads_nothing(name):
    """A screen reader reads the title. There is no script, and no address of a font or an image."""
    svg = (FOLDER / name).read_text(encoding="utf-8")
    assert re.search(r"<title id=[^>]*>[^<]+</title>", svg)
    assert name not in DRAWN or re.search(r"<desc id=[^>]*>[^<]+</desc>", svg)
    assert not re.search(r"<script|<image|@import|@font-face|href=|src=|url\((?!#)", svg)


def luminance(colour):
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("variant", ["LIGHT", "DARK"])
def test_texts_stand_out_from_what_is_behind_them(variant):
    """The contrast is at least what WCAG asks for."""
    palette = DRAW[variant]
    pairs = [("#ffffff", palette.blue_fill), ("#ffffff", palette.violet_fill)]
    pairs += [(text, back) for text in (palette.text, palette.muted) for back in (palette.box, palette.amber)]
    pairs += [(one, palette.background) for one in (palette.text, palette.muted, palette.blue, palette.red)]
    for pair in pairs:
        darker, lighter = sorted(map(luminance, pair))
        assert (lighter + 0.05) / (darker + 0.05) >= CONTRAST, pair


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
        f"docs/pictures/{name}.svg shows what the command doesn't print: run "
        "`UPDATE_PICTURES=1 pytest tests/integration/test_pictures.py`"
    )


@pytest.fixture
def morning(clock, loop_time, monkeypatch):
    """Begin virtual time at nine o'clock, and let each renewal come in the middle of its range."""
    monkeypatch.setattr(engine, "random_draw", lambda: 0.5)
    clock.set_wall(MORNING.timestamp())
    return clock


async def test_the_picture_of_the_demo_is_true(morning):
    """It shows all that the demo prints."""
    console = Console(file=io.StringIO(), force_terminal=True, width=WIDTH, highlight=False, soft_wrap=True)
    await in_virtual_time(morning, run_demo(console, clock=morning))
    check("demo", f"$ signalwire-tokens demo\n{console.file.getvalue()}", 60)


@asynccontextmanager
async def keep_on_a_terminal(emulator, monkeypatch):
    """Run `keep` in virtual time on a terminal; yield its printer, and a function that returns what was sent so far."""
    (near, far), sent = pty.openpty(), []
    monkeypatch.setattr(output, "STDOUT", far)
    monkeypatch.setattr(output, "CLOSE_SECONDS", HANG)
    monkeypatch.setenv("COLUMNS", SIZE["COLUMNS"])
    monkeypatch.setenv("LINES", SIZE["LINES"])

    def read():
        with suppress(OSError):  # the end of a terminal
            while data := os.read(near, 10_000):
                sent.append(data)

    client = emulator.client()
    clock, printer, reader = client.clock, Printer(live=True), threading.Thread(target=read)
    log = EventLog(printer.print, lambda: f"{datetime.fromtimestamp(clock.wall(), UTC):%Y-%m-%d %H:%M:%S}")
    outputs = Outputs(log=log, printer=printer, file=TokenFile(Path("token"), clock))
    reader.start()
    with stoppable():
        task = asyncio.create_task(
            keep_valid(client, partial(SubscriberSession, client, "alice@example.com"), None, outputs)
        )
        try:
            yield printer, lambda: b"".join(sent).decode(errors="replace")
        finally:
            task.cancel()
            await asyncio.wait([task])
            printer.close()
            os.close(far)
            reader.join()
            os.close(near)


async def test_the_picture_of_keep_is_true(morning, emulator, tmp_path, monkeypatch):
    """It shows a session that has renewed its token once, and whose next renewal fails in an outage."""
    monkeypatch.chdir(tmp_path)
    async with keep_on_a_terminal(emulator, monkeypatch) as (printer, sent):
        await eventually(lambda: sent().count("written: ") == 1)
        await morning.advance(timedelta(minutes=84))
        await eventually(lambda: sent().count("written: ") == 2)
        emulator.fail(Status(503), times=None)
        await morning.advance(timedelta(minutes=84))
        await eventually(lambda: "degraded: " in sent())
        await morning.advance(timedelta(minutes=6))
        printer.print(Text(NOW))  # it is replaced by the next view, which shows the session as it is now
        await eventually(lambda: sent().partition(NOW)[2].count("last error") >= 2)
        shown = sent()
    whole_views = shown[: shown.rindex(NEXT_VIEW)]
    check("keep", f"$ signalwire-tokens keep alice@example.com --output token\n{whole_views}", 20)


@pytest.mark.slow  # it starts the command on a terminal
@pytest.mark.usefixtures("plain_environment")
def test_the_picture_of_doctor_is_true(service):
    """It shows what to do about a wrong API token."""
    settings = settings_of(service) | {"SIGNALWIRE_API_TOKEN": "wrong"}
    with Terminal("doctor", **settings, **SIZE) as terminal:
        shown, code = terminal.end()
    assert code == 1
    check("doctor", f"$ signalwire-tokens doctor\n{shown}", 20)
