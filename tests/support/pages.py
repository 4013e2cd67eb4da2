"""The programs of a page, as readers paste them, and the anchors of its headings."""

import re

from support.paths import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.py)\n")


def files_of(page):
    """Return the page's programs by file name: the Python blocks whose first line is a comment like `# app.py`."""
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    found = [(named[1], block) for block in blocks if (named := NAMED.match(block))]
    files = dict(found)
    assert len(files) == len(found), f"{page} shows two programs with the same name"
    return files


def anchor(title):
    """Return the anchor that hosts and the site give to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def paste(page, folder):
    """Write the page's programs into a folder."""
    for name, text in files_of(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
