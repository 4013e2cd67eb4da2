"""Fail every asynchronous test that leaves something behind."""

import asyncio
import gc
import inspect

import pytest


@pytest.fixture
async def leak_check(request):
    """Fail a test that leaves a task, a connection, or an exception that nothing reads.

    An object that is dropped before it is closed warns when it is collected, and a warning is an error.
    """
    loop = asyncio.get_running_loop()
    unread = []
    loop.set_exception_handler(lambda _, context: unread.append(context))
    yield
    await asyncio.sleep(0)
    request.node.funcargs.clear()  # or what a fixture returned would outlive the next line
    gc.collect()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    sockets = [key for key in loop._selector.get_map().values() if key.fd != loop._ssock.fileno()]
    assert not tasks, f"the test left tasks: {tasks}"
    assert not sockets, f"the test left open connections: {sockets}"
    assert not unread, f"the event loop was left with failures: {unread}"
    gc.freeze()  # what is left has passed, and need not be examined again


def use_for_async_tests(fixture, items):
    """Make each asynchronous test use a fixture: set up before everything else, and torn down last."""
    for item in items:
        is_asynchronous = inspect.iscoroutinefunction(getattr(item, "obj", None))
        if is_asynchronous and fixture not in item.fixturenames:  # a list that parametrized tests share
            item.fixturenames.insert(0, fixture)


def freeze_what_is_loaded():
    """Exempt everything that exists so far from garbage collection.

    What collection and imports leave, over 100,000 objects, need not be examined again after every test.
    """
    gc.collect()
    gc.freeze()
