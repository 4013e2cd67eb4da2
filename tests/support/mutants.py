"""Change the pure modules in one place at a time, and report each change that `tests/unit` doesn't notice.

    python tests/support/mutants.py                     all modules
    python tests/support/mutants.py policy token_header  these modules
    python tests/support/mutants.py --sample 60 --seed 7

This is a script of our own. mutmut doesn't change properties, class bodies and tables, which hold much of what these
modules decide. cosmic-ray changes the files themselves, and starts pytest for each mutant, which takes twice as long.
Here, one process imports pytest and all other packages once. It forks a child for each mutant. In the child, an import
hook compiles the module's changed syntax tree when the tests import the module, so no file changes.

A mutant is *killed* if a test fails. The child runs the tests of the module first, and then all others that use the
package. A child that takes far longer than the unchanged module needs is stopped, and its mutant counts as killed.

Strings count as messages for people if they have white space between words. Messages aren't changed, but what they
show is. A string with white space that is a key of a dict, an operand of a comparison, an index or a pattern is changed
like any other. Annotations, docstrings, `__all__`, assertions and `if TYPE_CHECKING` aren't changed.

`mutants.toml` lists the survivors that change nothing a caller could observe, by function and change, with the reason.
A survivor that isn't listed is an error. So is an entry that matches no mutant, or whose mutant is killed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
ACCEPTED = Path(__file__).with_suffix(".toml")
PACKAGE = "signalwire_tokens"
# Each module, and the tests that are most likely to kill its mutants.
MODULES = {
    "policy": ["policy_rules", "policy", "policy_settings"],
    "lifecycle": ["lifecycle_rules", "lifecycle"],
    "keeper.sharing_rules": ["sharing_rules_ages", "sharing_rules"],
    "errors": ["errors"],
    "gateway": ["gateway"],
    "integrations.token_rules": ["integrations_token_rules"],
    "wire.answers": ["wire_answers"],
    "wire.backend": ["wire_backend", "wire_exchange"],
    "wire.checks": ["wire_requests", "wire_answers"],
    "wire.codes": ["wire_answers", "errors"],
    "wire.exchange": ["wire_exchange", "wire_answers"],
    "token_header": ["token_header"],
    "wire.hints": ["wire_hints"],
    "wire.lifetimes": ["wire_lifetimes", "wire_readers"],
    "wire.readers": ["wire_readers", "wire_lifetimes"],
    "wire.requests": ["wire_requests"],
    "wire.space": ["wire_space"],
    "wire.successors": ["wire_successors", "wire_readers"],
}
# Tests that read files and don't run the package, and tests of the tests' own tools. They take most of the time.
UNRELATED = {"test_contract_check", "test_pages", "test_published", "test_renamed", "test_shape", "test_words"}
PLUGINS = ("_hypothesis_pytestplugin", "pytest_asyncio.plugin", "pytest_timeout", "pytest_socket", f"{PACKAGE}.testing")
OPTIONS = (
    *("-x", "-q", "--no-header", "--tb=no", "--assert=plain", "-m", "not slow"),
    *("-p", "no:cacheprovider", "-p", "no:faulthandler", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)),
    *(part for name in PLUGINS for part in ("-p", name)),
)
EXAMPLES = 10  # of Hypothesis, for each test
SHORTEST_LIMIT = 20.0  # seconds; with the factor below, it leaves a busy machine enough time
LIMIT_FACTOR = 10

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
DELETED = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Delete, ast.Break, ast.Continue)
TYPE_NAMES = ("cast", "TypeVar", "NewType", "ParamSpec")  # their first argument is a type, or its name
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
NONE = ast.Constant(None)


class Mutant(NamedTuple):
    """A change of one module: `owner.field`, or its item `index`, becomes `new`."""

    module: str
    scope: str  # the function or class
    change: str  # unique in the scope
    line: int
    owner: ast.AST
    field: str
    index: int | None
    new: ast.AST

    @property
    def key(self):
        return f"{self.scope}: {self.change}"

    def apply(self):
        if self.index is None:
            setattr(self.owner, self.field, self.new)
        else:
            getattr(self.owner, self.field)[self.index] = self.new

    def __str__(self):
        before, _, after = self.change.partition(ARROW)
        lines = [f"{path_of(self.module)}:{self.line} in {self.scope}", f"    - {before}", f"    + {after}"]
        return "\n".join(lines)


ARROW = " → "


class WithoutTexts(ast.NodeTransformer):
    """Shorten f-strings, whose form depends on the version of Python."""

    def visit_JoinedStr(self, node):
        return ast.Name('f"…"')


def text(node):
    """Return a node's code on one line. It is the same with each version of Python."""
    return " ".join(ast.unparse(WithoutTexts().visit(copy.deepcopy(node))).split())


