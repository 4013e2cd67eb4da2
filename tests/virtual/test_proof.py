"""Histories of a simulated world, in which everything goes wrong that may: see tests/support/world.

`python tests/system/proof.py` plays as many as you have time for.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import last_lines
from support.world.core import World
from support.world.judge import Judge
from support.world.realtime_judge import CONNECTED_WITHIN
from support.world.suites import LIVES, SUITES, play
from support.world.weather import MISHAPS, PAUSES, REFUSALS

HISTORIES = 2  # of each suite, in the default run
MANY = 80
ROOT = Path(__file__).parents[1]


def explain(record):
    """Return what a history has broken, and how it came to that."""
    broken = "\n".join(f"{guarantee}: {text}" for guarantee, text in record.failures[:10])
    return f"{broken}\n{last_lines(record.history)}\nreproduce it: python tests/system/proof.py {named(record)}"


def named(record):
    return f"--suite {record.suite} --seed {record.seed}"


@pytest.mark.parametrize("suite", SUITES)
def test_no_history_breaks_a_guarantee(suite):
    """Sessions, replicas, fleets, token endpoints and realtime connections keep their promises, whatever goes wrong.

    (P1) (P2) (P3) (P5) (P7) (P9) (P12) (P14) (P15) (P16) (P17) (P19) (P20) (P21) (P22) (P23) (P26) (P29) (P30)
    (P31) (P32) (P33) (P34) (R1) (R2) (R3) (R4) (R5) (R6) (R7) (R8) (R9) (R10) (R11) (R12)
    """
    for seed in range(HISTORIES):
        record = play(suite, seed)
        assert record.failures == [], explain(record)


@pytest.mark.slow  # half a minute for the suite with the most processes
@pytest.mark.heavy
@pytest.mark.parametrize("suite", SUITES)
def test_no_history_of_many_breaks_a_guarantee(suite):
    """The same, for more seeds."""
    for seed in range(HISTORIES, MANY):
        record = play(suite, seed)
        assert record.failures == [], explain(record)


def test_the_guarantees_that_a_history_may_break_are_documented():
    """The test above names them, and their rows in the list of guarantees name that test."""
    reported = set()
    for path in (ROOT / "support/world").glob("*.py"):
        reported |= set(re.findall(r'"([PR]\d+)"', path.read_text()))
    assert reported == set(re.findall(r"\(([PR]\d+)\)", test_no_history_breaks_a_guarantee.__doc__))
    rows = (ROOT.parent / "docs/explanation/guarantees.md").read_text()
    proved = re.findall(r"^\| ([PR]\d+) \|.*test_proof.py::test_no_history_breaks_a_guarantee", rows, re.MULTILINE)
    assert reported == set(proved)


def test_the_page_says_how_long_faults_have_effects():
    """It names the longest times after which a session without a valid token is a failure."""
    page = " ".join((ROOT.parent / "docs/explanation/renewal.md").read_text().split())
    usual, refused = re.search(r"valid token within (\d+) minutes, or within (\d+) minutes if", page).groups()
    judges = [Judge(World(0), life) for life in LIVES]
    kinds = {"end", "start", "stop", "store", "suspend", "vm pause", "wall", *MISHAPS, *PAUSES}
    assert max(judge.bound(kind) for judge in judges for kind in kinds) <= 60 * int(usual)
    assert max(judge.bound(kind) for judge in judges for kind in REFUSALS) <= 60 * int(refused)
    (connected,) = re.findall(r"and then a connection within (\d+) seconds", page)
    assert int(connected) == CONNECTED_WITHIN


PLAY = """
import json
from support.world.suites import SUITES, play
print(json.dumps({suite: play(suite, 0).trace for suite in SUITES}))
"""


@pytest.mark.slow  # it tests the simulation itself
def test_a_seed_decides_the_whole_history():
    """Each callback, request and fault comes in the same order, in each process that plays it."""
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another one than this process has
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("COVERAGE_PROCESS_START", None)
    command = [sys.executable, "-c", PLAY]
    elsewhere = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    here = {suite: play(suite, 0).trace for suite in SUITES}
    assert elsewhere == here
    assert len(set(here.values())) == len(SUITES)
