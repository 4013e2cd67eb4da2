"""The report of `doctor --report`: questions about a space, what SignalWire publishes, and what was observed.

A report is safe to publish, whatever SignalWire's answers repeat. It has numbers, words of this module, published words
and texts, and words such as codes that are too simple to hold a secret and have no part of a private text in them.
"""

from __future__ import annotations

import errno
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import click

from signalwire_tokens._version import __version__
from signalwire_tokens.emulator.validation import MESSAGES
from signalwire_tokens.wire.answers import VOCABULARY

from .token_file import draft_beside

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from signalwire_tokens.errors import Problem

__all__ = ["CHANNEL", "FORMAT", "NOT_REACHED", "QUESTIONS", "STEP", "Report", "private_words", "public_word"]

FORMAT = 1
STEP = 5  # seconds to which lifetimes are rounded: dates and expiry times have whole seconds, and both may be off
MOST = 20  # items of an answer that are reported
NOT_REACHED = "the examination stopped before"
NOT_PUBLISHED = "(not published)"
CHANNEL = "us-central"
INVALID_ADDRESS = "Address is invalid"
REQUIRED_LINKS, ALL_LINKS = {"first", "self"}, {"first", "self", "next", "prev"}
PUBLISHED_WORDS = {"", *VOCABULARY, *ALL_LINKS, CHANNEL}
PUBLISHED_TEXTS = {*MESSAGES.values(), INVALID_ADDRESS}
SIMPLE_WORD = re.compile(r"(?=.{1,40}$)[a-z]+(?:_[a-z]+)*", re.ASCII)


def problem(code: str, **more: object) -> dict[str, object]:
    """Return a refusal with a published code. The status is published only for examples."""
    return {"body": "errors", "codes": [code], **more}


# What SignalWire publishes as the answer to each question; None if it publishes nothing. Lifetimes are in seconds.
QUESTIONS: Mapping[str, Any] = {
    "reuse_at_once": "refused",  # a refresh "consumes the refresh_token"
    "reuse_later": "refused",
    "reuse_refusal": None,
    "reuse_successor": None,
    "refresh_revokes_access": None,
    "issue_revokes_access": None,
    "issue_revokes_refresh": None,
    "lifetime_fresh": 7200,
    "lifetime_refreshed": 7200,
    "lifetime_expire_at": 600,
    "lifetime_expire_at_refreshed": 7200,
    "lifetime_unbound": 60,
    "lifetime_guest": 7200,
    "lifetime_invite": 7200,
    "lifetime_embed": None,
    "lifetime_refresh_token": 7500,
    "status_create_subscriber_token": 200,
    "status_refresh_subscriber_token": 201,
    "status_create_guest_token": 201,
    "status_create_invite_token": 201,
    "status_subscriber_info": None,
    "status_subscriber_addresses": 200,
    "page_links": sorted(REQUIRED_LINKS),
    "page_form": None,
    "guest_ch": CHANNEL,
    "guest_without_addresses": "accepted",
    "guest_repeated_address": "accepted",
    "guest_foreign_addresses": problem("must_belong_to_project", status=422, items=1),
    "guest_too_many_addresses": problem("allowed_address_limit_exceeded"),
    "invite_unknown_address": problem("invalid_parameter", status=422, texts=[INVALID_ADDRESS]),
    "embed_made_up_token": {"status": 403, "body": "other"},
    "refresh_malformed_token": problem("invalid_token_format"),
    "refresh_foreign_token": problem("token_invalid"),
    "refresh_access_token": problem("not_a_refresh_token"),
    "refresh_expired_token": problem("token_expired", status=422),
    "missing_parameter": problem("missing_required_parameter", status=422),
    "invalid_parameters": problem("invalid_parameter", status=422),
    "unknown_member": None,
    "malformed_json": {"status": 400},
    "json_nan": None,
    "json_repeated_member": None,
    "wrong_api_token": {"status": 401, "body": "other"},
    "wrong_access_token": {"status": 401, "body": "other"},
    "unknown_subscriber": {"status": 404, "body": "other"},
    "rate_limit_headers": None,
    "retry_after": None,
}


