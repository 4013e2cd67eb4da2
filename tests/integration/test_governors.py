"""The governors, by the suite for governors of your own."""

from uuid import uuid4

import pytest

from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.governors.redis import RedisGovernor
from signalwire_tokens.testing import GovernorConformance
from support.waiting import HANG


class TestLocalGovernor(GovernorConformance):
    """Fleets of one event loop share the object itself."""

    @pytest.fixture
    def governor(self):
        return LocalGovernor(1000)


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
