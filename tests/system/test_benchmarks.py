"""The benchmarks run; what they find is for their table, and not for a test."""

import json
import subprocess
import sys

import pytest

from support.paths import ROOT

QUICK = [sys.executable, "-m", "tests.benchmarks", "--quick"]


@pytest.mark.timeout(180)
def test_every_figure_is_measured():
    """Each has a value, and those with a goal say whether it was met; a goal that was missed ends in a failure."""
    done = subprocess.run([*QUICK, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    figures = {figure["what"]: figure for figure in report["figures"]}
    assert len(figures) == 23
    assert all(figure["values"] for figure in figures.values())
    goals = [figure for figure in figures.values() if figure["most"] is not None or figure["least"] is not None]
    assert len(goals) == 11
    assert done.returncode == (not all(figure["met"] for figure in goals)), done.stderr
    assert {"date", "command", "processor", "python"} <= report["machine"].keys()


def test_the_table_is_markdown():
    """To be copied into the documentation as it is."""
    done = subprocess.run([*QUICK, "days"], cwd=ROOT, capture_output=True, text=True, check=False)
    head, rule, *rows = done.stdout.splitlines()
    assert head.startswith("| figure ")
    assert set(rule) == {"|", "-"}
    assert all(row.count("|") == head.count("|") for row in rows[:6])
