"""Operations, a rotation and each fact of `doctor --report` on a real space: `pytest -m live`.

They need `SIGNALWIRE_*` and issue tokens for one subscriber, who is created if new: `SIGNALWIRE_LIVE_REFERENCE`, or
`signalwire-tokens-live`. The embed token needs a web page's click-to-call token, in `SIGNALWIRE_CLICK_TO_CALL`. Without
`-m live`, none is run.
"""

import asyncio
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from signalwire_tokens import RefreshPolicy, SubscriberSession, TokenClient
from signalwire_tokens.cli.examination import Space, examine_space
from signalwire_tokens.cli.space_report import NOT_REACHED, QUESTIONS, Report
from signalwire_tokens.emulator import Status
from signalwire_tokens.testing.in_thread import emulator_in_thread
from support.paths import ROOT
from support.processes import last_lines, settings_of
from support.reports import ageing
from support.waiting import HANG

SETTINGS = ("SIGNALWIRE_SPACE", "SIGNALWIRE_PROJECT_ID", "SIGNALWIRE_API_TOKEN")
MISSING = [name for name in SETTINGS if not os.environ.get(name)]
REFERENCE = os.environ.get("SIGNALWIRE_LIVE_REFERENCE", "signalwire-tokens-live")

# These skip without a real space, since only a user who has one can run them. CI runs them on the emulator, below.
on_a_real_space = [
    pytest.mark.live,
    pytest.mark.enable_socket,
    pytest.mark.skipif(bool(MISSING), reason=f"it needs a real space: set {', '.join(MISSING)}"),
]


def live(test):
    for mark in on_a_real_space:
        test = mark(test)
    return test


@pytest.fixture
async def space():
    async with TokenClient.from_env(timeout=HANG) as client:
        yield client


@live
async def test_a_subscriber_s_pair_is_what_it_is_taken_for(space):
    """Its kinds are in its headers, and it expires when the client expects it to."""
    pair = await space.create_subscriber_token(REFERENCE)
    assert (pair.access_token.kind, pair.refresh_token.kind) == ("SAT", "Refresh")
    info = await space.subscriber_info(pair.access_token)
    assert info.id == pair.subscriber_id
    if info.sat_claims is not None and info.sat_claims.expires_at is not None:
        assert abs((info.sat_claims.expires_at - pair.access_token.expires_at).total_seconds()) < 60


@live
async def test_a_refresh_brings_a_new_pair(space):
    """Both halves are new ones."""
    pair = await space.create_subscriber_token(REFERENCE)
    renewed = await space.refresh_subscriber_token(pair.refresh_token)
    assert renewed.access_token.value != pair.access_token.value
    assert renewed.refresh_token.value != pair.refresh_token.value
    await space.subscriber_info(renewed.access_token)


@live
async def test_guests_and_invitees_are_let_to_an_address(space):
    """To the subscriber's own, of which there must be one."""
    pair = await space.create_subscriber_token(REFERENCE)
    addresses = [address async for address in space.subscriber_addresses(pair.subscriber_id)]
    assert addresses, f"{REFERENCE} has no address: give the subscriber one"
    assert (await space.create_guest_token([addresses[0].id])).access_token.kind == "SAT"
    assert (await space.create_invite_token(addresses[0].id, subscriber_token=pair.access_token)).value


@live
async def test_a_subscriber_finds_whom_it_can_call(space):
    """The first address of the list is found by its id, too."""
    pair = await space.create_subscriber_token(REFERENCE)
    first = await anext(space.addresses(pair.access_token))
    assert await space.address(first.id, access_token=pair.access_token) == first


@live
async def test_a_click_to_call_token_is_exchanged(space):
    """For a guest's."""
    click_to_call = os.environ.get("SIGNALWIRE_CLICK_TO_CALL")
    if not click_to_call:  # optional, since only a space's settings page gives one out
        pytest.skip("it needs a web page's click-to-call token: set SIGNALWIRE_CLICK_TO_CALL")
    assert (await space.create_embed_token(click_to_call)).value


@live
async def test_a_session_rotates(space):
    """And each of its tokens is taken by the service."""
    async with SubscriberSession(space, REFERENCE, policy=RefreshPolicy(wait_timeout=HANG)) as session:
        await space.subscriber_info(await session.token())
        await session.refresh()
        assert session.generation == 2
        await space.subscriber_info(await session.token())


