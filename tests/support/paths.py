"""Where the checkout's files are, and those of the package, which may be installed from a wheel."""

import ast
from functools import cache
from pathlib import Path

import signalwire_tokens

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
PACKAGE = Path(signalwire_tokens.__file__).parent


@cache
def tree_of(path):
    """Return the syntax tree of a module of the package, which several tests look at. None of them may change it."""
    return ast.parse(path.read_text(encoding="utf-8"))
