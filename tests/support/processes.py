"""Run programs in processes of their own, on ports that nothing else takes."""

import asyncio
import contextlib
import os
import socket
import sys
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


@asynccontextmanager
async def run_program(*arguments, env=None, **settings):
    """Run a Python program until the block ends; it can import what the tests can."""
    environment = {**(os.environ if env is None else env), "PYTHONPATH": str(TESTS)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, env=environment, **settings
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        process._transport.close()
