"""The command `doctor`: runs one check after the other, and prints what `diagnosis` concludes from it."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import click
from yarl import URL

from signalwire_tokens import wire
from signalwire_tokens.errors import SignalWireTokenError

from . import diagnosis
from .command import Command, Exit, Option, one_line, print_json, to_json
from .diagnosis import Finding, Verdict
from .examination import Space, examine_space
from .options import connection
from .signals import on_stop
from .space_report import Report, replace_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from signalwire_tokens.models import TokenPair

    from .options import MakeSettings

    Step = Callable[[Space], Awaitable[list[Finding]]]

__all__ = ["connect", "doctor", "issue_and_refresh"]

USUAL_CHECKS = ("settings", "name", "certificate", "clock", "credentials", "scope", "latency")
TIMEOUT = 10.0  # seconds for a name or a handshake
SAMPLES = 5
COLORS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "white"}
ANNOUNCEMENT = """\
The examination sends fewer than 50 requests, one at a time. It issues tokens for {reference}, who is created if new,
and for guests and an invitee to the first address of this subscriber. Many requests are wrong on purpose, with made-up
tokens and credentials. Earlier tokens of this subscriber may be revoked, so use a reference that no open session uses.
The examination may wait up to a quarter of a minute. It never repeats a refused request."""


@click.command(
    cls=Command,
    examples=("signalwire-tokens doctor", "signalwire-tokens doctor --reference examination --report report.json"),
)
@click.option("--reference", cls=Option, metavar="REF", help="Subscriber to issue a token for, created if new.")
@click.option("--report", cls=Option, metavar="FILE", help="Where to report on the space; - is standard output.")
@connection(embeds=True)
def doctor(*, settings: MakeSettings, reference: str | None, report: str | None, as_json: bool) -> None:
    """Check settings, network and credentials.

    Each failure comes with what to do. With --reference, doctor also issues and refreshes a token. With --report as
    well, it finds out where the space differs from SignalWire's documentation. The report holds no secrets.
    """
    if report is not None and reference is None:
        raise click.UsageError("--report needs a --reference to issue tokens for")
    if reference is not None:
        wire.create_subscriber_token(reference, now=time.time())  # raises an error if it can't be one
    findings: list[Finding] = []
    is_aside = report == "-"  # then findings are written to standard error

    def emit(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            verdict = click.style(f"{finding.verdict.value:<8}", fg=COLORS[finding.verdict.value])
            remedy = "" if finding.remedy is None else f"\n{'':<21}{finding.remedy}"
            click.echo(f"{verdict}{finding.check:<12} {finding.seen}{remedy}", err=is_aside)

    steps: list[Step] = [lambda space: connect(space.client.origin, settings().context()), present_token, time_answers]
    planned, observed = [*USUAL_CHECKS], Report()
    if report is not None:
        if not is_aside:
            replace_file(Path(report), "")  # raises an error if it can't be written
        click.echo(ANNOUNCEMENT.format(reference=one_line(str(reference))), err=True)
        steps, planned = [*steps, examine_space], [*planned, "report"]
    elif reference is not None:
        steps, planned = [*steps, issue_and_refresh], [*planned, "issue", "lifetime", "refresh"]
    try:
        client = settings().client(retries=0)
        emit(Finding("settings", f"{client.origin}, project {client.project_id}"))
        run_steps(Space(client, reference or "", observed), steps, emit)
    except SignalWireTokenError as error:
        emit(diagnosis.failure_finding("settings", error))
    finally:
        if report is not None:
            write(report, observed, emit)
    summary = diagnosis.summarize(findings, planned)
    is_healthy = all(one.verdict is not Verdict.FAILED for one in findings)
    if as_json:
        shown = [{**attrs.asdict(one), "verdict": one.verdict.value} for one in findings]
        print_json({"healthy": is_healthy, "summary": summary, "findings": shown}, err=is_aside)
    else:
        click.echo(summary, err=is_aside)
    if not is_healthy:
        click.get_current_context().exit(Exit.FAILED)


def write(place: str, report: Report, emit: Callable[[Finding], None]) -> None:
    """Write a report, and pass on each difference in it. If nothing was observed, leave an earlier report as it is."""
    for name, fact in report.facts.items():
        if fact.difference is not None:  # a warning, because sessions work either way
            emit(Finding(name, fact.difference, verdict=Verdict.WARNED))
    if report.is_empty:
        emit(Finding("report", "not written, because nothing was observed", verdict=Verdict.SKIPPED))
        return
    text = json.dumps(report.to_json(time.time()), indent=2) + "\n"
    if place == "-":
        click.echo(text, nl=False)
    else:
        replace_file(Path(place), text)
    end = "" if report.stopped is None else f"; incomplete, because {report.stopped}"
    seen = f"written to {'standard output' if place == '-' else place}: {report.summary}{end}"
    emit(Finding("report", seen, verdict=Verdict.WARNED if end else Verdict.PASSED))


def run_steps(space: Space, steps: list[Step], emit: Callable[[Finding], None]) -> None:
    """Run one check after the other, until one fails that the next ones need. Emit each finding as it comes."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        with on_stop(task.cancel):  # so that SIGTERM, too, leaves a report
            async with space.client:
                for step in steps:
                    findings = await step(space)
                    for finding in findings:
                        emit(finding)
                    if any(one.verdict is Verdict.FAILED and one.check != "clock" for one in findings):
                        return

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def connect(origin: str, trusted: ssl.SSLContext | None, *, limit: float = TIMEOUT) -> list[Finding]:
    """Look up the space's name, connect to it, and look at its certificate."""
    place = URL(origin)
    host, context = str(place.host), (trusted or ssl.create_default_context()) if place.scheme == "https" else None
    try:
        async with asyncio.timeout(limit):
            found = await asyncio.get_running_loop().getaddrinfo(host, place.port)
    except (OSError, TimeoutError) as error:
        return [diagnosis.name_finding(host, error)]
    name = diagnosis.name_finding(host, sorted({str(one[4][0]) for one in found}))
    try:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(host, place.port, ssl=context)
    except (OSError, TimeoutError) as error:  # errors of TLS are OSErrors, too
        return [name, diagnosis.certificate_finding(error)]
    session = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    if session is None:
        return [name, diagnosis.certificate_finding(None)]
    until = ssl.cert_time_to_seconds(session.getpeercert()["notAfter"])
    return [name, diagnosis.certificate_finding((session.version(), datetime.fromtimestamp(until, UTC)))]


