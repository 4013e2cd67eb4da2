"""The shape of the package: how deep classes inherit, and how large objects and modules are. It may only shrink.

`pytest -s tests/unit/test_shape.py` prints the figures.
"""

import ast
import importlib
import inspect
import io
import pkgutil
import tokenize
from functools import cache
from pathlib import Path

import attrs
import pytest

import signalwire_tokens
from support.paths import PACKAGE, tree_of

CORE = (
    "lifecycle.py",
    "outcomes.py",
    "policy.py",
    "session.py",
    "backend.py",
    "device/sessions.py",
    *(f"{folder}/{path.name}" for folder in ("keeper", "fleet") for path in sorted((PACKAGE / folder).glob("*.py"))),
)
# Attributes that hold a setting and never change don't count, nor do values.
SETTINGS = {
    "policy",
    "presents",
    "reissues",
    "usual_lifetime",
    "label",
    "_policy",
    "_lifetime",
    "_concurrency",
    "_interval",
}
MOST = {
    "levels of inheritance": 2,
    "private methods overridden in another file": 0,
    "attributes of an object": 20,
    "lines of code of a module of the core": 291,
    "lines of code of the core": 3778,
}


@cache
def classes():
    """Return the classes of the package, except errors, with the syntax tree of each."""
    found = {}
    for module in pkgutil.walk_packages(signalwire_tokens.__path__, "signalwire_tokens."):
        if module.name.endswith("__main__"):
            continue
        loaded = importlib.import_module(module.name)
        tree = tree_of(Path(loaded.__file__))
        nodes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        for name, kind in vars(loaded).items():
            is_own = inspect.isclass(kind) and kind.__module__ == module.name and name in nodes
            if is_own and not issubclass(kind, BaseException):
                found[kind] = nodes[name]
    return found


def lineage(kind):
    """Return a class and its ancestors in the package, those of protocols aside."""
    return [one for one in kind.__mro__ if one in classes() and not getattr(one, "_is_protocol", False)]


def methods_of(kind):
    return {node.name for node in classes()[kind].body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def attributes_of(kind):
    """Return the names that the methods of a class assign to on `self`, and its slots and annotated fields."""
    tree = classes()[kind]
    names = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    names |= set(getattr(kind, "__slots__", ())) - {"__weakref__"}
    for node in ast.walk(tree):
        is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        if is_own and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def is_value(kind):
    """Return whether nothing changes the objects of a class."""
    return attrs.has(kind) and kind.__setattr__ is not object.__setattr__


def overridden(kind):
    """Return the private methods that a class takes from an ancestor in another file, and defines again."""
    private = {name for name in methods_of(kind) if name.startswith("_") and not name.endswith("__")}
    others = [one for one in lineage(kind)[1:] if one.__module__ != kind.__module__]
    return {f"{kind.__name__}.{name}" for name in private if any(name in methods_of(one) for one in others)}


def lines_of(name):
    """Return how many lines of code a module has: explanations may grow, so docstrings and comments don't count."""
    source = (PACKAGE / name).read_text()
    strings = {
        line
        for node in ast.walk(tree_of(PACKAGE / name))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in layout)
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - strings)


@cache
def figures():
    """Return each figure, with what it is of."""
    depth = {kind.__name__: len(lineage(kind)) for kind in classes()}
    sizes = {
        kind.__name__: len(set().union(*map(attributes_of, lineage(kind))) - SETTINGS)
        for kind in classes()
        if not is_value(kind)
    }
    lines = {name: lines_of(name) for name in CORE}
    again = sorted(set().union(*map(overridden, classes())))
    return {
        "levels of inheritance": (max(depth.values()), max(depth, key=depth.get)),
        "private methods overridden in another file": (len(again), ", ".join(again)),
        "attributes of an object": (max(sizes.values()), max(sizes, key=sizes.get)),
        "lines of code of a module of the core": (max(lines.values()), max(lines, key=lines.get)),
        "lines of code of the core": (sum(lines.values()), f"{len(lines)} modules"),
    }


@pytest.mark.parametrize("name", MOST)
def test_the_shape_does_not_grow(name):
    """A figure that has become smaller is the new limit."""
    value, of = figures()[name]
    print(f"{name}: {value} ({of})")  # noqa: T201 - `pytest -s` shows it
    assert value == MOST[name], of
