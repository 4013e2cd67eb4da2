"""The benchmarks run; what they find is for their table, and not for a test."""

import json
import os
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
    """Each has a value, and those with a goal say whether it was met."""
    done = run_quickly("--json")
    report = json.loads(done.stdout)
    figures = {figure["what"]: figure for figure in report["figures"]}
    assert len(figures) == 37
    assert all(figure["values"] for figure in figures.values())
    goals = [figure for figure in figures.values() if figure["most"] is not None or figure["least"] is not None]
    assert len(goals) == 20
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


def test_a_comparison_leaves_standard_output_to_json(tmp_path):
    """Its text goes to standard error."""
    done = run_quickly("days", "--json", "--compare", str(report(tmp_path, lambda value: value)))
    assert len(json.loads(done.stdout)["figures"]) == 6
    assert done.stderr.splitlines()[-1] == "0 of 6 figures are worse than before"


def test_a_part_that_is_named_twice_runs_once():
    """Each figure is there once."""
    assert len(json.loads(run_quickly("days", "days", "--json").stdout)["figures"]) == 6


def refused(*arguments):
    """Run the benchmarks with wrong arguments; return the error's line."""
    done = subprocess.run([*QUICK, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, last_lines(done.stderr)
    assert not done.stdout
    usage, error = done.stderr.split("python -m tests.benchmarks: error: ")
    assert usage.startswith("usage: ")
    assert "Traceback" not in usage
    assert error.count("\n") == 1
    return error.strip()


NAMES = "calls, crowds, days, stalls, connections, peers, stages, stores, accounts"


def test_an_unknown_part_is_refused():
    """With the names of all."""
    assert refused("days", "weeks") == f"argument PART: unknown part 'weeks': choose from {NAMES}"


def test_the_help_names_each_part_once():
    """And the usage none."""
    done = subprocess.run([*QUICK, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.split())
    assert "[PART ...]" in text
    assert f"PART what to measure: {NAMES} (default: calls, crowds, days, stalls, connections)" in text


def test_a_file_without_a_report_is_refused(tmp_path):
    """Before anything is measured."""
    path = tmp_path / "before.json"
    path.write_text("{}")
    assert refused("--compare", str(path)) == (
        f"argument --compare: cannot read {path}: not a report that --json printed"
    )


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("missing.json", "No such file or directory")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, reason):
    """Before anything is measured."""
    path = tmp_path / name
    assert refused("--compare", str(path)) == f"argument --compare: cannot read {path}: {reason}"


def test_a_missing_package_is_named():
    """A plain installation doesn't have those that tests need."""
    script = (
        "import runpy, sys; sys.modules['pytest'] = None; runpy.run_module('tests.benchmarks', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pytest" in done.stderr
    assert done.stderr.endswith("The benchmarks need this: pip install -e '.[test]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.heavy
def test_processes_of_an_account_keep_their_tokens_for_hours():
    """Few of them, and with few sessions; the full size is a command of its own. (P1, P26, P45)"""
    done = run_quickly("accounts", "--json")
    figures = json.loads(done.stdout)["figures"]
    assert len(figures) == 19
    assert all(figure["met"] is not False for figure in figures), last_lines(done.stdout)


@pytest.mark.heavy
def test_the_stages_of_a_request_are_measured():
    """Each has its ratio to a bare request."""
    figures = json.loads(run_quickly("stages", "--json").stdout)["figures"]
    assert len(figures) == 11
    assert all(figure["median"] > 0 for figure in figures)
    assert all(figure["floor"].endswith(" of a bare request") for figure in figures)


@pytest.mark.heavy
def test_other_clients_are_measured_as_far_as_they_are_installed():
    """This one always is; in `.ci/run`, the official one is, too."""
    done = run_quickly("peers", "--json")
    figures = {figure["what"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert all(figure["values"] for figure in figures.values())
    assert "fresh token, signalwire-tokens: session.token()" in figures
    assert "memory of a client that holds a token, signalwire-tokens" in figures
    has_official = "OFFICIAL_CLIENT_PYTHON" in os.environ
    assert ("pairs issued a second, 64 at a time" in figures) == has_official
    assert ("OFFICIAL_CLIENT_PYTHON must be the path of a Python" in done.stderr) != has_official


@pytest.mark.heavy
def test_what_stores_cost_is_measured():
    """With a Redis and a PostgreSQL of their own."""
    figures = json.loads(run_quickly("stores", "--json").stdout)["figures"]
    assert len(figures) == 15
    assert all(figure["values"] for figure in figures)
