"""The signals that stop a command: the first, those at the same time, and later ones."""

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
    """Record what would end the process, and restore its signal handlers."""
    with stoppable() as exits:
        yield exits


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_the_callback_is_called_once(exits, monkeypatch, number):
    """Signals within a second count as one, also after the block."""
    monkeypatch.setattr(signals, "ONE_STOP_SECONDS", HANG)
    calls = []
    with on_stop(lambda: calls.append(number)):
        os.kill(os.getpid(), number)
        await eventually(lambda: calls)
        for again in STOP_SIGNALS:
            os.kill(os.getpid(), again)
            await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    assert (calls, exits.codes) == ([number], [])


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_a_later_signal_ends_the_process_at_once(exits, monkeypatch, number):
    """The exit code is 128 and the signal's number, also after the block."""
    monkeypatch.setattr(signals, "ONE_STOP_SECONDS", 0.0)
    calls = []
    with on_stop(lambda: calls.append(number)):
        os.kill(os.getpid(), number)
        await eventually(lambda: calls)
    os.kill(os.getpid(), number)
    assert exits.codes == [128 + number]


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_a_signal_while_python_exits_changes_nothing(exits, number):
    """The command is done by then."""
    calls = []
    with on_stop(lambda: calls.append(number)):
        os.kill(os.getpid(), number)
        await eventually(lambda: calls)
    exits.at_exit[0]()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_signals_within_a_second_count_as_one():
    """The page documents it."""
    assert signals.ONE_STOP_SECONDS == 1.0


async def test_sighup_stays_ignored_under_nohup(exits):
    """Other signals stop the command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    calls = []
    with on_stop(lambda: calls.append("stop")):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)
        assert not calls
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: calls)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert calls == ["stop"]
    assert exits.codes == []


async def test_without_a_signal_the_handlers_are_restored(exits):
    """Nothing is left for the end of the process, either."""
    with on_stop(lambda: None):
        pass
    after = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    assert after == {
        number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in STOP_SIGNALS
    }
    assert not exits.at_exit
