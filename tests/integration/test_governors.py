"""The governors, by the suite for governors of your own."""

import asyncio
import re
from uuid import uuid4

import pytest

from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.governors.redis import RedisGovernor
from signalwire_tokens.testing import GovernorConformance
from support.paths import ROOT
from support.waiting import HANG


class TestLocalGovernor(GovernorConformance):
    """Fleets of one event loop share the object itself."""

    @pytest.fixture
    def governor(self):
        return LocalGovernor(1000)


class TestExample(GovernorConformance):
    """The example of the documentation."""

    @pytest.fixture
    def governor(self):
        page = (ROOT / "docs/reference/fleet.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n([^`]*^class MyGovernor.*?)```", page, re.DOTALL | re.MULTILINE)
        names = {"asyncio": asyncio}
        exec(code, names)  # noqa: S102 - an example of this project
        return names["MyGovernor"]()


@pytest.mark.redis
class TestRedisGovernor(GovernorConformance):
    """Two processes, as the server sees them."""

    @pytest.fixture
    def account(self):
        return str(uuid4())

    @pytest.fixture
    async def governor(self, redis_server, account):
        async with RedisGovernor(redis_server.url, account=account, timeout=HANG) as governor:
            yield governor

    @pytest.fixture
    async def peer(self, redis_server, account):
        async with RedisGovernor(redis_server.url, account=account, timeout=HANG) as peer:
            yield peer


def test_without_the_fixture_the_suite_says_what_is_missing():
    """A subclass has to override it."""
    with pytest.raises(NotImplementedError, match="override the fixture `governor`"):
        GovernorConformance.governor._get_wrapped_function()(None)


def test_a_local_governor_names_its_rate():
    """In logs and in a debugger."""
    assert repr(LocalGovernor(12.5)) == "LocalGovernor(max_rate=12.5)"
