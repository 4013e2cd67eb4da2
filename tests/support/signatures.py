"""Write docs/reference/signatures.md from the code: `python tests/support/signatures.py`.

The page has each public name with its signature and the first sentences of its docstrings, for readers who don't build
the site. A test compares it with the code.
"""

import ast
import enum
import functools
import importlib
import inspect
import math
import re
import sys
import textwrap
import types
from datetime import timedelta
from pathlib import Path
from typing import get_args, get_origin

import attrs

if __name__ == "__main__":  # as a script, it is started without `support` on the path
    sys.path.insert(0, str(Path(__file__).parent.parent))

from support.pages import anchor
from support.paths import PACKAGE, ROOT

COMMAND = "python tests/support/signatures.py"
FOLDER = ROOT / "docs/reference"
PAGE = FOLDER / "signatures.md"
WIDTH = 90  # columns, which the site shows without scrolling
# What documents a name on a page of the reference: a directive with its options, or a definition, for a fixture.
ENTRY = re.compile(
    r"^\.\. (?:auto\w+|py:data):: (?P<name>[\w.]+)\n(?P<options>(?: +:[\w-]+:.*\n)*)"
    r"|^`(?P<fixture>\w+)`\n: |^#+ (?P<title>.+)$",
    re.MULTILINE,
)
INTRODUCTION = f"""# Signatures

Every public name with its signature and the first sentence of its docstring. The links above a block lead to the
details and an example. `{COMMAND}` writes this page from the code.
"""
TOP, DEVICE, EMULATOR = "signalwire_tokens", "signalwire_tokens.device", "signalwire_tokens.emulator"
REALTIME = "signalwire_tokens.realtime"
OUTCOMES, STORES, TESTING = "signalwire_tokens.outcomes", "signalwire_tokens.stores", "signalwire_tokens.testing"
INTEGRATIONS = "signalwire_tokens.integrations"
# The sections of the page, each with groups of names of one module. A group is one block.
SECTIONS = {
    "Client": [(TOP, "TokenClient"), (TOP, "ClientSettings")],
    "Sessions": [
        (TOP, "SubscriberSession"),
        (TOP, "TokenFields"),
        (TOP, "SessionState", "SessionEvent", "EventKind"),
        (TOP, "RefreshPolicy"),
        (TOP, "RefreshTuning"),
    ],
    "Fleets": [
        (TOP, "SessionFleet"),
        (TOP, "FleetSnapshot", "BreakerState"),
        ("signalwire_tokens.governors", "LocalGovernor"),
        ("signalwire_tokens.governors.redis", "RedisGovernor"),
        ("signalwire_tokens.governors", "Governor", "HealthReading", "AccountHealth"),
        (f"{INTEGRATIONS}.threads", "FleetThread"),
    ],
    "Realtime": [
        (REALTIME, "RealtimeConnection"),
        (REALTIME, "RealtimeEvent"),
        (REALTIME, "RealtimeState", "RealtimeChange", "LossCause"),
    ],
    "Values": [
        (TOP, "TokenPair", "Token"),
        (TOP, "Lifetimes"),
        (TOP, "Address", "SubscriberInfo", "SatClaims"),
    ],
    "Errors": [
        (TOP, "SignalWireTokenError"),
        (TOP, "ConfigurationError", "InvalidRequest"),
        (TOP, "TransportError", "ConnectionFailed", "TimedOut"),
        (
            TOP,
            *("ApiError", "Unauthorized", "Forbidden", "NotFound", "ValidationFailed"),
            *("RateLimited", "TemporarilyRefused", "ServerError", "UnexpectedResponse"),
        ),
        (TOP, "SessionError", "SessionClosed", "SessionExpired", "TokenUnavailable", "StoreError", "UnreadableRecord"),
        (TOP, "RealtimeError", "CallRefused", "CallInterrupted"),
        (TOP, "Problem", "RateLimitHint"),
        (TOP, "is_transient", "is_throttle"),
    ],
    "HTTP clients": [
        (f"{INTEGRATIONS}.aiohttp_client", "subscriber_auth"),
        (f"{INTEGRATIONS}.httpx", "SubscriberAuth"),
    ],
    "Token endpoints for browsers": [
        (f"{INTEGRATIONS}.asgi", "TokenBackend", "Request"),
        (f"{INTEGRATIONS}.aiohttp_server", "TokenBackend"),
    ],
    "Stores": [
        (TOP, "SqliteStore"),
        (f"{STORES}.postgres", "PostgresStore"),
        (f"{STORES}.redis", "RedisStore"),
        (TOP, "MemoryStore"),
        (TOP, "generate_encryption_key"),
    ],
    "Without the API token": [(TOP, "BackendSession"), (DEVICE, "DeviceSession"), (DEVICE, "DeviceKey")],
    "Telemetry": [(f"{INTEGRATIONS}.opentelemetry", "Telemetry")],
    "Tests": [
        (TESTING, "signalwire_emulator", "signalwire_env", "signalwire_clock"),
        (EMULATOR, "Emulator"),
        (EMULATOR, "Rotation", "ROTATIONS", "RateLimit"),
        (
            EMULATOR,
            *("Status", "Delay", "Reset", "Stall", "Truncate", "Raw", "HTML", "EMPTY"),
            *("Huge", "Redirect", "SkewDate", "RpcFailure", "Fault"),
        ),
        (EMULATOR, "Entry", "Connection"),
        (TESTING, "VirtualClock"),
        (TESTING, "GovernorConformance"),
    ],
    "Tokens from your own source": [
        (TOP, "TokenSession"),
        (TOP, "Renewal", "RenewalRequest", "Renewed"),
        (
            OUTCOMES,
            *("NotSent", "NotYet", "Ambiguous", "Throttled", "Spent", "Misconfigured", "Denied"),
            *("UseRefreshToken", "IssueNew"),
        ),
    ],
    "Your own store": [
        (TOP, "TokenStore"),
        (STORES, "Record", "Reading", "key_of"),
        (STORES, "Sealer"),
        (TESTING, "StoreConformance"),
    ],
    "Clocks": [(TOP, "Clock", "Alarm", "SystemClock")],
}
# Types that many signatures share, and what they mean. Other aliases are written out where they occur.
SHARED = {
    "Duration": "seconds, or a timedelta",
    "When": "unix seconds, a datetime with a time zone, or a timedelta from now",
    "RenewalStep": "what a renewal is asked for",
    "Outcome": "what a renewal returns",
    "Failure": "what it returns if it has no new token",
}


