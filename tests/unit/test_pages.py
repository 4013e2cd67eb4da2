"""README and docs: short, each table once, and every link leads somewhere."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from support.pages import anchor
from support.paths import ROOT
from support.plain_words import GUIDE, WORDS, odd_words

README, CHANGELOG, DOCS = ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "docs"
PAGES = [README, CHANGELOG, *sorted(DOCS.rglob("*.md"))]
INDEX = DOCS / "index.md"
MOST_WORDS = {"README.md": 700, "docs": 30_000}
MOST_LINKS = 12  # in the README
FENCED = re.compile(r"^(?P<fence>`{3,}|:{3,}).*?^(?P=fence)`*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"")
LEAST_SHARED = 3  # rows that make two tables one


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def prose(page):
    """Return a page without its blocks of code and directives."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def words(page):
    """Count the words of a page, tables included and code left out."""
    return len(prose(page).split())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_words_are_plain(page):
    """Pages use none of the words on the list, in prose or in code; names in code type are names."""
    text = page.read_text(encoding="utf-8")
    if name_of(page) == GUIDE:
        text = re.sub(r"^### Words$.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)  # which has the list
    wrong = [
        f"{name_of(page)}:{number}: write {WORDS[word]!r} in place of {word!r}"
        for number, line in enumerate(text.splitlines(), 1)
        for word in odd_words(re.sub(r"`[^`]+`|(?:USER|user:) nobody", "", line))
    ]
    assert not wrong, f"use plain words (see {GUIDE}):\n" + "\n".join(wrong)


def test_the_readme_is_short():
    """It has at most 700 words, code included, and twelve links."""
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= MOST_WORDS["README.md"]
    assert len(LINK.findall(text)) <= MOST_LINKS


def test_the_documentation_is_short():
    """All pages together have at most 30,000 words, code left out."""
    counted = {name_of(page): words(page) for page in PAGES if DOCS in page.parents}
    longest = sorted(counted, key=counted.get, reverse=True)[:5]
    assert sum(counted.values()) <= MOST_WORDS["docs"], "shorten " + ", ".join(
        f"{page} ({counted[page]})" for page in longest
    )


def tables(page):
    """Return the first cells of each table's rows, without its head and without mere numbers."""
    found = re.findall(r"(?:^\|.*\|\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    cells = ([line.strip("|").split("|")[0].strip() for line in table.splitlines()[2:]] for table in found)
    return [{cell for cell in column if cell and not cell.isdigit()} for column in cells]


def test_no_table_stands_in_two_places():
    """Tables of two pages share fewer than three rows, or less than half of the smaller one's."""
    there = [(name_of(page), table) for page in PAGES for table in tables(page)]
    wrong = [
        f"{one} and {other}: {', '.join(sorted(first & second))}"
        for (one, first), (other, second) in combinations(there, 2)
        if one != other and len(first & second) >= max(LEAST_SHARED, min(len(first), len(second)) / 2)
    ]
    assert not wrong, "leave these rows to one of two pages:\n" + "\n".join(wrong)


def anchors(page):
    """Return the anchors of a page's headings, as hosts and the site make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", title) for title in titles)
    return {anchor(title) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_resolve(page):
    """The file is there, and so is the heading that an anchor names."""
    text = prose(page)
    targets = [*LINK.findall(text), *("".join(found) for found in PICTURE.findall(text))]
    wrong = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = Path(page.parent, path).resolve() if path else page
        if not file.is_file():
            wrong.append(f"{target}: no such file")
        elif heading and file.suffix == ".md" and heading not in anchors(file):
            wrong.append(f"{target}: no such heading")
    assert not wrong, f"correct the links of {name_of(page)}:\n" + "\n".join(wrong)


def test_the_index_links_to_every_page():
    """It does so in its text too, for readers who don't build the site."""
    text = INDEX.read_text(encoding="utf-8")
    trees = [name for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL) for name in tree.splitlines()]
    listed = [f"{name}.md" for name in trees if name and not name.startswith(":")]
    linked = LINK.findall(text[text.index("\n## ") :])
    assert listed == linked, "write the same pages in the same order in the list and the toctree of docs/index.md"
    there = {page.relative_to(DOCS).as_posix() for page in PAGES if DOCS in page.parents and page != INDEX}
    assert set(listed) == there
