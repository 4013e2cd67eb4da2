"""Planted faults: a mistake in a rule of the library breaks a guarantee, and the simulated world notices.

The slow tests search for a part of the faults, another one each day. Set `PLANTED` to `all` to search for all of them,
or to a day to repeat its part.
"""

import os
import random
import re
from datetime import UTC, datetime

import pytest

from support.paths import TESTS
from support.planted import FAULTS, HISTORIES, find
from support.world.suites import SUITES, play

WORLD = TESTS / "support/world"
DAY = os.environ.get("PLANTED") or datetime.now(UTC).date().isoformat()
EACH_DAY = 8
CHOSEN = sorted(FAULTS) if DAY == "all" else random.Random(DAY).sample(sorted(FAULTS), EACH_DAY)
FOUND_AT_ONCE = "a lost answer counts as nothing done"


def assert_found(fault):
    finding = find(fault)
    assert finding is not None, (
        f"{HISTORIES} histories of {fault.suites} don't notice that {fault.name}, and so breaks one of "
        f"{fault.guarantees}: see tests/support/planted.py, and add what is missing to tests/support/world. Reproduce "
        f"it: PLANTED={DAY} pytest {__file__}, or python tests/system/proof.py --planted '{fault.name}'"
    )
    unchanged = play(finding.suite, finding.histories - 1)
    assert unchanged.failures == [], "the same history fails without the fault"


def test_a_fault_that_uses_a_refresh_token_twice_is_found():
    """Histories of a session find that it sends a refresh token again after a lost answer.

    The same histories break no guarantee of the unmodified library. (P20)
    """
    assert_found(FAULTS[FOUND_AT_ONCE])


@pytest.mark.slow  # many histories for some of the faults
@pytest.mark.heavy
@pytest.mark.parametrize("part", range(EACH_DAY))
def test_planted_faults_of_the_day_are_found(part):
    """Each of them breaks a guarantee that it names, within the budget of histories."""
    for name in CHOSEN[part::EACH_DAY]:
        assert_found(FAULTS[name])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=str)
def test_a_fault_names_what_it_breaks(fault):
    """A history may report its guarantees, and its suites exist."""
    numbers = re.findall(r'"([PR]\d+)"', "".join(path.read_text() for path in WORLD.glob("*.py")))
    assert set(fault.guarantees) <= set(numbers)
    assert set(fault.suites) <= set(SUITES)
    assert fault.guarantees
    assert fault.suites
    assert fault.what.endswith(".")
