"""What `signalwire-tokens doctor` does: it asks, and lets `findings` judge."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import click
from yarl import URL

from signalwire_tokens import wire
from signalwire_tokens.errors import ApiError, SignalWireTokenError, is_transient

from .command import Command, one_line, print_json, to_json
from .examination import PLAN, examine_service
from .findings import (
    Finding,
    Verdict,
    of_answer,
    of_clock,
    of_connection,
    of_difference,
    of_failure,
    of_latency,
    of_life,
    of_names,
)
from .options import Settings, connection
from .report import Report, ReportFile
from .signals import on_stop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.models import TokenPair

__all__ = ["CHECKS", "doctor", "examine", "fill"]

NO_TOKEN = "this-is-no-refresh-token"  # noqa: S105 - as it says
LIMIT = 10.0  # seconds for a name or a handshake
SAMPLES = 5
CHECKS = {"refresh_subscriber_token": 1, "subscriber_addresses": SAMPLES}  # what is asked before the examination
COLORS = {Verdict.WELL: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "red", Verdict.SKIPPED: "white"}


@click.command(cls=Command)
@click.option("--reference", help="Issue a token for this subscriber, who is created if new, and refresh it.")
@click.option(
    "--report",
    metavar="FILE",
    help="Find out, with tokens for --reference, what SignalWire doesn't publish, and write it to FILE; - is standard "
    "output.",
)
@connection(embeds=True)
def doctor(*, settings: Settings, reference: str | None, report: str | None, as_json: bool) -> None:
    """Check settings, network and credentials.

    Nothing is issued, unless there is a --reference. With --report as well, it finds out how your space behaves where
    SignalWire's documentation leaves that open, and where it differs from it. The report holds no secrets, so you can
    attach it to an issue. That takes up to a quarter of a minute.
    """
    if report is not None and reference is None:
        raise click.UsageError("--report needs a --reference to issue tokens for")
    if reference is not None:
        wire.create_subscriber_token(reference, now=time.time())  # raises an error if it can't be one
    file = None if report is None else ReportFile(report)
    is_aside = file is not None and file.is_output  # then findings are written to standard error
    if file is not None:
        click.echo(announcement(one_line(reference or "")), err=True)
    findings: list[Finding] = []

    def take(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            print_finding(finding, err=is_aside)

    if file is None:
        collect(settings, reference, None, take)
    else:
        collect_into(file, settings, reference, take)
    wrong = sum(one.verdict is Verdict.WRONG for one in findings)
    if as_json:
        found = [{**attrs.asdict(one), "verdict": one.verdict.value} for one in findings]
        print_json({"healthy": not wrong, "findings": found}, err=is_aside)
    if wrong:
        raise click.ClickException("1 thing is wrong" if wrong == 1 else f"{wrong} things are wrong")


def announcement(reference: str) -> str:
    """Return what an examination is going to send."""
    counts = Counter(PLAN) + Counter(CHECKS)
    requests = "\n".join(f"  {count:>2} {operation}" for operation, count in counts.items())
    return (
        f"The examination sends at most {counts.total()} requests, one at a time:\n{requests}\n"
        f"It issues tokens for {reference}, who is created if new, and for guests and\n"
        f"an invitee to the first address of this subscriber. Many of its requests are wrong on purpose, with made-up\n"
        f"tokens and credentials. Earlier tokens of this subscriber may be revoked, so use a reference that no live\n"
        f"session uses. It may wait up to a quarter of a minute. No refused request is sent again."
    )


def collect_into(file: ReportFile, settings: Settings, reference: str | None, take: Callable[[Finding], None]) -> None:
    """Examine, and write a report of what was found, even if an error or a signal ends the examination."""
    report = Report()
    try:
        collect(settings, reference, report, take)
    except BaseException as error:
        report.stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        raise
    finally:
        take(write(file, report))


def write(file: ReportFile, report: Report) -> Finding:
    """Write a report, unless nothing was observed: an earlier report may be there."""
    if report.is_empty:
        return Finding("report", Verdict.SKIPPED, f"not written, because {report.stopped}")
    file.write(report, time.time())
    is_complete = report.stopped is None  # else another finding says what is wrong
    verdict = Verdict.WELL if is_complete else Verdict.WARNING
    end = "" if is_complete else f"; incomplete, because {report.stopped}"
    return Finding("report", verdict, f"written to {file}: {report.summary}{end}")


def collect(settings: Settings, reference: str | None, report: Report | None, take: Callable[[Finding], None]) -> None:
    """Examine, and pass each finding on as it comes."""

    async def main(client: TokenClient) -> None:
        async with aclosing(examine(client, settings, reference, report)) as examination:
            async for finding in examination:
                take(finding)

    async def stoppable(client: TokenClient) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        with on_stop(task.cancel):  # so that SIGTERM, too, leaves a report
            await main(client)

    try:
        client = settings.client(retries=0)
    except SignalWireTokenError as error:
        take(of_failure("settings", error))
        return
    try:
        asyncio.run(main(client) if report is None else stoppable(client))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def print_finding(finding: Finding, *, err: bool) -> None:
    """Print a finding."""
    verdict = click.style(f"{finding.verdict.value:<8}", fg=COLORS[finding.verdict])
    click.echo(f"{verdict}{finding.check:<12} {finding.seen}", err=err)
    if finding.remedy is not None:
        click.echo(f"{'':<21}{finding.remedy}", err=err)


async def examine(
    client: TokenClient, settings: Settings, reference: str | None, report: Report | None = None
) -> AsyncGenerator[Finding, None]:
    """Look at one thing after the other, as long as the next can be looked at.

    Given a report, collect facts for it instead of trying the reference out, and yield a finding for each difference.
    """
    async with client:
        yield Finding("settings", Verdict.WELL, f"{client.origin}, project {client.project_id}")
        for look in (look_up, shake_hands):
            finding = await look(URL(client.origin), settings)
            yield finding
            if finding.verdict is Verdict.WRONG:
                return
        ahead = 0.0
        refusal = await knock(client)
        findings = of_answer(refusal)
        if isinstance(refusal, ApiError) and refusal.server_time is not None:
            ahead = client.clock.wall() - refusal.server_time
            yield of_clock(ahead)
        for finding in findings:
            yield finding
        if any(finding.verdict is Verdict.WRONG for finding in findings):
            return
        finding = await time_answers(client)
        yield finding
        if report is not None and finding.verdict is Verdict.WRONG:
            return  # SignalWire throttles or fails
        if reference is None:
            remedy = "--reference REF issues one, which creates that subscriber if new"
            yield Finding("issue", Verdict.SKIPPED, "no token was issued", remedy)
            return
        rest = (
            try_out(client, reference, timedelta(seconds=ahead)) if report is None else fill(report, client, reference)
        )
        async with aclosing(rest) as trial:
            async for finding in trial:
                yield finding


async def fill(report: Report, client: TokenClient, reference: str) -> AsyncGenerator[Finding, None]:
    """Fill a report with facts, and yield those that differ from what SignalWire publishes."""
    try:
        async with aclosing(examine_service(client, reference)) as examination:
            async for fact in examination:
                report.add(fact)
                if fact.difference is not None:
                    yield of_difference(fact.name, *fact.difference)
    except SignalWireTokenError as error:
        report.stopped = f"{error.operation} failed: {type(error).__name__}, status {error.status}"
        yield of_failure("report", error)
    else:
        report.stopped = None


async def look_up(place: URL, _: Settings) -> Finding:
    """Ask for the addresses of the space's name."""
    host = place.host or ""
    try:
        async with asyncio.timeout(LIMIT):
            found = await asyncio.get_running_loop().getaddrinfo(host, place.port)
    except (OSError, TimeoutError) as error:
        return of_names(host, error)
    return of_names(host, sorted({str(one[4][0]) for one in found}))


