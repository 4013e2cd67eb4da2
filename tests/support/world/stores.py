"""What processes share a pair through. The stores are the library's; only what is below them is simulated.

- `RedisServer` stands in for a server, and `RedisWire` for the connection of one process to it.
- An SQLite file is a real one. Its transactions run at once, and their results arrive later.
- A `MemoryStore` needs nothing below it.
"""

import asyncio
import copy
import sqlite3
from collections import deque
from contextlib import closing

from redis.exceptions import ConnectionError as ConnectionLost

from signalwire_tokens.stores import SqliteStore
from signalwire_tokens.stores import redis as scripts
from signalwire_tokens.stores.redis import RedisStore

from .core import EPOCH

KEY = "F" * 43 + "="  # of 32 bytes


class RedisServer:
    """A server with the scripts of `RedisStore`, expiry, and pub/sub."""

    def __init__(self, world, weather):
        self.world, self._weather = world, weather
        self._ahead = world.random.uniform(-86400, 86400)  # of its clock
        self._values = {}  # by name: the value, and when it expires by the server's clock
        self._older = deque(maxlen=3)  # copies, as of a replica or a backup
        self._wires = []
        self._copy()

    def _copy(self):
        self._older.append(copy.deepcopy(self._values))
        self.world.after(self.world.random.expovariate(1 / 300), self._copy)

    def now(self):
        return EPOCH + self.world.time + self._ahead

    def connect(self, process):
        """Return a store of the process."""
        store = RedisStore("redis://simulated", encryption_keys=KEY)
        wire = RedisWire(self, process, self._weather)
        store._server.redis = store._listener._redis = wire
        self._wires.append(wire)

        def close():
            wire.close()
            store._server.owner._loop = None  # a killed process has closed nothing
            if wire in self._wires:
                self._wires.remove(wire)

        process.closers.append(close)
        return store

    def lose(self, how):
        """Lose the latest data, or all of it, and break off all connections."""
        self._values = {} if how == "flushed" else copy.deepcopy(self._older[-1 if how == "failed over" else 0])
        for wire in self._wires:
            wire.break_off()

    def get(self, name):
        value, until = self._values.get(name, (None, 0.0))
        return value if value is not None and until > self.now() else None

    def leases(self):
        return [name for name in self._values if name.endswith(":lease") and self.get(name) is not None]

    def run(self, script, name, args):
        """Run a script, as the Lua text has it."""
        held = self.get(name)
        if script == scripts.LOAD:
            seconds, micros = divmod(round(self.now() * 1e6), 1_000_000)
            return [None if held is None else held[1], b"%d" % seconds, b"%d" % micros]
        if script == scripts.SAVE:
            digest, replaces, sealed, until, channel, key = args
            if held is not None and held[0] not in (digest, replaces):
                return 0
            self._values[name] = ((digest, sealed), until / 1000)
            if channel:
                for wire in self._wires:
                    wire.publish(channel, key)
            return 1
        if script == scripts.TAKE_LEASE:
            owner, milliseconds = args
            if held not in (None, owner):
                return 0
            self._values[name] = (owner, self.now() + milliseconds / 1000)
            return 1
        if script == scripts.RELEASE_LEASE and held != args[0]:
            return 0
        return int(self._values.pop(name, None) is not None)


class RedisWire:
    """The connections of one process, as far as `RedisStore` uses a client of redis-py."""

    def __init__(self, server, process, weather):
        self._server, self._process, self._weather = server, process, weather
        self._channels = []

    async def execute_command(self, _, script, __, name, *args, **___):
        return await self._ask(lambda: self._server.run(script, name, args))

    async def _ask(self, run):
        process, world = self._process, self._process.world
        if process.is_dead:
            raise ConnectionLost("the process was killed")
        mishap, way = self._weather.store_mishap(process), self._weather.latency() / 10
        answer = process.loop.create_future()

        def arrive():
            if mishap in ("before", "silence"):
                result, error = None, ConnectionLost("Connection closed by server.")
            else:
                result, error = run(), ConnectionLost("Connection lost") if mishap == "after" else None
                result = run() if mishap == "twice" else result  # the client sends again what wasn't answered
            if mishap not in ("silence", "silence after"):
                world.after(way, lambda: process.resolve(answer, result, error))

        world.after(way, arrive)
        return await answer

    def pubsub(self, *, ignore_subscribe_messages):
        assert ignore_subscribe_messages
        channel = RedisChannel(self)
        self._channels.append(channel)
        return channel

    def publish(self, channel, key):
        """Send a message to the process, unless it is cut off."""
        for one in self._channels:
            if one.name == channel and self._weather.store_mishap(self._process) is None:
                message = {"data": key.encode()}
                self._process.world.after(
                    self._weather.latency() / 10, lambda one=one, message=message: one.put(message)
                )

    def break_off(self):
        for one in self._channels:
            one.put(ConnectionLost("Connection closed by server."))

    def close(self):
        self._channels.clear()

    async def aclose(self):
        """Close the connections."""
        self.close()


class RedisChannel:
    """A subscription, as redis-py's `PubSub`."""

    def __init__(self, wire):
        self._wire, self.name = wire, None
        self._messages, self._arrived = deque(), asyncio.Event()

    def put(self, message):
        def arrive():
            self._messages.append(message)
            self._arrived.set()

        self._wire._process.post(arrive)

    async def subscribe(self, name):
        await self._wire._ask(lambda: setattr(self, "name", name))

    async def get_message(self, timeout):  # noqa: ASYNC109 - as redis-py has it
        try:
            async with asyncio.timeout(timeout):
                while not self._messages:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        message = self._messages.popleft()
        if isinstance(message, Exception):
            raise message
        return message

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        if self in self._wire._channels:
            self._wire._channels.remove(self)


class SqliteFile:
    """A file that the processes of one machine share. Their event loops run its transactions."""

    def __init__(self, world, weather, path):
        self.world, self._weather, self._path = world, weather, path

    def connect(self, process):
        store = SqliteStore(self._path, encryption_keys=KEY, clock=process.clock)
        store.timeline = process.machine.boot_id
        process.loop.run_in_executor = lambda _, work, *args: self._run(process, work, args)

        def close():
            if store.worker is not None:
                store.worker.close()
                store.worker = None

        process.closers.append(close)
        return store

    def leases(self):
        """Return the keys of the leases that haven't ended."""
        (machine,) = self.world.machines
        with closing(sqlite3.connect(self._path)) as database:
            held = database.execute("SELECT key, until, timeline FROM leases").fetchall()
        return [key for key, until, boot in held if boot == machine.boot_id and until > machine.boot_time()]

    def _run(self, process, work, args):
        """Run a transaction, and return a future of its result."""
        mishap, answer = self._weather.store_mishap(process), process.loop.create_future()
        if process.is_dead:
            mishap = "before"
        if work.__name__ == "close":
            mishap = None

        def begin():
            result = error = None
            if mishap in ("before", "silence", "silence after"):  # a file answers, if only with an error
                error = OSError("disk I/O error")
            else:
                try:
                    result = work(*args)
                except Exception as raised:  # noqa: BLE001 - an executor passes everything on
                    error = raised
                if mishap == "after":
                    error = OSError("disk I/O error")
            self.world.after(self._weather.latency() / 100, lambda: process.resolve(answer, result, error))

        begin()
        return answer
