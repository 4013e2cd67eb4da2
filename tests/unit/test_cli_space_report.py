"""Facts compare what a space does with what SignalWire publishes. A report holds them, without private words."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import Lifetimes, Problem
from signalwire_tokens.cli.space_report import (
    FORMAT,
    NOT_PUBLISHED,
    NOT_REACHED,
    QUESTIONS,
    Report,
    describe_refusal,
    private_words,
    public_word,
)


def refusal(status, *problems):
    """Return how a refusal looks, whose problems are codes, attributes and texts."""
    return describe_refusal(status, [Problem(code=one, attribute=two, message=text) for one, two, text in problems], ())


def fact_of(name, value, **options):
    report = Report()
    report.observe(name, value, **options)
    return report.facts[name]


ADDRESS = ("invalid_parameter", "address_id", "Address is invalid")
FOREIGN = ("must_belong_to_project", "address_id", "The addresses must belong to the project")
SUCCESS = {"status": 201, "body": "success"}


@pytest.mark.parametrize(
    ("name", "value", "agrees"),
    [
        ("reuse_at_once", "refused", True),
        ("reuse_at_once", "accepted", False),
        ("reuse_successor", "revoked", None),
        ("lifetime_fresh", 7200, True),
        ("lifetime_fresh", 3600, False),
        ("invite_unknown_address", refusal(422, ADDRESS), True),
        ("invite_unknown_address", refusal(404, ADDRESS), False),
        ("invite_unknown_address", refusal(422, FOREIGN), False),
        ("invite_unknown_address", refusal(422, FOREIGN, ADDRESS), True),
        ("invite_unknown_address", refusal(422), False),
        ("invite_unknown_address", SUCCESS, False),
        ("wrong_api_token", refusal(401), True),
        ("wrong_api_token", refusal(401, ("invalid_auth_token_permissions", None, "")), False),
        ("malformed_json", refusal(400), True),
        ("page_links", ["first", "self"], True),
        ("page_links", ["first", "next", "self"], True),
        ("page_links", ["first"], False),
        ("page_links", ["first", "last", "self"], False),
    ],
)
def test_a_fact_agrees_with_what_is_published_or_does_not(name, value, agrees):
    """If nothing is published, it does neither."""
    assert fact_of(name, value).agrees is agrees


def test_what_was_not_observed_has_a_reason_and_no_verdict():
    """The published value is there nevertheless."""
    fact = fact_of("lifetime_guest", 3600, unless="not visible")
    assert (fact.published, fact.observed, fact.agrees, fact.reason) == (7200, None, None, "not visible")
    assert fact.difference is None


def test_the_first_observation_of_a_fact_counts():
    """Tokens that are issued later may be of another kind."""
    report = Report()
    report.observe("status_create_subscriber_token", 200)
    report.observe("status_create_subscriber_token", 201)
    assert report.facts["status_create_subscriber_token"].observed == 200


@pytest.mark.parametrize(
    ("name", "value", "difference"),
    [
        ("lifetime_fresh", 7200, None),
        ("lifetime_fresh", 3600, "SignalWire publishes 7200, this space 3600"),
        (
            "embed_made_up_token",
            refusal(404),
            'SignalWire publishes {"status": 403, "body": "other"}, this space {"status": 404, "body": "other"}',
        ),
    ],
)
def test_a_difference_shows_of_both_sides_what_was_compared(name, value, difference):
    """An answer's texts, for example, aren't compared."""
    assert fact_of(name, value).difference == difference


def test_the_published_lifetimes_are_the_client_s():
    """Both come from the same documentation."""
    usual = Lifetimes()
    assert QUESTIONS["lifetime_fresh"] == usual.access.total_seconds()
    assert QUESTIONS["lifetime_unbound"] == usual.unbound.total_seconds()


PRIVATE = private_words("Alice-Smith 42@example.com", "acme", "0f0fface")


@pytest.mark.parametrize(
    "word",
    [
        *("alice", "alice_smith", "alices_room", "acmeist", "faced", "example"),  # a private word, or with one in it
        *("Unknown", "unknown-code", "code_42", "_code", "code_", "a__b", "two words", "*** is", "naïve", "line\n"),
        *("00000000-0000-4000-8000-000000000000", "eyJhbGciOiJkaXIi", "c2c_hush", "bob@example.org"),
        "x" * 41,
    ],
)
def test_a_word_that_may_be_private_is_not_reported(word):
    """Only short words in snake case are, without any part of a private text."""
    assert public_word(word, PRIVATE) == NOT_PUBLISHED


@pytest.mark.parametrize("word", ["unknown", "quota_is_used_up", "x" * 40, ""])
def test_other_simple_words_are_reported(word):
    """For example, a code that SignalWire doesn't publish."""
    assert public_word(word, PRIVATE) == word


@pytest.mark.parametrize("word", ["invalid_parameter", "allowed_addresses", "self", "us-central"])
def test_published_words_are_reported_even_if_they_are_private(word):
    """A reference may be such a word."""
    assert public_word(word, private_words(word)) == word


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("ALICE", "alice_is_unknown"),
        ("José Núñez", "jose_nunez"),
        ("Jose\u0301 Nu\u0301n\u0303ez", "nunez"),
        ("Алиса", "alisa"),
        ("O'Neil", "oneil"),
        ("alice%20smith", "smith"),
    ],
)
def test_no_form_of_a_reference_is_reported(reference, code):
    """If it has letters beyond ASCII, SignalWire may write it in others: then only published words are reported."""
    assert public_word(code, private_words(reference)) == NOT_PUBLISHED


@given(st.uuids(), st.text(), st.text())
def test_no_uuid_is_reported(id_, before, after):
    """Wherever it stands in a code or a text."""
    text = f"{before} {id_} {after}"
    look = json.dumps(describe_refusal(422, [Problem(code=text, attribute=text, message=text)], ()))
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", look)


def test_only_published_texts_are_reported():
    """Others may repeat anything."""
    look = refusal(422, ADDRESS, ("token_invalid", "token", "The token of alice is invalid"))
    assert look["texts"] == ["Address is invalid", NOT_PUBLISHED]


def test_an_answer_s_first_twenty_problems_are_reported():
    """An answer may have more."""
    assert refusal(422, *[ADDRESS] * 25)["items"] == 20


def test_a_report_has_a_fact_for_each_question():
    """Facts that weren't reached have that as their reason."""
    report = Report()
    report.observe("lifetime_fresh", 3600)
    written = json.loads(json.dumps(report.to_json(datetime(2026, 11, 28, tzinfo=UTC).timestamp())))
    assert (written["format"], written["made_on"], written["complete"]) == (FORMAT, "2026-11-28", False)
    assert [fact["name"] for fact in written["facts"]] == [*QUESTIONS]
    found = {fact["name"]: fact for fact in written["facts"]}
    assert found["lifetime_fresh"] == {
        "name": "lifetime_fresh",
        "published": 7200,
        "observed": 3600,
        "agrees": False,
        "reason": None,
    }
    assert found["retry_after"]["reason"] == NOT_REACHED


def test_a_report_s_summary_counts_its_facts():
    """Each fact is counted once."""
    report = Report()
    report.observe("lifetime_fresh", 3600)
    report.observe("reuse_later", "refused")
    report.observe("retry_after", False)
    report.observe("guest_ch", None, unless="the subscriber has no address")
    left = len(QUESTIONS) - 3
    assert report.summary == f"facts: 1 as published, 1 different, 1 not published, {left} not observed"
