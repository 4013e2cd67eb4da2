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
    """What was measured, how often and against what.

    `most` or `least` is the goal. `reached` is what is possible where the goal is missed: the page on performance says
    why. Without a goal, `rises` is true for a figure that should be high.
    """

    what: str
    values: tuple[float, ...]
    unit: str = ""
    floor: str = ""
    most: float | None = None
    least: float | None = None
    reached: float | None = None
    rises: bool = False
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

    @property
    def is_far_off(self):
        """Whether the figure is worse than its goal, or what is possible, by more than a third.

        Times in milliseconds say as much about the machine as about the library, so they aren't judged.
        """
        if self.unit == "ms":
            return False
        too_high = self.most is not None and self.median > (self.reached or self.most) * 4 / 3
        return too_high or (self.least is not None and self.median < (self.reached or self.least) * 2 / 3)

    def worse_than(self, before):
        """Return whether the median is worse than an earlier one, by more than both middle halves are wide.

        A figure of one value must be worse by a tenth.
        """
        grown = self.median - before.median
        loss = -grown if self.least is not None or self.rises else grown
        widths = [figure.spread[1] - figure.spread[0] for figure in (self, before) if figure.spread is not None]
        return loss > max(widths, default=abs(before.median) / 10)


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


def read_json(text):
    """Return the figures of an earlier report, by what they measure."""
    names = [field.name for field in attrs.fields(Figure)]
    rows = [{name: row[name] for name in names if name in row} for row in json.loads(text)["figures"]]
    return {row["what"]: Figure(**row | {"values": tuple(row["values"])}) for row in rows}


def print_worse(figures, before):
    """Print which figures have become worse than those of an earlier report, and return how many."""
    worse = [one for one in figures if one.what in before and one.worse_than(before[one.what])]
    for one in worse:
        earlier = before[one.what]
        print(f"worse: {one.what}: {written(one.median)} {one.unit}, before {written(earlier.median)}")
    print(f"{len(worse)} of {sum(one.what in before for one in figures)} figures are worse than before")
    return len(worse)


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
