"""What a figure is, and how figures are printed."""

import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import attrs
from attrs import validators


@attrs.frozen(kw_only=True)
class Figure:
    """What was measured, how often and against what.

    `most` or `least` is the goal. `reached` is what is possible where the goal is missed: the page on performance says
    why. Without a goal, `rises` is true for a figure that should be high.
    """

    what: str
    values: tuple[float, ...] = attrs.field(
        converter=tuple,
        validator=[validators.min_len(1), validators.deep_iterable(validators.instance_of((int, float)))],
    )
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
    def is_judged(self):
        """Whether the figure is about the library. Times in milliseconds depend as much on the machine."""
        return self.unit != "ms"

    @property
    def is_far_off(self):
        """Whether the figure is worse than its goal, or what is possible, by more than a third."""
        if not self.is_judged:
            return False
        too_high = self.most is not None and self.median > (self.reached or self.most) * 4 / 3
        return too_high or (self.least is not None and self.median < (self.reached or self.least) * 2 / 3)

    def worse_than(self, before):
        """Return whether the median is worse than an earlier one, by more than the noise.

        The noise is the wider one of both middle halves, and at least a twentieth of the earlier median. If one of the
        figures has a single value, it is at least a tenth.
        """
        if not self.is_judged:
            return False
        grown = self.median - before.median
        loss = -grown if self.least is not None or self.rises else grown
        spreads = [self.spread, before.spread]
        widths = [spread[1] - spread[0] for spread in spreads if spread is not None]
        return loss > max([*widths, abs(before.median) / (10 if None in spreads else 20)])


@attrs.frozen
class Report:
    """The figures of a run, by what they measure, and the machine that they were measured on."""

    figures: dict[str, Figure] = attrs.field(validator=validators.min_len(1))
    machine: dict[str, str]


def written(value):
    """Return a number as text, with the digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}" if value else "0"


NOTHING_COMMON = "no figure is in both reports: measure the same parts, with --quick in both or in none"
CONDITIONS = ("processor", "python", "aiohttp")  # what two reports should have in common


def machine():
    """Return facts about the machine and the run."""
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
    """Return an earlier report. Raise ValueError if the text isn't one."""
    names = [field.name for field in attrs.fields(Figure)]
    try:
        report = json.loads(text)
        rows = [{name: row[name] for name in names if name in row} for row in report["figures"]]
        return Report({row["what"]: Figure(**row) for row in rows}, dict(report["machine"]))
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError("not a report that --json printed") from error


def print_comparison(figures, before, *, file):
    """Print which figures are worse than in an earlier report. Return the exit code, which is 2 if none is in both."""
    common = [one for one in figures if one.what in before.figures]
    judged = [one for one in common if one.is_judged]
    if not judged:
        what = "every common figure is in milliseconds, and those aren't compared" if common else NOTHING_COMMON
        print(what, file=sys.stderr)
        return 2
    facts = {name: (before.machine.get(name), now) for name, now in machine().items() if name in CONDITIONS}
    changed = [f"{name} ({then} before, {now} now)" for name, (then, now) in facts.items() if then != now]
    if changed:
        print(f"the reports differ in {', '.join(changed)}", file=file)
    if alone := len(figures) + len(before.figures) - 2 * len(common):
        print(f"figures in only one of the reports: {alone}", file=file)
    if unjudged := len(common) - len(judged):
        print(f"figures in milliseconds, which aren't judged: {unjudged}", file=file)
    worse = [one for one in judged if one.worse_than(before.figures[one.what])]
    for one in worse:
        now, then = f"{written(one.median)} {one.unit}".strip(), written(before.figures[one.what].median)
        print(f"worse: {one.what}: {now}, before {then}", file=file)
    print(f"{len(worse)} of {len(judged)} figures are worse than before", file=file)
    return int(bool(worse))


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
