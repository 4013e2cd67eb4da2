"""The benchmarks run; what they find is for their table, and not for a test."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.figures import Figure
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
    """Each has a value, and those with a goal say whether it was met."""
    done = run_quickly("--json")
    report = json.loads(done.stdout)
    figures = {figure["what"]: figure for figure in report["figures"]}
    assert len(figures) == 35
    assert all(figure["values"] for figure in figures.values())
    goals = [figure for figure in figures.values() if figure["most"] is not None or figure["least"] is not None]
    assert len(goals) == 18
    assert all(figure["met"] is not None for figure in goals)
    assert {"date", "command", "processor", "python"} <= report["machine"].keys()


def test_the_table_is_markdown():
    """To be copied into the documentation as it is."""
    done = run_quickly("days")
    head, rule, *rows = done.stdout.splitlines()
    assert head.startswith("| figure ")
    assert set(rule) == {"|", "-"}
    assert all(row.count("|") == head.count("|") for row in rows[:6])


def report(tmp_path, change):
    """Write a report of a quick run, as it would be after a change of its figures; return its path."""
    path = tmp_path / "before.json"
    found = json.loads(run_quickly("days", "--json").stdout)
    for figure in found["figures"]:
        figure["values"] = [change(value) for value in figure["values"]]
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(("change", "worse"), [(lambda value: value, 0), (lambda value: value - 1000, 6)])
def test_a_figure_that_is_worse_than_before_is_named(tmp_path, change, worse):
    """And the run fails. All of this part should be low."""
    done = run_quickly("days", "--compare", str(report(tmp_path, change)))
    assert done.returncode == (worse > 0)
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{worse} of 6 figures are worse than before"
    assert sum(line.startswith("worse: ") for line in lines) == worse


@pytest.mark.parametrize(
    ("figure", "is_far_off"),
    [
        ({"values": (1.3, 1.3), "most": 1.0}, False),
        ({"values": (1.4, 1.4), "most": 1.0}, True),
        ({"values": (0.65, 0.65), "least": 0.95}, False),
        ({"values": (0.6, 0.6), "least": 0.95}, True),
        ({"values": (0.6, 0.6), "least": 0.95, "reached": 0.7}, False),
        ({"values": (0.4, 0.4), "least": 0.95, "reached": 0.7}, True),
        ({"values": (99.0,), "most": 20.0, "unit": "ms"}, False),
        ({"values": (99.0,)}, False),
    ],
)
def test_a_figure_that_is_worse_than_its_goal_by_a_third_is_far_off(figure, is_far_off):
    """Or than what is possible, where the goal is missed. Times aren't judged."""
    assert Figure(what="x", **figure).is_far_off is is_far_off


@pytest.mark.parametrize(
    ("now", "is_worse"),
    [
        ({"values": (1.0, 1.1, 1.2)}, False),
        ({"values": (1.4, 1.5, 1.6)}, True),
        ({"values": (1.0, 1.5, 2.0)}, False),
        ({"values": (0.4, 0.5, 0.6)}, False),
        ({"values": (0.4, 0.5, 0.6), "rises": True}, True),
        ({"values": (0.4, 0.5, 0.6), "least": 1.0}, True),
    ],
)
def test_a_figure_is_worse_by_more_than_its_spread(now, is_worse):
    """A noisy one has to be much worse."""
    before = Figure(what="x", values=(1.0, 1.1, 1.2))
    assert Figure(what="x", **now).worse_than(before) is is_worse


@pytest.mark.parametrize(("value", "is_worse"), [(109.0, False), (111.0, True)])
def test_a_figure_of_one_value_is_worse_by_a_tenth(value, is_worse):
    """It has no spread."""
    assert Figure(what="x", values=(value,)).worse_than(Figure(what="x", values=(100.0,))) is is_worse


@pytest.mark.heavy
def test_processes_of_an_account_keep_their_tokens_for_hours():
    """Few of them, and with few sessions; the full size is a command of its own. (P1, P26, P45)"""
    done = run_quickly("accounts", "--json")
    figures = json.loads(done.stdout)["figures"]
    assert len(figures) == 19
    assert all(figure["met"] is not False for figure in figures), last_lines(done.stdout)


@pytest.mark.heavy
def test_the_stages_of_a_request_are_measured():
    """Each call does more than the one before."""
    figures = json.loads(run_quickly("stages", "--json").stdout)["figures"]
    assert len(figures) == 8
    assert all(figure["median"] > 0 for figure in figures)


@pytest.mark.heavy
def test_other_clients_are_measured_as_far_as_they_are_installed():
    """This one always is; in `.ci/run`, the official one is, too."""
    figures = {figure["what"]: figure for figure in json.loads(run_quickly("peers", "--json").stdout)["figures"]}
    assert all(figure["values"] for figure in figures.values())
    assert "fresh token, signalwire-tokens: session.token()" in figures
    assert ("pairs issued a second, 64 at a time" in figures) == ("OFFICIAL_CLIENT_PYTHON" in os.environ)


@pytest.mark.heavy
def test_what_stores_cost_is_measured():
    """With a Redis and a PostgreSQL of their own."""
    figures = json.loads(run_quickly("stores", "--json").stdout)["figures"]
    assert len(figures) == 15
    assert all(figure["values"] for figure in figures)
