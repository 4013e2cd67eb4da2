"""The bake-off runs, passes this library and can fail a client; what others do is for its table, and not for a test."""

import asyncio
import math
from contextlib import asynccontextmanager, suppress
from itertools import takewhile

import aiohttp
import pytest

from bakeoff import ours
from bakeoff.__main__ import clients_of
from bakeoff.held import Client, Held
from bakeoff.issuers import OAuth, now
from bakeoff.probes import PROBES, Outcome, measure
from bakeoff.table import HEAD, as_markdown, not_installed, row
from support.documented import assert_documented
from support.paths import ROOT

NAME = "docs/explanation/comparison.md"
PAGE = ROOT / NAME


class Naive:
    """Each caller refreshes, alone and unshielded; what fails is the caller's, and ends the loop behind it."""

    def __init__(self, service, http):
        self.service, self.http = service, http
        self.token, self.refresh_token, self.ends = None, "first", -math.inf

    async def get(self):
        if self.ends - now() < 300:
            await self.refresh()
        return self.token

    async def refresh(self):
        form = {"grant_type": "refresh_token", "refresh_token": self.refresh_token}
        async with self.http.post(self.service.url, data=form, raise_for_status=True) as response:
            body = await response.json()
        self.token, self.refresh_token = body["access_token"], body["refresh_token"]
        self.ends = now() + body["expires_in"]

    async def keep(self):
        while True:
            await asyncio.sleep(0.1)  # how often it looks whether to refresh
            await self.get()


@asynccontextmanager
async def opened(left):
    async with OAuth() as service, aiohttp.ClientSession() as http:
        naive = Naive(service, http)
        service.life = left
        await naive.get()
        service.begin()
        yield Held(naive.get, service)


@asynccontextmanager
async def timed():
    async with opened(0) as held:
        keeping = asyncio.create_task(held.ask.__self__.keep())
        yield held
        keeping.cancel()
        with suppress(asyncio.CancelledError, aiohttp.ClientError):
            await keeping


NAIVE = Client(name="naive", distribution="none", setup="", windows=(180.0,), opened=opened, timed=timed)


async def outcomes_of(client):
    return await asyncio.gather(*(measure(probe, client) for probe in PROBES.values()))


@pytest.mark.parametrize("client", ours.CLIENTS, ids=lambda client: client.variant or "with the project")
async def test_this_library_passes_every_probe(client, loop_time):
    """One request for all, one cancelled, live tokens whatever the service does; a lone refresh token can be lost."""
    outcomes = await outcomes_of(client)
    assert [outcome.passed for outcome in outcomes] == [True] * len(PROBES), outcomes
    assert [outcome.text for outcome in outcomes[:2]] == ["1 request; 49 valid, 1 cancelled", "1 request; 20 valid"]
    assert ("not scored" in outcomes[3].text) is not client.reissues


async def test_a_naive_client_fails_every_probe(loop_time):
    """The probes can fail, and say how."""
    outcomes = await outcomes_of(NAIVE)
    assert [outcome.passed for outcome in outcomes] == [False] * len(PROBES), outcomes
    assert outcomes[0].text == "50 requests; 49 ClientResponseError, 1 cancelled"
    assert (
        outcomes[3].text
        == "500, 503: not by itself, valid when asked; lost answer: ClientResponseError when asked again"
    )


async def test_a_probe_ends(monkeypatch, loop_time):
    """A client that never answers fails, and the others go on."""
    monkeypatch.setattr("bakeoff.probes.LIMIT", 0.05)
    outcome = await measure(lambda _: asyncio.Event().wait(), NAIVE)
    assert outcome == Outcome("no end within 0.05 s", passed=False)


def test_the_table_is_markdown():
    """To be copied into the documentation as it is; whoever is not there has a row that says so."""
    passed, failed, nothing = (Outcome("1 request", passed) for passed in (True, False, None))
    rows = [row("a 1.0", [passed, failed, nothing, passed]), not_installed("b")]
    head, rule, first, second = as_markdown(rows).splitlines()
    assert head == f"| {' | '.join(HEAD)} |"
    assert set(rule) == {"|", "-", " "}
    assert first == "| a 1.0 | pass: 1 request | FAIL: 1 request | not scored: 1 request | pass: 1 request |"
    assert second == "| b | not installed | not installed | not installed | not installed |"
    assert clients_of("signalwire-tokens") == ours.CLIENTS
    assert clients_of("no-such-client") == ()


def test_the_documented_table_is_the_one_that_is_printed():
    """With the same columns, and with rows for this library, which passes."""
    lines = iter(PAGE.read_text().splitlines())
    head = next(line for line in lines if line.startswith("|"))
    rule, *rows = takewhile(lambda line: line.startswith("|"), lines)
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert_documented(f"{NAME}, in the head of the table", columns, HEAD, in_order=True)
    uneven = [line for line in (rule, *rows) if line.count("|") != head.count("|")]
    assert not uneven, f"give these rows of {NAME} as many cells as the head has"
    mine = [line for line in rows if line.startswith("| signalwire-tokens ")]
    passed = [line.count("| pass: ") for line in mine]
    assert passed == [len(PROBES)] * len(ours.CLIENTS), f"copy our rows from `python -m tests.bakeoff` into {NAME}"
