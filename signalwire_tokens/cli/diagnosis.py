"""Findings of `doctor`: what a check has seen, whether that is a failure, and what to do about it."""

from __future__ import annotations

import ssl
from enum import Enum
from statistics import median
from typing import TYPE_CHECKING

import attrs

from signalwire_tokens import errors
from signalwire_tokens.durations import spoken
from signalwire_tokens.wire import Subject, about

from .command import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

__all__ = ["Finding", "Verdict", "summarize"]

EXACT, TOLERABLE = 5.0, 60.0  # seconds that a clock may be off: no finding; a warning
SLOW = 2.0  # seconds


class Verdict(Enum):
    """How a check ended."""

    PASSED = "ok"
    WARNED = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen
class Finding:
    """What a check has seen, and what to do about it. Unless there is something to do, the check has passed."""

    check: str
    seen: str
    remedy: str | None = None
    verdict: Verdict = attrs.field()

    @verdict.default
    def _verdict(self) -> Verdict:
        return Verdict.PASSED if self.remedy is None else Verdict.FAILED


def summarize(findings: Sequence[Finding], planned: Iterable[str]) -> str:
    """Return a line that counts the checks. A planned check without a finding counts as skipped."""
    names = {verdict: [one.check for one in findings if one.verdict is verdict] for verdict in Verdict}
    names[Verdict.SKIPPED] += {*planned} - {one.check for one in findings}
    total = sum(map(len, names.values()))
    words = {Verdict.WARNED: "warning" if len(names[Verdict.WARNED]) == 1 else "warnings", Verdict.SKIPPED: "skipped"}
    others = "".join(f"; {len(names[one])} {word}" for one, word in words.items() if names[one])
    if failed := names[Verdict.FAILED]:
        texts = [f"{one.seen} {one.remedy}" for one in findings if one.verdict is Verdict.FAILED]
        is_about_settings = all("SIGNALWIRE_" in text for text in texts)
        advice = "Fix the settings named above." if is_about_settings else "Follow the advice above."
        return f"{len(failed)} of {total} checks failed: {', '.join(failed)}{others}. {advice}"
    return (
        f"{len(names[Verdict.PASSED])} of {total} checks passed{others}." if others else f"All {total} checks passed."
    )


def failure_finding(check: str, error: errors.SignalWireTokenError) -> Finding:
    """Return the finding about a request that should have succeeded."""
    return Finding(check, one_line(str(error)), remedy_for(error))


def remedy_for(error: errors.SignalWireTokenError) -> str:
    """Return what to do about an error."""
    match error:
        case errors.ConfigurationError() | errors.InvalidRequest() | errors.ValidationFailed():
            return "fix what the message names"
        case errors.Unauthorized():
            return "check that SIGNALWIRE_PROJECT_ID and SIGNALWIRE_API_TOKEN belong to this space"
        case errors.Forbidden() if about(error.errors) is Subject.SUBSCRIBER:
            return "check the subscriber, who may have expired or been removed"
        case errors.Forbidden():
            return "give the API token one of the scopes Voice, Messaging, Fax or Video"
        case errors.RateLimited() | errors.TemporarilyRefused():
            return "try again later; if SignalWire still refuses, check the limits of your account"
        case errors.ServerError() | errors.TransportError():
            return "try again later: SignalWire or the network has failed"
        case _:
            return "check SIGNALWIRE_SPACE: a server that isn't SignalWire may have answered"


def name_finding(host: str, found: Sequence[str] | Exception) -> Finding:
    """Return the finding about the addresses of the space's name."""
    if isinstance(found, Exception):
        remedy = "check the spelling of SIGNALWIRE_SPACE, and whether this machine can resolve other names"
        return Finding("name", f"can't resolve {host}: {connection_reason(found)}", remedy)
    return Finding("name", f"{host} resolves to {', '.join(found[:4])}")


