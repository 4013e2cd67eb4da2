"""Tests of sessions and fleets run in virtual time, and no timeout in them depends on the machine's speed."""

import pytest


@pytest.fixture(autouse=True)
def virtual_time(loop_time):
    """Use the event loop's own time as well as the virtual clock."""
