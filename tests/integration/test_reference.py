"""The reference says what the code does: every name, event, error, metric and setting, and no other."""

import ast
import inspect
import re
import subprocess
import sys
from datetime import timedelta
from difflib import unified_diff
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
    BackendSession,
    BreakerState,
    ClientSettings,
    EventKind,
    Lifetimes,
    MemoryStore,
    NotFound,
    SessionFleet,
    SessionState,
    SqliteStore,
    SubscriberSession,
    SystemClock,
    TokenClient,
    TokenFields,
    TokenSession,
    device,
    emulator,
    errors,
    governors,
    outcomes,
    realtime,
    stores,
    testing,
)
from signalwire_tokens.device import DeviceKey, DeviceSession
from signalwire_tokens.emulator import ROTATIONS, Emulator, Status
from signalwire_tokens.governors import redis as redis_governor
from signalwire_tokens.integrations import aiohttp_client, aiohttp_server, asgi, httpx, opentelemetry, threads
from signalwire_tokens.integrations.opentelemetry import Telemetry
from signalwire_tokens.keeper.sharing_rules import UNBOUNDED
from signalwire_tokens.session import EACH_ISSUE
from signalwire_tokens.stores import postgres, redis
from signalwire_tokens.testing import VirtualClock
from signalwire_tokens.wire.answers import BY_CODE, INVALID_REQUEST
from signalwire_tokens.wire.codes import SUBJECTS, Subject
from support import contract, signatures
from support.documented import assert_documented, assert_listed
from support.paths import PACKAGE, tree_of
from support.processes import last_lines
from support.reference import PAGES, code, section, table
from support.scripted_backend import Answer, Desk
from support.waiting import eventually

ALICE = "alice@example.com"
MOST_LINES = 15  # of an example, blank ones and imports not counted
API, ERRORS, EVENTS = "docs/reference/api.md", "docs/reference/errors.md", "docs/reference/events.md"
METRICS, SETTINGS = "docs/reference/metrics.md", "docs/reference/settings.md"
SIGNATURES = "docs/reference/signatures.md"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A directive, or a fixture, which autodoc knows nothing of.
ENTRY = re.compile(r"^(?:\.\. (?:auto\w+|py:data):: (?P<name>[\w.]+)$|`(?P<fixture>\w+)`\n: )", re.MULTILINE)
ENTRIES = [
    pytest.param(page, found.end(), found["name"] or found["fixture"], id=f"{page}-{found['name'] or found['fixture']}")
    for page, text in PAGES.items()
    for found in ENTRY.finditer(text)
]
MODULES = {path.relative_to(PACKAGE).as_posix(): tree_of(path) for path in sorted(PACKAGE.rglob("*.py"))}
LIBRARY = {name: tree for name, tree in MODULES.items() if not name.startswith("cli/")}
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


def entries(text, *, after):
    """Read the list below a mark: each entry's name, and its default in parentheses."""
    assert after in text, f"{after} is not introduced"
    found = re.search(r"(?:^- .*\n(?:  .*\n)*)+", text.partition(after)[2], re.MULTILINE)
    assert found, f"there is no list after {after}"
    read = re.findall(r"^- `(\w+)` \((required|none|`[^`]+`)\)(?=:|$)", found[0], re.MULTILINE)
    assert len(read) == len(re.findall(r"^- ", found[0], re.MULTILINE)), f"write each as - `name` (`default`): {found}"
    return read


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
    assert examples, f"add an example after {name} in docs/reference/{page}.md"
    used = name.rpartition(".")[2] in names_used(examples[0])
    assert used, f"use {name} in the example after it in docs/reference/{page}.md"
    lines = [line for line in examples[0].splitlines() if line.strip() and not re.match(r"import |from ", line)]
    assert 2 <= len(lines) <= MOST_LINES, f"write 2 to {MOST_LINES} lines after {name} in docs/reference/{page}.md"


def test_the_overview_lists_the_public_names_by_module():
    """And every page."""
    own = set(signalwire_tokens.__all__)
    derived = set(errors.__all__) - {
        "SignalWireTokenError",
        "Problem",
        "RateLimitHint",
        "is_throttle",
        "is_transient",
    }  # which the page doesn't list
    assert_listed("signalwire_tokens/__init__.py", own & derived, derived)
    modules = (
        device,
        emulator,
        governors,
        outcomes,
        realtime,
        testing,
        aiohttp_client,
        httpx,
        aiohttp_server,
        asgi,
        opentelemetry,
        threads,
    )
    names = {one: one.__all__ for one in modules}
    names[signalwire_tokens] = own - derived - {"__version__"}
    names |= {stores: set(stores.__all__) - own, postgres: ["PostgresStore"], redis: ["RedisStore"]}
    names[redis_governor] = redis_governor.__all__
    listed = [f"{code(module)[0]}.{name}" for _, module, cell in table(PAGES["api"]) for name in code(cell)]
    assert_documented(API, listed, {f"{one.__name__}.{name}" for one in names for name in names[one]})
    links = set(re.findall(r"\]\((\w+(?:-\w+)*\.md)\)", PAGES["api"]))
    assert_documented(API, links, {f"{page}.md" for page in PAGES if page != "api"})


