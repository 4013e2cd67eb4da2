"""What `signalwire-tokens doctor` does: it asks, and lets `findings` judge."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import attrs
import click
from yarl import URL

from signalwire_tokens.errors import ApiError, NotFound, SignalWireTokenError, Unauthorized, ValidationFailed

from .command import Command, say_json, written
from .findings import (
    Finding,
    Verdict,
    of_answer,
    of_clock,
    of_connection,
    of_failure,
    of_latency,
    of_life,
    of_names,
    of_reuse,
)
from .settings import Settings, credentialed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.models import TokenPair

__all__ = ["doctor", "examine"]

NO_TOKEN = "this-is-no-refresh-token"  # noqa: S105 - as it says
LIMIT = 10.0  # seconds for a name or a handshake
SAMPLES = 5
A_WHILE = 12.0  # seconds, after which no service is taken to forgive that a refresh token was used already
SHORT = timedelta(minutes=10)
COLORS = {Verdict.WELL: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "red", Verdict.SKIPPED: "white"}


@click.command(cls=Command)
@click.option("--reference", help="Issue a token for this subscriber, who is created if new, and renew it.")
@click.option("--probe", is_flag=True, help="Find out, with that token, what the service's documentation leaves open.")
@credentialed
def doctor(*, settings: Settings, reference: str | None, probe: bool, as_json: bool) -> None:
    """Say what is wrong with the settings, the network or the credentials, and how to mend it.

    Nothing is issued, unless there is a --reference. With --probe as well, it finds out on your space whether a used
    refresh token can be used again, and how long tokens live; that takes up to a quarter of a minute.
    """
    if probe and reference is None:
        raise click.UsageError("--probe needs a --reference to issue tokens for")
    findings = collect(settings, reference, probe=probe, aloud=not as_json)
    wrong = sum(one.verdict is Verdict.WRONG for one in findings)
    if as_json:
        say_json(
            {
                "healthy": not wrong,
                "findings": [{**attrs.asdict(one), "verdict": one.verdict.value} for one in findings],
            }
        )
    if wrong:
        raise click.ClickException("1 thing is wrong" if wrong == 1 else f"{wrong} things are wrong")


def collect(settings: Settings, reference: str | None, *, probe: bool, aloud: bool) -> list[Finding]:
    """Examine, and tell each finding as it comes."""
    findings: list[Finding] = []

    def take(finding: Finding) -> None:
        findings.append(finding)
        if aloud:
            print_finding(finding)

    async def main(client: TokenClient) -> None:
        async with aclosing(examine(client, settings, reference, probe=probe)) as examination:
            async for finding in examination:
                take(finding)

    try:
        client = settings.client(retries=0)
    except SignalWireTokenError as error:
        take(of_failure("settings", error))
    else:
        asyncio.run(main(client))
    return findings


def print_finding(finding: Finding) -> None:
    """Print a finding."""
    verdict = click.style(f"{finding.verdict.value:<8}", fg=COLORS[finding.verdict])
    click.echo(f"{verdict}{finding.check:<12} {finding.seen}")
    if finding.remedy is not None:
        click.echo(f"{'':<21}{finding.remedy}")


async def examine(
    client: TokenClient, settings: Settings, reference: str | None, *, probe: bool = False
) -> AsyncGenerator[Finding, None]:
    """Look at one thing after the other, as long as the next can be looked at."""
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
        yield await time_answers(client)
        if reference is None:
            remedy = "--reference REF issues one, which creates that subscriber if new"
            yield Finding("issue", Verdict.SKIPPED, "no token was issued", remedy)
            return
        async with aclosing(try_out(client, reference, timedelta(seconds=ahead), probe=probe)) as trial:
            async for finding in trial:
                yield finding


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
            with suppress(NotFound):
                _ = [one async for one in client.subscriber_addresses(uuid4())]
        except SignalWireTokenError as error:
            return of_failure("latency", error)
        seconds.append(time.perf_counter() - start)
    return of_latency(seconds)


async def try_out(
    client: TokenClient, reference: str, ahead: timedelta, *, probe: bool
) -> AsyncGenerator[Finding, None]:
    """Issue a pair and renew it, and look at what the service says of both."""
    step = "issue"
    try:
        pair = await client.create_subscriber_token(reference)
        yield Finding(step, Verdict.WELL, f"{told(pair)}, of subscriber {pair.subscriber_id}")
        step = "life"
        yield of_life(step, await life_of(client, pair, ahead), client.lifetimes.access)
        step = "refresh"
        renewed = await client.refresh_subscriber_token(pair.refresh_token.value)
        yield Finding(step, Verdict.WELL, told(renewed))
        if probe:
            step = "life anew"
            yield of_life(step, await life_of(client, renewed, ahead), client.lifetimes.access)
            step = "lifetime"
            short = await client.create_subscriber_token(reference, expire_at=SHORT)
            yield of_life(step, await life_of(client, short, ahead), SHORT)
            step = "reuse"
            at_once = await is_good(client, pair)
            if at_once:
                await client.clock.sleep(A_WHILE)
            later = at_once and await is_good(client, pair)
            yield of_reuse(at_once=at_once, later=later, successor=await is_good(client, renewed))
    except SignalWireTokenError as error:
        yield of_failure(step, error)


def told(pair: TokenPair) -> str:
    """Name a pair's access token."""
    return f"{pair.token.kind or 'token'} #{pair.token.digest}, live until {written(pair.token.expires_at)}"


async def life_of(client: TokenClient, pair: TokenPair, ahead: timedelta) -> timedelta | None:
    """Ask the service how long an access token lives, by the service's clock."""
    claims = (await client.subscriber_info(pair.token)).sat_claims
    if claims is None or claims.expires_at is None:
        return None
    return claims.expires_at - (pair.token.issued_at - ahead)


async def is_good(client: TokenClient, pair: TokenPair) -> bool:
    """Tell whether a pair's refresh token is taken."""
    try:
        await client.refresh_subscriber_token(pair.refresh_token.value)
    except (ValidationFailed, Unauthorized):
        return False
    return True