async def shake_hands(place: URL, settings: Settings, *, limit: float = LIMIT) -> Finding:
    """Connect, and look at the certificate."""
    context = None
    if place.scheme == "https":
        context = settings.context() or ssl.create_default_context()
    try:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(place.host, place.port, ssl=context)
    except (OSError, TimeoutError) as error:  # TLS's own among them
        return of_connection(error)
    session = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    if session is None:
        return of_connection(None)
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(session.getpeercert()["notAfter"]), UTC)
    return of_connection((session.version(), until))


async def knock(client: TokenClient) -> SignalWireTokenError | None:
    """Present a made-up refresh token: how it is refused tells whether the service knows who asks."""
    try:
        await client.refresh_subscriber_token(NO_TOKEN)
    except SignalWireTokenError as error:
        return error
    return None


async def time_answers(client: TokenClient) -> Finding:
    """Ask a few times for what is not there."""
    seconds = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        try:
            _ = [one async for one in client.subscriber_addresses(uuid4())]
        except SignalWireTokenError as error:
            if not isinstance(error, ApiError) or is_transient(error):  # any other refusal is an answer
                return of_failure("latency", error)
        seconds.append(time.perf_counter() - start)
    return of_latency(seconds)


async def try_out(client: TokenClient, reference: str, ahead: timedelta) -> AsyncGenerator[Finding, None]:
    """Issue a pair and refresh it, and look at what SignalWire reports about both."""
    step = "issue"
    try:
        pair = await client.create_subscriber_token(reference)
        yield Finding(step, Verdict.WELL, f"{told(pair)}, of subscriber {pair.subscriber_id}")
        step = "life"
        yield of_life(step, await life_of(client, pair, ahead), client.lifetimes.access)
        step = "refresh"
        renewed = await client.refresh_subscriber_token(pair.refresh_token.value)
        yield Finding(step, Verdict.WELL, told(renewed))
    except SignalWireTokenError as error:
        yield of_failure(step, error)


def told(pair: TokenPair) -> str:
    """Name a pair's access token."""
    token = pair.access_token
    return f"{token.kind or 'token'} #{token.digest}, live until {to_json(token.expires_at)}"


async def life_of(client: TokenClient, pair: TokenPair, ahead: timedelta) -> timedelta | None:
    """Ask the service how long an access token lives, by the service's clock."""
    claims = (await client.subscriber_info(pair.access_token)).sat_claims
    if claims is None or claims.expires_at is None:
        return None
    return claims.expires_at - (pair.access_token.issued_at - ahead)
