"""What things cost, as ratios taken in one run: `python -m tests.benchmarks`. It takes at most five minutes.

Two more parts run only by their names: `stores` takes two minutes, and `accounts`, with a million sessions for hours of
virtual time, two hours.

The exit code is 1 if a goal was missed, or with `--compare` if a figure is worse than before. With `--quick`, it is 1
if a figure is worse than its goal, or than what is possible, by more than a third.
"""

import argparse
import sys
from pathlib import Path

from . import accounts, calls, connections, crowds, days, stalls, stores
from .figures import as_json, print_table, print_worse, read_json

PARTS = {"calls": calls, "crowds": crowds, "days": days, "stalls": stalls, "connections": connections}
ONLY_BY_NAME = {"stores": stores, "accounts": accounts}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "part", nargs="*", choices=[[], *PARTS, *ONLY_BY_NAME], help="what to measure; all that is quick by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--quick", action="store_true", help="go through everything with a few sessions")
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, help="name the figures that are worse than in this JSON"
    )
    options = parser.parse_args()
    parts = PARTS | ONLY_BY_NAME
    figures = [figure for name in options.part or PARTS for figure in parts[name].measure(quick=options.quick)]
    if options.json:
        print(as_json(figures))
    else:
        print_table(figures)
    if options.compare is not None:
        return int(print_worse(figures, read_json(options.compare.read_text())) > 0)
    if options.quick:
        far_off = [figure for figure in figures if figure.is_far_off]
        for figure in far_off:
            print(f"worse by more than a third: {figure.what}", file=sys.stderr)
        return int(bool(far_off))
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
