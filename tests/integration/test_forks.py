"""What was opened before a fork, and is used after it: each thing refuses that, with the remedy."""

import json
import os
import subprocess
import sys

import pytest

from signalwire_tokens import generate_encryption_key
from support.paths import TESTS
from support.processes import settings_of

pytestmark = [
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]
USED = [
    "TokenClient",
    "SubscriberSession",
    "SessionFleet",
    "RedisGovernor",
    "SqliteStore",
    "RedisStore",
    "PostgresStore",
]


@pytest.mark.parametrize("loop", ["another", "the same"])
def test_what_was_opened_before_a_fork_says_so(service, redis_server, postgres_server, tmp_path, loop):
    """Also a session whose token is fresh, and whose parent has used it a moment ago. The parent's goes on to work."""
    settings = {
        "key": generate_encryption_key(),
        "path": str(tmp_path / "tokens.db"),
        "redis": redis_server.url,
        "postgres": postgres_server.dsn,
    }
    environment = os.environ | settings_of(service) | {"PYTHONPATH": str(TESTS)}
    program = [sys.executable, TESTS / "support" / "forked.py", loop, json.dumps(settings)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    in_child, in_parent = map(json.loads, done.stdout.splitlines())
    assert {name for name in USED if "fork" not in in_child[name]} == set(), in_child
    assert {name for name in USED if not in_parent[name].startswith("worked")} == set(), in_parent
