"""How outcomes are printed."""

from .probes import PROBES

HEAD = ("client", *PROBES)
MARKS = {True: "pass", False: "FAIL", None: "not scored"}


def row(title, outcomes):
    return (title, *(f"{MARKS[outcome.passed]}: {outcome.text}" for outcome in outcomes))


def not_installed(title):
    return (title, *("not installed" for _ in PROBES))


def as_markdown(rows):
    """Make a table of rows."""
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
