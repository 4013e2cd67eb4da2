"""Being told to stop, once and again."""

import asyncio
import os
import signal

import pytest

from signalwire_tokens.cli import signals
from signalwire_tokens.cli.signals import STOP_SIGNALS, on_stop
from support.waiting import eventually


@pytest.fixture
def exits(monkeypatch):
    """Note what would end the process, and leave its signals as they were."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests may have had it ignored
    ended, at_exit = [], []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    monkeypatch.setattr(signals.atexit, "register", at_exit.append)
    ended.append(at_exit)
    yield ended
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_who_is_told_to_stop_is_told_once(exits, monkeypatch, number):
    """Again within a second is the same word; later, it is meant, also after the block and until the process ends."""
    told = []
    with on_stop(lambda: told.append(number)):
        os.kill(os.getpid(), number)
        await eventually(lambda: told)
        for again in STOP_SIGNALS:
            os.kill(os.getpid(), again)
            await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    at_exit = exits.pop(0)
    assert (told, exits) == ([number], [])
    monkeypatch.setattr(signals, "AT_ONCE", 0.0)
    os.kill(os.getpid(), number)
    assert exits == [128 + number]
    at_exit[0]()
    assert signal.getsignal(number) is signal.SIG_IGN


async def test_who_was_not_told_is_left_as_before(exits):
    """Nothing of it stays."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with on_stop(lambda: None):
        pass
    after = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    assert after[signal.SIGTERM] == before[signal.SIGTERM] == signal.SIG_DFL
    assert not exits[0]