def with_fields(node, **fields):
    """Return a copy of a node with other fields."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def without(items, index):
    return items[:index] + items[index + 1 :]


def is_prose(value):
    return re.search(r"\S\s+\S", value) is not None


def is_named(node, *names):
    """Return whether a node is a name, or the attribute of a module, that is one of these."""
    return getattr(node, "id", getattr(node, "attr", None)) in names


class Finder:
    """Find all mutants of a module."""

    def __init__(self, module, tree):
        self.module, self.scope, self.mutants, self.seen = module, [], [], Counter()
        self.functions = 0  # how many functions are around the current node
        self.visit(tree)

    def add(self, slot, new, before, after):
        owner, field, index = slot
        old = getattr(owner, field) if index is None else getattr(owner, field)[index]
        change, scope = f"{before}{ARROW}{after}", ".".join(self.scope) or "the module"
        self.seen[scope, change] += 1
        if (times := self.seen[scope, change]) > 1:
            change += f" (no. {times})"
        line = getattr(old, "lineno", getattr(owner, "lineno", 0))
        self.mutants.append(Mutant(self.module, scope, change, line, owner, field, index, new))

    def visit(self, node):
        """Visit the children of a node, except those that no mutant changes."""
        name = self.scope_of(node)
        is_function = isinstance(node, FUNCTIONS)
        self.functions += is_function
        if name is not None:
            self.scope.append(name)
        for field, value in ast.iter_fields(node):
            if self.is_left_out(node, field):
                continue
            for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(child, ast.AST) and not self.is_unchanged(node, field, index, child):
                    self.change(node, field, index, child)
                    self.visit(child)
        self.functions -= is_function
        if name is not None:
            self.scope.pop()

    def scope_of(self, node):
        """Return the name of a function or class, or of the variable of a module or class; None for any other node."""
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                return name
            case ast.Assign(targets=[target]) | ast.AnnAssign(target=target) if not self.functions:
                return text(target)
        return None

    def is_left_out(self, node, field):
        """Return whether a field of a node holds types, names or texts for people."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return field in ("returns", "type_params")
            case ast.ClassDef():
                return field in ("bases", "keywords", "type_params")
            case ast.AnnAssign() | ast.arg():
                return field in ("annotation", "target")
            case ast.If(test=test):
                return is_named(test, "TYPE_CHECKING") and field in ("test", "body")
            case ast.FormattedValue():
                return field == "format_spec"
        return False

    def is_unchanged(self, node, field, index, child):
        """Return whether no mutant changes a child of a node."""
        match child:
            case ast.Assign(targets=[ast.Name("__all__")]) | ast.Assert() | ast.Import() | ast.ImportFrom():
                return True
            case ast.AnnAssign(annotation=annotation) if is_named(annotation, "TypeAlias"):
                return True
            case ast.Expr(value=ast.Constant()):  # a docstring, or `...`
                return True
            case ast.Call(func=func) if is_named(func, "assert_never"):
                return True
            case ast.Expr(value=ast.Call(func=func)) if is_named(func, "assert_never"):
                return True
            case ast.Constant() if isinstance(node, ast.JoinedStr):
                return is_prose("".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values))
        return isinstance(node, ast.Call) and is_named(node.func, *TYPE_NAMES) and field == "args" and index == 0

    def change(self, node, field, index, child):
        """Add the mutants that replace one child of a node."""
        slot = node, field, index
        self.change_condition(slot, child)
        match child:
            case ast.expr():
                # A literal alone doesn't show what changes, so the expression around it does.
                shown = node if isinstance(child, ast.Constant) and isinstance(node, ast.expr | ast.keyword) else child
                for new in expressions(node, field, child):
                    self.add(slot, new, text(shown), text(new) if shown is child else self.text_with(slot, new))
                self.drop_members(slot, child)
                self.replace_default(slot, child)
            case ast.match_case():
                if len(node.cases) > 1 and not all(isinstance(one, ast.Pass) or is_check(one) for one in child.body):
                    change = with_fields(child, guard=ast.Constant(value=False))
                    self.add(slot, change, f"case {text(child.pattern)}", "no case")
            case ast.MatchOr(patterns=patterns):
                for place, one in enumerate(patterns):
                    new = with_fields(child, patterns=without(patterns, place))
                    self.add(
                        slot, new if len(new.patterns) > 1 else new.patterns[0], f"case {text(one)}", "no such case"
                    )
            case ast.ExceptHandler(type=kinds) if kinds is not None:
                self.add(slot, with_fields(child, type=ast.Tuple([], ast.Load())), f"except {text(kinds)}", "except ()")
            case ast.Return(value=value) if value is not None:
                if not (isinstance(value, ast.Constant) and value.value is None):
                    self.add(slot, with_fields(child, value=NONE), text(child), "return None")
            case ast.stmt():
                if isinstance(child, ast.AugAssign):
                    new = with_fields(child, op=ARITHMETIC[type(child.op)]())
                    self.add(slot, new, text(child), text(new))
                if self.can_delete(node, field, child):
                    self.add(slot, ast.Pass(), text(child), "pass")

    def text_with(self, slot, new):
        """Return the code of a node in which a child is replaced."""
        node, field, index = slot
        value = getattr(node, field)
        return text(with_fields(node, **{field: new if index is None else [*value[:index], new, *value[index + 1 :]]}))

    def can_delete(self, node, field, child):
        """Return whether to delete a statement. That of an `if` without others goes with the condition."""
        if isinstance(node, ast.If) and field == "body" and len(node.body) == 1 and not node.orelse:
            return False
        is_call = isinstance(child, ast.Expr) and isinstance(child.value, ast.Call | ast.Await)
        if isinstance(node, ast.Module | ast.ClassDef):
            return is_call
        is_bare = isinstance(child, ast.AnnAssign) and child.value is None
        is_exit = isinstance(child, ast.Return) and child.value is None
        return is_call or is_exit or (isinstance(child, DELETED) and not is_bare)

    def change_condition(self, slot, child):
        """Make a condition true and false."""
        node, field, _ = slot
        if isinstance(node, ast.If | ast.IfExp | ast.While) and field == "test":
            values = () if isinstance(child, ast.Constant) else (True, False)
        elif isinstance(node, ast.comprehension) and field == "ifs":
            values = True, False
        elif isinstance(node, ast.match_case) and field == "guard":
            values = (True,)
        else:
            return
        for value in values:
            self.add(slot, ast.Constant(value=value), f"if {text(child)}", f"if {value}")

    def drop_members(self, slot, child):
        """Drop each member of a literal, each entry of a dict, and what `attrs.field` is passed."""
        match child:
            case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                if not isinstance(getattr(child, "ctx", None), ast.Store) and slot[1] != "slice":
                    for place, item in enumerate(items):
                        new = with_fields(child, elts=without(items, place))
                        if isinstance(child, ast.Set) and not new.elts:
                            new = ast.Call(ast.Name("set", ast.Load()), [], [])
                        self.add(slot, new, text(item), f"not in the {type(child).__name__.lower()}")
            case ast.Dict(keys=keys, values=values):
                for place, (key, value) in enumerate(zip(keys, values, strict=True)):
                    new = with_fields(child, keys=without(keys, place), values=without(values, place))
                    entry = f"**{text(value)}" if key is None else f"{text(key)}: {text(value)}"
                    self.add(slot, new, entry, "not in the dict")
            case ast.Call(func=func, keywords=keywords) if is_named(func, "field"):
                for place, keyword in enumerate(keywords):
                    if not isinstance(keyword.value, ast.Constant):
                        new = with_fields(child, keywords=without(keywords, place))
                        self.add(slot, new, f"{keyword.arg}={text(keyword.value)}", "not passed")

    def replace_default(self, slot, child):
        """Replace the default of an argument, or of a field, that isn't a literal; literals change as all others do."""
        node, field, _ = slot
        is_field = isinstance(node, ast.AnnAssign) and len(self.scope) > 1 and not self.functions
        is_argument = isinstance(node, ast.arguments) and field in ("defaults", "kw_defaults")
        is_literal = isinstance(child, ast.Constant) or (isinstance(child, ast.Call) and is_named(child.func, "field"))
        if (is_field or is_argument) and not is_literal:
            self.add(slot, NONE, f"= {text(child)}", "= None")


