"""What is public, and what it costs to import."""

import ast
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import signalwire_tokens
from signalwire_tokens import device, emulator, governors, outcomes, realtime, stores, testing
from signalwire_tokens.integrations import aiohttp_client, aiohttp_server, asgi, httpx, opentelemetry, threads
from support.documented import assert_documented
from support.paths import PACKAGE, ROOT, tree_of
from support.processes import last_lines

INTEGRATIONS = [aiohttp_client, aiohttp_server, asgi, httpx, opentelemetry, threads]
REFERENCE = "\n".join(page.read_text() for page in sorted((ROOT / "docs/reference").glob("*.md")))


@pytest.mark.parametrize(
    "module", [signalwire_tokens, device, emulator, governors, outcomes, realtime, stores, testing, *INTEGRATIONS]
)
def test_the_public_names_are_sorted_and_there(module):
    """`__all__` is the promise; it is kept in order, and every name in it exists."""
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_reference_lists_the_public_names_and_no_others():
    """Whatever is public is documented, once, and what is documented is public."""
    documented = re.findall(
        r"^\.\. (?:auto(?:class|function|exception|data)|py:data):: ([\w.]+)$", REFERENCE, re.MULTILINE
    )
    public = {f"signalwire_tokens.{name}" for name in signalwire_tokens.__all__ if name != "__version__"}
    public |= {f"signalwire_tokens.device.{name}" for name in device.__all__}
    public |= {f"signalwire_tokens.emulator.{name}" for name in emulator.__all__}
    public |= {f"signalwire_tokens.realtime.{name}" for name in realtime.__all__}
    public |= {f"signalwire_tokens.outcomes.{name}" for name in set(outcomes.__all__) - {"Renewed"}}
    public |= {f"signalwire_tokens.stores.{name}" for name in stores.__all__ if name not in signalwire_tokens.__all__}
    public |= {f"signalwire_tokens.governors.{name}" for name in (*governors.__all__, "redis.RedisGovernor")}
    public |= {"signalwire_tokens.stores.postgres.PostgresStore", "signalwire_tokens.stores.redis.RedisStore"}
    public |= {f"signalwire_tokens.testing.{name}" for name in testing.__all__ if name[0].isupper()}
    public |= {f"{module.__name__}.{name}" for module in INTEGRATIONS for name in module.__all__}
    assert_documented("docs/reference", documented, public)
    fixtures = re.findall(r"^`(\w+)`\n: ", REFERENCE, re.MULTILINE)
    assert_documented("docs/reference/testing.md", fixtures, {name for name in testing.__all__ if name[0].islower()})


def test_the_version_is_one():
    """In the package, and in what was installed."""
    assert signalwire_tokens.__version__ == version("signalwire-tokens")


@pytest.mark.slow  # it imports the package in a process
def test_importing_brings_in_nothing_that_is_not_needed():
    """Neither the extras nor PyJWT, which only a signed token needs."""
    code = "import signalwire_tokens, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, last_lines(done.stderr)
    for name in (
        "jwt",
        "cryptography",
        "click",
        "rich",
        "joserfc",
        "trustme",
        "redis",
        "httpx",
        "httpx2",
        "opentelemetry",
    ):
        assert name not in done.stdout.split()


def test_every_module_says_what_it_is():
    """A docstring on top, and `__all__` below it, for whoever opens the file."""
    for path in PACKAGE.rglob("*.py"):
        tree = tree_of(path)
        assert ast.get_docstring(tree), path
        assert path.name == "_version.py" or re.search(
            r"^__all__(: list\[str\])? = \[", path.read_text(), re.MULTILINE
        ), path


def test_the_three_sessions_share_one_loop():
    """What they have in common stands below them: no six lines of one stand in another."""
    seen = {}
    for name in ("session.py", "device/sessions.py", "backend.py"):
        lines = [line.strip() for line in (PACKAGE / name).read_text().splitlines() if line.strip()]
        for start in range(len(lines) - 5):
            assert seen.setdefault(tuple(lines[start : start + 6]), name) == name, lines[start]
    assert len(seen) > 200
    for kind in (signalwire_tokens.SubscriberSession, signalwire_tokens.BackendSession, device.DeviceSession):
        assert kind.token is signalwire_tokens.SubscriberSession.token
