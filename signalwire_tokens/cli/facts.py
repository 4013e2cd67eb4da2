"""What SignalWire publishes about its service, and what a space does: one fact for each question."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs

from signalwire_tokens.wire.codes import SUBJECTS

__all__ = ["PUBLISHED", "QUESTIONS", "Fact", "answered", "observed", "rounded", "unobserved"]

NOT_PUBLISHED = None
STEP = 5  # seconds to which lifetimes are rounded: dates and expiry times have whole seconds, and both may be off
REQUIRED_LINKS, ALL_LINKS = {"first", "self"}, {"first", "self", "next", "prev"}


@attrs.frozen
class Question:
    """What SignalWire publishes, None if nothing, and how that is compared with what was observed."""

    published: Any = NOT_PUBLISHED
    agrees: Callable[[Any, Any], bool] = lambda published, seen: bool(published == seen)


@attrs.frozen(kw_only=True)
class Fact:
    """The answer to a question. `agrees` is None if either side is unknown; `reason` is why nothing was observed.

    All values can be written as JSON.
    """

    name: str
    published: Any
    observed: Any
    agrees: bool | None
    reason: str | None = None

    @property
    def difference(self) -> tuple[str, str] | None:
        """What SignalWire publishes, and what was observed in its place, as texts; None if they don't differ."""
        if self.agrees is not False:
            return None
        here = self.observed
        if isinstance(self.published, dict):
            members = cast("Mapping[str, object]", here)
            here = {name: members.get(name) for name in cast("Mapping[str, object]", self.published)}
        return json.dumps(self.published), json.dumps(here)


def observed(name: str, value: object) -> Fact:
    """Return a fact: what was observed, compared with what is published."""
    question = QUESTIONS[name]
    agrees = None if question.published is NOT_PUBLISHED else question.agrees(question.published, value)
    return Fact(name=name, published=question.published, observed=value, agrees=agrees)


def unobserved(name: str, reason: str) -> Fact:
    """Return a fact that couldn't be observed, with the reason."""
    return Fact(name=name, published=QUESTIONS[name].published, observed=None, agrees=None, reason=reason)


def answered(
    status: int, codes: Sequence[str] = (), attributes: Sequence[str] = (), texts: Sequence[str] = ()
) -> dict[str, object]:
    """Return how an answer looks: its status, whether its body lists errors, and each of them."""
    if status // 100 == 2:  # noqa: PLR2004 - any 2xx is a success
        return {"status": status, "body": "success"}
    body = "errors" if codes else "other"
    found = {"status": status, "body": body, "codes": [*codes], "attributes": [*attributes], "texts": [*texts]}
    return {**found, "items": len(codes)} if codes else found


def rounded(seconds: float) -> int:
    """Return a lifetime as it is reported."""
    return STEP * round(seconds / STEP)


def includes(published: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """Return whether an answer has everything that is published about it."""
    return all(
        set(value) <= set(seen.get(name, ())) if isinstance(value, list) else seen.get(name) == value
        for name, value in published.items()
    )


def problem(code: str, **more: object) -> Question:
    """Return the question whether a request is refused with this code; its status isn't published."""
    return Question({"body": "errors", "codes": [code], **more}, includes)


def example(code: str, **more: object) -> Question:
    """Return the question whether a request is refused with this code and the status of a published example."""
    return problem(code, status=422, **more)


def one_line(status: int) -> Question:
    """Return the question whether a request is refused with this status and a body that lists no errors."""
    return Question({"status": status, "body": "other"}, includes)


def has_links(_: object, seen: Sequence[str]) -> bool:
    """Return whether a page has all links that are required, and none that isn't published."""
    return set(seen) >= REQUIRED_LINKS and ALL_LINKS.issuperset(seen)


QUESTIONS: Mapping[str, Question] = {
    # A refresh "consumes the refresh_token".
    "reuse_at_once": Question("refused"),
    "reuse_later": Question("refused"),
    "reuse_refusal": Question(),
    "reuse_successor": Question(),
    "refresh_revokes_access": Question(),
    "issue_revokes_access": Question(),
    "issue_revokes_refresh": Question(),
    # In seconds.
    "lifetime_fresh": Question(7200),
    "lifetime_refreshed": Question(7200),
    "lifetime_expire_at": Question(600),
    "lifetime_expire_at_refreshed": Question(7200),
    "lifetime_unbound": Question(60),
    "lifetime_guest": Question(7200),
    "lifetime_invite": Question(7200),
    "lifetime_embed": Question(),
    "lifetime_refresh_token": Question(7500),
    "status_create_subscriber_token": Question(200),
    "status_refresh_subscriber_token": Question(201),
    "status_create_guest_token": Question(201),
    "status_create_invite_token": Question(201),
    "status_subscriber_info": Question(),
    "status_subscriber_addresses": Question(200),
    "page_links": Question([*sorted(REQUIRED_LINKS)], has_links),
    "page_form": Question(),
    "guest_ch": Question("us-central"),
    "guest_without_addresses": Question("accepted"),
    "guest_repeated_address": Question("accepted"),
    "guest_foreign_addresses": example("must_belong_to_project", items=1),
    "guest_too_many_addresses": problem("allowed_address_limit_exceeded"),
    "invite_unknown_address": example("invalid_parameter", texts=["Address is invalid"]),
    "embed_made_up_token": one_line(403),
    "refresh_malformed_token": problem("invalid_token_format"),
    "refresh_foreign_token": problem("token_invalid"),
    "refresh_access_token": problem("not_a_refresh_token"),
    "refresh_expired_token": example("token_expired"),
    "missing_parameter": example("missing_required_parameter"),
    "invalid_parameters": example("invalid_parameter"),
    "unknown_member": Question(),
    "malformed_json": Question({"status": 400}, includes),
    "json_nan": Question(),
    "json_repeated_member": Question(),
    "wrong_api_token": one_line(401),
    "wrong_access_token": one_line(401),
    "unknown_subscriber": one_line(404),
    "rate_limit_headers": Question(),
    "retry_after": Question(),
}


def texts_in(value: object) -> Iterator[str]:
    """Yield each text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts_in([*cast("Mapping[str, object]", value).values()])
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from texts_in(one)


# Whatever may stand in a report though it is a private word, too.
PUBLISHED = frozenset({*texts_in([one.published for one in QUESTIONS.values()]), *ALL_LINKS, *SUBJECTS})
