"""Run programs in processes of their own, on ports that nothing else takes."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from contextlib import asynccontextmanager

from support.paths import TESTS

# What `nohup`, or a shell that runs a job in the background, has its children ignore. (Python itself ignores SIGPIPE,
# and `subprocess` undoes that in every child.)
MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
MOST_LINES = 40


@contextlib.contextmanager
def reserve_port():
    """Yield a free port that no other program is given.

    The socket stays bound, so the kernel gives the port to no other program that asks for any port; it never listens,
    so a server with SO_REUSEADDR, as all of ours have, can bind the port as well.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


def is_open(port):
    """Return whether a server listens on a port of this machine."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def default_signals():
    """Give processes that start in this block the default disposition of every signal.

    Ignored signals stay ignored in a new program, while those with a handler go back to the default. So, for as long
    as the block lasts, a handler that does nothing stands in for each signal that is ignored.
    """
    ignored = [number for number in MAY_BE_IGNORED if signal.getsignal(number) is signal.SIG_IGN]
    try:
        for number in ignored:
            signal.signal(number, lambda *_: None)
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def last_lines(text):
    """Return the last 40 lines of what a command printed."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    lines = text.splitlines()
    left_out = [f"[{len(lines) - MOST_LINES} lines before these]"] if len(lines) > MOST_LINES else []
    return "\n".join([*left_out, *lines[-MOST_LINES:]])


@contextlib.contextmanager
def noting(title, read):
    """Add the last lines of what a program printed to each failure in this block; `read` returns all of it."""
    try:
        yield
    except BaseException as error:
        if printed := last_lines(read()):
            error.add_note(f"{title}:\n{printed}")
        raise


@contextlib.contextmanager
def noting_file(program):
    """Yield a file for a program's standard error; add its last lines to each failure in this block."""

    def read():
        errors.seek(0)
        return errors.read()

    with tempfile.TemporaryFile() as errors, noting(f"{program} wrote to its standard error", read):
        yield errors


def settings_of(emulator, **more):
    """Return the environment in which a command uses an emulator."""
    return {
        "SIGNALWIRE_SPACE": emulator.space,
        "SIGNALWIRE_PROJECT_ID": emulator.project_id,
        "SIGNALWIRE_API_TOKEN": emulator.api_token,
        **more,
    }


@asynccontextmanager
async def run_program(*arguments, env=None, **settings):
    """Run a Python program until the block ends; it can import what the tests can.

    A failure in the block shows the last 40 lines that the program wrote to its standard error.
    """
    environment = {**(os.environ if env is None else env), "PYTHONPATH": str(TESTS)}
    with noting_file(arguments[0]) as errors:
        with default_signals():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *map(str, arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environment,
                **settings,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            process._transport.close()
