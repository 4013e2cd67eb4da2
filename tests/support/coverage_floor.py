"""Fail if a module is covered less than it should be: `python coverage_floor.py REPORT.json PERCENT`."""

import json
import sys
from pathlib import Path


def main(report, floor):
    files = json.loads(Path(report).read_text())["files"]
    covered = {name: file["summary"]["percent_covered"] for name, file in files.items()}
    below = {name: percent for name, percent in covered.items() if percent < floor}
    for name, percent in sorted(below.items()):
        sys.stdout.write(
            f"{name}: {percent:.0f} % of its lines and branches, and not {floor:g} %, in the default run\n"
        )
    sys.stdout.write(f"{len(covered)} modules, the least covered at {min(covered.values()):.0f} %\n")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