def certificate_finding(seen: tuple[str, datetime] | Exception | None) -> Finding:
    """Return the finding about a connection: its version of TLS and when the certificate expires, or None for http."""
    match seen:
        case ssl.SSLCertVerificationError():
            text = f"the certificate isn't trusted: {seen.verify_message}"
            remedy = "if the authority is yours, set SIGNALWIRE_REST_CA_FILE; if not, check the clock and any proxy"
        case ssl.SSLError():
            text = f"the server doesn't use TLS: {seen.reason}"
            remedy = "check the port in SIGNALWIRE_SPACE, and any proxy"
        case Exception():
            text = f"can't connect: {connection_reason(seen)}"
            remedy = "check the host and port in SIGNALWIRE_SPACE, and whether a firewall blocks them"
        case None:
            return Finding("certificate", "not needed on this machine")
        case _:
            return Finding("certificate", f"{seen[0]}, certificate valid until {seen[1]:%Y-%m-%d}")
    return Finding("certificate", text, remedy)


def connection_reason(error: Exception) -> str:
    """Return in a few words why a connection failed."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = (isinstance(error, OSError) and error.strerror) or str(error)  # several errors in one have no strerror
    return one_line(text) or type(error).__name__


def credentials_findings(error: errors.SignalWireTokenError | None, now: float) -> list[Finding]:
    """Return what the answer to a made-up refresh token shows about the clock, the credentials and their scope.

    SignalWire looks at the token only if it accepts the credentials. `now` is this machine's time.
    """
    accepted = Finding("credentials", "SignalWire accepts the project id and the API token")
    server_time = error.server_time if isinstance(error, errors.ApiError) else None
    clock = [] if server_time is None else [clock_finding(now - server_time)]
    match error:
        case errors.ValidationFailed():
            return [*clock, accepted, Finding("scope", "the API token may refresh tokens")]
        case errors.Forbidden():
            return [*clock, accepted, failure_finding("scope", error)]
        case errors.Unauthorized():
            seen = f"SignalWire refused the project id or API token ({error.status})"
            return [*clock, Finding("credentials", seen, remedy_for(error))]
        case None:
            seen = "the server accepted a made-up refresh token, so it isn't SignalWire"
            return [Finding("credentials", seen, "check SIGNALWIRE_SPACE, and any proxy")]
        case _:
            return [*clock, failure_finding("credentials", error)]


def clock_finding(ahead: float) -> Finding:
    """Return the finding about a clock that is so many seconds ahead of SignalWire's."""
    if abs(ahead) <= EXACT:
        return Finding("clock", "this machine's clock agrees with SignalWire's")
    seen = f"this machine's clock is {spoken(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} SignalWire's"
    verdict = Verdict.WARNED if abs(ahead) <= TOLERABLE else Verdict.FAILED
    return Finding("clock", seen, "set the clock: tokens with a chosen lifetime expire too early or late", verdict)


def latency_finding(seconds: Sequence[float]) -> Finding:
    """Return the finding about how long SignalWire takes to answer."""
    middle, longest = (f"{1000 * one:.0f} ms" for one in (median(seconds), max(seconds)))
    seen = f"{len(seconds)} answers: median {middle}, longest {longest}"
    if max(seconds) <= SLOW:
        return Finding("latency", seen)
    return Finding("latency", seen, "check the network and any proxy: a request fails after 10 s", Verdict.WARNED)


def lifetime_finding(seconds: float | None, expected: float) -> Finding:
    """Return the finding about how long an access token is valid, None if SignalWire doesn't report it."""
    if seconds is None:
        return Finding("lifetime", "SignalWire doesn't report when the token expires", verdict=Verdict.SKIPPED)
    seen = f"the access token is valid for {spoken(seconds)}"
    if abs(seconds - expected) <= EXACT:
        return Finding("lifetime", f"{seen}, as expected")
    remedy = f"set SIGNALWIRE_TOKENS_LIFETIME={round(seconds)}s, or pass TokenClient(lifetimes=Lifetimes.of(…))"
    return Finding("lifetime", f"{seen}, not for {spoken(expected)}", remedy)
