"""The reference says what the code does: every name, event, error, metric and setting, and no other."""

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import get_args

import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import signalwire_tokens
from signalwire_tokens import (
    BreakerState,
    ClientSettings,
    ConfigurationError,
    EndpointSession,
    EventKind,
    Lifetimes,
    MemoryStore,
    NotFound,
    RefreshPolicy,
    SessionFleet,
    SessionState,
    SqliteStore,
    SubscriberSession,
    SystemClock,
    TokenClient,
    TokenFields,
    device,
    emulator,
    errors,
    stores,
    testing,
)
from signalwire_tokens.device import DeviceKey, DeviceSession
from signalwire_tokens.emulator import Emulator, Rotation, Status
from signalwire_tokens.integrations import aiohttp, asgi, httpx, opentelemetry, web
from signalwire_tokens.integrations.opentelemetry import Telemetry
from signalwire_tokens.session import SHAPING
from signalwire_tokens.stores.redis import RedisStore
from signalwire_tokens.testing import VirtualClock
from support.paths import ROOT
from support.scripted_backend import Desk

ALICE = "alice@example.com"
MOST_LINES = 15  # of an example, blank ones and imports not counted
PACKAGE = Path(signalwire_tokens.__file__).parent
FOLDER = ROOT / "docs/reference"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A directive, or a fixture, which autodoc knows nothing of.
ENTRY = re.compile(r"^(?:`{3,4}\{auto\w+\} (?P<name>[\w.]+)$|`(?P<fixture>\w+)`\n: )", re.MULTILINE)
ENTRIES = [
    pytest.param(page, found.end(), found["name"] or found["fixture"], id=f"{page}-{found['name'] or found['fixture']}")
    for page, text in PAGES.items()
    for found in ENTRY.finditer(text)
]
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
LIBRARY = {name: tree for name, tree in MODULES.items() if not name.startswith("cli/")}
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


def section(page, title):
    """Cut out what stands under a heading, as far as the next one of its rank."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert found, f"{page}.md has no heading {title!r}"
    return found[2]


def table(text, *, after=None):
    """Read the first table below a text's beginning, or below a mark in it: the cells of its rows, without its head."""
    if after is not None:
        assert after in text, f"{after} is not introduced"
        text = text.partition(after)[2]
    lines = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert lines, "there is no table"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def code(cell):
    """Take what a cell has in code type."""
    return re.findall(r"`([^`]+)`", cell)


def names_used(source):
    """Find the names that a program uses, beyond importing them."""
    nodes = list(ast.walk(ast.parse(source)))
    arguments = {node.arg for node in nodes if isinstance(node, ast.arg)}  # by which tests ask for fixtures
    return arguments | {node.id for node in nodes if isinstance(node, ast.Name)}


@pytest.mark.parametrize(("page", "end", "name"), ENTRIES)
def test_every_public_name_is_followed_by_an_example_that_uses_it(page, end, name):
    """It stands under the same heading, and between them are others of the same example at most."""
    rest = PAGES[page][end:].partition("\n```\n")[2] if "." in name else PAGES[page][end:]
    until = re.search(r"^#+ |\Z", rest, re.MULTILINE)
    examples = PYTHON.findall(rest[: until.start()])
    assert examples, f"no example stands after {name}"
    assert name.rpartition(".")[2] in names_used(examples[0])
    lines = [line for line in examples[0].splitlines() if line.strip() and not re.match(r"import |from ", line)]
    assert 2 <= len(lines) <= MOST_LINES


def test_the_overview_lists_the_public_names_by_module():
    """And every page."""
    listed, module = {}, ""
    for _, modules, names in table(PAGES["api"]):
        module = code(modules)[0]
        listed.setdefault(module, set()).update(code(names))
    own = set(signalwire_tokens.__all__) - {"__version__"}
    shown = listed.pop("signalwire_tokens")
    assert own - shown == set(errors.__all__) - {"SignalWireTokenError", "Problem", "is_transient"}
    assert shown <= own
    assert listed.pop("signalwire_tokens.stores") == set(stores.__all__) - own
    assert listed.pop("signalwire_tokens.stores.redis") == {"RedisStore"}
    for one in (device, emulator, testing, aiohttp, httpx, web, asgi, opentelemetry):
        assert listed.pop(one.__name__) == set(one.__all__), one.__name__
    assert not listed
    for page in PAGES.keys() - {"api"}:
        assert f"]({page}.md)" in PAGES["api"], page


