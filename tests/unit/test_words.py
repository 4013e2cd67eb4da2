"""The English of the package: docstrings open with what a caller gets, and words that need decoding don't occur."""

import ast
import re
import tokenize

import pytest

from support.documented import assert_listed
from support.paths import PACKAGE, ROOT, tree_of
from support.plain_words import GUIDE, WORDS, odd_words

# How no docstring of a function begins.
OPENINGS = {
    "Tell",
    "Say",
    "Take",
    "Learn",
    "Be",
    "Let",
    "Find",
    "Refuse",
    "Judge",
    "Give",
    "Have",
    "Hear",
    "Who",
    "Whoever",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return str(path.relative_to(PACKAGE.parent))


def texts(path):
    """Yield each comment and each string of a module, with its line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)):
                yield token.start[0], token.string


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_docstrings_open_with_what_a_caller_gets(path):
    """They begin with "Return", "Raise", "Yield", "Close" or another plain verb."""
    wrong = [
        f"{name_of(path)}:{node.lineno}: {text.splitlines()[0]}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node))
        if re.split(r"\W", text, maxsplit=1)[0] in OPENINGS
    ]
    assert not wrong, f"begin with what the caller gets (see {GUIDE}):\n" + "\n".join(wrong)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_words_are_plain(path):
    """Docstrings, comments and messages use none of the words on the list."""
    wrong = [
        f"{name_of(path)}:{line}: write {WORDS[word]!r} in place of {word!r}"
        for line, text in texts(path)
        for word in odd_words(text)
    ]
    assert not wrong, f"use plain words (see {GUIDE}):\n" + "\n".join(wrong)


def test_odd_words_are_found():
    """In any case of letters, and across the whole list."""
    assert [odd_words(f"Here {word.upper()} stands.") for word in WORDS] == [[word] for word in WORDS]
    assert odd_words("There is no token, and it is no longer valid.") == []


def test_the_list_is_in_the_guide():
    """Contributors find it where they look."""
    guide = (ROOT / GUIDE).read_text().partition("### Words")[2].partition("\n## ")[0]
    openings = re.search(r"never with (.*?)\.", guide, re.DOTALL)[1]
    assert_listed(f"{GUIDE}, under Words", re.findall(r"\*(\w+)\*", openings), OPENINGS)
    rows = re.findall(r"^\| (?!word|---)(.*?) \| (.*?) \|$", guide, re.MULTILINE)
    assert_listed(f"{GUIDE}, under Words", [word for words, _ in rows for word in words.split(", ")], WORDS)
