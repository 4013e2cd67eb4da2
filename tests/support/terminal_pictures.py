"""Pictures of commands on a terminal: what they print, shown by a terminal in memory and exported as SVG."""

import io
import itertools
import re

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

WIDTH = 100  # columns
# What differs from run to run, and what the pictures have in its place.
VARYING = (
    (re.compile(r"(?<=[#])[0-9a-f]{8}\b"), "{:08x}", 0x1D8A4F2B),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "{:08x}-5b1c-4d7e-9a3f-6c2e8d4b7a10", 0x3F6A2C9E),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "8080", 0),
    (re.compile(r"(?<!\d)\d{4}-\d\d-\d\d(?!\d)"), "2026-12-01", 0),
    (re.compile(r"(?<!\d)\d\d:\d\d:\d\d(?!\d)"), "12:00:00", 0),
    (re.compile(r"(?<=in )1 h \d+ min"), "1 h 24 min", 0),
    (re.compile(r"(?:/[\w.-]+)+/(?=token\b)"), "", 0),
)


def settle(output):
    """Replace what differs from run to run; the same digest or id gets the same one in its place."""
    for pattern, form, seed in VARYING:
        known = {}
        output = pattern.sub(
            lambda found, form=form, seed=seed, known=known: known.setdefault(
                found[0], form.format((seed * (2 * len(known) + 1)) % 2**32)
            ),
            output,
        )
    return output


def show(output, rows):
    """Return the lines that a terminal shows after an output, with their styles."""
    screen = pyte.Screen(WIDTH, rows)
    pyte.Stream(screen).feed(re.sub(r"(?<!\r)\n", "\r\n", settle(output)))
    lines = []
    for row in range(rows):
        cells = [screen.buffer[row][column] for column in range(WIDTH)]
        runs = itertools.groupby(cells, style_of)
        lines.append(Text.assemble(*(("".join(cell.data for cell in run), style) for style, run in runs)))
    for line in lines:
        line.rstrip()
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def style_of(cell):
    """Return how rich shows a cell of the terminal. Both name colours differently."""
    colour = cell.fg.replace("brown", "yellow").replace("bright", "bright_")
    if re.fullmatch(r"[0-9a-f]{6}", colour):
        colour = f"#{colour}"
    return Style(color=None if colour == "default" else colour, bold=cell.bold)


def picture_of(lines, title):
    """Return an SVG of lines of a terminal. It loads no fonts."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title=title, unique_id=title.replace(" ", "-"))
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace")


def texts_of(svg):
    """Return the texts of a picture."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)
