"""What a figure is, and how figures are printed."""

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import attrs


@attrs.frozen(kw_only=True)
class Figure:
    """What was measured, how often and against what; `goal` is the most or the least that it is to be."""

    what: str
    values: tuple[float, ...]
    unit: str = ""
    floor: str = ""
    most: float | None = None
    least: float | None = None
    uvloop: float | None = None

    @property
    def median(self):
        return median(self.values)

    @property
    def spread(self):
        """Between which values the middle half of all lies."""
        if len(self.values) == 1:
            return None
        low, _, high = quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def goal(self):
        if self.most is not None:
            return f"<= {written(self.most)}"
        return "" if self.least is None else f">= {written(self.least)}"

    @property
    def met(self):
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.median <= self.most) and (self.least is None or self.median >= self.least)


def written(value):
    """Write a number with as many digits as tell something."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}" if value else "0"


def machine():
    """Describe what all this was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m tests.benchmarks " + " ".join(sys.argv[1:]),
        "processor": f"{', '.join(sorted(models)) or platform.machine()}, {len(lines) and lines.count('')} threads",
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
    }


def as_json(figures):
    rows = [
        attrs.asdict(figure) | {"median": figure.median, "spread": figure.spread, "met": figure.met}
        for figure in figures
    ]
    return json.dumps({"machine": machine(), "figures": rows}, indent=1)


HEAD = ("figure", "median", "middle half", "against", "goal", "met", "uvloop")


def row(figure):
    spread = "" if figure.spread is None else f"{written(figure.spread[0])} to {written(figure.spread[1])}"
    met = {None: "", True: "yes", False: "NO"}[figure.met]
    uvloop = "" if figure.uvloop is None else written(figure.uvloop)
    return (
        figure.what,
        f"{written(figure.median)} {figure.unit}".strip(),
        spread,
        figure.floor,
        figure.goal,
        met,
        uvloop,
    )


def print_table(figures):
    """Print a table that is Markdown, too."""
    rows = [HEAD, *map(row, figures)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEAD))]
    for number, line in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for name, text in machine().items():
        print(f"{name}: {text}")
