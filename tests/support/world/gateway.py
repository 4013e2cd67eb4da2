"""SignalWire's realtime gateway, which is the emulator's, and the connections between it and each process.

The gateway runs in a process of its own, to which nothing happens. What is simulated is aiohttp's WebSocket, at both
ends of a connection: `Http` stands in for the session of aiohttp that a `RealtimeConnection` is given.
"""

import asyncio
import json
import weakref
from collections import deque

import aiohttp

from signalwire_tokens.clock import SystemClock
from signalwire_tokens.emulator.gateway import Gateway, GatewayConnection

from .core import EPOCH, Machine, Process

CLOSE_TIMEOUT = 10.0  # of the gateway
COUNT = "test.count"  # the method that the apps call
TEXT, BINARY = aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY


class TrueClock(SystemClock):
    """The clock of a service, which shows the true time."""

    def __init__(self, world):
        self._world = world

    def now(self):
        return self._world.time

    def wall(self):
        return EPOCH + self._world.time


class Lines(dict):
    """The gateway's connections, as a set that keeps their order."""

    def add(self, line):
        self[line] = None

    def discard(self, line):
        self.pop(line, None)


class Host:
    """The gateway, and all connections to it. `executed` are the numbers of the calls that took effect, in order."""

    def __init__(self, world, space, weather, judge):
        self.world, self.weather, self.judge = world, weather, judge
        self.space = space
        machine = Machine(world, "gateway's machine", is_steady=True)
        self.process = Process(world, machine, "gateway", lambda _: self._run(), is_service=True)
        self.gateway = Gateway(
            space.service, TrueClock(world), take_fault=self.weather.fault_of_message, note=lambda *_: None
        )
        self.gateway.lines = Lines()
        self.gateway.answer(COUNT, self._count)
        self.wires, self._tasks = [], set()
        self.executed = judge.executed
        self._numbers = 0  # of events
        self._send_later()

    async def _run(self):
        await asyncio.Event().wait()

    def _count(self, params):
        self.executed[params["number"]] += 1
        return {"number": params["number"]}

    def accept(self, wire):
        """Serve a connection whose handshake has arrived."""
        self.wires.append(wire)
        self.process.post(self._begin, wire)

    def _begin(self, wire):
        task = asyncio.create_task(self._serve(wire))
        self._tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task):
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.world.fail("P7", f"the gateway raises {task.exception()!r}")

    async def _serve(self, wire):
        socket = Socket(wire.server, CLOSE_TIMEOUT)
        async with asyncio.TaskGroup() as tasks:
            wire.line = GatewayConnection(self.gateway, socket, wire.server, tasks)
            self.gateway.lines.add(wire.line)
            try:
                tasks.create_task(wire.line.watch())
                await wire.line.listen()
            finally:
                self.gateway.lines.discard(wire.line)
        wire.server.shut()
        self.wires.remove(wire)

    def _send_later(self):
        """Send a numbered event to each connection now and then. Now and then, there are many of them at once."""
        life = self.weather.life
        self.world.after(self.world.random.expovariate(15 / life), self._send_events)

    def _send_events(self):
        times = 10 if self.world.chance(0.1) else 1
        for wire in self.wires:
            if wire.line is not None and wire.line.connection is not None:
                for _ in range(times):
                    self.send_event(wire, "test.event")
        self._send_later()

    def send_event(self, wire, kind, *, channel=None, is_stale=False):
        self.process.post(self._send_event, wire, kind, channel, is_stale)

    def _send_event(self, wire, kind, channel, is_stale):
        if wire.line.connection is not None:
            self._numbers += 1
            wire.line.send_event(kind, {"number": self._numbers, "stale": is_stale}, channel)