@pytest.mark.slow  # a pytest of its own takes two seconds
def test_the_examples_of_the_page_on_testing_are_tests(tmp_path):
    """That pass, in the file that they make together."""
    blocks = PYTHON.findall(PAGES["testing"])
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    tests = len(re.findall(r"def test_", "".join(blocks)))
    suite = len([name for name in dir(testing.StoreConformance) if name.startswith("test_")])
    assert tests == 3
    assert f"{tests + suite} passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "title", "states"),
    [
        ("sessions", "SessionState", SessionState),
        ("fleet", "FleetSnapshot and BreakerState", BreakerState),
        ("emulator", "Rotation", Rotation),
    ],
)
def test_every_state_is_told(page, title, states):
    """By its name, and by its value."""
    told = [(code(name), code(value)) for name, value, _ in table(section(page, title))]
    assert told == [([state.name], [f'"{state.value}"']) for state in states]


def test_every_event_is_told():
    """And no other; the fields that are said to be set are those of the event."""
    rows = table(PAGES["events"])
    assert [code(kind) for kind, *_ in rows] == [[kind] for kind in get_args(EventKind)]
    fields = {field.name for field in attrs.fields(signalwire_tokens.SessionEvent)}
    head = next(line for line in PAGES["events"].splitlines() if line.startswith("| kind"))
    assert fields - {"kind", "generation"} == set(code(head))


def test_every_error_is_told():
    """In the tree, with what it holds, whether it may pass, when it is raised, what to do, and an example."""
    kinds = {name: getattr(errors, name) for name in errors.__all__ if name not in ("Problem", "is_transient")}
    rows = table(PAGES["errors"])
    assert Counter(name for row in rows for name in code(row[0])) == Counter(kinds.keys())
    for cell, _, transient in rows:
        (name,) = code(cell)
        assert {"yes": True, "no": False}[transient] is errors.is_transient(kinds[name]("as a test has it"))
        for part in ("**When:** ", "**What to do:** ", f"except {name} as error:"):
            assert part in section("errors", name)
    drawn = re.search(r"```text\n(.*?)```", PAGES["errors"], re.DOTALL)[1]
    described = inspect.getdoc(errors)
    assert [line.rstrip() for line in drawn.splitlines()] == [
        line[4:].rstrip() for line in described.splitlines() if re.match(r"    (\S|├|│|└)", line)
    ]


def test_every_fact_of_an_error_is_told():
    """All that can be read from one, beside what Python gives it."""
    facts = {"message"} | {
        name for kind in (errors.SignalWireTokenError, errors.TransportError) for name in vars(kind("-"))
    }
    facts |= {
        name for kind in (errors.ApiError, errors.SessionError) for name in vars(kind) if not name.startswith("_")
    }
    told = {name for row in table(PAGES["errors"], after="| `StoreError` |") for name in code(row[0])}
    assert told == facts
    held = {name for row in table(PAGES["errors"]) for name in code(row[1])}
    assert held - {"message"} == facts - {"message"} | {"problems"}


class Meters:
    """Takes down which instruments are made."""

    def __init__(self):
        self.made = {}

    def get_meter(self, *_, **__):
        return self

    def __getattr__(self, method):
        kind = method.removeprefix("create_").replace("_", " ").replace("up down", "up-down")
        return lambda name, *, unit, **_: self.made.__setitem__(name, (kind, unit))


def test_every_instrument_is_told():
    """With its kind and its unit."""
    meters = Meters()
    Telemetry(meter_provider=meters)
    told = {code(name)[0]: (kind, code(unit)[0]) for name, kind, unit, *_ in table(section("metrics", "Metrics"))}
    assert told == meters.made
    advised = PAGES["metrics"].partition("advise boundaries")[2].partition("## ")[0]
    figures = [float(figure) for figure in re.findall(r"\d+(?:\.\d+)?", advised)]
    assert tuple(figures) == (*opentelemetry.DURATIONS, *opentelemetry.RUNWAYS)


def test_every_attribute_is_told():
    """Whatever looks like one in the source."""
    tree = MODULES["integrations/opentelemetry.py"]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    there = {text for text in texts if re.fullmatch(r"(?:signalwire|server|error|http)\.[a-z_.]+", text)}
    told = {name for row in table(section("metrics", "Attributes")) for name in code(row[0])}
    assert told == there - {name for row in table(section("metrics", "Metrics")) for name in code(row[0])}
    states = {row[0]: row[2] for row in table(section("metrics", "Attributes"))}["`signalwire.session.state`"]
    assert code(states) == [state.value for state in SessionState]


