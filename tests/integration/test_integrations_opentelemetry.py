"""What OpenTelemetry is told: metrics and spans, and nobody's name."""

import asyncio
import gc
import subprocess
import sys
from collections import Counter

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from signalwire_tokens import (
    BackendSession,
    NotFound,
    RateLimited,
    RateLimitHint,
    SessionFleet,
    SubscriberSession,
    TokenClient,
    TransportError,
)
from signalwire_tokens.clock.timer import LONGEST_ALARM
from signalwire_tokens.device import DeviceKey, DeviceSession
from signalwire_tokens.emulator import Reset, Status
from signalwire_tokens.integrations.opentelemetry import Telemetry
from signalwire_tokens.realtime import RealtimeConnection
from signalwire_tokens.realtime.connection import observe
from support.scripted_backend import Desk
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("loop_time")

ALICE = "alice@example.com"
LIFE = 7200.0


class Backend:
    """Collects what is exported."""

    def __init__(self):
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self._meters = MeterProvider([self.reader])
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = Telemetry(meter_provider=self._meters, tracer_provider=self._tracers)
        self.tracer = self._tracers.get_tracer("tests")

    def close(self):
        self._meters.shutdown()
        self._tracers.shutdown()

    def points(self, name):
        """Give the data points of an instrument, each by its attributes' values."""
        data = self.reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return list(found[0].data.data_points) if found else []

    def counts(self, name, *attributes):
        """Give the values of a counter by some of its attributes."""
        counts = Counter()
        for point in self.points(name):
            counts[tuple(point.attributes.get(attribute) for attribute in attributes)] += point.value
        return dict(counts)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()


@pytest.fixture
def backend():
    backend = Backend()
    yield backend
    backend.close()


async def test_what_answers_say_about_the_rate_limit_is_shown(backend):
    """Each server has the newest numbers. A missing number changes nothing."""
    server = {"server.address": "acme.signalwire.com", "server.port": 443}
    assert backend.points("signalwire.rate_limit.limit") == []
    for hint in (RateLimitHint(limit=13_800, remaining=9), RateLimitHint(remaining=7), RateLimitHint(limit=100)):
        backend.telemetry.rate_limit_reported("create_embed_token", "https://acme.signalwire.com", hint)
    for name, value in (("limit", 100), ("remaining", 7)):
        (point,) = backend.points(f"signalwire.rate_limit.{name}")
        assert (point.value, dict(point.attributes)) == (value, server)


async def test_what_is_issued_is_counted_by_operation(emulator, client, backend):
    """And what is refreshed apart from it."""
    backend.telemetry.watch(client)
    pair = await client.create_subscriber_token(ALICE)
    await client.create_embed_token(emulator.click_to_call)
    await client.subscriber_info(pair.access_token)
    await client.refresh_subscriber_token(pair.refresh_token)
    assert backend.counts("signalwire.tokens.issued", "signalwire.operation") == {
        ("create_subscriber_token",): 1,
        ("create_embed_token",): 1,
    }
    assert backend.counts("signalwire.tokens.refreshed", "signalwire.operation") == {("refresh_subscriber_token",): 1}
    assert backend.points("signalwire.tokens.failed") == []


async def test_what_fails_is_counted_by_kind(emulator, client, backend):
    """By the error's name, which is one of few."""
    backend.telemetry.watch(client)
    for fault, error in ((Status(404), NotFound), (Status(429), RateLimited), (Reset(), TransportError)):
        emulator.fail(fault)
        with pytest.raises(error):
            await client.create_subscriber_token(ALICE)
    assert backend.counts("signalwire.tokens.failed", "error.type") == {
        ("NotFound",): 1,
        ("RateLimited",): 1,
        ("ConnectionFailed",): 1,
    }
    assert backend.points("signalwire.tokens.issued") == []


async def test_how_long_operations_take_is_measured(emulator, client, backend):
    """Those that fail as well, and said apart."""
    backend.telemetry.watch(client)
    await client.create_subscriber_token(ALICE)
    emulator.fail(Status(500))
    with pytest.raises(Exception, match="500"):
        await client.create_subscriber_token(ALICE)
    points = backend.points("signalwire.tokens.operation.duration")
    assert {point.attributes.get("error.type"): point.count for point in points} == {None: 1, "ServerError": 1}
    assert all(0 < point.sum < 60 for point in points)
    assert all(point.attributes["server.address"] == "127.0.0.1" for point in points)
    assert {point.attributes["server.port"] for point in points} == {emulator.port}


async def test_the_usual_port_is_named_too(backend):
    """It is part of where a server is."""
    with backend.telemetry.operation_started("create_embed_token", "https://acme.signalwire.com"):
        pass
    (span,) = backend.spans
    assert dict(span.attributes) == {
        "signalwire.operation": "create_embed_token",
        "server.address": "acme.signalwire.com",
        "server.port": 443,
    }


