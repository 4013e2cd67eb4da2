"""What things cost, as ratios taken in one run: `python -m tests.benchmarks`. It takes at most five minutes.

Four more parts run only by their names. `stages` shows what a request is made of. `peers` compares with other clients,
as far as they are installed. `stores` takes two minutes, and `accounts`, with a million sessions for hours of virtual
time, two hours.

The exit code is 1 if a goal was missed, or with `--compare` if a figure is worse than before. With `--quick`, it is 1
if a figure is worse than its goal, or than what is possible, by more than a third.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from . import accounts, calls, connections, crowds, days, peers, stages, stalls, stores
from .figures import as_json, print_table, print_worse, read_json

PARTS = {"calls": calls, "crowds": crowds, "days": days, "stalls": stalls, "connections": connections}
ONLY_BY_NAME = {"peers": peers, "stages": stages, "stores": stores, "accounts": accounts}


def measure(names, *, quick):
    """Return the figures of these parts. Each part has a process of its own, whose memory no other part has used."""
    if len(names) == 1:
        return list((PARTS | ONLY_BY_NAME)[names[0]].measure(quick=quick))
    figures = []
    for name in names:
        command = [sys.executable, "-m", "tests.benchmarks", name, "--json", *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            sys.exit(f"the part {name} has failed")
        figures += read_json(done.stdout).values()
    return figures


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
    figures = measure(options.part or list(PARTS), quick=options.quick)
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