def is_check(statement):
    return isinstance(statement, ast.Expr) and text(statement).startswith("assert_never(")


def expressions(node, field, child):
    """Yield what an expression could be instead."""
    match child:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield with_fields(child, ops=[*ops[:place], other(), *ops[place + 1 :]])
        case ast.BoolOp(op=op, values=values):
            yield with_fields(child, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for place in range(len(values)):
                rest = without(values, place)
                yield with_fields(child, values=rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield left
            yield right
        case ast.BinOp(op=op):
            yield with_fields(child, op=ARITHMETIC[type(op)]())
        case ast.Call(func=ast.Name(id=name)) if name in OPPOSITES:
            yield with_fields(child, func=ast.Name(OPPOSITES[name], ast.Load()))
        case ast.Constant(value=value):
            yield from literals(node, field, value)


def literals(node, field, value):
    """Yield what a literal could be instead."""
    is_compared = isinstance(node, ast.Compare)
    match value:
        case bool():
            yield ast.Constant(value=not value)
        case int():
            yield ast.Constant(value=value + 1)
        case float():
            yield ast.Constant(value=round(value * 1.1, 9) or 1.0)
        case str():
            is_key = is_compared or isinstance(node, ast.Subscript | ast.MatchValue)
            if is_key or (isinstance(node, ast.Dict) and field == "keys") or not is_prose(value):
                yield ast.Constant(value=value + "~")
        case bytes():
            yield ast.Constant(value=value + b"~")
        case None if not is_compared and not isinstance(node, ast.BinOp):
            yield ast.Constant(value=0)


def package_folder():
    """Return the folder of the package, without importing it."""
    return Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0])


