"""What `doctor` concludes from what its checks see: verdicts, remedies and the summary."""

import ssl
from datetime import UTC, datetime

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
from signalwire_tokens.cli.diagnosis import (
    Finding,
    Verdict,
    certificate_finding,
    clock_finding,
    credentials_findings,
    failure_finding,
    latency_finding,
    lifetime_finding,
    name_finding,
    summarize,
)

EXPIRED = Forbidden("no", errors=(Problem(code="authblock_is_expired", message="expired"),))
GOOD, OTHER = Finding("a", "seen"), Finding("b", "seen")
WARNED = Finding("c", "seen", "fix it", Verdict.WARNED)
SKIPPED = Finding("d", "seen", verdict=Verdict.SKIPPED)
WRONG, UNSET = Finding("e", "seen", "wait"), Finding("f", "seen", "set SIGNALWIRE_SPACE")


@pytest.mark.parametrize(
    ("findings", "planned", "line"),
    [
        ([GOOD, OTHER], "ab", "All 2 checks passed."),
        ([GOOD, WARNED, SKIPPED], "acd", "1 of 3 checks passed; 1 warning; 1 skipped."),
        ([GOOD, WARNED, WARNED], "acc", "1 of 3 checks passed; 2 warnings."),
        ([GOOD], "abc", "1 of 3 checks passed; 2 skipped."),
        ([GOOD, UNSET], "afxyz", "1 of 5 checks failed: f; 3 skipped. Fix the settings named above."),
        ([WRONG, UNSET, WARNED], "efc", "2 of 3 checks failed: e, f; 1 warning. Follow the advice above."),
    ],
)
def test_the_summary_counts_all_checks(findings, planned, line):
    """A planned check without a finding was skipped, because an earlier one failed."""
    assert summarize(findings, planned) == line


def test_the_summary_of_a_missing_setting_asks_for_it():
    """The message of such an error names the setting."""
    finding = failure_finding("settings", ConfigurationError("not set: SIGNALWIRE_SPACE (or --space)"))
    assert summarize([finding], ["settings"]).endswith("Fix the settings named above.")


@pytest.mark.parametrize(
    ("error", "verdicts"),
    [
        (ValidationFailed("no"), {"credentials": Verdict.PASSED, "scope": Verdict.PASSED}),
        (Forbidden("no"), {"credentials": Verdict.PASSED, "scope": Verdict.FAILED}),
        (Unauthorized("no"), {"credentials": Verdict.FAILED}),
        (NotFound("no"), {"credentials": Verdict.FAILED}),
        (ServerError("no"), {"credentials": Verdict.FAILED}),
        (None, {"credentials": Verdict.FAILED}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_refusal_of_a_made_up_token_shows_whether_the_credentials_are_accepted(error, verdicts):
    """SignalWire looks at the token only if it accepts the credentials."""
    assert {one.check: one.verdict for one in credentials_findings(error, now=0.0)} == verdicts


def test_a_refusal_shows_the_clock_if_it_has_a_date():
    """This machine's clock is 90 seconds ahead here."""
    error = ValidationFailed("no")
    error.server_time = 1000.0
    clock, *_ = credentials_findings(error, now=1090.0)
    assert (clock.check, clock.verdict) == ("clock", Verdict.FAILED)
    assert "1 min 30 s ahead of SignalWire's" in clock.seen


def test_refused_credentials_are_named_with_their_settings():
    """Either of them may belong to another space."""
    (finding,) = credentials_findings(Unauthorized("no", status=401), now=0.0)
    assert finding.seen == "SignalWire refused the project id or API token (401)"
    assert finding.remedy == "check that SIGNALWIRE_PROJECT_ID and SIGNALWIRE_API_TOKEN belong to this space"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ConfigurationError("no"), "what the message names"),
        (ValidationFailed("no"), "what the message names"),
        (Unauthorized("no"), "belong to this space"),
        (Forbidden("no"), "Voice, Messaging, Fax or Video"),
        (EXPIRED, "check the subscriber"),
        (RateLimited("no"), "try again later"),
        (TemporarilyRefused("no"), "limits of your account"),
        (ServerError("no"), "try again later"),
        (ConnectionFailed("no"), "try again later"),
        (TimedOut("no"), "try again later"),
        (NotFound("no"), "check SIGNALWIRE_SPACE"),
        (UnexpectedResponse("no"), "check SIGNALWIRE_SPACE"),
    ],
)
def test_each_error_has_a_remedy(error, remedy):
    """The finding has the error's own text, too."""
    finding = failure_finding("issue", error)
    assert finding.verdict is Verdict.FAILED
    assert finding.seen == str(error)
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("ahead", "verdict", "seen"),
    [
        (0, Verdict.PASSED, "agrees"),
        (-5, Verdict.PASSED, "agrees"),
        (5.1, Verdict.WARNED, "5.1 s ahead of"),
        (-60, Verdict.WARNED, "1 min behind"),
        (60.1, Verdict.FAILED, "1 min ahead of"),
        (-7200, Verdict.FAILED, "2 h behind"),
    ],
)
def test_a_clock_fails_if_it_is_more_than_a_minute_off(ahead, verdict, seen):
    """SignalWire's time has whole seconds, so five seconds make no finding."""
    finding = clock_finding(ahead)
    assert finding.verdict is verdict
    assert seen in finding.seen
    assert (finding.remedy is None) is (verdict is Verdict.PASSED)


