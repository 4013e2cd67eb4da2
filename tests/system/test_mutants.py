"""A sample of the mutation test, which changes each day; `tests/support/mutants.py` runs all of it."""

import os
import re
from datetime import UTC, datetime

import pytest

from support import mutants
from support.documented import assert_listed
from support.paths import PACKAGE, TESTS
from support.processes import run_program

SAMPLE = 60


async def run_mutants(*arguments):
    """Run the mutation test; return its exit code and what it printed."""
    # The children load changed code, whose lines must not count as covered.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    async with run_program(TESTS / "support/mutants.py", *arguments, env=plain) as process:
        printed = await process.stdout.read()
        return await process.wait(), printed.decode()


@pytest.mark.slow  # runs tests/unit for each mutant
async def test_no_mutant_of_the_sample_survives():
    """Of about 60 changes to the pure modules, the unit tests notice each that isn't listed as equivalent."""
    day = f"{datetime.now(UTC):%Y%m%d}"
    code, printed = await run_mutants("--sample", str(SAMPLE), "--seed", day)
    assert code == 0, f"python tests/support/mutants.py --sample {SAMPLE} --seed {day}\n{printed}"


@pytest.mark.slow  # runs tests/unit
async def test_the_mutation_test_can_fail():
    """A survivor that isn't listed is reported, with its place and the change."""
    code, printed = await run_mutants("lifecycle", "--match", "Phase.CLOSED", "--ignore-list")
    assert code == 1
    assert re.search(r"signalwire_tokens/lifecycle\.py:\d+ in Phase\.CLOSED\n    - 5\n    \+ 6\n", printed), printed


def test_each_module_of_wire_is_in_the_mutation_test():
    """A new one is added to `MODULES`."""
    existing = {f"wire.{path.stem}" for path in (PACKAGE / "wire").glob("*.py")} - {"wire.__init__"}
    listed = {name for name in mutants.MODULES if name.startswith("wire.")}
    assert_listed("MODULES in tests/support/mutants.py", listed, existing)


def test_each_listed_survivor_is_still_a_mutant():
    """An entry goes when the code that it describes does."""
    assert mutants.stale_entries() == []
