"""Compare what a page or a file lists with what exists; a failure says what to change, and in which file."""

from collections import Counter
from collections.abc import Mapping

import pytest


def assert_documented(page, documented, existing, *, in_order=False):
    """Fail if a page doesn't document exactly what exists, each once.

    Both are names, or pairs of a name and what the page must say about it; a mapping is pairs, too.
    """
    __tracebackhide__ = True
    documented, existing = pairs(documented), pairs(existing)
    names, facts = Counter(name for name, _ in documented), dict(existing)
    changes = [f"document `{name}` in {page}{stated(fact)}" for name, fact in existing if name not in names]
    changes += [f"add `{name}` to the code, or remove it from {page}" for name in names if name not in facts]
    changes += [f"document `{name}` only once in {page}" for name, times in names.items() if times > 1]
    changes += [
        f"correct `{name}` in {page}: write {facts[name]!r}, not {fact!r}"
        for name, fact in documented
        if name in facts and facts[name] != fact
    ]
    if in_order and not changes and [*names] != [*facts]:
        changes = [f"sort {page} as in the code: {', '.join(facts)}"]
    if changes:
        pytest.fail("\n".join(sorted(changes)))


def assert_listed(file, listed, existing):
    """Fail if a file lacks one of the names that exist, or has another."""
    __tracebackhide__ = True
    listed, existing = set(listed), set(existing)
    changes = [f"add `{name}` to {file}" for name in existing - listed]
    changes += [f"remove `{name}` from {file}, or add it elsewhere in the code" for name in listed - existing]
    if changes:
        pytest.fail("\n".join(sorted(changes)))


def pairs(items):
    """Return pairs of a name and a fact, which is empty for a mere name."""
    items = items.items() if isinstance(items, Mapping) else items
    return [item if isinstance(item, tuple) else (item, "") for item in items]


def stated(fact):
    """Return how a message goes on to say what a page must say about a name."""
    return "" if fact == "" else f": {fact!r}"