@pytest.mark.parametrize(
    ("longest", "verdict", "seen"),
    [
        (0.3, Verdict.PASSED, "3 answers: median 200 ms, longest 300 ms"),
        (2.5, Verdict.WARNED, "3 answers: median 200 ms, longest 2500 ms"),
    ],
)
def test_slow_answers_are_a_warning(longest, verdict, seen):
    """They aren't a failure."""
    finding = latency_finding([0.1, 0.2, longest])
    assert (finding.verdict, finding.seen) == (verdict, seen)


@pytest.mark.parametrize(
    ("seconds", "verdict", "words"),
    [
        (7200, Verdict.PASSED, "valid for 2 h, as expected"),
        (7195, Verdict.PASSED, "as expected"),
        (3600, Verdict.FAILED, "valid for 1 h, not for 2 h"),
        (10800, Verdict.FAILED, "valid for 3 h, not for 2 h"),
        (None, Verdict.SKIPPED, "doesn't report"),
    ],
)
def test_a_lifetime_must_be_the_client_s(seconds, verdict, words):
    """Otherwise, sessions renew too late or too often."""
    finding = lifetime_finding(seconds, 7200)
    assert finding.verdict is verdict
    assert words in finding.seen


def test_another_lifetime_comes_with_the_setting():
    """Its value is the observed lifetime."""
    assert "set SIGNALWIRE_TOKENS_LIFETIME=3600s" in lifetime_finding(3600.4, 7200).remedy


@pytest.mark.parametrize(
    ("found", "verdict", "seen"),
    [
        (["192.0.2.1", "192.0.2.2"], Verdict.PASSED, "acme.example resolves to 192.0.2.1, 192.0.2.2"),
        ([f"192.0.2.{last}" for last in range(9)], Verdict.PASSED, "192.0.2.3"),
        (OSError(-2, "Name or service not known"), Verdict.FAILED, "acme.example: Name or service not known"),
        (TimeoutError(), Verdict.FAILED, "can't resolve acme.example: no answer in time"),
    ],
)
def test_a_name_must_have_addresses(found, verdict, seen):
    """The finding has at most four of them."""
    finding = name_finding("acme.example", found)
    assert finding.verdict is verdict
    assert finding.seen.endswith(seen)


def with_attributes(error, **attributes):
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


DISTRUST = with_attributes(ssl.SSLCertVerificationError(1, ""), verify_message="self-signed certificate")
NO_TLS = with_attributes(ssl.SSLError(1, ""), reason="WRONG_VERSION_NUMBER")


@pytest.mark.parametrize(
    ("seen", "verdict", "words"),
    [
        (None, Verdict.PASSED, "not needed on this machine"),
        (("TLSv1.3", datetime(2027, 1, 2, tzinfo=UTC)), Verdict.PASSED, "TLSv1.3, certificate valid until 2027-01-02"),
        (DISTRUST, Verdict.FAILED, "the certificate isn't trusted: self-signed certificate"),
        (NO_TLS, Verdict.FAILED, "the server doesn't use TLS: WRONG_VERSION_NUMBER"),
        (ConnectionRefusedError(111, "Connection refused"), Verdict.FAILED, "can't connect: Connection refused"),
        (OSError("Multiple exceptions: a, b"), Verdict.FAILED, "can't connect: Multiple exceptions: a, b"),
        (OSError(), Verdict.FAILED, "can't connect: OSError"),
        (TimeoutError(), Verdict.FAILED, "can't connect: no answer in time"),
    ],
)
def test_a_connection_must_be_possible_and_its_certificate_trusted(seen, verdict, words):
    """A failure has a remedy."""
    finding = certificate_finding(seen)
    assert (finding.verdict, finding.seen) == (verdict, words)
    assert (finding.remedy is None) is (verdict is Verdict.PASSED)
