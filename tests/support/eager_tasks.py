"""Run the tests on event loops that start tasks eagerly: `pytest --eager-tasks`."""

import asyncio

import pytest


def require_eager_tasks():
    """Refuse the option on a Python that has no eager tasks, so that the tests can't pass without them."""
    if not hasattr(asyncio, "eager_task_factory"):
        raise pytest.UsageError("--eager-tasks needs Python 3.12 or later")


@pytest.fixture
async def eager_tasks():
    """Run the first step of every task of the test when the task is created."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
