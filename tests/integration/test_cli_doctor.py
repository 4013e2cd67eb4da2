"""The command `doctor`, on emulators that are right and wrong."""

import json
import re
import socket

import pytest

from signalwire_tokens.cli.doctor import connect, issue_and_refresh
from signalwire_tokens.cli.examination import Space
from signalwire_tokens.cli.space_report import Report
from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.emulator import HTML, Raw, SkewDate, Status
from signalwire_tokens.testing.in_thread import emulator_in_thread
from support.cli_runner import code_of, run, run_apart
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")


def verdicts(result):
    return {one["check"]: one["verdict"] for one in json.loads(result.stdout)["findings"]}


CHECKS = ("settings", "name", "certificate", "clock", "credentials", "scope", "latency")


@pytest.mark.parametrize(
    "way",
    [run, pytest.param(run_apart, marks=pytest.mark.slow)],  # the second starts the command in a process
)
def test_a_working_space_passes_all_checks_and_nothing_is_issued(service, way):
    """Each check has a line, and the last line is the summary."""
    result = way("doctor", **settings_of(service))
    assert code_of(result) == 0
    *lines, summary = result.stdout.splitlines()
    assert [tuple(line.split()[:2]) for line in lines] == [("ok", check) for check in CHECKS]
    assert summary == "All 7 checks passed."
    assert {entry.operation for entry in service.requests} == {"refresh_subscriber_token", "subscriber_addresses"}
    assert all(entry.status in (422, 404) for entry in service.requests)
    assert service.api_token not in result.stdout


def test_with_a_reference_it_issues_and_refreshes(service):
    """And compares the lifetime with the settings."""
    result = run("doctor", "--json", "--reference", "alice", **settings_of(service))
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["healthy"], found["summary"]) == (True, "All 10 checks passed.")
    assert verdicts(result) == dict.fromkeys((*CHECKS, "issue", "lifetime", "refresh"), "ok")


def test_missing_settings_are_a_finding():
    """The first, and the last."""
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (1, "")
    line, remedy, summary = result.stdout.splitlines()
    assert re.match(r"failed +settings +not set: SIGNALWIRE_SPACE", line)
    assert remedy.strip() == "fix what the message names"
    assert summary == "1 of 7 checks failed: settings; 6 skipped. Fix the settings named above."


def test_a_wrong_api_token_is_a_finding(service):
    """The finding names the settings to check, and the summary counts the checks."""
    result = run("doctor", **settings_of(service, SIGNALWIRE_API_TOKEN="PThush"))
    assert (result.exit_code, result.stderr) == (1, "")
    line, remedy, summary = result.stdout.splitlines()[-3:]
    assert re.fullmatch(r"failed +credentials +SignalWire refused the project id or API token \(401\)", line)
    assert remedy.strip() == "check that SIGNALWIRE_PROJECT_ID and SIGNALWIRE_API_TOKEN belong to this space"
    assert summary == "1 of 7 checks failed: credentials; 2 skipped. Fix the settings named above."
    assert "hush" not in result.stdout


def test_a_name_without_an_address_is_a_finding(monkeypatch):
    """With or without a network: the lookup is replaced, since without a network it takes long."""

    def look_up(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    settings = {"SIGNALWIRE_PROJECT_ID": "project", "SIGNALWIRE_API_TOKEN": "PThush"}
    result = run("doctor", "--json", SIGNALWIRE_SPACE="nowhere.invalid", **settings)
    assert verdicts(result) == {"settings": "ok", "name": "failed"}
    assert "hush" not in result.stdout


def test_a_port_without_a_server_is_a_finding(service, reserved_port):
    """The connection is refused."""
    result = run("doctor", "--json", **settings_of(service, SIGNALWIRE_SPACE=f"127.0.0.1:{reserved_port}"))
    assert verdicts(result) == {"settings": "ok", "name": "ok", "certificate": "failed"}
    assert "Connect call failed" in result.stdout or "refused" in result.stdout


async def test_a_server_that_never_answers_is_a_finding():
    """After a limited time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _, finding = await connect(f"https://127.0.0.1:{silent.getsockname()[1]}", None, limit=0.3)
    assert finding.verdict.value == "failed"
    assert finding.seen == "can't connect: no answer in time"


def test_a_server_without_tls_is_a_finding(service):
    """The finding has the system's reason."""
    place = f"https://127.0.0.1:{service.port}"
    result = run("doctor", "--json", **settings_of(service, SIGNALWIRE_SPACE=place))
    assert verdicts(result)["certificate"] == "failed"
    assert "the server doesn't use TLS" in result.stdout


def test_a_certificate_must_be_trusted():
    """By its own authority, if that is given."""
    with emulator_in_thread(tls=True) as emulator:
        distrusted = run("doctor", "--json", **settings_of(emulator))
        trusted = run("doctor", "--json", **settings_of(emulator, SIGNALWIRE_REST_CA_FILE=str(emulator.ca_file)))
    assert verdicts(distrusted)["certificate"] == "failed"
    assert "SIGNALWIRE_REST_CA_FILE" in distrusted.stdout
    assert verdicts(trusted)["certificate"] == "ok"
    assert re.search(r"TLSv1\.[23], certificate valid until \d{4}-", trusted.stdout)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Status(401), "credentials"),
        (Status(403), "scope"),
        (Status(503), "credentials"),
        (HTML, "credentials"),
        (SkewDate(3600), "clock"),
    ],
    ids=["wrong token", "no scope", "down", "another server", "clock"],
)
def test_each_failure_has_a_remedy(service, fault, check):
    """The exit code is 1 then."""
    service.fail(fault, times=None)
    result = run("doctor", "--json", **settings_of(service))
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["healthy"] is False
    (one,) = [one for one in found["findings"] if one["verdict"] == "failed"]
    assert one["check"] == check
    assert one["remedy"]