def make_page():
    """Return the text of the page."""
    shared = "\n".join(with_comment(f"{name} = {aliases()[name]}", note) for name, note in SHARED.items())
    parts = [INTRODUCTION, "## Shared types\n", block(shared)]
    shown = {}
    for title, groups in SECTIONS.items():
        parts.append(f"## {title}\n")
        for module, *group in groups:
            links = ", ".join(f"[`{name}`]({places()[f'{module}.{name}']})" for name in group)
            origin = f"from `{module}`"
            parts.append(f"{links}, {origin}:\n")
            parts.append(block("\n\n\n".join(stub(module, name, shown) for name in group)))
    return "\n".join(parts)


def block(text):
    """Return a block of code that hosts colour, and that no test runs as a snippet."""
    return f"```pyi\n{text}\n```\n"


def public_names():
    """Return the whole name of each name that the page has, in its order."""
    return [f"{module}.{name}" for groups in SECTIONS.values() for module, *group in groups for name in group]


@functools.cache
def known_names():
    """Return the last part of each name that the page has."""
    return {name.rpartition(".")[2] for name in public_names()} | set(SHARED)


@functools.cache
def entries():
    """Return where each name is documented, and with which options, by its whole name."""
    found = {}
    for path in sorted(FOLDER.glob("*.md")):
        title, text = "", path.read_text(encoding="utf-8")
        for entry in ENTRY.finditer(re.sub(r"^```python\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
            title = entry["title"] or title
            if name := entry["name"] or (entry["fixture"] and f"{TESTING}.{entry['fixture']}"):
                found[name] = f"{path.name}#{anchor(title)}", entry["options"] or ""
    return found


def places():
    """Return the address of each name's documentation, seen from the page."""
    return {name: place for name, (place, _) in entries().items()}


@functools.cache
def aliases():
    """Return the type aliases of the package, by name, as their source has them.

    Names that a module imports from another project aren't among them: there, they stand for that project's type.
    """
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py")))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    foreign = {one.name for node in imports if not node.module.startswith(TOP) for one in node.names}
    return {
        node.target.id: ast.unparse(node.value).strip("'\"")
        for node in nodes
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.annotation) == "TypeAlias"
        and node.target.id not in foreign
    }


def type_text(annotation):
    """Return an annotation as text, with the names that readers know."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:wire|token_rules|collections\.abc|signalwire_tokens(?:\.\w+)*)\.(?=[A-Z])", "", text)
    text = text.replace("tls.SSLContext", "ssl.SSLContext").replace("aiohttp.web_request.", "web.")
    return re.sub(r"(?<![\w.])[A-Z]\w+", lambda found: written_out(found[0]), text)


def written_out(name):
    """Return what a private alias stands for, and any other name as it is."""
    return type_text(aliases()[name]) if name in aliases() and name not in known_names() else name


def value_text(value):
    """Return a default as text: `...` for a private one."""
    if isinstance(value, timedelta):
        units = {"hours": value // timedelta(hours=1), "minutes": value // timedelta(minutes=1) % 60}
        return f"timedelta({', '.join(f'{unit}={count}' for unit, count in units.items() if count)})"
    if isinstance(value, attrs.Factory):
        return value_text(value.factory())
    if isinstance(value, str):
        return f'"{value}"'
    if type(value).__name__ in known_names() and value == type(value)():
        return f"{type(value).__name__}()"
    is_plain = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return repr(value) if is_plain or value in ((), {}) else "..."


def first_sentence(text):
    """Return the first sentence of a text, which may have more paragraphs."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph)[0]


def wrapped(text, indent, first=""):
    """Return a text in lines of the page's width."""
    lines = textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + first, break_on_hyphens=False)
    return "\n".join(lines)


