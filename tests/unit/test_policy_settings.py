"""The reference lists each setting of the policy with its default and its bounds, and the code has the same ones."""

import inspect
import re

import attrs
import pytest

from signalwire_tokens import ConfigurationError, RefreshPolicy, RefreshTuning
from support.documented import assert_documented, assert_listed
from support.reference import code, items, section

SETTINGS = "docs/reference/settings.md"


def field_docs(kind):
    """Read what the docstring of a class says about each field, in its list."""
    return dict(re.findall(r"^- `(\w+)`: (.*)$", inspect.getdoc(kind), re.MULTILINE))


@pytest.mark.parametrize("kind", [RefreshPolicy, RefreshTuning])
def test_every_field_of_the_policy_is_documented(kind):
    """The page lists each with its default, and in the words of the docstring, which `help()` shows."""
    rows = items(section("settings", kind.__name__))
    told = [(code(name)[0], (code(default)[0].removesuffix("()"), meaning)) for name, default, meaning in rows]
    docs, defaults = field_docs(kind), kind()
    assert_listed(f"the docstring of {kind.__name__}", docs, attrs.fields_dict(kind))
    there = {name: (repr(getattr(defaults, name)).split("(")[0], docs[name]) for name in attrs.fields_dict(kind)}
    assert_documented(f"{SETTINGS}, under {kind.__name__}", told, there, in_order=True)


BOUNDED = [(kind, row) for kind in (RefreshPolicy, RefreshTuning) for row in items(section("settings", kind.__name__))]
BOUNDS = "Each number is more than 0, and each share less than 1. A `…_min` is at most its `…_max`."


@pytest.mark.parametrize("text", [section("settings", "RefreshPolicy"), inspect.getdoc(RefreshPolicy)])
def test_the_bounds_of_the_policy_are_documented(text):
    """The next test holds them."""
    assert BOUNDS in " ".join(text.split())


@pytest.mark.parametrize(("kind", "row"), BOUNDED, ids=lambda value: value[0].strip("`") if type(value) is list else "")
def test_the_bounds_of_the_policy_are_as_documented(kind, row):
    """A number out of bounds is refused, and one within them is accepted."""
    (name,), meaning = code(row[0]), row[2]
    higher = [name.replace("_min", "_max")] if name.endswith("_min") else re.findall(r"; at most `(\w+)`", meaning)
    for wrong in (0, -1, float("inf"), float("nan"), True, "1"):
        with pytest.raises(ConfigurationError, match=f"^(tuning\\.)?{name} must be"):
            kind(**{name: wrong})
    if "share" in name or "as a share" in meaning:
        with pytest.raises(ConfigurationError, match=f"^(tuning\\.)?{name} must be a share"):
            kind(**{name: 1.0})
    elif name != "tuning":
        kind(**{name: getattr(kind(), name) * (1.2 if higher else 10**9)})
    for other in higher:
        with pytest.raises(ConfigurationError, match=f"^(tuning\\.)?{name} must not be more than (tuning\\.)?{other}"):
            kind(**{name: getattr(kind(), other) * 1.01})


def test_the_largest_min_ttl_share_is_as_documented():
    """A token that isn't due must have `min_ttl` left."""
    assert field_docs(RefreshTuning)["min_ttl_share"].endswith("; 1 - `refresh_to` at most.")
    RefreshPolicy(refresh_to=0.8, tuning=RefreshTuning(min_ttl_share=0.2))
    with pytest.raises(ConfigurationError, match="min_ttl_share must not be more than 1 - refresh_to"):
        RefreshPolicy(refresh_to=0.8, tuning=RefreshTuning(min_ttl_share=0.21))
