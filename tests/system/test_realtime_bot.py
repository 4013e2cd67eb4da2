"""A process with a realtime connection that is stopped for longer than its token is valid."""

import signal
from pathlib import Path

from signalwire_tokens.emulator import Emulator, Stall
from support.processes import run_program, settings_of
from support.waiting import eventually

BOT = Path(__file__).with_name("realtime_bot.py")
LIFE = 7200.0


async def read_until(bot, *ends):
    """Return the lines that the bot prints, up to the first that is one of `ends`."""
    lines = []
    while not lines or lines[-1] not in ends:
        line = await bot.stdout.readline()
        assert line, f"the bot has ended after {lines}"
        lines.append(line.decode().strip())
    return lines


async def test_a_process_that_was_stopped_past_its_token_connects_again():
    """Its call is reported as sent, and it gets the events that come then. (R5) (R8) (R11)"""
    async with Emulator() as emulator:
        emulator.on_call("bot.work", lambda _: {})
        emulator.fail(Stall(), operation="bot.work")
        async with run_program(BOT, emulator.gateway, env=settings_of(emulator)) as bot:
            assert (await read_until(bot, "state connected"))[0].split() == ["state", "connecting"]
            await eventually(lambda: not emulator.faults)
            bot.send_signal(signal.SIGSTOP)
            emulator.advance(LIFE + 60)
            await eventually(lambda: not emulator.connections)
            bot.send_signal(signal.SIGCONT)
            lines = await read_until(bot, "state connected")
            assert "call interrupted sent" in lines
            assert "state reconnecting closed" in lines
            emulator.send_event("tick", {"number": 1})
            await read_until(bot, "event 1")
            refused = [entry.operation for entry in emulator.requests if entry.status in (401, 403)]
            assert refused == ["signalwire.connect"] * 2, "the resume, and the token"