def docstring(thing, indent):
    """Return the first sentence of a docstring, as a docstring."""
    text = wrapped(f'"""{first_sentence(inspect.getdoc(thing))}', indent)
    return f'{text}"""'


def with_comment(line, note):
    """Return a line with a comment behind it, or above it if both together are too long."""
    if not note:
        return line
    together = f"{line}  # {note}"
    indent = line[: len(line) - len(line.lstrip())]
    return together if len(together) <= WIDTH else f"{wrapped(f'# {note}', indent, '# ')}\n{line}"


def parameter_texts(signature):
    """Yield the parameters of a signature, with the mark before those that have to be named."""
    is_marked = False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not is_marked:
            yield "*"
        is_marked = is_marked or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        text = ("**" if one.kind is one.VAR_KEYWORD else "") + one.name
        text += "" if one.annotation is one.empty else f": {type_text(one.annotation)}"
        yield text if one.default is one.empty else f"{text} = {value_text(one.default)}"


def function_stub(function, indent="", *, name=None, decorator=""):
    """Return a function as a stub."""
    inner = inspect.unwrap(function)
    signature = inspect.signature(inner)
    returned = "None" if signature.return_annotation is signature.empty else type_text(signature.return_annotation)
    awaited = re.fullmatch(r"Coroutine\[Any, Any, (.*)\]", returned)  # which callers await, as with `async def`
    if awaited:
        returned = awaited[1]
    elif inner is not function and inspect.isasyncgenfunction(inner):  # an `@asynccontextmanager`
        returned = returned.replace("AsyncIterator[", "AbstractAsyncContextManager[", 1)
    keyword = "async def" if awaited or inspect.iscoroutinefunction(inner) else "def"
    start, end = f"{indent}{keyword} {name or inner.__name__}(", f") -> {returned}:"
    arguments = [*parameter_texts(signature)]
    head = f"{start}{', '.join(arguments)}{end}"
    if len(head) > WIDTH:
        head = "\n".join([start, *(f"{indent}    {argument}," for argument in arguments), f"{indent}{end}"])
    lines = [f"{indent}{decorator}"] if decorator else []
    if function.__doc__:
        return "\n".join([*lines, head, docstring(function, f"{indent}    ")])
    return "\n".join([*lines, f"{head} ..."])


