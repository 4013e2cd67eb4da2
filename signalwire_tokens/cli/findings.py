"""What `signalwire-tokens doctor` concludes from what it sees: verdicts, and what to do about them."""

from __future__ import annotations

import ssl
from enum import Enum
from statistics import median
from typing import TYPE_CHECKING

import attrs

from signalwire_tokens.errors import (
    ConfigurationError,
    Forbidden,
    InvalidRequest,
    RateLimited,
    ServerError,
    SignalWireTokenError,
    TemporarilyRefused,
    TransportError,
    Unauthorized,
    ValidationFailed,
)
from signalwire_tokens.wire import Subject, about

from .command import one_line
from .telling import span

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

__all__ = [
    "Finding",
    "Verdict",
    "of_answer",
    "of_clock",
    "of_connection",
    "of_difference",
    "of_failure",
    "of_latency",
    "of_life",
    "of_names",
]

RIGHT, ODD = 5.0, 60.0  # seconds that a clock may be off: unnoticed; with no harm but to short lifetimes
SLOW = 2.0  # seconds that an answer may take before that is worth a word


class Verdict(Enum):
    """How a check ended."""

    WELL = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@attrs.frozen
class Finding:
    """What a check found, and what to do about it."""

    check: str
    verdict: Verdict
    seen: str
    remedy: str | None = None


def of_failure(check: str, error: SignalWireTokenError) -> Finding:
    """Judge a request that ought to have gone well."""
    return Finding(check, Verdict.WRONG, one_line(str(error)), remedy_for(error))


def remedy_for(error: SignalWireTokenError) -> str:
    """Return what to do about an error."""
    match error:
        case ConfigurationError() | InvalidRequest() | ValidationFailed():
            return "fix what the error names"
        case Unauthorized():
            return "project id and API token must be of one project, in this space; the token may have been revoked"
        case Forbidden() if about(error.errors) is Subject.SUBSCRIBER:
            return "look at the subscriber, who may have expired or been removed"
        case Forbidden():
            return "give the API token one of the scopes Voice, Messaging, Fax or Video"
        case RateLimited() | TemporarilyRefused():
            return "SignalWire can't do this now: try again later, and look at the limits of your account if it goes on"
        case ServerError() | TransportError():
            return "SignalWire has failed, or the network on the way to it: try again later"
        case _:
            return "see what the space's name leads to: something other than SignalWire may have answered"


def of_names(host: str, found: Sequence[str] | Exception) -> Finding:
    """Judge what the space's name leads to."""
    if isinstance(found, Exception):
        seen = f"{host} has no address: {reason_of(found)}"
        return Finding("dns", Verdict.WRONG, seen, "see whether the space is spelled rightly, and names resolve here")
    return Finding("dns", Verdict.WELL, f"{host} is {', '.join(found[:4])}")


def of_connection(made: tuple[str, datetime] | Exception | None) -> Finding:
    """Judge how a connection was made: TLS's version and the end of the certificate, or nothing where it has none."""
    match made:
        case ssl.SSLCertVerificationError():
            remedy = "trust its authority with SIGNALWIRE_REST_CA_FILE, if it is yours; see whether the clock is right"
            return Finding("tls", Verdict.WRONG, f"its certificate is not trusted: {made.verify_message}", remedy)
        case ssl.SSLError():
            return Finding("tls", Verdict.WRONG, f"no TLS is spoken there: {made.reason}", "see what the name leads to")
        case Exception():
            remedy = "see whether address and port are right, a firewall stands between, or a proxy is called for"
            return Finding("tls", Verdict.WRONG, f"no connection: {reason_of(made)}", remedy)
        case None:
            return Finding("tls", Verdict.WELL, "none is needed on this machine")
        case _:
            version, until = made
            return Finding("tls", Verdict.WELL, f"{version}, certificate good until {until:%Y-%m-%d}")


def reason_of(error: Exception) -> str:
    """Say in few words why a connection failed."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    words = (isinstance(error, OSError) and error.strerror) or str(error)  # of several at once, the words alone
    return one_line(words) or type(error).__name__


def of_answer(error: SignalWireTokenError | None) -> list[Finding]:
    """Judge how a refresh token was refused that is none: to find that out, the service must accept who asks."""
    accepted = Finding("credentials", Verdict.WELL, "the service knows the project id and the API token")
    match error:
        case ValidationFailed():
            return [accepted, Finding("scope", Verdict.WELL, "the API token may renew tokens")]
        case Forbidden():
            return [accepted, of_failure("scope", error)]
        case None:
            seen = "a made-up refresh token was accepted"
            return [Finding("credentials", Verdict.WRONG, seen, "it is not the service that answers")]
        case _:
            return [of_failure("credentials", error)]


def of_clock(ahead: float) -> Finding:
    """Judge how far this machine's clock is ahead of the service's."""
    off = abs(ahead)
    if off <= RIGHT:
        return Finding("clock", Verdict.WELL, "this machine's clock and the service's agree")
    seen = f"this machine's clock is {span(off)} {'ahead of' if ahead > 0 else 'behind'} the service's"
    harm = "tokens of a lifetime of your own end sooner or later than meant"
    return Finding("clock", Verdict.WARNING if off <= ODD else Verdict.WRONG, seen, f"set it: {harm}")


def of_latency(seconds: list[float]) -> Finding:
    """Judge how long answers take."""
    middle, most = median(seconds), max(seconds)
    seen = f"{len(seconds)} answers: {middle * 1000:.0f} ms in the middle, {most * 1000:.0f} ms at most"
    if most <= SLOW:
        return Finding("latency", Verdict.WELL, seen)
    return Finding("latency", Verdict.WARNING, seen, "see what is slow on the way: a request is given up after 10 s")


def of_life(check: str, life: timedelta | None, expected: timedelta) -> Finding:
    """Judge how long a token lives, by what the service says."""
    if life is None:
        return Finding(check, Verdict.SKIPPED, "the service does not say when the token ends")
    seen = f"the service says that it lives {span(life.total_seconds())}"
    if abs((life - expected).total_seconds()) <= RIGHT:
        return Finding(check, Verdict.WELL, f"{seen}, as expected")
    remedy = "set SIGNALWIRE_TOKENS_LIFETIME, or pass TokenClient(lifetimes=Lifetimes.of(…)), as the service says"
    return Finding(check, Verdict.WRONG, f"{seen}, and not {span(expected.total_seconds())}", remedy)


def of_difference(name: str, published: str, here: str) -> Finding:
    """Return a warning, not a failure, about a fact that isn't as published: sessions work either way."""
    return Finding(name, Verdict.WARNING, f"SignalWire publishes {published}, this space {here}")