def operations():
    """Find the operations that `wire` describes."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree) if name.startswith("wire/") else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            named = [word.value for word in node.keywords if node.func.id == "Request" and word.arg == "operation"]
            named += node.args[:1] if node.func.id in ("describe", "describe_exchange") else []
            yield from (one.value for one in named if isinstance(one, ast.Constant))


def test_every_span_is_told():
    """One for each operation."""
    told = Counter(name for row in table(section("metrics", "Spans")) for name in code(row[0]))
    assert told == Counter({f"signalwire {operation}": 1 for operation in operations()})
    assert len(told) == 10


async def test_what_is_measured_is_as_it_is_told(emulator, clock):
    """Each metric and each span has the attributes that the page gives it, and every one of them is met."""
    reader, exporter, tracers = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    telemetry = Telemetry(meter_provider=meters, tracer_provider=tracers)
    async with emulator.client(retries=0) as client:
        telemetry.watch(client)
        await do_everything(emulator, client, telemetry)
        emulator.fail(Status(404))
        with pytest.raises(NotFound):
            await client.create_subscriber_token(ALICE)
        found = {
            metric.name: [set(point.attributes) for point in metric.data.data_points]
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    spans = exporter.get_finished_spans()
    meters.shutdown()
    tracers.shutdown()
    rows = {code(row[0])[0]: row[3] for row in table(section("metrics", "Metrics"))}
    for name, attributes in rows.items():
        always, _, failed = attributes.partition(";")
        assert {frozenset(point) for point in found[name]} == {
            frozenset(code(part)) for part in {always, f"{always} {failed}"}
        }, name
    assert found.keys() == rows.keys()
    told = {code(row[0])[0] for row in table(section("metrics", "Attributes")) if "spans" in row[1]}
    assert set().union(*(span.attributes for span in spans)) == told
    assert {span.name for span in spans} == {code(row[0])[0] for row in table(section("metrics", "Spans"))}
    assert {span.kind for span in spans} == {SpanKind.CLIENT}


async def do_everything(emulator, client, telemetry):
    """Ask for each operation."""
    key = DeviceKey.generate()
    first = await client.create_subscriber_token(ALICE, fingerprint=key.fingerprint, scope="sat:refresh")
    bound = DeviceSession(emulator.space, first.token, key, clock=client.clock)
    telemetry.watch(bound)
    async with bound:
        await bound.refresh()
    async with SubscriberSession(client, ALICE) as session:
        telemetry.watch(session)
        await session.refresh()
        info = await client.subscriber_info(session.pair.token)
        (address,) = [address async for address in client.subscriber_addresses(info.id)]
        await session.create_invite_token(address.id)
        given = session.pair.token
    await client.create_guest_token([address.id])
    await client.create_embed_token(emulator.click_to_call)

    async def give():
        return given.value, given.expires_at.timestamp()

    async with Desk(give, client.clock) as desk:
        asking = EndpointSession(desk.url, clock=client.clock)
        telemetry.watch(asking)
        async with asking:
            pass


def logged(tree):
    """Find the levels at which a module logs."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.value.id == "logger" and node.attr.upper() in LEVELS:
            yield node.attr.upper()
        elif node.value.id == "logger" and node.attr == "exception":
            yield "ERROR"
        elif node.value.id == "logging" and node.attr in LEVELS:
            yield node.attr


def test_every_logger_is_told():
    """With each of its levels."""
    there = set()
    for name, tree in LIBRARY.items():
        loggers = re.findall(r'getLogger\("([\w.]+)"\)', (PACKAGE / name).read_text())
        assert len(loggers) <= 1
        there |= {(logger, level) for logger in loggers for level in logged(tree)}
    told = [(code(row[0])[0], row[1]) for row in table(section("metrics", "Logs"))]
    assert Counter(told) == Counter(there)


