"""What things cost, as ratios taken in one run: `python -m tests.benchmarks`. It takes at most five minutes.

Four more parts run only by their names. `stages` shows what a request is made of. `peers` compares with other clients,
as far as they are installed. `stores` takes two minutes, and `accounts`, with a million sessions for hours of virtual
time, two hours.

The exit code is 1 if a goal was missed, or with `--compare` if a figure is worse than before. With `--quick`, it is 1
if a figure is worse than its goal, or than what is possible, by more than a third. It is 2 for wrong arguments, and if
`--compare` finds no figure to compare. Times in milliseconds aren't compared, because they depend on the machine.
"""

import argparse
import subprocess
import sys
from pathlib import Path

try:
    from . import accounts, calls, connections, crowds, days, peers, stages, stalls, stores
    from .figures import as_json, print_comparison, print_table, read_json
except ModuleNotFoundError as error:
    sys.exit(f"{error}. The benchmarks need this: pip install -e '.[test]'")

PARTS = {"calls": calls, "crowds": crowds, "days": days, "stalls": stalls, "connections": connections}
ONLY_BY_NAME = {"peers": peers, "stages": stages, "stores": stores, "accounts": accounts}
ALL = PARTS | ONLY_BY_NAME


def measure(names, *, quick):
    """Return the figures of these parts. Each part has a process of its own, whose memory no other part has used."""
    if len(names) == 1:
        return list(ALL[names[0]].measure(quick=quick))
    figures = []
    for name in names:
        command = [sys.executable, "-m", "tests.benchmarks", name, "--json", *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            sys.exit(f"the part {name} has failed")
        figures += read_json(done.stdout).figures.values()
    return figures


def part(name):
    """Return the name of a part."""
    if name not in ALL:
        raise argparse.ArgumentTypeError(f"unknown part {name!r}: choose from {', '.join(ALL)}")
    return name


def report(path):
    """Return the report in this file."""
    try:
        return read_json(Path(path).read_text())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from None


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        type=part,
        metavar="PART",
        help=f"what to measure: {', '.join(ALL)} (default: {', '.join(PARTS)})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--quick", action="store_true", help="go through everything with a few sessions")
    parser.add_argument(
        "--compare", metavar="FILE", type=report, help="name the figures that are worse than in this JSON"
    )
    options = parser.parse_args()
    figures = measure(list(dict.fromkeys(options.parts)) or list(PARTS), quick=options.quick)
    if options.json:
        print(as_json(figures))
    else:
        print_table(figures)
    if options.compare is not None:
        return print_comparison(figures, options.compare, file=sys.stderr if options.json else sys.stdout)
    if options.quick:
        far_off = [figure for figure in figures if figure.is_far_off]
        for figure in far_off:
            print(f"worse by more than a third: {figure.what}", file=sys.stderr)
        return int(bool(far_off))
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
