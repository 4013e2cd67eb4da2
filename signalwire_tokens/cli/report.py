"""The report of an examination: facts without secrets, in a file that only its owner can read."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from signalwire_tokens._version import __version__

from .drafts import draft_beside
from .facts import QUESTIONS, Fact, unobserved

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FORMAT", "NOT_REACHED", "Report", "ReportFile"]

FORMAT = 1
STANDARD_OUTPUT = "-"
NOT_REACHED = "the examination stopped before"


@attrs.define
class Report:
    """What an examination has found so far, and why it stopped; None if it is complete."""

    stopped: str | None = "a check before it failed"
    _facts: dict[str, Fact] = attrs.field(factory=dict[str, Fact], init=False)

    def add(self, fact: Fact) -> None:
        """Add what was found."""
        self._facts[fact.name] = fact

    @property
    def facts(self) -> Sequence[Fact]:
        """A fact for each question, in their order."""
        return [self._facts.get(name) or unobserved(name, NOT_REACHED) for name in QUESTIONS]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was observed."""
        return all(fact.reason is not None for fact in self.facts)

    @property
    def summary(self) -> str:
        """How many facts there are of each sort."""
        facts = self.facts
        agree = sum(fact.agrees is True for fact in facts)
        differ = sum(fact.agrees is False for fact in facts)
        new = sum(fact.agrees is None and fact.reason is None for fact in facts)
        rest = len(facts) - agree - differ - new
        return f"facts: {agree} as published, {differ} different, {new} not published, {rest} not observed"

    def to_json(self, now: float) -> dict[str, Any]:
        """Return the report as it is written in JSON."""
        return {
            "format": FORMAT,
            "made_by": f"signalwire-tokens {__version__}",
            "made_on": f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}",
            "complete": self.stopped is None,
            "stopped": self.stopped,
            "facts": [attrs.asdict(fact) for fact in self.facts],
        }


class ReportFile:
    """Where a report is written: a file that is replaced as a whole, or standard output.

    The constructor raises an error if nothing can be written there.
    """

    def __init__(self, name: str) -> None:
        self.is_output: bool = name == STANDARD_OUTPUT
        self._path = Path(name)
        if not self.is_output:
            self._check()

    def __str__(self) -> str:
        return "standard output" if self.is_output else str(self._path)

    def write(self, report: Report, now: float) -> None:
        """Write the report, completely or not at all."""
        text = json.dumps(report.to_json(now), indent=2) + "\n"
        if self.is_output:
            click.echo(text, nl=False)
            return
        try:
            with draft_beside(self._path, text.encode()) as draft:
                draft.replace(self._path)
        except OSError as error:
            raise self._failure(error) from None

    def _check(self) -> None:
        try:
            if self._path.is_symlink() or (self._path.exists() and not self._path.is_file()):
                raise FileExistsError(errno.EEXIST, "it isn't a regular file")
            with draft_beside(self._path, b""):
                pass
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> click.ClickException:
        return click.ClickException(f"{self._path} cannot be written: {error.strerror}")
