"""OpenTelemetry metrics and spans for a client, its sessions, its fleets and its realtime connections.

::

    telemetry = Telemetry()
    telemetry.watch(fleet)

Nothing that is exported names a subscriber, a project or a token.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit
from weakref import ref

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider

from signalwire_tokens._version import __version__
from signalwire_tokens.client import Observer, TokenClient
from signalwire_tokens.errors import SessionClosed, SignalWireTokenError
from signalwire_tokens.fleet import SessionFleet
from signalwire_tokens.keeper import TokenSession
from signalwire_tokens.origins import USUAL_PORTS
from signalwire_tokens.policy import SessionState
from signalwire_tokens.realtime import RealtimeConnection, RealtimeState
from signalwire_tokens.realtime.connection import observe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.trace import Span

    from signalwire_tokens.backend import BackendSession
    from signalwire_tokens.device import DeviceSession
    from signalwire_tokens.errors import RateLimitHint
    from signalwire_tokens.realtime import LossCause
    from signalwire_tokens.session import SubscriberSession

    Session: TypeAlias = SubscriberSession | DeviceSession | BackendSession

__all__ = ["Telemetry"]

INSTRUMENTATION_SCOPE = "signalwire_tokens"
REFRESHES = frozenset({"refresh_subscriber_token", "refresh_device_token"})
ISSUES = frozenset(f"create_{kind}_token" for kind in ("subscriber", "guest", "invite", "embed", "device"))
# The advised boundaries of the two histograms, in seconds.
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TIME_LEFT_BOUNDARIES = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 2400.0, 3600.0)


def server_at(origin: str) -> dict[str, str | int]:
    """Return the attributes that name an origin: its host and its port."""
    place = urlsplit(origin)
    return {"server.address": place.hostname or "", "server.port": place.port or USUAL_PORTS[place.scheme]}


class Telemetry(Observer):
    """Exports metrics and spans of the clients, sessions, fleets and realtime connections that you pass to `watch`.

    It uses OpenTelemetry's global providers unless you pass others. It has only weak references to sessions, fleets and
    connections, so watching doesn't keep them in memory.
    """

    def __init__(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        meter = metrics.get_meter(INSTRUMENTATION_SCOPE, __version__, meter_provider)
        self._tracer = trace.get_tracer(INSTRUMENTATION_SCOPE, __version__, tracer_provider)
        self._issued = meter.create_counter(
            "signalwire.tokens.issued", unit="{token}", description="Tokens issued, by operation."
        )
        self._refreshed = meter.create_counter(
            "signalwire.tokens.refreshed", unit="{token}", description="Pairs that were exchanged for a new one."
        )
        self._failed = meter.create_counter(
            "signalwire.tokens.failed", unit="{operation}", description="Operations that failed, by kind."
        )
        self._duration = meter.create_histogram(
            "signalwire.tokens.operation.duration",
            unit="s",
            description="How long operations take, repeated attempts included.",
            explicit_bucket_boundaries_advisory=DURATIONS,
        )
        self._left = meter.create_histogram(
            "signalwire.sessions.time_left",
            unit="s",
            description="How long a token was still valid when its session got the next one.",
            explicit_bucket_boundaries_advisory=TIME_LEFT_BOUNDARIES,
        )
        self._limit = meter.create_gauge(
            "signalwire.rate_limit.limit",
            unit="{request}",
            description="Requests that the account may send in a window, as the last answer reported.",
        )
        self._remaining = meter.create_gauge(
            "signalwire.rate_limit.remaining",
            unit="{request}",
            description="Requests that are left in the window, as the last answer reported.",
        )
        self._reauthentications = meter.create_counter(
            "signalwire.realtime.reauthentications",
            unit="{token}",
            description="New tokens that the gateway has accepted on open connections.",
        )
        self._losses = meter.create_counter(
            "signalwire.realtime.losses",
            unit="{connection}",
            description="Realtime connections that were lost or couldn't be made, by cause.",
        )
        self._watched: tuple[ref[Session | SessionFleet | RealtimeConnection], ...] = ()
        meter.create_observable_up_down_counter(
            "signalwire.sessions",
            callbacks=[self._count_sessions],
            unit="{session}",
            description="Sessions that are watched, by state.",
        )
        meter.create_observable_up_down_counter(
            "signalwire.realtime.connections",
            callbacks=[self._count_connections],
            unit="{connection}",
            description="Realtime connections that are watched, by state.",
        )

    def watch(self, watched: TokenClient | Session | SessionFleet | RealtimeConnection) -> None:
        """Measure the operations of a client, and count sessions and realtime connections by state.

        All operations of a session's or a fleet's client are measured. A connection's session isn't watched with it.
        Watching twice has no further effect.
        """
        if not isinstance(watched, TokenClient | TokenSession | SessionFleet | RealtimeConnection):
            raise TypeError(
                "watch() takes a TokenClient, a session, a SessionFleet or a RealtimeConnection, "
                f"not {type(watched).__name__}"
            )
        if not isinstance(watched, TokenClient):
            standing = {one for one in self._watched if one() is not None}
            self._watched = tuple(standing | {ref(watched)})
        if isinstance(watched, RealtimeConnection):
            observe(watched, self)
            return
        client = watched if isinstance(watched, TokenClient) else watched.client
        if self not in client.observers:
            client.observers = (*client.observers, self)

    @contextmanager
    def operation_started(self, operation: str, origin: str) -> Iterator[None]:
        """Yield for one operation of a client, in a span. Record its duration and its result."""
        about = {"signalwire.operation": operation, **server_at(origin)}
        began = perf_counter()  # the caller's real waiting time, even if the client has a virtual clock
        with self._tracer.start_as_current_span(
            f"signalwire {operation}",
            kind=SpanKind.CLIENT,
            attributes=about,
            # An error's text may quote SignalWire's answer, which may quote the request.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                about["error.type"] = type(error).__name__
                self._note_failure(error, about, span)
                raise
            finally:
                self._duration.record(perf_counter() - began, about)
            counter = self._refreshed if operation in REFRESHES else self._issued
            if operation in REFRESHES | ISSUES:
                counter.add(1, about)

    def _note_failure(self, error: BaseException, about: dict[str, str | int], span: Span) -> None:
        """Set a span's status and attributes for a failure, and count it. A cancellation isn't counted."""
        if isinstance(error, Exception):
            self._failed.add(1, about)
        span.set_attribute("error.type", about["error.type"])
        if isinstance(error, SignalWireTokenError) and error.status is not None:
            span.set_attribute("http.response.status_code", error.status)
        span.set_status(StatusCode.ERROR)

    def rate_limit_reported(self, operation: str, origin: str, hint: RateLimitHint) -> None:  # noqa: ARG002 - all share one limit
        """Record what an answer reports about the account's rate limit."""
        server = server_at(origin)
        if hint.limit is not None:
            self._limit.set(hint.limit, server)
        if hint.remaining is not None:
            self._remaining.set(hint.remaining, server)

    def renewed(self, left: float) -> None:
        """Record how many seconds a session's token was still valid when the session got the next one."""
        self._left.record(left)

    def connection_lost(self, cause: LossCause) -> None:
        """Count a realtime connection that was lost, or couldn't be made."""
        self._losses.add(1, {"signalwire.realtime.cause": cause})

    def reauthenticated(self) -> None:
        """Count a new token that the gateway has accepted on an open connection."""
        self._reauthentications.add(1)

    def _count_sessions(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return the number of watched sessions in each state. Exporters call it from their own threads."""
        counts = Counter[SessionState](dict.fromkeys(SessionState, 0))
        for one in self._watched:
            watched = one()
            if isinstance(watched, TokenSession):
                counts[watched.state] += 1
            elif isinstance(watched, SessionFleet):
                with suppress(SessionClosed):  # a fleet that isn't open has no sessions
                    counts.update(watched.snapshot().sessions)
        return [Observation(count, {"signalwire.session.state": state.value}) for state, count in counts.items()]

    def _count_connections(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return the number of watched realtime connections in each state. Exporters call it from their own threads."""
        counts = Counter[RealtimeState](dict.fromkeys(RealtimeState, 0))
        for one in self._watched:
            watched = one()
            if isinstance(watched, RealtimeConnection):
                counts[watched.state] += 1
        return [Observation(count, {"signalwire.realtime.state": state.value}) for state, count in counts.items()]