@pytest.fixture(scope="module")
def report():
    """Examine the space once for all facts."""

    async def examine():
        report = Report()
        async with TokenClient.from_env(timeout=HANG, retries=0) as client:
            await examine_space(Space(client, REFERENCE, report))
        return report

    return asyncio.run(examine())


@live
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_fact_is_as_signalwire_publishes_it(report, name):
    """A fact that isn't published passes if it can be observed. A fact that can't be observed is skipped."""
    fact = report.facts[name]
    if fact.difference is not None:
        pytest.fail(fact.difference)
    if fact.reason == NOT_REACHED:
        pytest.fail(f"{NOT_REACHED}: {report.stopped}")
    if fact.reason is not None:
        pytest.skip(fact.reason)


def run_live(**settings):
    """Run the documented command, `pytest -m live`; return how many tests had each outcome, and what it printed."""
    command = [Path(sys.executable).with_name("pytest"), "-m", "live"]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    # Outside CI, pytest cuts the lines of its summary off at the terminal's width.
    environment = {**unmeasured, "COLUMNS": "500", "PYTEST_ADDOPTS": "-p no:cacheprovider", **settings}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counts = re.findall(r"(\d+) (\w+)", result.stdout.splitlines()[-1].partition(" in ")[0])
    outcomes = {outcome: int(count) for count, outcome in counts if outcome != "deselected"}
    assert result.returncode == int("failed" in outcomes), last_lines(result.stdout + result.stderr)
    return outcomes, result.stdout


OPERATIONS = 6  # tests of them
HIDDEN = 5  # facts that can't be observed on an emulator
REUSED = 'SignalWire publishes "refused", this space "accepted"'


def run_on_an_emulator(rotation, *, has_click_to_call=True):
    with ageing(rotation=rotation) as emulator:
        click_to_call = {"SIGNALWIRE_CLICK_TO_CALL": emulator.click_to_call} if has_click_to_call else {}
        return run_live(**settings_of(emulator, **click_to_call))


def test_they_find_what_differs_on_emulators_of_each_rotation(plain_environment):
    """The documented command finds and runs all of them. Without a click-to-call token, it skips one with the reason.

    Each run waits 12 seconds, so they run side by side.
    """
    with ThreadPoolExecutor() as pool:
        single_use = pool.submit(run_on_an_emulator, "single-use")
        reusable = pool.submit(run_on_an_emulator, "reusable")
        grace = pool.submit(run_on_an_emulator, "grace")
        family = pool.submit(run_on_an_emulator, "family", has_click_to_call=False)
    total = OPERATIONS + len(QUESTIONS)
    counts, printed = single_use.result()
    assert counts == {"passed": total - HIDDEN, "skipped": HIDDEN}, last_lines(printed)
    counts, printed = reusable.result()  # where no refusal of a used refresh token can be observed
    assert counts == {"passed": total - HIDDEN - 3, "skipped": HIDDEN + 1, "failed": 2}, last_lines(printed)
    assert f"[reuse_at_once] - Failed: {REUSED}" in printed
    assert f"[reuse_later] - Failed: {REUSED}" in printed
    counts, printed = grace.result()
    assert counts == {"passed": total - HIDDEN - 1, "skipped": HIDDEN, "failed": 1}, last_lines(printed)
    assert f"[reuse_at_once] - Failed: {REUSED}" in printed
    counts, printed = family.result()
    assert counts == {"passed": total - HIDDEN - 1, "skipped": HIDDEN + 1}, last_lines(printed)
    assert "set SIGNALWIRE_CLICK_TO_CALL" in printed


def test_an_examination_that_stops_fails_the_facts_that_were_not_reached(plain_environment):
    """The message says which request failed."""
    with emulator_in_thread(strict=True) as emulator:
        emulator.fail(Status(503), operation="refresh_subscriber_token", times=None)
        counts, printed = run_live(**settings_of(emulator))
    assert counts["failed"] > len(QUESTIONS) / 2, last_lines(printed)
    assert "the examination stopped before: refresh_subscriber_token failed: ServerError, status 503" in printed


def test_without_a_space_they_are_skipped_and_say_so(plain_environment):
    """The reason names the settings that are missing."""
    counts, printed = run_live()
    assert counts == {"skipped": OPERATIONS + len(QUESTIONS)}, last_lines(printed)
    assert "set SIGNALWIRE_SPACE, SIGNALWIRE_PROJECT_ID, SIGNALWIRE_API_TOKEN" in printed
