"""Fail if the default run covers too little of a module: `python check_coverage.py REPORT.json PERCENT`."""

import json
import sys
from pathlib import Path


def main(report: str, least: float) -> int:
    """Print each module below the limit; return the exit code."""
    files = json.loads(Path(report).read_text())["files"]
    covered = {name: file["summary"]["percent_covered"] for name, file in files.items()}
    below = {name: percent for name, percent in covered.items() if percent < least}
    for name, percent in sorted(below.items()):
        sys.stdout.write(
            f"{name}: the default run covers {percent:.1f} %, less than {least:g} %. "
            "Add a quick test, or remove a `slow` mark.\n"
        )
    sys.stdout.write(f"{len(covered)} modules, the least covered at {min(covered.values()):.1f} %\n")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
