"""Facts compare what a space does with what SignalWire publishes. A report holds them, without private texts."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import Lifetimes
from signalwire_tokens.cli.examination import Outcome, steady
from signalwire_tokens.cli.facts import QUESTIONS, answered, observed, rounded, unobserved
from signalwire_tokens.cli.report import FORMAT, Report
from signalwire_tokens.cli.scrubbing import scrubber, variants
from signalwire_tokens.wire import Answer

PROBLEM = answered(422, ["invalid_parameter"], ["address_id"], ["Address is invalid"])


@pytest.mark.parametrize(
    ("name", "value", "agrees"),
    [
        ("reuse_at_once", "refused", True),
        ("reuse_at_once", "accepted", False),
        ("reuse_successor", "revoked", None),
        ("lifetime_fresh", 7200, True),
        ("lifetime_fresh", 3600, False),
        ("invite_unknown_address", PROBLEM, True),
        ("invite_unknown_address", {**PROBLEM, "status": 404}, False),
        ("invite_unknown_address", {**PROBLEM, "codes": ["must_belong_to_project"]}, False),
        ("invite_unknown_address", {**PROBLEM, "codes": ["must_belong_to_project", "invalid_parameter"]}, True),
        ("invite_unknown_address", answered(422), False),
        ("invite_unknown_address", answered(201), False),
        ("wrong_api_token", answered(401), True),
        ("wrong_api_token", answered(401, ["invalid_auth_token_permissions"], [""], [""]), False),
        ("malformed_json", answered(400), True),
        ("page_links", ["first", "self"], True),
        ("page_links", ["first", "next", "self"], True),
        ("page_links", ["first"], False),
        ("page_links", ["first", "last", "self"], False),
    ],
)
def test_a_fact_agrees_with_what_is_published_or_does_not(name, value, agrees):
    """If nothing is published, it does neither."""
    assert observed(name, value).agrees is agrees


def test_what_was_not_observed_has_a_reason_and_no_verdict():
    """The published value is there nevertheless."""
    fact = unobserved("lifetime_guest", "not visible")
    assert (fact.published, fact.observed, fact.agrees, fact.reason) == (7200, None, None, "not visible")
    assert fact.difference is None


@pytest.mark.parametrize(
    ("name", "value", "difference"),
    [
        ("lifetime_fresh", 7200, None),
        ("lifetime_fresh", 3600, ("7200", "3600")),
        (
            "embed_made_up_token",
            answered(404),
            ('{"status": 403, "body": "other"}', '{"status": 404, "body": "other"}'),
        ),
    ],
)
def test_a_difference_shows_of_both_sides_what_was_compared(name, value, difference):
    """An answer's texts, for example, aren't compared."""
    assert observed(name, value).difference == difference


@pytest.mark.parametrize(("seconds", "found"), [(7198.2, 7200), (7200, 7200), (62.4, 60), (62.6, 65), (3, 5), (1, 0)])
def test_lifetimes_are_rounded_to_five_seconds(seconds, found):
    """Dates and expiry times have whole seconds."""
    assert rounded(seconds) == found


def test_the_published_lifetimes_are_the_client_s():
    """Both come from the same documentation."""
    usual = Lifetimes()
    assert QUESTIONS["lifetime_fresh"].published == usual.access.total_seconds()
    assert QUESTIONS["lifetime_unbound"].published == usual.unbound.total_seconds()


@pytest.mark.parametrize(
    ("values", "found"),
    [({"13800"}, 13800), ({"1", "2"}, "varies"), ({"hush"}, "not a number"), ({"٣"}, "not a number")],
)
def test_a_header_about_a_limit_is_reported_as_a_number(values, found):
    """Other values may be anything, and are left out."""
    assert steady(values) == found


@pytest.mark.parametrize(("headers", "at"), [({}, 100.0), ({"Date": "Thu, 01 Jan 1970 00:01:30 GMT"}, 90.0)])
def test_time_is_the_service_s_if_it_says_which_time_it_is(headers, at):
    """Otherwise, it is this machine's."""
    answer = Answer(status=200, headers=headers, body=b"", sent=100.0, lifetimes=Lifetimes())
    assert Outcome(answer).at == at


