"""Sessions on spaces as reports describe them: a file in tests/support/reports is one more space."""

import pytest

from signalwire_tokens import RefreshPolicy, SubscriberSession
from signalwire_tokens.emulator import Emulator, Reset
from support.reports import REPORTS, read_report, settings_from


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
async def test_a_session_keeps_a_valid_token_on_a_reported_space(clock, path):
    """Even if an answer is lost, or the refresh token is revoked."""
    async with Emulator(clock=clock, **{"strict": True, **settings_from(read_report(path))}) as emulator:
        half = emulator.lifetimes.access.total_seconds() / 2
        policy = RefreshPolicy(min_lifetime=1.0)
        async with emulator.client() as client, SubscriberSession(client, "alice", policy=policy) as session:

            async def renew_twice():
                before = session.generation
                while session.generation < before + 2:
                    await clock.advance(half)
                    assert emulator.accepts(await session.token())

            await renew_twice()
            emulator.fail(Reset(applied=True), operation="refresh_subscriber_token")
            await renew_twice()
            emulator.revoke(session.pair.refresh_token)
            await renew_twice()
    assert [entry.fault for entry in emulator.requests if entry.fault] == ["Reset"]


def test_there_is_a_report():
    """Without any, the test above would test nothing."""
    assert REPORTS
