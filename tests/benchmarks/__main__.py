"""What things cost, as ratios taken in one run: `python -m tests.benchmarks`. It takes about ten minutes.

`python -m tests.benchmarks accounts` runs a million sessions for hours of virtual time, which takes two hours.
"""

import argparse
import sys

from . import accounts, calls, connections, crowds, days, stalls, stores
from .figures import as_json, print_table

PARTS = {"calls": calls, "crowds": crowds, "days": days, "stalls": stalls, "connections": connections, "stores": stores}
ONLY_BY_NAME = {"accounts": accounts}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "part", nargs="*", choices=[[], *PARTS, *ONLY_BY_NAME], help="what to measure; all but accounts by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--quick", action="store_true", help="go through everything with a few sessions, for a try")
    options = parser.parse_args()
    parts = PARTS | ONLY_BY_NAME
    figures = [figure for name in options.part or PARTS for figure in parts[name].measure(quick=options.quick)]
    if options.json:
        print(as_json(figures))
    else:
        print_table(figures)
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