def field_docs(module, name):
    """Read what stands below each field of a class."""
    (kind,) = (node for node in MODULES[module].body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        field.target.id: text.value.value
        for field, text in pairwise(kind.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def test_every_field_of_the_policy_is_told():
    """With its default, and in the words of its docstring."""
    told = [
        [*code(name), *code(default), meaning]
        for name, default, _, meaning in table(section("settings", "RefreshPolicy"))
    ]
    docs = field_docs("policy.py", "RefreshPolicy")
    assert told == [[field.name, repr(field.default), docs[field.name]] for field in attrs.fields(RefreshPolicy)]


@pytest.mark.parametrize("row", table(section("settings", "RefreshPolicy")), ids=lambda row: row[0].strip("`"))
def test_the_bounds_of_the_policy_are_as_they_are_told(row):
    """What lies beyond is refused, and what lies within is taken."""
    (name,), bounds = code(row[0]), row[2]
    for wrong in (0, -1, float("inf"), float("nan"), True, "1"):
        with pytest.raises(ConfigurationError, match=f"^{name} must be a positive number"):
            RefreshPolicy(**{name: wrong})
    if "less than 1" in bounds:
        with pytest.raises(ConfigurationError, match=f"^{name} must be a share|^min_ttl_share must not be more"):
            RefreshPolicy(**{name: 1.0})
    else:
        RefreshPolicy(**{name: getattr(RefreshPolicy(), name) * (1.2 if "at most" in bounds else 1e9)})
    for other in re.findall(r"at most `(\w+)`", bounds):
        with pytest.raises(ConfigurationError, match=f"^{name} must not be more than {other}"):
            RefreshPolicy(**{name: getattr(RefreshPolicy(), other) * 1.01})


def test_every_lifetime_is_told():
    """With its default."""
    told = [(code(name)[0], evaluated(default)) for name, default, _ in table(section("settings", "Lifetimes"))]
    assert told == [(field.name, field.default) for field in attrs.fields(Lifetimes)]


def evaluated(cell):
    """Take a default as what it stands for."""
    if cell == "required":
        return inspect.Parameter.empty
    names = {"timedelta": timedelta, "Rotation": Rotation, "SystemClock": SystemClock}
    return None if cell == "none" else eval(code(cell)[0], names)  # noqa: S307 - of our own page


def comparable(default):
    """Take a default as something that equals another like it."""
    return type(default) if isinstance(default, SystemClock) or inspect.isfunction(default) else default


@pytest.mark.parametrize(
    ("title", "written", "makers"),
    [
        ("TokenClient", "TokenClient", [TokenClient]),
        ("SubscriberSession", "SubscriberSession", [SubscriberSession]),
        ("SubscriberSession", "SubscriberSession.from_pair", [SubscriberSession.from_pair]),
        ("DeviceSession", "DeviceSession", [DeviceSession]),
        ("EndpointSession", "EndpointSession", [EndpointSession]),
        ("SessionFleet", "SessionFleet", [SessionFleet]),
        ("Stores", "MemoryStore", [MemoryStore]),
        ("Stores", "SqliteStore", [SqliteStore]),
        ("Stores", "RedisStore", [RedisStore]),
        ("Stores", "Sealer", [stores.Sealer]),
        ("Where tokens are used", "authorize", [aiohttp.authorize, httpx.authorize]),
        ("Where tokens are used", "TokenBackend", [web.TokenBackend, asgi.TokenBackend]),
        ("Where tokens are used", "Telemetry", [Telemetry]),
        ("Emulator", "Emulator", [Emulator]),
        ("Emulator", "emulator.client", [Emulator.client]),
        ("Emulator", "VirtualClock", [VirtualClock]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_parameter_is_told(title, written, makers):
    """In order, with its default."""
    rows = table(section("settings", title), after=f"`{written}(…)`")
    told = [(code(name)[0], comparable(evaluated(default))) for name, default, _ in rows]
    for maker in makers:
        there = [one for one in inspect.signature(maker).parameters.values() if one.name != "self"]
        assert told == [(one.name, None if one.kind is one.VAR_KEYWORD else comparable(one.default)) for one in there]


def test_what_a_client_from_the_environment_takes_is_told():
    """Each of its settings is one of `TokenClient`'s, with the same default."""
    settings = inspect.signature(TokenClient.from_env).parameters
    said = PAGES["settings"].partition("`TokenClient.from_env(…)` takes ")[2].partition(", with the same")[0]
    assert code(said) == list(settings)
    ours = inspect.signature(TokenClient).parameters
    assert {name: one.default for name, one in settings.items()} == {name: ours[name].default for name in settings}


def test_every_client_setting_is_told():
    """With the default that a client has."""
    ours = inspect.signature(TokenClient).parameters
    told = [(code(name)[0], evaluated(default)) for name, default, _ in table(section("settings", "ClientSettings"))]
    assert told == [(name, ours[name].default) for name in ClientSettings.__annotations__]


def test_every_field_of_a_token_is_told():
    """And with which issue it is sent."""
    told = [(code(name)[0], when) for name, when, _ in table(section("settings", "TokenFields"))]
    assert told == [
        (name, "each issue" if name in SHAPING else "the first issue") for name in TokenFields.__annotations__
    ]


def read_from_environment(tree):
    """Find the variables that a module reads, and fail where a reading cannot be understood."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield ast.literal_eval(node.slice)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            yield ast.literal_eval(node.args[0])


def test_every_environment_variable_is_told():
    """Those that the library reads; the command and the emulator, which writes them, have pages of their own."""
    told = [code(row[0])[0] for row in table(section("settings", "Environment variables"))]
    read = {name for tree in LIBRARY.values() for name in read_from_environment(tree)}
    assert Counter(told) == Counter(read)
    library = {name: (PACKAGE / name).read_text() for name in LIBRARY if not name.startswith("emulator/")}
    assert set(told) == {name for text in library.values() for name in re.findall(r"SIGNALWIRE_[A-Z_]+", text)}
    mentions = sum(len(re.findall(r"\benviron\b|\bgetenv\b", text)) for text in library.values())
    assert mentions == sum(len(list(read_from_environment(tree))) for tree in LIBRARY.values())
