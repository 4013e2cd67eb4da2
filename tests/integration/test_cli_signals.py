"""Being told to stop, once and again."""

import asyncio
import os
import signal

import pytest

from signalwire_tokens.cli import signals
from signalwire_tokens.cli.signals import STOP_SIGNALS, on_stop
from support.cli_runner import stoppable
from support.waiting import HANG, eventually


@pytest.fixture
def exits():
    """Note what would end the process, and put its signals back as they were."""
    with stoppable() as exits:
        yield exits


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_who_is_told_to_stop_is_told_once(exits, monkeypatch, number):
    """Again within a second is the same word; later, it is meant, also after the block and until the process ends."""
    monkeypatch.setattr(signals, "AT_ONCE", HANG)
    told = []
    with on_stop(lambda: told.append(number)):
        os.kill(os.getpid(), number)
        await eventually(lambda: told)
        for again in STOP_SIGNALS:
            os.kill(os.getpid(), again)
            await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    assert (told, exits.codes) == ([number], [])
    monkeypatch.setattr(signals, "AT_ONCE", 0.0)
    os.kill(os.getpid(), number)
    assert exits.codes == [128 + number]
    exits.at_exit[0]()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_signals_of_one_moment_are_those_of_a_second():
    """A terminal that closes may send several."""
    assert signals.AT_ONCE == 1.0


async def test_who_is_to_outlive_the_terminal_is_not_told_that_it_closes(exits):
    """As with `nohup`; other signals are heard."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told = []
    with on_stop(lambda: told.append("stop")):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)
        assert not told
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: told)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert told == ["stop"]
    assert exits.codes == []


async def test_who_was_not_told_is_left_as_before(exits):
    """Nothing of it stays."""
    with on_stop(lambda: None):
        pass
    after = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    assert after == {
        number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in STOP_SIGNALS
    }
    assert not exits.at_exit
