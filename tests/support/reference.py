"""Read the pages of docs/reference."""

import re

from support.paths import ROOT

FOLDER = ROOT / "docs/reference"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md"))}


def section(page, title):
    """Return the text under a heading, up to the next heading of its rank."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert found, f"add the heading `{title}` to docs/reference/{page}.md"
    return found[2]


def table(text, *, after=None):
    """Return the cells of the first table of a text, or of the first one below a mark in it, without its head."""
    if after is not None:
        assert after in text, f"{after} is not introduced"
        text = text.partition(after)[2]
    lines = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert lines, "there is no table"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def items(text):
    """Return the name, the default and the meaning of each setting in a list."""
    found = re.findall(r"^- (`\w+`) \((.+?)\): (.*(?:\n  .*)*)", text, re.MULTILINE)
    assert found, "there is no list"
    return [[name, default, " ".join(meaning.split())] for name, default, meaning in found]


def code(cell):
    """Return what a cell has in code type."""
    return re.findall(r"`([^`]+)`", cell)