PRIVATE = ("acme.signalwire.com", "acme", "0f0f", None, *variants("Alice Smith@example.com"))


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("The provided token is invalid.", "The provided token is invalid."),
        ("allowed_address_limit_exceeded", "allowed_address_limit_exceeded"),
        ("see https://acme.example/x?y", "see ***"),
        ("at ACME.signalwire.com:443 or Acme", "at *** or ***"),
        ("other.signalwire.com", "***"),
        ("acmeist", "acmeist"),
        ("acme2 and the acmes", "***2 and the ***"),
        ("Alice's room, alice_room and smiths", "***'s room, ***_room and ***"),
        ("of alice smith, bob@example.org", "of *** ***, ***"),
        ("alice-smith-example-com alice%20smith", "*** ***%20***"),
        ("id 00000000-0000-4000-8000-000000000000!", "id ***!"),
        ("eyJhbGciOiJkaXIi..x.y.z", "***"),
        ("c2c_abc and c2t_def", "*** and ***"),
        ("from 192.0.2.1:8080", "from ***"),
        ("from 2001:db8::1, ::1 and [fe80::a:b]:443", "from ***, *** and [***]:443"),
        ("ip:2001:db8::1 is ::ffff:192.0.2.1", "ip:*** is ***"),
        ("2001:db8:1:2:3:4:5:6: refused", "*** refused"),
        ("ApiError::Invalid at 1:2", "ApiError::Invalid at 1:2"),
        ("PT0123456789abcdef", "***"),
        ("QWxhZGRpbjpPcGVuU2VzYW1l", "***"),
        ("must be greater than 1893456000", "must be greater than ***"),
        ("422 and 10", "422 and 10"),
        ("request 1234567", "request ***"),
        ("one\ntwo\x1b[31m", "one two [31m"),
        ("word " * 100, ("word " * 40) + "…"),
    ],
)
def test_texts_are_scrubbed(text, scrubbed):
    """The user's own words and whatever looks like a token, an id or an address are removed."""
    assert scrubber(PRIVATE)(text) == scrubbed


@pytest.mark.parametrize(
    ("reference", "text", "scrubbed"),
    [
        ("José Núñez", "jose-nunez, José Núñez or Jose\u0301 Nu\u0301n\u0303ez", "***, *** or ***"),
        ("O'Neil", "O&#x27;Neil, O&#39;Neil, ONeil or o-neil", "***, ***, *** or ***"),
        ("mary.ann@corp-internal.example", "mary_ann of corp-internal.example", "***_*** of ***-***.***"),
        ("Bob <bob@x.example>", "Bob of x.example", "*** of x.***"),
        ("me", "me, home", "***, home"),
    ],
)
def test_no_form_of_a_reference_outlives_scrubbing(reference, text, scrubbed):
    """It may have other separators, no accents, or be escaped for a page."""
    assert scrubber(variants(reference))(text) == scrubbed


def test_published_texts_are_not_scrubbed():
    """A reference may be a word of them."""
    scrub = scrubber(variants("address"), known=["Address is invalid"])
    assert [scrub(text) for text in ("Address is invalid", "Address is unknown")] == [
        "Address is invalid",
        "*** is unknown",
    ]


def test_without_private_words_forms_are_scrubbed():
    """A client may have no project id."""
    assert scrubber([None, ""])("bob@example.org is bob") == "*** is bob"


@given(st.uuids(), st.text(), st.text())
def test_no_uuid_outlives_scrubbing(id_, before, after):
    """Wherever it stands in a text."""
    text = scrubber(["alice"])(f"{before} {id_} {after}")
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", text)


def test_a_report_has_a_fact_for_each_question():
    """Facts that weren't reached have that as their reason."""
    report = Report()
    report.add(observed("lifetime_fresh", 3600))
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
    assert found["retry_after"]["reason"] == "the examination stopped before"


def test_a_report_s_summary_counts_its_facts():
    """Each fact is counted once."""
    report = Report(stopped=None)
    for fact in (observed("lifetime_fresh", 3600), observed("reuse_later", "refused"), observed("retry_after", False)):
        report.add(fact)
    left = len(QUESTIONS) - 3
    assert report.summary == f"facts: 1 as published, 1 different, 1 not published, {left} not observed"