async def test_the_time_left_at_each_renewal_is_measured(emulator, clock, client, backend):
    """How much life was left: what there is to worry about, should the service be down."""
    async with SubscriberSession(client, ALICE) as session:
        backend.telemetry.watch(session)
        assert backend.points("signalwire.sessions.time_left") == []
        await clock.advance(0.85 * LIFE)
        assert session.generation == 2
        clock.suspend(2 * LIFE)
        await session.token()
    (point,) = backend.points("signalwire.sessions.time_left")
    assert (point.count, point.min) == (2, 0)
    assert 0.2 * LIFE <= point.max <= 0.4 * LIFE


async def test_sessions_are_counted_by_state(emulator, clock, client, backend):
    """Those of a fleet, and those that are watched by themselves."""
    async with SubscriberSession(client, "alone") as session, SessionFleet(client) as fleet:
        for watched in (session, fleet, fleet):
            backend.telemetry.watch(watched)
        assert backend.telemetry in client.observers
        assert len(client.observers) == 1
        for name in "abc":
            await fleet.token(name)
        states = {state: count for (state,), count in backend.counts("signalwire.sessions", STATE).items() if count}
        assert states == {"fresh": 4}
        emulator.fail(Status(503), times=None)
        clock.suspend(LIFE + 1)
        await clock.advance(LONGEST_ALARM)
        states = {state: count for (state,), count in backend.counts("signalwire.sessions", STATE).items() if count}
        assert states == {"unavailable": 4}
    states = {state: count for (state,), count in backend.counts("signalwire.sessions", STATE).items() if count}
    assert states == {"closed": 1}, "a fleet that is closed has none"


STATE, OPERATION = "signalwire.session.state", "signalwire.operation"
REALTIME = "signalwire.realtime"


def standing(backend):
    """Return the number of watched connections in each state that has any."""
    counts = backend.counts(f"{REALTIME}.connections", f"{REALTIME}.state")
    return {state: count for (state,), count in counts.items() if count}


async def test_realtime_connections_are_counted_by_state(emulator, client, backend):
    """A connection counts from `watch` on, once, until it is collected."""
    async with SubscriberSession(client, ALICE) as session:
        connection = RealtimeConnection(session, host=emulator.gateway)
        for _ in range(2):
            backend.telemetry.watch(connection)
        assert standing(backend) == {"closed": 1}
        async with connection:
            assert standing(backend) == {"connected": 1}
        assert await asyncio.to_thread(standing, backend) == {"closed": 1}
        del connection
        gc.collect()
        assert standing(backend) == {}
    assert backend.telemetry not in client.observers, "its session isn't watched"


async def use(connection, emulator):
    """Reauthenticate twice, and lose a connection."""
    async with connection:
        for count in (1, 2):
            await connection.session.refresh()
            await eventually(lambda count=count: connection.reauthenticated == count)
        async with emulator.unreachable():
            await eventually(lambda: connection.losses)


async def test_each_reauthentication_and_each_loss_is_counted_once(emulator, client, backend):
    """Also if a connection is watched twice, and after it was collected."""
    async with SubscriberSession(client, ALICE) as session:
        connection = RealtimeConnection(session, host=emulator.gateway)
        for _ in range(2):
            backend.telemetry.watch(connection)
        await use(connection, emulator)
        del connection
        gc.collect()
        assert standing(backend) == {}
    assert backend.counts(f"{REALTIME}.reauthentications") == {(): 2}
    assert backend.counts(f"{REALTIME}.losses", f"{REALTIME}.cause") == {("closed",): 1}


class Faulty:
    """An observer that always fails."""

    def connection_lost(self, cause):
        raise ValueError(cause)

    def reauthenticated(self):
        raise ValueError("reauthenticated")


async def test_an_observer_that_raises_does_not_disturb_a_connection(emulator, client, backend, caplog):
    """The exception is logged, and other observers are called."""
    async with SubscriberSession(client, ALICE) as session:
        connection = RealtimeConnection(session, host=emulator.gateway)
        observe(connection, Faulty())
        backend.telemetry.watch(connection)
        await use(connection, emulator)
    assert backend.counts(f"{REALTIME}.reauthentications") == {(): 2}
    assert backend.counts(f"{REALTIME}.losses") == {(): 1}
    assert caplog.text.count("an observer raised an exception") == 3


async def test_states_can_be_read_from_another_thread(client, backend):
    """As exporters do."""
    async with SessionFleet(client) as fleet:
        backend.telemetry.watch(fleet)
        await fleet.token(ALICE)
        counts = await asyncio.to_thread(backend.counts, "signalwire.sessions", STATE)
    assert counts["fresh",] == 1


async def test_what_is_watched_is_not_kept_alive(client, backend):
    """Whoever drops a session need not tell."""
    session = SubscriberSession(client, ALICE)
    backend.telemetry.watch(session)
    del session
    gc.collect()
    assert sum(backend.counts("signalwire.sessions", STATE).values()) == 0
    backend.telemetry.watch(SubscriberSession(client, "bob"))