class Http:
    """What stands in for the `aiohttp.ClientSession` of a connection. `client` is what the judge knows of that."""

    closed = False

    def __init__(self, host, process, client):
        self._host, self._process, self._client = host, process, client

    async def close(self):
        """Close nothing."""

    async def ws_connect(self, _url, *, timeout, **_):  # noqa: ASYNC109 - as aiohttp has it
        """Return an open socket, or raise aiohttp's error, as the weather has it."""
        host, process, client = self._host, self._process, self._client
        weather, judge, world = host.weather, host.judge, host.world
        judge.attempts(client)
        try:
            mishap = weather.mishap_of_connect(process)
            world.note(f"{process.name} opens a socket: {mishap or 'it arrives'}")
            if mishap == "silence":
                await process.loop.create_future()
            await asyncio.sleep(weather.latency())
            if mishap is not None:
                raise error_of(mishap)
            wire = Wire(host, process, client)
            host.accept(wire)
            await asyncio.sleep(weather.latency())
        except BaseException:
            judge.not_opened(client)
            raise
        judge.opened(client, wire)
        return Socket(wire.client, timeout.ws_close, judge.sees(wire))


def error_of(mishap):
    if mishap == "502":
        return aiohttp.WSServerHandshakeError(None, (), status=502)
    return aiohttp.ServerDisconnectedError() if mishap == "closed" else aiohttp.ClientOSError(111, "refused")


class Wire:
    """A TCP connection between a process and the gateway.

    While it `is_stalled`, nothing arrives. If it `is_lost`, nothing ever arrives again, and neither end learns why.
    `blocked_at` is when a sender has last waited for the other end.
    """

    def __init__(self, host, process, client):
        self.host, self.world, self.process = host, host.world, process
        self.known = weakref.ref(client)
        self.client, self.server = End(self, process), End(self, host.process)
        self.line = None  # the gateway's side
        self.is_stalled = self.is_lost = False
        self.slowness = 1.0
        self.blocked_at = -1e9
        process.closers.append(self._die)

    def _die(self):
        """Close the process's end, as the operating system does. The gateway may not learn that."""
        if self.world.chance(0.3):
            self.is_lost = True
        self.client.shut()

    def peer_of(self, end):
        return self.server if end is self.client else self.client

    def carry(self, sender, kind, data=None):
        """Have a message arrive at the other end, after all that was sent before."""
        receiver = self.peer_of(sender)
        way = self.host.weather.latency() * self.slowness
        receiver.arrives_at = max(receiver.arrives_at, self.world.time + way)
        self.world.after(receiver.arrives_at - self.world.time, lambda: self._arrive(receiver, kind, data))

    def _arrive(self, receiver, kind, data):
        if self.is_stalled:
            receiver.held.append((kind, data))
        elif not self.is_lost:
            receiver.take(kind, data)

    def is_fluent(self, since):
        """Return whether the process could send all the time, so that messages left when it meant to send them."""
        return self.client.drainer is None and self.blocked_at < since and not self.is_stalled

    def stall(self, seconds, *, is_for_good):
        self.is_stalled = True
        self.world.after(seconds, lambda: self.go_on(is_for_good=is_for_good))

    def go_on(self, *, is_for_good=False):
        """Have everything arrive that was held up, unless the connection is lost."""
        if not self.is_stalled:
            return
        self.is_stalled, self.is_lost = False, self.is_lost or is_for_good
        for end in (self.client, self.server):
            held, end.held = end.held, deque()
            for kind, data in held if not self.is_lost else ():
                end.take(kind, data)
            if not self.is_lost:
                end.drain()

    def reset(self, *ends):
        """Break the connection, so that these ends learn of it. Nothing arrives any more."""
        self.is_lost = True
        for end in ends:
            end.take("reset", None)
            end.drain()


