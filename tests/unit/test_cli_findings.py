"""What the doctor makes of what it sees."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest

from signalwire_tokens import (
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    NotFound,
    Problem,
    RateLimited,
    ServerError,
    TemporarilyRefused,
    TimedOut,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from signalwire_tokens.cli.findings import (
    Verdict,
    of_answer,
    of_clock,
    of_connection,
    of_difference,
    of_failure,
    of_latency,
    of_life,
    of_names,
)

TWO_HOURS = timedelta(hours=2)
EXPIRED = Forbidden("no", errors=(Problem(code="authblock_is_expired", message="expired"),))


@pytest.mark.parametrize(
    ("error", "verdicts"),
    [
        (ValidationFailed("no"), {"credentials": Verdict.WELL, "scope": Verdict.WELL}),
        (Forbidden("no"), {"credentials": Verdict.WELL, "scope": Verdict.WRONG}),
        (Unauthorized("no"), {"credentials": Verdict.WRONG}),
        (NotFound("no"), {"credentials": Verdict.WRONG}),
        (ServerError("no"), {"credentials": Verdict.WRONG}),
        (None, {"credentials": Verdict.WRONG}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_token_that_is_none_is_refused_tells_who_is_known(error, verdicts):
    """Only who is known is told what is wrong with the token."""
    assert {one.check: one.verdict for one in of_answer(error)} == verdicts


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ConfigurationError("no"), "what the error names"),
        (ValidationFailed("no"), "what the error names"),
        (Unauthorized("no"), "of one project"),
        (Forbidden("no"), "Voice, Messaging, Fax or Video"),
        (EXPIRED, "look at the subscriber"),
        (RateLimited("no"), "try again later"),
        (TemporarilyRefused("no"), "limits of your account"),
        (ServerError("no"), "try again later"),
        (ConnectionFailed("no"), "try again later"),
        (TimedOut("no"), "try again later"),
        (NotFound("no"), "what the space's name leads to"),
        (UnexpectedResponse("no"), "what the space's name leads to"),
    ],
)
def test_each_error_has_a_remedy(error, remedy):
    """Which somebody can act on."""
    finding = of_failure("issue", error)
    assert finding.verdict is Verdict.WRONG
    assert finding.seen == str(error)
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("ahead", "verdict", "seen"),
    [
        (0, Verdict.WELL, "agree"),
        (-5, Verdict.WELL, "agree"),
        (5.1, Verdict.WARNING, "5.1 s ahead of"),
        (-60, Verdict.WARNING, "60.0 s behind"),
        (60.1, Verdict.WRONG, "60.1 s ahead of"),
        (-7200, Verdict.WRONG, "2 h 00 min behind"),
    ],
)
def test_a_clock_is_judged_by_the_harm_that_it_does(ahead, verdict, seen):
    """Up to a second of it is the resolution of the service's own word."""
    finding = of_clock(ahead)
    assert finding.verdict is verdict
    assert seen in finding.seen
    assert (finding.remedy is None) == (verdict is Verdict.WELL)


def test_slow_answers_are_worth_a_word():
    """They are not wrong."""
    assert of_latency([0.1, 0.2, 0.3]).verdict is Verdict.WELL
    slow = of_latency([0.1, 0.2, 2.5])
    assert slow.verdict is Verdict.WARNING
    assert slow.seen == "3 answers: 200 ms in the middle, 2500 ms at most"


@pytest.mark.parametrize(
    ("life", "verdict"),
    [
        (TWO_HOURS, Verdict.WELL),
        (TWO_HOURS - timedelta(seconds=5), Verdict.WELL),
        (timedelta(hours=1), Verdict.WRONG),
        (timedelta(hours=3), Verdict.WRONG),
        (None, Verdict.SKIPPED),
    ],
)
def test_a_life_is_to_be_as_long_as_the_client_reckons(life, verdict):
    """Or sessions renew too late, or too often."""
    assert of_life("life", life, TWO_HOURS).verdict is verdict


def test_a_difference_names_both_sides():
    """It is a warning, not a failure."""
    finding = of_difference("lifetime_fresh", "7200", "3600")
    assert finding.verdict is Verdict.WARNING
    assert finding.seen == "SignalWire publishes 7200, this space 3600"


@pytest.mark.parametrize(
    ("found", "verdict", "seen"),
    [
        (["192.0.2.1", "192.0.2.2"], Verdict.WELL, "acme.example is 192.0.2.1, 192.0.2.2"),
        ([f"192.0.2.{last}" for last in range(9)], Verdict.WELL, "192.0.2.3"),
        (OSError(-2, "Name or service not known"), Verdict.WRONG, "no address: Name or service not known"),
        (TimeoutError(), Verdict.WRONG, "no address: no answer in time"),
    ],
)
def test_a_name_s_addresses(found, verdict, seen):
    """A few of them are enough."""
    finding = of_names("acme.example", found)
    assert finding.verdict is verdict
    assert finding.seen.endswith(seen)


def with_its_own(error, **words):
    """Say in an error of TLS what OpenSSL says in its."""
    for name, value in words.items():
        setattr(error, name, value)
    return error


DISTRUST = with_its_own(ssl.SSLCertVerificationError(1, ""), verify_message="self-signed certificate")
NO_TLS = with_its_own(ssl.SSLError(1, ""), reason="WRONG_VERSION_NUMBER")


@pytest.mark.parametrize(
    ("made", "verdict", "words"),
    [
        (None, Verdict.WELL, "none is needed"),
        (("TLSv1.3", datetime(2027, 1, 2, tzinfo=UTC)), Verdict.WELL, "TLSv1.3, certificate good until 2027-01-02"),
        (DISTRUST, Verdict.WRONG, "not trusted: self-signed certificate"),
        (NO_TLS, Verdict.WRONG, "no TLS is spoken there: WRONG_VERSION_NUMBER"),
        (ConnectionRefusedError(111, "Connection refused"), Verdict.WRONG, "no connection: Connection refused"),
        (OSError("Multiple exceptions: a, b"), Verdict.WRONG, "no connection: Multiple exceptions: a, b"),
        (OSError(), Verdict.WRONG, "no connection: OSError"),
        (TimeoutError(), Verdict.WRONG, "no connection: no answer in time"),
    ],
)
def test_a_connection(made, verdict, words):
    """What is wrong with it has a remedy."""
    finding = of_connection(made)
    assert finding.verdict is verdict
    assert words in finding.seen
    assert (finding.remedy is None) is (verdict is Verdict.WELL)