async def test_each_operation_is_a_span(emulator, client, backend):
    """A client's, within whatever asked for it."""
    backend.telemetry.watch(client)
    with backend.tracer.start_as_current_span("a request") as outer:
        await client.create_subscriber_token(ALICE)
    span, _ = backend.spans
    assert span.name == "signalwire create_subscriber_token"
    assert span.kind is SpanKind.CLIENT
    assert span.parent.span_id == outer.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET


async def test_a_span_is_current_while_the_operation_lasts(emulator, backend):
    """So that what an instrumentation of HTTP says stands below it."""
    seen = []

    def api_token():
        seen.append(trace.get_current_span().get_span_context().span_id)
        return emulator.api_token

    async with TokenClient(emulator.space, emulator.project_id, api_token) as client:
        backend.telemetry.watch(client)
        await client.create_subscriber_token(ALICE)
    (span,) = backend.spans
    assert seen == [span.context.span_id]


async def test_a_renewal_in_the_background_belongs_to_nobody(emulator, clock, client, backend):
    """Whoever opened the session is long gone."""
    backend.telemetry.watch(client)
    with backend.tracer.start_as_current_span("a request"):
        async with SubscriberSession(client, ALICE):
            await clock.advance(0.85 * LIFE)
    spans = [span for span in backend.spans if span.name != "a request"]
    assert [span.name for span in spans] == [
        "signalwire create_subscriber_token",
        "signalwire refresh_subscriber_token",
    ]
    assert [span.parent for span in spans] == [None, None]


async def test_a_span_that_failed_says_how_and_quotes_nobody(emulator, client, backend):
    """An error's text may hold what the service said, and that may be who was asked for."""
    backend.telemetry.watch(client)
    emulator.fail(Status(422))
    with pytest.raises(Exception, match="not valid"):
        await client.create_subscriber_token(ALICE)
    (span,) = backend.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.attributes["error.type"] == "ValidationFailed"
    assert span.attributes["http.response.status_code"] == 422
    assert span.events == ()


async def test_a_caller_who_gives_up_is_told_apart(emulator, client, backend):
    """It is no failure of the service's."""
    backend.telemetry.watch(client)
    emulator.fail(Status(500))
    call = asyncio.create_task(client.create_subscriber_token(ALICE))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert backend.points("signalwire.tokens.failed") == []
    (point,) = backend.points("signalwire.tokens.operation.duration")
    assert point.attributes["error.type"] == "CancelledError"


async def test_nothing_that_is_exported_names_anybody(emulator, clock, client, backend):
    """Neither a subscriber, nor a token, nor the project."""
    async with SessionFleet(client) as fleet:
        backend.telemetry.watch(fleet)
        await fleet.token(ALICE)
        pair = fleet.session(ALICE).pair
        clock.suspend(LIFE + 1)
        emulator.fail(Status(422))
        call = asyncio.create_task(fleet.token(ALICE))
        await clock.advance(10)
        await call
    exported = " ".join(span.to_json() for span in backend.spans) + backend.reader.get_metrics_data().to_json()
    for secret in (
        ALICE,
        pair.access_token.value,
        pair.refresh_token.value,
        client.project_id,
        str(pair.subscriber_id),
    ):
        assert secret not in exported


@pytest.mark.parametrize("watched", [None, "client", 5])
async def test_what_cannot_be_watched_is_refused(backend, watched):
    """At once."""
    with pytest.raises(TypeError, match="TokenClient"):
        backend.telemetry.watch(watched)


async def test_the_global_providers_will_do(client):
    """Where an application has set none up, nothing happens, and nothing breaks."""
    telemetry = Telemetry()
    telemetry.watch(client)
    assert (await client.create_subscriber_token(ALICE)).access_token.kind == "SAT"


async def test_sessions_without_the_project_s_secret_are_measured_too(emulator, clock, client, backend):
    """They bring a client of their own, which has operations of its own."""
    key = DeviceKey.generate()
    pair = await client.create_subscriber_token(ALICE, fingerprint=key.fingerprint, scope="sat:refresh")

    async def give():
        return "a-token", clock.wall() + LIFE

    device = DeviceSession(emulator.space, pair.access_token, key, clock=clock)
    async with Desk(give, clock) as desk:
        endpoint = BackendSession(desk.url, clock=clock)
        for session in (device, endpoint):
            backend.telemetry.watch(session)
        async with device, endpoint:
            await device.refresh()
            states = backend.counts("signalwire.sessions", STATE)
    assert states["fresh",] == 2
    assert backend.counts("signalwire.tokens.issued", OPERATION) == {("create_device_token",): 1}
    assert backend.counts("signalwire.tokens.refreshed", OPERATION) == {("refresh_device_token",): 1}
    measured = {point.attributes[OPERATION] for point in backend.points("signalwire.tokens.operation.duration")}
    assert measured == {"create_device_token", "refresh_device_token", "fetch_token"}


def test_it_needs_no_cryptography():
    """Its extra doesn't bring that: only a session with a device's key needs it."""
    code = "import sys; sys.modules['cryptography'] = None; import signalwire_tokens.integrations.opentelemetry"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