class End:
    """One end of a TCP connection: what has arrived there and wasn't read, and what waits for that."""

    def __init__(self, wire, process):
        self.wire, self.process = wire, process
        self.arrived, self.held = deque(), deque()
        self.arrives_at = 0.0
        self.waiters, self.drainer = [], None
        self.is_shut = False

    def take(self, kind, data):
        """Put what arrives into the buffer, and wake the reader."""
        if self.is_shut:
            if kind == "text":  # the operating system refuses what comes for a socket that is closed
                self.wire.carry(self, "reset")
            return
        self.arrived.append((kind, data))
        self.wake()

    def wake(self):
        for waiter in self.waiters:
            self.process.resolve(waiter)

    async def wait(self):
        """Return once something has arrived, or this end is closed."""
        waiter = self.process.loop.create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            self.waiters.remove(waiter)

    def drain(self):
        if self.drainer is not None:
            self.process.resolve(self.drainer)

    def shut(self):
        """Close this end. The other one learns of it, if anything arrives there."""
        if self.is_shut:
            return
        self.is_shut = True
        self.wire.carry(self, "eof")
        self.wake()
        self.drain()
        if self is self.wire.client and self.wire._die in self.process.closers:
            self.process.closers.remove(self.wire._die)

    def get_extra_info(self, name):
        """Return the socket, whose options have no effect."""
        assert name == "socket"
        return self

    def setsockopt(self, *_):
        """Set nothing."""

    def abort(self):
        """Abort the connection, as the transport of asyncio does."""
        self.shut()


class Message:
    """What aiohttp's `WSMessage` is."""

    __slots__ = ("data", "type")

    def __init__(self, type_, data):
        self.type, self.data = type_, data


class Observer:
    """Sees what a socket sends, reads and closes. The gateway's end has this one, which does nothing."""

    def sends(self, text):
        """Note that a message is sent."""

    def reads(self, kind, data):
        """Note that a message is read."""

    def closes(self):
        """Note that the socket is closed from this side."""

    def shuts(self):
        """Note that nothing uses the socket any more."""


class Socket:
    """A WebSocket, as far as the library and the emulator use aiohttp's."""

    def __init__(self, end, close_timeout, observer=None):
        self._end, self._close_timeout = end, close_timeout
        self._observer = observer or Observer()
        self.close_code = None
        self.closed = self._closing = False

    @property
    def transport(self):
        """What aborts the connection, as a transport of asyncio does."""
        return self

    def abort(self):
        """Close the connection at once, for which the library has no other use."""
        self._end.shut()
        self._observer.shuts()

    async def send_str(self, text):
        end, world = self._end, self._end.wire.world
        if self.closed or self._closing or end.is_shut or end.process.is_dead:
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        self._observer.sends(text)
        end.wire.carry(end, "text", text)
        if end is end.wire.server and end.wire.host.weather.repeats(text):
            end.wire.carry(end, "text", text)
        if end.wire.is_stalled and world.chance(0.3):  # the buffer is full
            end.drainer = end.process.loop.create_future()
            try:
                await end.drainer
            finally:
                end.drainer, end.wire.blocked_at = None, world.time
            if end.is_shut:
                raise aiohttp.ClientConnectionResetError("Connection lost")

    def __aiter__(self):
        return self

    async def __anext__(self):
        kind, data = await self._receive()
        self._observer.reads(kind, data)
        match kind:
            case "text":
                return Message(TEXT, data)
            case "binary":
                return Message(BINARY, data)
            case "close":
                self.close_code, self._closing = data, True
                await self.close()
            case "reset" | "eof":
                self.closed, self.close_code = True, 1006
            case _:
                pass
        raise StopAsyncIteration

    async def _receive(self):
        end = self._end
        while not end.arrived:
            if self.closed or self._closing or end.is_shut:
                return "closing", None
            await end.wait()
        return end.arrived.popleft()

    async def close(self, code=1000):
        """Send a close frame, and wait for the other end's."""
        if self.closed:
            return False
        self.closed, end = True, self._end
        self._observer.closes()
        if end.is_shut:
            return True
        end.wire.carry(end, "close", int(code))
        end.wake()
        try:
            if self.close_code is None:
                async with asyncio.timeout(self._close_timeout):
                    await self._handshake()
        except TimeoutError:
            pass
        finally:
            end.shut()
        return True

    async def _handshake(self):
        """Read until the other end has closed."""
        end = self._end
        while not end.is_shut:
            while end.arrived:
                kind, data = end.arrived.popleft()
                if kind in ("close", "reset", "eof"):
                    self.close_code = data if kind == "close" else 1006
                    return
            await end.wait()


def read(text):
    """Return a message of JSON-RPC, or None if it isn't one."""
    try:
        message = json.loads(text)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