def sources(kind):
    """Yield the classes of the package that a class consists of: itself, and its bases that aren't public."""
    yield from (base for base in kind.__mro__ if base is kind or (is_ours(base) and base.__name__ not in known_names()))


def is_ours(kind):
    return kind.__module__.partition(".")[0] == TOP


def assigned_fields(kind):
    """Yield the name and the annotation of each attribute that a class body annotates, or its constructor sets."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:  # a base that was made by a call of `type` has no source
        return
    for node in tree.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                yield name, ast.unparse(annotation)
            case ast.FunctionDef(name="__init__", args=arguments, body=body):
                every = [*arguments.args, *arguments.kwonlyargs]
                known = {one.arg: ast.unparse(one.annotation) for one in every if one.annotation}
                yield from assignments(body, known)


def assignments(body, known):
    """Yield the attributes that a constructor sets, if their types are written there or are those of its arguments."""
    for node in body:
        match node:
            case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=annotation):
                yield name, ast.unparse(annotation)
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=ast.Name(id=argument)) if argument in known:
                yield name, known[argument]


def attribute_lines(kind):
    """Yield the attributes that the docstring of a class names."""
    named = re.findall(r"`(\w+)`", inspect.getdoc(kind) or "")
    found = {name: text for base in sources(kind) for name, text in assigned_fields(base) if name in named}
    yield from (f"    {name}: {type_text(text)}" for name, text in found.items())


def is_all_named(kind):
    return all(one.kw_only for one in attrs.fields(kind))


def field_lines(kind):
    """Yield the fields of an attrs class, with their defaults, and with what a list in the docstring says of them."""
    parameters = inspect.signature(kind.__init__).parameters
    listed = re.findall(r"^- `(\w+)`: (.*(?:\n  .*)*)", inspect.getdoc(kind), re.MULTILINE)
    notes = {name: first_sentence(text).removesuffix(".") for name, text in listed}
    for one in attrs.fields(kind):
        line = f"    {one.name}: {type_text(parameters[one.name].annotation)}"
        if one.default is not attrs.NOTHING:
            is_odd = one.kw_only and not is_all_named(kind)
            default = value_text(one.default)
            line += f" = attrs.field(default={default}, kw_only=True)" if is_odd else f" = {default}"
        yield with_comment(line, notes.get(one.name, ""))


def member_stubs(kind, shown, options):
    """Yield the methods, properties and fixtures of a class that autodoc documents with a directive's options.

    `shown` has the members that the page has already, each with the class that it stands with. Here, they are listed.
    """
    hidden = re.findall(r"\w+", "".join(re.findall(r":exclude-members:(.*)", options)))
    own, listed = {}, {}
    for base in filter(is_ours, kind.__mro__):
        for name, member in vars(base).items():
            if name in own | listed or name in hidden or not is_documented(name, member):
                continue
            is_shown = base.__name__ in known_names() and member in shown
            (listed if is_shown else own)[name] = member
    if ":no-members:" not in options:
        shown |= dict.fromkeys(own.values(), kind)
        yield from (member_stub(name, member) for name, member in own.items())
    first = shown[next(iter(listed.values()))] if listed else kind
    if first not in kind.__mro__:  # otherwise, the name of the base says so
        yield wrapped(f"# and, as in {first.__name__}: {', '.join(sorted(listed))}", "    ", "# ")


def is_documented(name, member):
    """Return whether a member of a class is public, and not one of a suite of tests."""
    is_member = isinstance(member, types.FunctionType | property | classmethod) or is_fixture(member)
    return is_member and not name.startswith(("_", "test_"))


def is_fixture(thing):
    return hasattr(thing, "_get_wrapped_function")


def member_stub(name, member):
    """Return a method, a property or a fixture as a stub."""
    if isinstance(member, property):
        return function_stub(member.fget, "    ", name=name, decorator="@property")
    if isinstance(member, classmethod):
        return function_stub(member.__func__, "    ", decorator="@classmethod")
    if is_fixture(member):
        return function_stub(member._get_wrapped_function(), "    ", decorator="@pytest.fixture")
    return function_stub(member, "    ")


def bases_text(kind):
    """Return the bases of a class that readers know, in parentheses."""
    if issubclass(kind, enum.Enum):
        return "(Enum)"
    if issubclass(kind, dict):
        return "(TypedDict, total=False)"
    if getattr(kind, "_is_protocol", False):
        return "(Protocol)"
    known = (one for one in kind.__bases__ if one.__name__ in known_names() or issubclass(one, Exception))
    names = ", ".join(one.__name__ for one in known)
    return f"({names})" if names else ""


def constructor_of(kind):
    """Return the constructor that a class has for itself, or None if it takes that of a public base, or needs none."""
    if attrs.has(kind) or getattr(kind, "_is_protocol", False):
        return None
    return next((vars(base)["__init__"] for base in sources(kind) if "__init__" in vars(base)), None)


def class_stub(module, name, kind, shown):
    """Return a class as a stub."""
    head, lines, parts = [f"class {name}{bases_text(kind)}:", docstring(kind, "    ")], [], []
    if issubclass(kind, dict):
        lines = [f"    {field}: {type_text(text)}" for field, text in assigned_fields(kind)]
    elif issubclass(kind, enum.Enum):
        lines = [line for line in inspect.getsource(kind).splitlines() if re.match(r"    [A-Z_]+ = ", line)]
    elif attrs.has(kind):
        head.insert(0, f"@attrs.frozen{'(kw_only=True)' if is_all_named(kind) else ''}")
        lines = [*field_lines(kind)]
    else:
        lines = [*attribute_lines(kind)]
    if constructor := constructor_of(kind):
        parts.append(function_stub(constructor, "    "))
    if hasattr(kind, "__aenter__"):
        parts.append("    async def __aenter__(self) -> Self: ...")
    if not issubclass(kind, dict | enum.Enum):
        parts += member_stubs(kind, shown, entries()[f"{module}.{name}"][1])
    text = "\n\n".join(["\n".join(head), *(["\n".join(lines)] if lines else []), *parts])
    for variable, argument in type_arguments(kind):
        text = re.sub(rf"\b{variable}\b", argument, text)
    return text


def type_arguments(kind):
    """Yield the name of each type variable of a class's bases, and what it stands for in the class."""
    for base in getattr(kind, "__orig_bases__", ()):
        for variable, argument in zip(getattr(get_origin(base), "__parameters__", ()), get_args(base), strict=True):
            yield variable.__name__, type_text(argument)


def stub(module, name, shown):
    """Return a public name as a stub."""
    thing = getattr(importlib.import_module(module), name)
    if isinstance(thing, type):
        return class_stub(module, name, thing, shown)
    if is_fixture(thing):
        return function_stub(thing._get_wrapped_function(), decorator="@pytest.fixture")
    if isinstance(thing, types.FunctionType):
        return function_stub(thing)
    source, annotation = definition(name)
    note = " ".join(re.findall(r"^#: (.*)$", source, re.MULTILINE)).removesuffix(".")
    if name.isupper():
        return with_comment(f"{name}: {annotation or type(thing).__name__}", note)
    if isinstance(thing, types.UnionType):
        return with_comment(f"{name} = {' | '.join(one.__name__ for one in get_args(thing))}", note)
    choices = wrapped(", ".join(f'"{choice}"' for choice in get_args(thing)), "    ")
    return f"# {note}\n{name} = Literal[\n{choices}\n]"


@functools.cache
def definition(name):
    """Return the lines of the package that define a value, with the comments above them, and its annotation if any."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    found = (re.search(rf"(?:^#: .*\n)*^{name}(?:: (.+?))? = ", text, re.MULTILINE) for text in texts)
    (one,) = filter(None, found)
    return one[0], one[1]


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
