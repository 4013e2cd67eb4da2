"""Checks of arguments: a correct value is returned as it is sent, and a wrong one is a problem."""

from datetime import datetime, timedelta

import pytest

from signalwire_tokens.wire import checks
from signalwire_tokens.wire.codes import INVALID, MISSING

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - naive on purpose


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (checks.text, 7),
        (checks.text, "\ud800"),
        (checks.uuid, "x"),
        (checks.fingerprint, "x"),
        (checks.scope, "x"),
        (checks.whole_seconds, 0),
    ],
)
def test_a_wrong_value_is_a_problem_and_is_not_returned(check, value):
    """The problem names the argument."""
    problems = []
    assert check(problems, "it", value) is None
    assert [(problem.attribute, problem.code) for problem in problems] == [("it", INVALID)]


@pytest.mark.parametrize("value", [NAIVE, "tomorrow", timedelta(0), 1e12])
def test_a_wrong_time_is_a_problem_and_is_not_returned(value):
    """Each has exactly one."""
    problems = []
    assert checks.moment(problems, "it", value, 1e9) is None
    assert [(problem.attribute, problem.code) for problem in problems] == [("it", INVALID)]


@pytest.mark.parametrize(("value", "code"), [(None, MISSING), ("x", INVALID), (7, INVALID)])
def test_what_is_no_list_has_no_addresses(value, code):
    """The result is a list all the same."""
    problems = []
    assert checks.address_ids(problems, "it", value) == []
    assert [(problem.attribute, problem.code) for problem in problems] == [("it", code)]


@pytest.mark.parametrize(
    "check", [checks.text, lambda problems, name, value: checks.moment(problems, name, value, 0.0)]
)
def test_an_optional_value_may_be_none(check):
    """It stays None, so it isn't sent."""
    problems = []
    assert check(problems, "it", None) is None
    assert problems == []


@pytest.mark.parametrize(("text", "is_encodable"), [("", True), ("é", True), ("\U0001f600", True), ("a\udfff", False)])
def test_a_lone_surrogate_cannot_be_encoded(text, is_encodable):
    """Any other text can."""
    assert checks.encodable(text) is is_encodable
