"""Reports of spaces, as `signalwire-tokens doctor --report` writes them, and emulators that behave as they say."""

import json
import math
import time
from contextlib import contextmanager
from datetime import timedelta

import attrs

from signalwire_tokens import Lifetimes
from signalwire_tokens.cli.examination import A_WHILE, Space, examine_space
from signalwire_tokens.cli.space_report import FORMAT, STEP, Report
from signalwire_tokens.clock import VirtualClock
from signalwire_tokens.emulator import RateLimit, Rotation
from signalwire_tokens.testing.in_thread import emulator_in_thread
from signalwire_tokens.wire.codes import SUBJECTS
from support.paths import TESTS

REPORTS = sorted((TESTS / "support" / "reports").glob("*.json"))
REFERENCE = "alice@example.com"


def read_report(path):
    """Return the report in a file."""
    report = json.loads(path.read_text())
    assert report["format"] == FORMAT
    assert report["complete"], f"{path.name} is incomplete: {report['stopped']}"
    return report


async def examine(emulator, reference=REFERENCE):
    """Return the report of an emulator, as it is written."""
    report = Report()
    async with emulator.client(retries=0) as client:
        assert await examine_space(Space(client, reference, report)) == []
    return report.to_json(emulator.now().timestamp())


@contextmanager
def ageing(**options):
    """Yield an emulator on another thread. Its clock advances by 12 seconds each time a refresh token is used again.

    It stands still otherwise, so an examination has the same results on a machine of any speed.
    """
    with emulator_in_thread(clock=VirtualClock(wall=time.time()), **options) as emulator:
        history, used = emulator.service.history, set()
        accept = history.accept

        def accept_and_age(refresh):
            is_accepted = accept(refresh)
            if refresh.id in used:
                emulator.advance(A_WHILE)
            used.add(refresh.id)
            return is_accepted

        history.accept = accept_and_age
        yield emulator


def observed_in(report):
    """Return what a report has observed, by the names of the facts."""
    return {fact["name"]: fact["observed"] for fact in report["facts"]}


def differences_in(report):
    """Return the names of the facts that aren't as SignalWire publishes them."""
    return {fact["name"] for fact in report["facts"] if fact["agrees"] is False}


def settings_from(report):
    """Return the keyword arguments of an `Emulator` that behaves as a report says."""
    seen = observed_in(report)
    settings = {
        "rotation": rotation_from(seen),
        "lifetimes": lifetimes_from(seen),
        "statuses": statuses_from(seen),
        "strict": seen["unknown_member"] != "accepted",
    }
    limit = (seen["rate_limit_headers"] or {}).get("x-ratelimit-limit")
    return {**settings, "rate_limit": RateLimit(limit)} if isinstance(limit, int) else settings


def rotation_from(seen):
    if seen["reuse_at_once"] != "accepted":
        reuse_for = 0.0
    else:
        reuse_for = math.inf if seen["reuse_later"] == "accepted" else A_WHILE - 2
    refusal = seen["reuse_refusal"]
    how = {} if refusal is None else {"status": refusal["status"], "code": code_of(refusal)}
    return Rotation(
        reuse_for=reuse_for,
        reuse_revokes=seen["reuse_successor"] == "revoked",
        refresh_revokes_access=seen["refresh_revokes_access"] is True,
        issue_revokes_access=seen["issue_revokes_access"] is True,
        issue_revokes_refresh=seen["issue_revokes_refresh"] is True,
        **how,
    )


def lifetimes_from(seen):
    usual = Lifetimes()
    fresh, unbound = (
        usual if seen[name] is None else timedelta(seconds=max(STEP, seen[name]))  # it was rounded
        for name, usual in (("lifetime_fresh", usual.access), ("lifetime_unbound", usual.unbound))
    )
    return attrs.evolve(Lifetimes.of(fresh), unbound=unbound)


def statuses_from(seen):
    """Return the statuses of codes that came as the first of an answer's problems."""
    answers = [answer for answer in seen.values() if isinstance(answer, dict) and answer.get("codes")]
    statuses = {code_of(answer): answer["status"] for answer in answers if answer is not seen["reuse_refusal"]}
    statuses.pop(None, None)
    return statuses


def code_of(answer):
    """Return the code of an answer's first problem, if SignalWire publishes it."""
    return next((code for code in answer["codes"][:1] if code in SUBJECTS), None)
