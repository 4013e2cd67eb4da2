"""The programs that a page shows: each block of Python that begins with the name of a file, such as `# app.py`."""

import re

from support.paths import ROOT

PROGRAM = re.compile(r"^```python\n(# (\w+\.py)\n.*?)^```$", re.MULTILINE | re.DOTALL)


def programs_of(page):
    """Return the text of each program of a page, by the name of its file."""
    found = PROGRAM.findall((ROOT / page).read_text(encoding="utf-8"))
    programs = {name: text for text, name in found}
    assert len(programs) == len(found), f"{page} shows two programs with the same name"
    return programs


def save_programs(page, folder):
    """Write each program of a page into a folder, as a reader does."""
    for name, text in programs_of(page).items():
        (folder / name).write_text(text, encoding="utf-8")
