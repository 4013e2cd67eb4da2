"""Every snippet in README and docs runs as it stands."""

import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import signalwire_tokens
from signalwire_tokens import new_sealing_key

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [
    "pip install '.[cli]' && signalwire-tokens demo",
    "pip install -e '.[test]' && pytest",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(page, redis_server, tmp_path, monkeypatch):
    """As a reader would run them, from the top of the page to its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("TOKEN_SEALING_KEY", new_sealing_key())
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    for example in document.examples():
        example.evaluate()


def test_there_are_snippets():
    """The parser finds what it is to run."""
    found = [example for page in PAGES for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples()]
    assert len(found) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_the_two_commands_stand_in_the_readme(command):
    """Literally, each on a line of its own."""
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()


def test_the_documented_loggers_are_those_that_there_are():
    """Whoever turns one up or down finds it by the name that is written down."""
    written = set(
        re.findall(r"^\| `(signalwire_tokens\.\w+)`", (ROOT / "docs/how-to/watch-it-work.md").read_text(), re.MULTILINE)
    )
    package = Path(signalwire_tokens.__file__).parent
    there = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r'getLogger\("(signalwire_tokens\.\w+)"\)', path.read_text())
    }
    assert written == there
