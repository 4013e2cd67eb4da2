"""Pictures of commands on a terminal: what they print, shown by a terminal in memory and exported as SVG."""

import io
import itertools
import re

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

WIDTH = 100  # columns: doctor's longest line just fits, and letters are 13.7 pixels high in a README
BLACK, RED, GREEN, YELLOW = (40, 44, 52), (255, 123, 114), (126, 231, 135), (227, 179, 65)
BLUE, MAGENTA, CYAN, WHITE = (121, 192, 255), (210, 168, 255), (86, 212, 221), (230, 237, 243)
THEME = TerminalTheme((22, 27, 34), WHITE, [BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE])
# What differs from run to run, and what the pictures have in its place.
VARYING = (
    (re.compile(r"(?<=[#])[0-9a-f]{8}\b"), "{:08x}", 0x1D8A4F2B),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "3f6a2c9e-5b1c-4d7e-9a3f-6c2e8d4b7a10", 0),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "8080", 0),
)


def settle(output):
    """Replace what differs from run to run. The same digest gets the same one in its place, and all ids get one."""
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


def picture_of(lines, command):
    """Return an SVG of what a command shows on a terminal. It loads no fonts."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=True)
    name = command.replace(" ", "-")
    svg = console.export_svg(title=command, unique_id=name, theme=THEME)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace")
    svg = svg.replace("font-size: 18px", "font-size: 20px")  # of the window's title: as large as the other letters
    title = f'<title id="{name}-name">{command} in a terminal</title>'
    return re.sub(r"(<svg [^>]*)>", rf'\1 role="img" aria-labelledby="{name}-name">\n    {title}', svg, count=1)


def texts_of(svg):
    """Return the texts of a picture, each with its style."""
    styles = dict(re.findall(r"\.([\w-]+-r\d+) \{([^}]*)\}", svg))
    found = re.findall(r'<text class="([^"]*)"[^>]*>([^<]*)</text>', svg)
    return [(text, styles.get(name, name)) for name, text in found]