def path_of(module):
    return Path(PACKAGE, *module.split(".")).with_suffix(".py")


class Loader(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Load one module from a changed syntax tree."""

    def __init__(self, module, tree):
        super().__init__(f"{PACKAGE}.{module}", str(package_folder().parent / path_of(module)))
        self.tree = tree

    def find_spec(self, fullname, path, target=None):
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def get_code(self, fullname):
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")


class Child:
    """A process that runs the tests with one mutant, or with the unchanged module to measure how long they take."""

    def __init__(self, module, tree, mutant, limit):
        self.mutant, self.ends, self.started = mutant, time.monotonic() + limit, time.monotonic()
        self.output = tempfile.TemporaryFile("w+") if mutant is None else None  # noqa: SIM115 - two methods use it
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os._exit(self.run(module, tree))
            finally:
                os._exit(99)  # nothing of the parent's runs here

    def run(self, module, tree):
        """Return pytest's exit code: 0 if no test failed."""
        with Path(os.devnull).open("w") as nowhere:
            output = nowhere if self.mutant else self.output
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        if self.mutant:
            self.mutant.apply()
        sys.meta_path.insert(0, Loader(module, tree))
        code = 0
        for files in stages(module):
            code = code or pytest.main([*OPTIONS, *files], plugins=[FewExamples()])
        if not self.mutant and not code:
            print("\n" + " ".join(sys.modules), flush=True)
        return code

    def result(self):
        """Return "survived", "killed" or "stopped"; None if the tests still run."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            return "killed" if os.waitstatus_to_exitcode(status) else "survived"
        if time.monotonic() < self.ends:
            return None
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return "stopped"


class FewExamples:
    """A plugin that restores the profile of Hypothesis that conftest.py replaced."""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self):
        hypothesis.settings.load_profile("mutants")


def stages(module):
    """Return the test files of a module, and all others that run code of the package."""
    first = [UNIT / f"test_{name}.py" for name in MODULES[module]]
    first = [file for file in first if file.exists()]
    rest = [file for file in sorted(UNIT.glob("test_*.py")) if file not in first and file.stem not in UNRELATED]
    return [[str(file) for file in files] for files in (first, rest)]


def run_all(children, jobs):
    """Yield each child and its result; run `jobs` of them at a time. `children` starts one with each step."""
    running = []
    try:
        for start in children:
            while len(running) >= jobs:
                yield from ended(running)
            running.append(start())
        while running:
            yield from ended(running)
    finally:
        for child in running:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)


def ended(running):
    """Yield the children that have ended, after a short pause."""
    time.sleep(0.005)
    for child in list(running):
        if result := child.result():
            running.remove(child)
            yield child, result


def measure(module, tree):
    """Return how long the tests take without a mutant, and import the packages that they import; exit if one fails."""
    child = Child(module, tree, None, 3600)
    while not (result := child.result()):
        time.sleep(0.01)
    child.output.seek(0)
    printed = child.output.read()
    if result != "survived":
        sys.exit(f"tests/unit fails without a mutant:\n{printed}")
    took = time.monotonic() - child.started
    for name in printed.splitlines()[-1].split():
        if not name.startswith((PACKAGE, "tests", "test_", "support", "__")) and name not in sys.modules:
            # This only saves time, so any error may pass: the tests import the module themselves.
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                importlib.import_module(name)
    return took


def accepted():
    """Return the listed survivors: for each module, function and change, the reason."""
    listed = tomllib.loads(ACCEPTED.read_text("utf-8")) if ACCEPTED.exists() else {}
    return {
        (module, f"{scope}: {change}"): reason
        for module, scopes in listed.items()
        for scope, changes in scopes.items()
        for change, reason in changes.items()
    }


def mutants_of(module):
    """Return the syntax tree of a module, and its mutants."""
    tree = ast.parse((package_folder().parent / path_of(module)).read_text("utf-8"))
    return tree, Finder(module, tree).mutants


def stale_entries(modules=MODULES):
    """Return the entries of the list that match no mutant."""
    keys = {(mutant.module, mutant.key) for module in modules for mutant in mutants_of(module)[1]}
    return [entry for entry in accepted() if (entry[0] in modules or entry[0] not in MODULES) and entry not in keys]


def named(names):
    """Return the modules that the command line names: `wire` stands for all modules in it."""
    for name in names:
        if not any(is_in(module, name) for module in MODULES):
            sys.exit(f"{name} isn't one of {', '.join(MODULES)}")
    return [module for module in MODULES if not names or any(is_in(module, name) for name in names)]


def is_in(module, name):
    return name == module or module.startswith(f"{name}.") or module.endswith(f".{name}")


def prepare():
    """Prepare this process for its children."""
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path[:] = [str(ROOT), *(part for part in sys.path if part != str(Path(__file__).parent))]
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")
    sys.dont_write_bytecode = False  # the tests are compiled once for all children


def main(arguments=None):
    """Return 0 if each mutant is killed or listed, and each entry of the list matches a survivor."""
    parser = argparse.ArgumentParser(
        description="Change modules in one place at a time, and report what tests/unit misses"
    )
    parser.add_argument("modules", nargs="*", help="such as policy or token_header; all by default")
    parser.add_argument("--sample", type=int, help="run as many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--match", default="", help="run only mutants with this text in their function or change")
    parser.add_argument("--ignore-list", action="store_true", help=f"report the survivors in {ACCEPTED.name}, too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    options = parser.parse_args(arguments)
    modules = named(options.modules)
    prepare()
    listed, trees, chosen = {} if options.ignore_list else accepted(), {}, []
    for module in modules:
        trees[module], mutants = mutants_of(module)
        chosen += [mutant for mutant in mutants if options.match in mutant.key]
    if options.sample is not None:
        chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
    with tempfile.TemporaryDirectory() as cache:
        sys.pycache_prefix = cache
        results = run(chosen, trees, options.jobs)
    return report(modules, results, listed)


def run(chosen, trees, jobs):
    """Return the result of each mutant."""
    if not chosen:
        return {}
    first = chosen[0].module
    limit = max(SHORTEST_LIMIT, LIMIT_FACTOR * measure(first, trees[first]))
    starts = (partial(Child, one.module, trees[one.module], one, limit) for one in chosen)
    return {(child.mutant.module, child.mutant.key): (child.mutant, result) for child, result in run_all(starts, jobs)}


def report(modules, results, listed):
    """Print the scores and what is wrong; return 1 if anything is."""
    problems = []
    for module in modules:
        ended = {key: result for key, (_, result) in results.items() if key[0] == module}
        survivors = [key for key, result in ended.items() if result == "survived"]
        if ended:
            killed, known = len(ended) - len(survivors), sum(key in listed for key in survivors)
            print(
                f"{module:26}{len(ended):5} mutants {killed:5} killed {100 * killed / len(ended):6.1f} %"
                f" {known:4} listed {len(survivors) - known:4} not listed"
            )
        problems += [f"{results[key][0]}" for key in survivors if key not in listed]
        problems += [
            f"{ACCEPTED.name} lists a mutant that the tests kill: {key[0]}: {key[1]}"
            for key, result in ended.items()
            if result == "killed" and key in listed
        ]
    problems += [
        f"{ACCEPTED.name} lists what isn't a mutant: {module}: {key}" for module, key in stale_entries(modules)
    ]
    if problems:
        print("", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
