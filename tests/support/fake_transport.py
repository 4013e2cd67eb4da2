"""What the tests of fleets share: a service that answers at once, or as it is told to, in virtual time."""

import asyncio
import json
from itertools import count
from uuid import NAMESPACE_URL, uuid5

from multidict import CIMultiDict

from signalwire_tokens import ConnectionFailed, TimedOut, TokenClient
from signalwire_tokens.secret import Secret

ERRORS = {401: b'{"error": "Unauthorized"}', 422: b'{"errors": [{"type": "validation_error", "code": "odd"}]}'}


class Line:
    """Stand in for the network and the service behind it.

    `status` is what it answers; None stands for a refused connection. `takes` is how long. `sent` is when each request
    came, and for whom; `bodies` is what each held.
    """

    closed = leaks = False

    def __init__(self, clock):
        self.clock, self.sent, self.bodies, self.numbers = clock, [], [], count(1)
        self.status, self.headers, self.takes = 201, {}, 0.0
        self.refused = {}  # by reference, a status
        self.busy = self.busiest = 0

    def check(self):
        """It is open."""

    def stop(self):
        """Nothing is open."""

    async def aclose(self):
        """Nothing is open."""

    async def send(self, request, trip):
        body = json.loads(request.body)
        who = body.get("reference") or body["refresh_token"].removeprefix("refresh-").rpartition("-")[0]
        self.sent.append((self.clock.now(), who))
        self.bodies.append(body)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            if self.takes:
                await self.clock.sleep(self.takes)
        finally:
            self.busy -= 1
        status = self.refused.get(who, self.status)
        if status is None:
            raise ConnectionFailed("cannot connect: refused", sent=False, operation=request.operation)
        number = next(self.numbers)
        answer = {name: f"{kind}-{who}-{number}" for name, kind in (("token", "access"), ("refresh_token", "refresh"))}
        good = json.dumps({"subscriber_id": str(uuid5(NAMESPACE_URL, who)), **answer}).encode()
        return status, CIMultiDict(self.headers), Secret(good if status < 300 else ERRORS.get(status, b"{}"))

    def timed_out(self, request, progress, within, advice):
        return TimedOut(f"no answer {within}", sent=progress.sent, operation=request.operation, advice=advice)

    @property
    def times(self):
        return [at for at, _ in self.sent]


def make_client(clock, **settings):
    """Make a client whose every request goes to a `Line`."""
    client = TokenClient("fleet.example", "project", "PTtoken", clock=clock, **settings)
    client.sender = Line(clock)
    return client, client.sender


def most_in_a_second(times):
    """Count the requests of the busiest second, wherever it begins."""
    times, first, most = sorted(times), 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= 1 - 1e-9:
            first += 1
        most = max(most, last - first + 1)
    return most


async def settle():
    """Give the event loop the turns that a few callbacks in a row take."""
    for _ in range(20):
        await asyncio.sleep(0)
