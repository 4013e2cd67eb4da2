"""Every snippet in README and docs runs as it stands."""

import ast
import json
import re
import shlex
import sys
import tomllib

import click
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from signalwire_tokens import RefreshPolicy, RefreshTuning, generate_encryption_key
from signalwire_tokens.cli import cli
from signalwire_tokens.keeper import session
from signalwire_tokens.stores.redis import RedisStore
from support.documented import assert_documented
from support.needs import NEEDS_ALL
from support.pages import paste
from support.paths import PACKAGE, ROOT
from support.processes import settings_of
from support.waiting import HANG

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [
    "pip install '.[cli]' && signalwire-tokens demo",
    "pip install -e '.[test]' && pytest",
]


# Their programs wait for seconds, as a reader would see them do.
SLOW = {"tutorial.md", "discord-bots.md", "celery-rq-django.md"}
# Packages that only the group `all` brings.
NEEDED = {"discord-bots.md": ["discord"], "celery-rq-django.md": ["celery", "django"]}


@pytest.fixture
def longer_timeouts(monkeypatch):
    """Raise the default timeouts of stores: on a busy machine, one second is too short."""
    monkeypatch.setitem(RedisStore.__init__.__kwdefaults__, "timeout", HANG)
    monkeypatch.setattr(
        session, "DEFAULT_POLICY", RefreshPolicy(store_timeout=HANG, tuning=RefreshTuning(lease=2 * HANG))
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Run a test in a folder of its own, and make the files there importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = {*sys.modules}
    yield
    own = {path.stem for path in tmp_path.iterdir()}
    for name in sys.modules.keys() - before:
        if name.partition(".")[0] in own:
            del sys.modules[name]


@pytest.fixture
def servers(redis_server, postgres_server, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("DATABASE_URL", postgres_server.dsn)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.relative_to(ROOT).as_posix(),
            marks=[pytest.mark.slow] if page.name in SLOW else [],
        )
        for page in PAGES
    ],
)
@pytest.mark.usefixtures("longer_timeouts", "folder", "servers")
def test_snippets_run(page, service, tmp_path, monkeypatch):
    """As a reader runs them, from the top of the page to its end, with an emulator as the space in `SIGNALWIRE_*`.

    A block whose first line is a comment like `# app.py` can be imported as that file.
    """
    for package in NEEDED.get(page.name, []):
        pytest.importorskip(package, reason=NEEDS_ALL)
    paste(page, tmp_path)
    for name, value in settings_of(service).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIGNALWIRE_TOKENS_ENCRYPTION_KEY", generate_encryption_key())
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "support")  # a module without any settings
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    document.namespace["__name__"] = page.stem  # which modules have, and `aiohttp.web.AppKey` needs
    for example in document.examples():
        example.evaluate()


def test_there_are_snippets():
    """The parser finds what it is to run."""
    found = [example for page in PAGES for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples()]
    assert len(found) >= 6


def shown_commands():
    """Find each line that a page has somebody type, or a supervisor run."""
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in re.findall(
                r"^(?:\$ )?([a-z_].*signalwire-tokens .*|signalwire-tokens .*)$", block, re.MULTILINE
            ):
                yield page.name, line
        for line in re.findall(r"^ExecStart=\S+/(signalwire-tokens.*)$", text, re.MULTILINE):
            yield page.name, line
        entry = re.search(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
        for arguments in re.findall(r"^ +(?:command|args): (\[.*\])$", text, re.MULTILINE) if entry else ():
            yield page.name, shlex.join(json.loads(entry[1]) + json.loads(arguments))
        # What has brackets is a synopsis, which another test holds to `--help`.
        yield from ((page.name, line) for line in re.findall(r"`(signalwire-tokens [a-z]+ [^`\[]*[a-z0-9])`", text))


@pytest.mark.parametrize(("page", "line"), sorted(set(shown_commands())))
def test_commands_that_are_shown_can_be_given(page, line):
    """Their options and arguments are those that there are."""
    command, arguments = cli, shlex.split(re.sub(r"[<>|].*", "", line.partition("signalwire-tokens ")[2]))
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.get_command(None, name)
    with command.make_context(name, arguments) as context:
        assert context.command.name == name


def test_there_are_commands_to_be_seen():
    """The patterns find what they are to."""
    pages = {page for page, _ in shown_commands()}
    assert {"README.md", "command-line.md", "token-file.md"} <= pages
    assert sum("keep alice@example.com --output" in line for _, line in shown_commands()) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_the_two_commands_stand_in_the_readme(command):
    """Literally, each on a line of its own."""
    assert f"\n{command}\n" in (ROOT / "README.md").read_text(), f"write the line `{command}` in README.md"


def test_the_documented_loggers_are_those_that_there_are():
    """Whoever turns one up or down finds it by the name that is written down."""
    page = "docs/reference/metrics.md"
    written = re.findall(r"^\| `(signalwire_tokens\.\w+)`", (ROOT / page).read_text(), re.MULTILINE)
    there = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'getLogger\("(signalwire_tokens\.\w+)"\)', path.read_text())
    }
    assert_documented(page, written, there)