async def present_token(space: Space) -> list[Finding]:
    """Present a made-up refresh token: its refusal shows whether SignalWire accepts the credentials."""
    refusal = None
    try:
        await space.client.refresh_subscriber_token("made-up-refresh-token")
    except SignalWireTokenError as error:
        refusal = error
    return diagnosis.credentials_findings(refusal, space.client.clock.wall())


async def time_answers(space: Space) -> list[Finding]:
    """Measure how long SignalWire takes to answer. Any refusal is an answer."""
    seconds = []
    try:
        for _ in range(SAMPLES):
            start = time.perf_counter()
            await space.send(wire.subscriber_addresses(uuid4(), origin=space.client.origin))
            seconds.append(time.perf_counter() - start)
    except SignalWireTokenError as error:
        return [diagnosis.failure_finding("latency", error)]
    return [diagnosis.latency_finding(seconds)]


async def issue_and_refresh(space: Space) -> list[Finding]:
    """Issue a pair and refresh it, and compare its lifetime with the settings."""
    findings, check = [], "issue"
    try:
        issued = await space.send(space.issue())
        pair: TokenPair = issued.value
        findings.append(Finding(check, f"{token_text(pair)}, of subscriber {pair.subscriber_id}"))
        check = "lifetime"
        claims = (await space.send(wire.subscriber_info(pair.access_token))).value.sat_claims
        end = None if claims is None else claims.expires_at
        seconds = None if end is None else end.timestamp() - issued.at
        findings.append(diagnosis.lifetime_finding(seconds, space.client.lifetimes.access.total_seconds()))
        check = "refresh"
        renewed = await space.send(wire.refresh_subscriber_token(pair.refresh_token))
        findings.append(Finding(check, token_text(renewed.value)))
    except SignalWireTokenError as error:
        findings.append(diagnosis.failure_finding(check, error))
    return findings


def token_text(pair: TokenPair) -> str:
    """Return a pair's access token in words."""
    token = pair.access_token
    return f"{token.kind or 'token'} #{token.digest}, valid until {to_json(token.expires_at)}"
