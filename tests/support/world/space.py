"""SignalWire, which is the emulator's service without its server, and the network between it and each process.

A request and its answer each take a while, and what becomes of them doesn't depend on their sender: the request of a
process that is killed still arrives.
"""

import asyncio
import json
import weakref
from email.utils import formatdate

import attrs
from multidict import CIMultiDict

from signalwire_tokens import ConnectionFailed, TokenClient
from signalwire_tokens.emulator.calls import Call, failure
from signalwire_tokens.emulator.rotation import ROTATIONS
from signalwire_tokens.emulator.service import Service
from signalwire_tokens.secret import Secret

from .core import EPOCH

PROJECT, API_TOKEN = "5e1b2c34-9e0f-4a53-8d1e-6c2f0a7b9d10", "PTsimulated"
TIMEOUT = 10.0  # of a client
NAME_OF_TASK = "signalwire-tokens: renew "
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"


@attrs.define(eq=False)
class Sent:
    """A request on its way, as the judge sees it.

    `label` names the session, and `engine` returns its engine as long as there is one; both are None for a direct call.
    `begun` is when the renewal began, by the session's clock. `refresh_token` is what the request presents, and
    `mishap` what becomes of it. `result` is a status, or what the sender knows without one: "not sent", or "unknown".
    """

    process: object
    label: str | None
    operation: str
    reference: str | None
    refresh_token: str | None
    at: float
    loop_at: float
    engine: object = lambda: None
    is_of_session: bool = False
    begun: float = 0.0
    mishap: str | None = None
    result: int | str | None = None


class Space:
    """A space of SignalWire's, with its own true time, and all that has been asked of it."""

    def __init__(self, world, lifetimes, rotation):
        self.world, self.lifetimes = world, lifetimes
        self.service = Service(
            now=lambda: EPOCH + world.time,
            lifetimes=lifetimes,
            rotation=ROTATIONS[rotation],
            channel=None,
            page_size=10,
            project_id=PROJECT,
            api_token=API_TOKEN,
            key=bytes(32),
        )
        self.sent = []
        self.claims = {}  # by token: what the service knows of it
        self.references = {}  # by the subscriber's ID
        self.revoked = set()

    def open(self, token):
        """Return the claims of a token, which need not be valid."""
        claims = self.claims.get(token)
        if claims is None:
            claims = self.claims[token] = self.service.sealer.open(token)
        return claims

    def valid_for(self, token):
        """Return for how many seconds more the service accepts an access token; a negative number if it doesn't."""
        claims = self.open(token)
        if claims is None or token in self.revoked:
            return -1.0
        return claims.expires_at - EPOCH - self.world.time

    def reference_of(self, token):
        claims = self.open(token)
        return None if claims is None else self.references.get(claims.subscriber_id)

    def revoke(self, token):
        self.service.revoke(token)
        self.revoked.add(token)

    def expire(self, token):
        """Expire a token early, which its session can't know, and return its claims."""
        self.revoked.add(token)
        return self.service.expire(token)

    def handle(self, call, reference):
        """Answer a call, and remember whose tokens the answer holds."""
        reply = self.service.handle(call)
        if reference is not None and "subscriber_id" in reply.body:
            self.references[reply.body["subscriber_id"]] = reference
        return reply


class Network:
    """The way from one process to SignalWire. It stands in for the HTTP request of a client."""

    def __init__(self, process, space, weather, judge):
        self._process, self._space, self._weather, self._judge = process, space, weather, judge

    def client(self, **settings):
        """Return a client whose requests take this way."""
        process = self._process
        client = TokenClient(
            "simulated.example",
            PROJECT,
            API_TOKEN,
            clock=process.clock,
            lifetimes=self._space.lifetimes,
            timeout=TIMEOUT,
            **settings,
        )
        client.sender.send = self.send
        return client

    def _sender(self):
        """Return the engine whose task sends a request. If it has several tasks, its last one isn't the only one."""
        task = asyncio.current_task()
        named = [one for one in self._process.engines if task.get_name() == f"{NAME_OF_TASK}{one.label}"]
        return next((one for one in named if one.task is task), named[-1] if named else None)

    async def send(self, request, progress):
        """Send a request as the weather lets it, and return its answer: status, headers and body."""
        process, world = self._process, self._process.world
        engine = self._sender()
        body = json.loads(request.body)
        sent = Sent(
            process,
            None if engine is None else engine.label,
            request.operation,
            body.get("reference"),
            body.get("refresh_token"),
            world.time,
            process.machine.loop_time(),
        )
        if engine is not None:
            sent.engine, sent.is_of_session = weakref.ref(engine), True
        self._judge.sends(sent)
        self._space.sent.append(sent)
        mishap = sent.mishap = self._weather.mishap(sent)
        world.note(f"{process.name} sends {request.operation} for {sent.label}: {mishap or 'it arrives'}")
        if process.is_dead or mishap == "refused":
            sent.result = "not sent"
            self._judge.ended(sent)
            await asyncio.sleep(0)
            raise ConnectionFailed("refused", sent=False, operation=request.operation)
        progress.sent = None
        call = Call(
            method=request.method, path=request.path, authorization=progress.authorization.value, body=request.body
        )
        answered = process.loop.create_future()
        sent.result = "unknown"
        way = self._weather.latency()
        if mishap not in ("lost request", "silence"):
            world.after(way, lambda: self._arrive(call, sent, mishap, answered))
        if mishap == "lost request":
            world.after(way, lambda: process.resolve(answered, error=reset(request)))
        try:
            status, headers, content = await answered
        except asyncio.CancelledError:
            self._judge.cancelled(sent)
            raise
        except ConnectionFailed:
            self._judge.ended(sent)
            raise
        if mishap == "raises":
            self._judge.ended(sent)
            raise MemoryError
        sent.result = status
        progress.sent, progress.status = True, status
        self._judge.ended(sent)
        return status, CIMultiDict(headers), Secret(content)

    def _arrive(self, call, sent, mishap, answered):
        """Have the service handle a request, and send its answer back."""
        world, weather, space = sent.process.world, self._weather, self._space
        reply, headers = weather.instead_of_service(sent, mishap)
        if reply is None:
            reply = space.handle(call, sent.reference)
            if mishap == "twice":
                again = space.handle(call, sent.reference)
                reply = again if world.chance(0.5) else reply
            if mishap == "stranger's answer":
                stranger = attrs.evolve(call, body=json.dumps({"reference": f"stranger-{world.steps}"}).encode())
                reply = space.handle(stranger, "a stranger")
        world.note(f"SignalWire answers {sent.process.name} for {sent.label}: {reply.status}")
        headers = {"Date": formatdate(EPOCH + world.time, usegmt=True), **headers}
        answer = reply.status, headers, json.dumps(reply.body).encode()
        way = weather.latency() + (weather.delay() if mishap == "slow" else 0.0)
        if mishap == "lost answer":
            error = reset(None)
            world.after(way, lambda: sent.process.resolve(answered, error=error))
        elif mishap != "silence after the request":
            world.after(way, lambda: sent.process.resolve(answered, answer))


def reset(request):
    operation = "a request" if request is None else request.operation
    return ConnectionFailed("reset by peer", sent=None, operation=operation)


def refusal(kind):
    """Return the answer of a service that doesn't do what it is asked to."""
    return failure(int(kind[:3]))
