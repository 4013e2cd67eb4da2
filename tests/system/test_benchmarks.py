"""The benchmarks run; what they find is for their table, and not for a test."""

import json
import subprocess
import sys

import pytest

from support.paths import ROOT
from support.processes import last_lines

QUICK = [sys.executable, "-m", "tests.benchmarks", "--quick"]


def run_quickly(*arguments):
    """Run the benchmarks with small numbers; return the process, which has ended by itself, with a report."""
    done = subprocess.run([*QUICK, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), last_lines(done.stderr)
    assert done.stdout, last_lines(done.stderr)
    return done


@pytest.mark.heavy
def test_every_figure_is_measured():
    """Each has a value, and those with a goal say whether it was met; a goal that was missed ends in a failure."""
    done = run_quickly("--json")
    report = json.loads(done.stdout)
    figures = {figure["what"]: figure for figure in report["figures"]}
    assert len(figures) == 49
    assert all(figure["values"] for figure in figures.values())
    goals = [figure for figure in figures.values() if figure["most"] is not None or figure["least"] is not None]
    assert len(goals) == 11
    assert done.returncode == (not all(figure["met"] for figure in goals)), last_lines(done.stderr)
    assert {"date", "command", "processor", "python"} <= report["machine"].keys()


def test_the_table_is_markdown():
    """To be copied into the documentation as it is."""
    done = run_quickly("days")
    head, rule, *rows = done.stdout.splitlines()
    assert head.startswith("| figure ")
    assert set(rule) == {"|", "-"}
    assert all(row.count("|") == head.count("|") for row in rows[:6])


@pytest.mark.heavy
def test_processes_of_an_account_keep_their_tokens_for_hours():
    """Few of them, and with few sessions; the full size is a command of its own. (P1, P26, P45)"""
    done = run_quickly("accounts", "--json")
    figures = json.loads(done.stdout)["figures"]
    assert len(figures) == 12
    assert all(figure["met"] is not False for figure in figures), last_lines(done.stdout)
