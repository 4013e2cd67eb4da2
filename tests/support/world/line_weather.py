"""What goes wrong between the processes and the realtime gateway, and in the gateway."""

from signalwire_tokens.emulator.faults import Delay, Reset, RpcFailure, Stall

CODES = (-32603, -32000, -32003, -32602, -32002)  # that a call may be refused with
REPEATED = 0.1  # the share of events that are sent twice, while there are faults
REQUESTS = ("disconnect", "restart", "stale event", "stale conversation", "junk", "binary")


class LineWeather:
    """The weather of all connections to a gateway. `host` and `judge` are set once there are any.

    `fault_of_message` is asked by the gateway, and the others by `gateway`. `kinds` come at random times, as `Weather`
    plans them.
    """

    def __init__(self, world, weather):
        self.world, self._weather = world, weather
        self.judge = self.host = None
        self.life, self.climate = weather.life, weather.climate
        self._outage, self._outage_ends = None, 0.0
        self.kinds = (
            ("line_faults", self._break_line),
            ("gateway_outages", self._begin_outage),
            ("gateway_requests", self._ask),
            ("early_expiries", self._expire),
        )

    def end(self):
        """End all faults. A connection that stalls may go on, or be lost without either end learning of it."""
        self._outage_ends = 0.0
        for wire in self.host.wires:
            wire.slowness = 1.0
            wire.go_on(is_for_good=self.world.chance(0.5))

    def latency(self):
        return self._weather.latency()

    @property
    def _is_out(self):
        return self.world.time < self._outage_ends

    def mishap_of_connect(self, process):
        """Return what becomes of a handshake, or None."""
        if self._is_out:
            return self._outage
        if not self._weather.is_over and self.world.chance(self.climate.line_mishap):
            mishap = self.world.random.choice(("refused", "silence", "502", "closed"))
            self._note("mishap of a connect", mishap, process)
            return mishap
        return None

    def fault_of_message(self, method):
        """Return the fault that a message of a client meets, as `Emulator.fail` sets one; None if there is none."""
        if self._weather.is_over or not self.world.chance(self.climate.gateway_mishap):
            return None
        draw = self.world.random
        faults = [
            Delay(self.world.between(0.1, 15)),
            Stall(applied=False),
            Stall(applied=True),
            Reset(applied=False),
            Reset(applied=True),
        ]
        if method != "signalwire.event":
            refusal = RpcFailure(draw.choice(CODES), closes=draw.random() < 0.5)
            faults += [refusal, refusal, refusal]
        fault = draw.choice(faults)
        self._note("mishap of the gateway", f"{fault} for {method}")
        return fault

    def repeats(self, text):
        is_possible = not self._weather.is_over and self.climate.gateway_mishap and '"signalwire.event"' in text
        return bool(is_possible and self.world.chance(REPEATED))

    def _note(self, kind, text, process=None):
        self.world.fault(kind, text)
        self.judge.line_troubled(process)

    def _choose(self):
        wires = [wire for wire in self.host.wires if wire.line is not None and not wire.is_lost]
        return self.world.random.choice(wires) if wires else None

    def _break_line(self):
        wire, draw = self._choose(), self.world.random
        if wire is None:
            return
        kind, seconds = draw.choice(("reset", "half-closed", "stall", "lost", "slow")), self.world.between(0.5, 120)
        self._note(f"line: {kind}", f"{wire.process.name}, for {seconds:.1f} s", wire.process)
        self.judge.line_troubled(wire.process, seconds if kind in ("stall", "slow") else 0.0)
        if kind == "reset":
            wire.reset(wire.client, wire.server)
        elif kind == "half-closed":
            wire.reset(draw.choice((wire.client, wire.server)))
        elif kind == "slow":
            wire.slowness = self.world.between(2, 60)
            self.world.after(seconds, lambda: setattr(wire, "slowness", 1.0))
        else:
            wire.stall(seconds, is_for_good=kind == "lost")

    def _begin_outage(self):
        """Begin an outage of the gateway. The open connections break, or stall."""
        if self._is_out:
            return
        seconds = self.world.between(1, self.climate.longest_outage * self.life)
        self._outage, self._outage_ends = self.world.random.choice(("refused", "silence", "502")), 0.0
        self._outage_ends = self.world.time + seconds
        self.world.fault("outage of the gateway", f"{self._outage} for {seconds:.1f} s")
        self.judge.line_troubled(None, seconds)
        for wire in self.host.wires:
            if self.world.chance(0.5):
                wire.reset(wire.client, wire.server)
            else:
                wire.stall(seconds, is_for_good=True)

    def _ask(self):
        """Have the gateway send something else than events to a client."""
        wire, host = self._choose(), self.host
        if wire is None or wire.line.connection is None:
            return
        kind = self.world.random.choice(
            ("disconnect", "restart", "stale event", "stale conversation", "junk", "binary")
        )
        self.world.fault(f"gateway: {kind}", wire.process.name)
        if kind in ("disconnect", "restart"):
            host.process.post(self._disconnect, wire, kind == "restart")
        elif kind.startswith("stale"):
            client = wire.known()
            earlier = None if client is None else client.earlier_protocol()
            if earlier is not None:
                type_ = "conversation.message" if "conversation" in kind else "test.event"
                host.send_event(wire, type_, channel=f"events.{earlier}", is_stale=type_ == "test.event")
            return
        else:
            wire.carry(wire.server, "text" if kind == "junk" else "binary", "<html>")
        self.judge.line_troubled(wire.process)

    def _disconnect(self, wire, restart):
        if wire.line.connection is not None:
            wire.line.disconnect(restart=restart)

    def _expire(self):
        """Expire the token of a connection early. The gateway ends the connection."""
        wire = self._choose()
        if wire is None or wire.line.connection is None:
            return
        client = wire.known()
        token = None if client is None else client.accepted
        if token is None or self.judge.space.valid_for(token) <= 0:
            return
        self._note("early expiry", wire.process.name, wire.process)
        self.host.process.post(self._expire_now, token)

    def _expire_now(self, token):
        self.judge.revoked(token)
        self.host.gateway.expire(self.host.space.expire(token))