@attrs.frozen(kw_only=True)
class Fact:
    """The answer to a question. `agrees` is None if either side is unknown; `reason` is why nothing was observed.

    All values can be written as JSON.
    """

    name: str
    published: Any
    observed: Any = None
    agrees: bool | None = None
    reason: str | None = None

    @property
    def difference(self) -> str | None:
        """A sentence with what SignalWire publishes and what was observed instead, or None if they don't differ."""
        if self.agrees is not False:
            return None
        seen = self.observed
        if isinstance(self.published, dict):
            seen = {name: seen.get(name) for name in self.published}
        return f"SignalWire publishes {json.dumps(self.published)}, this space {json.dumps(seen)}"


def agree(published: Any, seen: Any) -> bool:  # noqa: ANN401 - both are JSON
    """Return whether an observation is as published. It may have more members, codes or links than are published."""
    if isinstance(published, dict):
        return all(
            set(value) <= set(seen.get(name, ())) if isinstance(value, list) else seen.get(name) == value
            for name, value in published.items()
        )
    if isinstance(published, list):  # of links
        return set(published) <= set(seen) <= ALL_LINKS
    return bool(published == seen)


@attrs.define
class Report:
    """What an examination has observed so far. `stopped` is why it ended early, or None if it is complete."""

    stopped: str | None = "interrupted"
    _facts: dict[str, Fact] = attrs.field(factory=dict[str, Fact], init=False)

    def observe(self, name: str, value: Any, *, unless: str | None = None) -> None:  # noqa: ANN401 - any JSON
        """Add a fact: what was observed, unless there is a reason why nothing was. The first observation counts."""
        published = QUESTIONS[name]
        seen = value if unless is None else None
        agrees = None if unless or published is None else agree(published, value)
        fact = Fact(name=name, published=published, observed=seen, agrees=agrees, reason=unless)
        self._facts.setdefault(name, fact)

    @property
    def facts(self) -> Mapping[str, Fact]:
        """A fact for each question, in their order."""
        missing = {name: Fact(name=name, published=QUESTIONS[name], reason=NOT_REACHED) for name in QUESTIONS}
        return missing | self._facts

    @property
    def is_empty(self) -> bool:
        """Whether nothing was observed."""
        return all(fact.reason is not None for fact in self._facts.values())

    @property
    def summary(self) -> str:
        """How many facts there are of each sort."""
        seen = [fact.agrees for fact in self._facts.values() if fact.reason is None]
        agree, differ, new = (seen.count(value) for value in (True, False, None))
        rest = len(QUESTIONS) - len(seen)
        return f"facts: {agree} as published, {differ} different, {new} not published, {rest} not observed"

    def to_json(self, now: float) -> dict[str, Any]:
        """Return the report as it is written in JSON."""
        return {
            "format": FORMAT,
            "made_by": f"signalwire-tokens {__version__}",
            "made_on": f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}",
            "complete": self.stopped is None,
            "stopped": self.stopped,
            "facts": [attrs.asdict(fact) for fact in self.facts.values()],
        }


def private_words(*texts: str) -> set[str]:
    """Return the words of private texts, such as a subscriber's reference, without digits."""
    return {word for text in texts for word in re.findall(r"[^\W\d_]+", text.casefold())}


def public_word(word: str, private: Collection[str]) -> str:
    """Return a word of an answer if a report may have it.

    A private word that isn't ASCII may be written in other letters. So only published words may be in its report.
    """
    is_simple = SIMPLE_WORD.fullmatch(word) and not any(one in word or not one.isascii() for one in private)
    return word if word in PUBLISHED_WORDS or is_simple else NOT_PUBLISHED


def describe_refusal(status: int, problems: Sequence[Problem], private: Collection[str]) -> dict[str, object]:
    """Return how a refusal looks: its status, whether its body lists problems, and each of them."""
    shown = problems[:MOST]
    look: dict[str, object] = {
        "status": status,
        "body": "errors" if shown else "other",
        "codes": [public_word(one.code, private) for one in shown],
        "attributes": [public_word(one.attribute or "", private) for one in shown],
        "texts": [one.message if one.message in PUBLISHED_TEXTS else NOT_PUBLISHED for one in shown],
    }
    return {**look, "items": len(shown)} if shown else look


def replace_file(path: Path, text: str) -> None:
    """Write a file completely or not at all. An empty text changes nothing, and shows whether the file can be written.

    Raises `click.ClickException` if it can't.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise FileExistsError(errno.EEXIST, "it isn't a regular file")
        with draft_beside(path, text.encode()) as draft:
            if text:
                draft.replace(path)
    except OSError as error:
        raise click.ClickException(f"can't write {path}: {error.strerror}") from None