CONTRIBUTING, ARCHITECTURE = "docs/contributing.md", "docs/architecture.md"
GUIDE, MAP = (ROOT / CONTRIBUTING).read_text(), (ROOT / ARCHITECTURE).read_text()


def test_the_map_of_the_packages_is_what_import_linter_holds():
    """Each module is in its layer, counted from the lowest."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    there = {name: str(layer) for layer, names in enumerate(reversed(layers)) for name in re.split(r" [|:] ", names)}
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", MAP, re.MULTILINE)
    mapped = [(name, layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert_documented(f"{ARCHITECTURE}, under Layers", mapped, there)


GUARANTEES = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
NUMBERED = re.findall(r"^\| ([PR]\d+) \| (.*?) \| ([^|]*) \|$", GUARANTEES, re.MULTILINE)


@pytest.mark.parametrize(("number", "proof"), [(number, proof) for number, _, proof in NUMBERED])
def test_a_guarantee_names_tests_that_name_it(number, proof):
    """Each exists, and cites the number in its docstring."""
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", proof)
    assert named
    for file, function in named:
        (path,) = (ROOT / "tests").rglob(file)
        source = path.read_text(encoding="utf-8")
        cited = rf'def {function}\([^"]*?"""[^"]*?\b{number}\b' if function else r"\A"
        assert re.search(cited, source), f"cite {number} in the docstring of {function} in {path.name}"


def test_guarantees_are_numbered_in_order():
    """So that each can be found."""
    for kind in "PR":
        numbers = [number for number, _, _ in NUMBERED if number.startswith(kind)]
        assert numbers == [f"{kind}{count}" for count in range(1, len(numbers) + 1)]
        assert len(numbers) == GUARANTEES.count(f"\n| {kind}")


def test_a_test_cites_only_guarantees_that_there_are():
    """In parentheses, at the end of a docstring's line."""
    known = {number for number, _, _ in NUMBERED}
    for path in (ROOT / "tests").rglob("test_*.py"):
        cited = set(
            re.findall(r"\b[PR]\d+\b", " ".join(re.findall(r"\(([PR]\d+(?:, [PR]\d+)*)\)", path.read_text("utf-8"))))
        )
        assert cited <= known, path.name


@pytest.mark.parametrize(
    ("page", "named"),
    sorted(
        {
            (page, named)
            for page, text in ((CONTRIBUTING, GUIDE), (ARCHITECTURE, MAP))
            for named in re.findall(r"\b(?:tests|signalwire_tokens|docs)/[a-z][\w./:-]*\w", text)
        }
    ),
)
def test_the_files_and_tests_that_pages_for_contributors_name_exist(page, named):
    """Their commands and steps can be followed."""
    path, _, test = named.partition("::")
    place = (PACKAGE.parent if path.startswith("signalwire_tokens/") else ROOT) / path
    assert place.exists(), f"correct `{path}` in {page}: there is no such file"
    assert not test or f"def {test}(" in place.read_text(), f"correct `{named}` in {page}"


def definitions(path):
    """Return the classes, functions, methods and constants of a module of the package."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
            found |= {node.name} | {f"{node.name}.{method}" for method in methods}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            found |= {one.id for one in targets if isinstance(one, ast.Name)}
    return found


DEFINED = {path.relative_to(PACKAGE).as_posix(): definitions(path) for path in PACKAGE.rglob("*.py")}
METHOD = "renew"  # of any source of tokens
PLACED = sorted(set(re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`(?: in | \()`([\w/]+\.py)`", MAP)))
NAMED = sorted(set(re.findall(r"`([A-Za-z_]\w*(?:\.[a-z_]\w*)?)\(\)`", MAP)))
FILES = sorted(set(re.findall(r"`([a-z_/]+\.py)`", MAP)))


@pytest.mark.parametrize("file", FILES)
def test_the_files_that_the_architecture_names_exist(file):
    """They are in the package."""
    assert file in DEFINED or (ROOT / file).exists(), f"correct `{file}` in {ARCHITECTURE}: there is no such file"


@pytest.mark.parametrize(("name", "file"), PLACED)
def test_the_architecture_names_the_file_of_each_definition(name, file):
    """What it says to be in a file is there."""
    assert name in DEFINED[file], f"correct {ARCHITECTURE}: `{name}` isn't in `{file}`"


@pytest.mark.parametrize("name", NAMED)
def test_the_functions_that_the_architecture_names_exist(name):
    """They are in the package, whether or not the page names their file."""
    there = set().union(*DEFINED.values())
    assert name in there or name == METHOD, f"correct {ARCHITECTURE}: there is no `{name}()`"


def test_the_architecture_names_files_and_functions():
    """The patterns find what they are for."""
    assert len(FILES) >= 20
    assert len(PLACED) >= 10
    assert {"Engine.plan", "Lifecycle.land", "SharedRenewal.renew"} <= {*NAMED}
