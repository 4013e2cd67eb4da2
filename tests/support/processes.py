"""Run programs in processes of their own, on ports that nothing else takes."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from contextlib import asynccontextmanager

from support.paths import TESTS


@contextlib.contextmanager
def reserve_port():
    """Yield a port that only a server which is told of it can take.

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
def noting(program, output):
    """Add the end of a file, to which a program writes, to each failure in this block."""
    from support.cli_runner import last_lines  # noqa: PLC0415 - programs import this module and don't need that one

    try:
        yield
    except BaseException as error:
        output.seek(0)
        if written := last_lines(output.read()):
            error.add_note(f"{program} wrote to its standard error:\n{written}")
        raise


@asynccontextmanager
async def run_program(*arguments, env=None, **settings):
    """Run a Python program until the block ends; it can import what the tests can.

    A failure in the block shows the last 40 lines that the program wrote to its standard error.
    """
    from support.cli_runner import default_signals  # noqa: PLC0415 - as above

    environment = {**(os.environ if env is None else env), "PYTHONPATH": str(TESTS)}
    with tempfile.TemporaryFile() as errors, noting(arguments[0], errors):
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