def test_a_server_that_accepts_anything_is_not_signalwire(service):
    """SignalWire refuses a made-up refresh token."""
    service.fail(Raw(b'{"token": "eyJ", "refresh_token": "eyK"}', status=201))
    result = run("doctor", "--json", **settings_of(service))
    assert "so it isn't SignalWire" in result.stdout
    assert verdicts(result)["credentials"] == "failed"


def test_the_embed_origin_comes_from_the_environment(service):
    """The finding names the variable if that is wrong."""
    result = run("doctor", **settings_of(service, SIGNALWIRE_TOKENS_EMBED_ORIGIN="a b"))
    assert "SIGNALWIRE_TOKENS_EMBED_ORIGIN must be" in result.stdout


def test_any_refusal_of_an_unknown_subscriber_is_an_answer(service):
    """Its code, as any other, shows that SignalWire has answered."""
    service.fail(Status(404, code="invalid_parameter"), operation="subscriber_addresses", times=None)
    result = run("doctor", "--json", **settings_of(service))
    assert result.exit_code == 0
    assert verdicts(result)["latency"] == "ok"


@pytest.mark.parametrize("reference", ["", " ", "ab\udcff"])
@pytest.mark.parametrize("options", [[], ["--report", "-"]])
def test_a_reference_that_cannot_be_is_refused_before_anything_is_sent(service, reference, options):
    """With the reason."""
    result = run("doctor", "--reference", reference, *options, **settings_of(service))
    assert result.exit_code == 5
    assert "reference" in result.stderr
    assert "The examination sends" not in result.stderr
    assert not service.requests


@pytest.mark.parametrize(
    ("operation", "checks"),
    [
        ("subscriber_addresses", ["latency"]),
        ("create_subscriber_token", ["latency", "issue"]),
        ("subscriber_info", ["latency", "issue", "lifetime"]),
    ],
)
def test_a_failure_skips_the_checks_after_it(service, operation, checks):
    """SignalWire fails or throttles, so nothing more is sent."""
    service.fail(Status(500), operation=operation)
    result = run("doctor", "--json", "--reference", "alice", **settings_of(service))
    found = verdicts(result)
    assert [*found][6:] == checks
    assert found[checks[-1]] == "failed"
    assert service.requests[-1].operation == operation


def test_a_wrong_clock_does_not_skip_the_checks_after_it(service):
    """They work with any clock, so both failures are counted."""
    service.fail(Status(500), operation="subscriber_addresses")
    service.fail(SkewDate(3600), times=None)
    result = run("doctor", **settings_of(service))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "2 of 7 checks failed: clock, latency. Follow the advice above."


async def test_a_lifetime_that_signalwire_does_not_report_is_skipped(emulator):
    """Its answer may lack the claims."""
    info = b'{"id": "00000000-0000-4000-8000-000000000000"}'
    emulator.fail(Raw(info), operation="subscriber_info")
    async with emulator.client(retries=0) as client:
        findings = await issue_and_refresh(Space(client, "alice", Report()))
    assert {one.check: one.verdict.value for one in findings} == {"issue": "ok", "lifetime": "skipped", "refresh": "ok"}


async def test_a_lifetime_counts_from_signalwire_s_time(emulator):
    """Here, this machine's clock is an hour behind."""
    emulator.advance(3600)
    async with emulator.client(retries=0, clock=SYSTEM) as client:
        findings = await issue_and_refresh(Space(client, "alice", Report()))
    assert findings[1].seen == "the access token is valid for 2 h, as expected"