def test_the_page_of_signatures_has_every_public_name():
    """The directives of the other pages and the fixtures name them."""
    assert_documented("tests/support/signatures.py, in SECTIONS", signatures.public_names(), signatures.places().keys())


def test_the_page_of_signatures_is_what_the_code_has(monkeypatch):
    """A script writes it, so the failure names the command."""
    constructor = Emulator.__init__  # whose defaults the tests change
    monkeypatch.setattr(constructor, "__kwdefaults__", constructor.__kwdefaults__ | contract.DEFAULTS)
    written, made = PAGES["signatures"].splitlines(), signatures.make_page().splitlines()
    changes = "\n".join(unified_diff(written, made, "the page", "the code", lineterm="", n=0))
    if changes:
        pytest.fail(f"run `{signatures.COMMAND}`, which rewrites {SIGNATURES}:\n{changes}")


def test_the_page_of_signatures_is_python():
    """Each block can be read as a stub."""
    blocks = re.findall(r"^```pyi\n(.*?)^```$", PAGES["signatures"], re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1 + sum(len(groups) for groups in signatures.SECTIONS.values())
    for block in blocks:
        ast.parse(block)


@pytest.mark.parametrize("text", ["identify: Callable[[web.Request], ", "-> list[Route]:"])
def test_the_page_of_signatures_has_types_that_readers_know(text):
    """Type variables are filled in, and a type of another project isn't taken for an alias with the same name."""
    assert text in PAGES["signatures"]


@pytest.mark.slow  # a pytest of its own takes two seconds
def test_the_examples_of_the_page_on_testing_are_tests(tmp_path):
    """That pass, in the file that they make together."""
    blocks = PYTHON.findall(PAGES["testing"])
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    tests = len(re.findall(r"def test_", "".join(blocks)))
    suites = (testing.StoreConformance, testing.GovernorConformance)
    suite = len([name for suite in suites for name in dir(suite) if name.startswith("test_")])
    assert tests == 4
    assert f"{tests + suite} passed" in done.stdout, f"{last_lines(done.stdout)}\n{last_lines(done.stderr)}"


@pytest.mark.parametrize(
    ("page", "title", "states"),
    [
        ("sessions", "SessionState", SessionState),
        ("fleet", "FleetSnapshot and BreakerState", BreakerState),
    ],
)
def test_every_state_is_told(page, title, states):
    """By its name, and by its value."""
    told = [(code(name)[0], code(value)[0]) for name, value, *_ in table(section(page, title))]
    there = [(state.name, f'"{state.value}"') for state in states]
    assert_documented(f"docs/reference/{page}.md, under {title}", told, there, in_order=True)


def test_every_rotation_is_documented():
    """By its name."""
    listed = [
        code(name)[0].strip('"')
        for name, *_ in table(PAGES["emulator"], after=".. py:data:: signalwire_tokens.emulator.ROTATIONS")
    ]
    assert_documented("docs/reference/emulator.md, under Rotation", listed, [*ROTATIONS], in_order=True)


def test_every_event_is_told():
    """And no other; the fields that are said to be set are those of the event."""
    assert_documented(EVENTS, [code(row[0])[0] for row in table(PAGES["events"])], get_args(EventKind), in_order=True)
    fields = {field.name for field in attrs.fields(signalwire_tokens.SessionEvent)}
    head = next(line for line in PAGES["events"].splitlines() if line.startswith("| kind"))
    assert_documented(f"{EVENTS}, in the head of the table", code(head), fields - {"kind", "generation"})


def test_every_error_is_told():
    """In the tree, with what it holds, whether it may pass, when it is raised, what to do, and an example."""
    kinds = {
        name: getattr(errors, name)
        for name in errors.__all__
        if isinstance(getattr(errors, name), type) and issubclass(getattr(errors, name), Exception)
    }
    told = [(name, transient) for names, _, transient in table(PAGES["errors"]) for name in code(names)]
    there = {name: "yes" if errors.is_transient(kind("as a test has it")) else "no" for name, kind in kinds.items()}
    assert_documented(ERRORS, told, there)
    for name in kinds:
        for part in ("**When:** ", "**What to do:** ", f"except {name} as error:"):
            assert part in section("errors", name), f"write `{part.strip()}` under {name} in {ERRORS}"
    drawn = re.search(r"```text\n(.*?)```", PAGES["errors"], re.DOTALL)[1]
    described = inspect.getdoc(errors)
    assert [line.rstrip() for line in drawn.splitlines()] == [
        line[4:].rstrip() for line in described.splitlines() if re.match(r"    +(\S|├|│|└)", line)
    ], f"draw the same tree in {ERRORS} and at the top of signalwire_tokens/errors.py"


def test_every_fact_of_an_error_is_told():
    """All that can be read from one, beside what Python gives it."""
    facts = {"message"} | {
        name for kind in (errors.SignalWireTokenError, errors.TransportError) for name in vars(kind("-"))
    }
    facts |= {
        name
        for kind in (
            *(errors.ApiError, errors.SessionError, errors.UnexpectedResponse),
            *(errors.CallRefused, errors.CallInterrupted),
        )
        for name in vars(kind)
        if not name.startswith("_")
    }
    told = re.findall(r"^- `(\w+)`: ", PAGES["errors"].partition("| `StoreError` |")[2], re.MULTILINE)
    assert_documented(f"{ERRORS}, in the list of facts", told, facts)
    held = {name for row in table(PAGES["errors"]) for name in code(row[1])}
    assert_documented(f"{ERRORS}, in the table of errors", held | {"message"}, facts | {"problems"})


def test_every_code_is_told():
    """With what it is about and the error that it becomes, in the order in which codes decide."""
    rows = table(section("errors", "Codes"))
    told = [(name, (subject, code(kind)[0])) for names, subject, kind in rows for name in code(names)]
    kinds = BY_CODE | {Subject.TOKEN: INVALID_REQUEST}
    there = {name: (subject.value, kinds[subject][0].__name__) for name, subject in SUBJECTS.items()}
    assert_documented(f"{ERRORS}, under Codes", told, there, in_order=True)
    assert [subject for _, subject, _ in rows] == [subject.value for subject in Subject]


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
    told = [(code(name)[0], (kind, code(unit)[0])) for name, kind, unit, *_ in table(section("metrics", "Metrics"))]
    assert_documented(f"{METRICS}, under Metrics", told, meters.made)
    advised = PAGES["metrics"].partition("advise boundaries")[2].partition("## ")[0]
    figures = tuple(float(figure) for figure in re.findall(r"\d+(?:\.\d+)?", advised))
    there = (*opentelemetry.DURATIONS, *opentelemetry.TIME_LEFT_BOUNDARIES)
    assert figures == there, f"write the boundaries of the histograms in {METRICS}: {there}"


def test_every_attribute_is_told():
    """Whatever looks like one in the source."""
    tree = MODULES["integrations/opentelemetry.py"]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    there = {text for text in texts if re.fullmatch(r"(?:signalwire|server|error|http)\.[a-z_.]+", text)}
    told = [name for row in table(section("metrics", "Attributes")) for name in code(row[0])]
    metrics = {name for row in table(section("metrics", "Metrics")) for name in code(row[0])}
    assert_documented(f"{METRICS}, under Attributes", told, there - metrics)
    values = {row[0]: row[2] for row in table(section("metrics", "Attributes"))}
    for kind, states in (("session", SessionState), ("realtime", realtime.RealtimeState)):
        there = [state.value for state in states]
        told = code(values[f"`signalwire.{kind}.state`"])
        assert_documented(f"{METRICS}, at signalwire.{kind}.state", told, there, in_order=True)


def test_every_cause_of_a_loss_is_told():
    """In the order in which the code has them."""
    told = re.findall(r"^- `(\w+)`: ", section("realtime", "LossCause"), re.MULTILINE)
    there = get_args(realtime.LossCause)
    assert_documented("docs/reference/realtime.md, under LossCause", told, there, in_order=True)


def operations():
    """Find the operations that `wire` describes."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree) if name.startswith("wire/") else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            named = [word.value for word in node.keywords if node.func.id == "Request" and word.arg == "operation"]
            named += node.args[:1] if node.func.id in ("make_request", "make_lookup", "describe_exchange") else []
            yield from (one.value for one in named if isinstance(one, ast.Constant))


def test_every_span_is_told():
    """One for each operation."""
    told = [name for row in table(section("metrics", "Spans")) for name in code(row[0])]
    there = [f"signalwire {operation}" for operation in operations()]
    assert_documented(f"{METRICS}, under Spans", told, there)
    assert len(there) == 12


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
            metric.name: sorted({tuple(sorted(point.attributes)) for point in metric.data.data_points})
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    spans = exporter.get_finished_spans()
    meters.shutdown()
    tracers.shutdown()
    told = {}
    for name, *_, attributes, _ in table(section("metrics", "Metrics")):
        always, _, failed = attributes.partition(";")
        told[code(name)[0]] = sorted({tuple(sorted(code(part))) for part in (always, f"{always} {failed}")})
    assert_documented(f"{METRICS}, under Metrics", told, found)
    told = [code(row[0])[0] for row in table(section("metrics", "Attributes")) if "spans" in row[1]]
    there = {name for span in spans for name in span.attributes}
    assert_documented(f"{METRICS}, under Attributes, for spans", told, there)
    told = [name for row in table(section("metrics", "Spans")) for name in code(row[0])]
    assert_documented(f"{METRICS}, under Spans", told, {span.name for span in spans})
    assert {span.kind for span in spans} == {SpanKind.CLIENT}


async def do_everything(emulator, client, telemetry):
    """Ask for each operation."""
    key = DeviceKey.generate()
    first = await client.create_subscriber_token(ALICE, fingerprint=key.fingerprint, scope="sat:refresh")
    bound = DeviceSession(emulator.space, first.access_token, key, clock=client.clock)
    telemetry.watch(bound)
    async with bound:
        await bound.refresh()
    async with SubscriberSession(client, ALICE) as session:
        telemetry.watch(session)
        await session.refresh()
        info = await client.subscriber_info(session.pair.access_token)
        connection = realtime.RealtimeConnection(session, host=emulator.gateway)
        telemetry.watch(connection)
        async with connection:
            await session.refresh()
            await eventually(lambda: connection.reauthenticated)
            async with emulator.unreachable():
                await eventually(lambda: connection.losses)
        (address,) = [address async for address in client.subscriber_addresses(info.id)]
        assert [found async for found in client.addresses(session.pair.access_token)] == [address]
        await client.address(address.id, access_token=session.pair.access_token)
        await session.create_invite_token(address.id)
        given = session.pair.access_token
    await client.create_guest_token([address.id])
    await client.create_embed_token(emulator.click_to_call)

    async def give():
        return given.value, given.expires_at.timestamp()

    body = {"token": given.value, "expiry_at": int(given.expires_at.timestamp() * 1000)}
    hints = {"X-RateLimit-Limit": "13800", "X-RateLimit-Remaining": "13799"}
    async with Desk(give, client.clock) as desk:
        desk.script.append(Answer(body=body, headers=hints))
        asking = BackendSession(desk.url, clock=client.clock)
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
        there |= {f"{logger} at {level}" for logger in loggers for level in logged(tree)}
    rows = table(section("metrics", "Logs"))
    told = [f"{code(name)[0]} at {level}" for name, cell in rows for level in re.findall(r"\b([A-Z]{4,}):", cell)]
    assert_documented(f"{METRICS}, under Logs", told, there)


def test_every_lifetime_is_told():
    """With its default."""
    told = [
        (name, evaluated(default)) for name, default in entries(section("settings", "Lifetimes"), after="3653 days")
    ]
    there = {field.name: field.default for field in attrs.fields(Lifetimes)}
    assert_documented(f"{SETTINGS}, under Lifetimes", told, there, in_order=True)


def evaluated(cell):
    """Take a default as what it stands for."""
    if cell == "required":
        return cell
    names = {"timedelta": timedelta, "SystemClock": SystemClock}
    return None if cell == "none" else eval(code(cell)[0], names)  # noqa: S307 - of our own page


def comparable(default):
    """Take a default as something that equals another like it."""
    if default is inspect.Parameter.empty:
        return "required"
    if default is UNBOUNDED:  # which is private, and put into words on the page
        return ...
    return type(default) if isinstance(default, SystemClock) or inspect.isfunction(default) else default


@pytest.mark.parametrize(
    ("title", "written", "makers"),
    [
        ("TokenClient", "TokenClient", [TokenClient]),
        ("SubscriberSession", "SubscriberSession", [SubscriberSession]),
        ("DeviceSession", "DeviceSession", [DeviceSession]),
        ("BackendSession", "BackendSession", [BackendSession]),
        ("TokenSession", "TokenSession", [TokenSession]),
        ("SessionFleet", "SessionFleet", [SessionFleet]),
        ("RealtimeConnection", "RealtimeConnection", [realtime.RealtimeConnection]),
        ("Stores", "MemoryStore", [MemoryStore]),
        ("Stores", "SqliteStore", [SqliteStore]),
        ("Stores", "RedisStore", [redis.RedisStore]),
        ("Stores", "PostgresStore", [postgres.PostgresStore]),
        ("Stores", "Sealer", [stores.Sealer]),
        ("Where tokens are used", "SubscriberAuth", [aiohttp_client.subscriber_auth, httpx.SubscriberAuth]),
        ("Where tokens are used", "TokenBackend", [aiohttp_server.TokenBackend, asgi.TokenBackend]),
        ("Where tokens are used", "Telemetry", [Telemetry]),
        ("Emulator", "Emulator", [Emulator]),
        ("Emulator", "VirtualClock", [VirtualClock]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_parameter_is_told(title, written, makers):
    """In order, with its default."""
    listed = entries(section("settings", title), after=f"`{written}(…)`")
    told = [(name, comparable(evaluated(default))) for name, default in listed]
    for maker in makers:
        there = [one for one in inspect.signature(maker).parameters.values() if one.name != "self"]
        defaults = {one.name: None if one.kind is one.VAR_KEYWORD else comparable(one.default) for one in there}
        if maker is Emulator:  # whose defaults the tests change
            defaults |= {name: comparable(value) for name, value in contract.DEFAULTS.items()}
        assert_documented(f"{SETTINGS}, under {title}, at {written}(…)", told, defaults, in_order=True)


@pytest.mark.parametrize(
    ("introduction", "maker", "model", "others"),
    [
        ("`TokenClient.from_env(…)` takes ", TokenClient.from_env, TokenClient, {}),
        (
            "`SubscriberSession.from_pair(…)` takes ",
            SubscriberSession.from_pair,
            SubscriberSession,
            {"pair": "required"},  # as the page says
        ),
        ("`emulator.client(…)` takes ", Emulator.client, TokenClient, {}),
    ],
    ids=["from_env", "from_pair", "emulator.client"],
)
def test_what_has_the_same_defaults_is_told(introduction, maker, model, others):
    """Each parameter is named, in order, and has the default of the model's, except for the others."""
    flat = " ".join(PAGES["settings"].split())
    told = flat.partition(introduction)[2].partition(", with the same defaults")[0]
    there = {
        name: comparable(one.default) for name, one in inspect.signature(maker).parameters.items() if name != "self"
    }
    assert_documented(f"{SETTINGS}, at {introduction}", code(told), there.keys(), in_order=True)
    defaults = {name: comparable(one.default) for name, one in inspect.signature(model).parameters.items()}
    assert there == {name: (defaults | others)[name] for name in there}


def test_every_client_setting_is_told():
    """As one of `TokenClient`'s, of which the sessions pass on what they are given."""
    flat = " ".join(section("settings", "ClientSettings").split())
    told = flat.partition("their own client from ")[2].partition(", with the same defaults as `TokenClient`")[0]
    settings = ClientSettings.__annotations__
    assert_documented(f"{SETTINGS}, under ClientSettings", code(told), settings.keys(), in_order=True)
    assert settings.keys() <= inspect.signature(TokenClient).parameters.keys()


def test_every_field_of_a_token_is_told():
    """And with which issue it is sent."""
    told = [(name, when) for names, when, _ in table(section("settings", "TokenFields")) for name in code(names)]
    there = {name: "each issue" if name in EACH_ISSUE else "the first issue" for name in TokenFields.__annotations__}
    assert_documented(f"{SETTINGS}, under TokenFields", told, there, in_order=True)


def read_from_environment(tree):
    """Find the variables that a module reads, and fail where a reading cannot be understood."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield ast.literal_eval(node.slice)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            yield ast.literal_eval(node.args[0])


def test_every_environment_variable_is_told():
    """Those that the library reads; the command has a page of its own, and the emulator and the fixtures write them."""
    told = [code(row[0])[0] for row in table(section("settings", "Environment variables"))]
    read = {name for tree in LIBRARY.values() for name in read_from_environment(tree)}
    library = {name: (PACKAGE / name).read_text() for name in LIBRARY if not name.startswith(("emulator/", "testing/"))}
    named = {name for text in library.values() for name in re.findall(r"SIGNALWIRE_[A-Z_]+", text)}
    assert_documented(f"{SETTINGS}, under Environment variables", told, read)
    assert_documented(f"{SETTINGS}, under Environment variables", told, named)
    mentions = sum(len(re.findall(r"\benviron\b|\bgetenv\b", text)) for text in library.values())
    assert mentions == sum(len(list(read_from_environment(tree))) for tree in LIBRARY.values())
