"""Reports of the doctor, made from emulators: facts, what is sent for them, and that no secret is in them."""

import asyncio
import itertools
import json
import os
import re
import signal
import stat
from collections import Counter
from datetime import timedelta

import attrs
import pytest

from signalwire_tokens import Lifetimes
from signalwire_tokens.cli.examination import Space, examine_space
from signalwire_tokens.cli.space_report import QUESTIONS, Report
from signalwire_tokens.emulator import HTML, ROTATIONS, Emulator, RateLimit, Raw, Redirect, Reset, Rotation, Status
from signalwire_tokens.emulator.calls import failure
from signalwire_tokens.testing.in_thread import emulator_in_thread
from support import reports
from support.cli_runner import run, stoppable
from support.loop_time import LoopClock
from support.processes import settings_of
from support.reports import REFERENCE, ageing, differences_in, observed_in, settings_from
from support.traceback_text import frames_shown

# The examination waits 12 seconds, which pass at once.
in_loop_time = pytest.mark.usefixtures("loop_time")

REQUESTS = Counter(  # of a complete examination
    create_subscriber_token=10,
    refresh_subscriber_token=10,
    create_guest_token=5,
    create_invite_token=2,
    create_embed_token=1,
    subscriber_info=10,
    subscriber_addresses=2,
)
HALF_AN_HOUR = timedelta(minutes=30)
REUSE = 6  # the request that presents a used refresh token at once
VALIDATION = ("missing_parameter", "invalid_parameters", "invite_unknown_address")


@pytest.fixture
async def space():
    """Run an emulator whose clock is the event loop's time."""
    async with Emulator(clock=LoopClock(), strict=True) as emulator:
        yield emulator


async def examined(emulator, reference=REFERENCE, **options):
    """Examine an emulator; return the report, and the findings."""
    report = Report()
    async with emulator.client(retries=0, **options) as client:
        return report, await examine_space(Space(client, reference, report))


BEHAVIOURS = {
    "single-use": ({}, ()),
    "reusable": ({"rotation": "reusable"}, ("reuse_at_once", "reuse_later")),
    "grace": ({"rotation": "grace"}, ("reuse_at_once",)),
    "family": ({"rotation": "family"}, ()),
    "grace and family": ({"rotation": Rotation(reuse_for=10.0, reuse_revokes=True)}, ("reuse_at_once",)),
    "plain 401": ({"rotation": Rotation(status=401, code=None)}, ()),
    "another code": ({"rotation": Rotation(status=404, code="token_expired")}, ()),
    "issuing revokes": ({"rotation": Rotation(issue_revokes_access=True, issue_revokes_refresh=True)}, ()),
    "issuing revokes refresh tokens": ({"rotation": Rotation(issue_revokes_refresh=True)}, ()),
    "refreshing revokes": ({"rotation": Rotation(refresh_revokes_access=True)}, ()),
    "short lives": (
        {"lifetimes": Lifetimes.of(HALF_AN_HOUR)},
        ("lifetime_fresh", "lifetime_refreshed", "lifetime_expire_at_refreshed"),
    ),
    "shortest unbound life": (
        {"lifetimes": attrs.evolve(Lifetimes(), unbound=timedelta(seconds=30))},
        ("lifetime_unbound",),
    ),
    "other statuses": (
        {"statuses": {"invalid_parameter": 400, "missing_required_parameter": 400, "not_a_refresh_token": 401}},
        VALIDATION,
    ),
    "status of foreign addresses": (
        {"statuses": {"must_belong_to_project": 403, "allowed_address_limit_exceeded": 413}},
        ("guest_foreign_addresses",),
    ),
    "rate limit": ({"rate_limit": RateLimit(500)}, ()),
    "accepts what it doesn't know": ({"strict": False}, ()),
}


@in_loop_time
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
async def test_a_report_names_the_differences_and_is_replayed_by_an_emulator(behaviour):
    """The emulator that behaves as the report says gives the same facts again."""
    settings, differences = BEHAVIOURS[behaviour]
    async with Emulator(clock=LoopClock(), **{"strict": True, **settings}) as emulator:
        report = await reports.examine(emulator)
    assert differences_in(report) == {*differences}
    async with Emulator(clock=LoopClock(), **settings_from(report)) as emulator:
        again = await reports.examine(emulator)
    assert again["facts"] == report["facts"]


def test_every_rotation_is_among_the_behaviours():
    """A new one would have to be replayed, too."""
    assert {*ROTATIONS} <= {*BEHAVIOURS}


@in_loop_time
@pytest.mark.parametrize(
    ("rotation", "name", "value"),
    [
        ("family", "reuse_successor", "revoked"),
        (Rotation(refresh_revokes_access=True), "refresh_revokes_access", True),
        (Rotation(issue_revokes_access=True), "issue_revokes_access", True),
        (Rotation(issue_revokes_refresh=True), "issue_revokes_refresh", True),
        ("reusable", "reuse_refusal", None),
    ],
)
async def test_what_is_not_published_is_observed(rotation, name, value):
    """It can't differ from anything."""
    async with Emulator(clock=LoopClock(), rotation=rotation, strict=True) as emulator:
        seen = observed_in(await reports.examine(emulator))
    assert seen[name] == value


@in_loop_time
async def test_reuse_is_not_observed_if_tokens_expire_too_soon():
    """A refusal wouldn't show whether the token was used or has expired."""
    lifetimes = Lifetimes.of(timedelta(seconds=5))
    async with Emulator(clock=LoopClock(), lifetimes=lifetimes, rotation="reusable") as emulator:
        seen = observed_in(await reports.examine(emulator))
    assert (seen["reuse_at_once"], seen["reuse_later"], seen["reuse_successor"]) == ("accepted", None, None)
    assert seen["reuse_refusal"] is None


@in_loop_time
async def test_the_first_refusal_of_a_used_refresh_token_is_reported(space):
    """Though a later one looks different."""
    answer_at(space, REUSE, failure(400, code="token_expired"))
    seen = observed_in(await reports.examine(space))
    assert (seen["reuse_refusal"]["status"], seen["reuse_refusal"]["codes"]) == (400, ["token_expired"])
    assert (seen["reuse_at_once"], seen["reuse_later"]) == ("refused", "refused")


@in_loop_time
async def test_expiry_times_are_asked_for_by_signalwire_s_clock(space):
    """Here, this machine's clock is an hour behind."""
    space.advance(3600)
    report, findings = await examined(space, clock=LoopClock())
    seen = observed_in(report.to_json(0))
    assert (findings, seen["lifetime_expire_at"], seen["lifetime_fresh"]) == ([], 600, 7200)


@in_loop_time
async def test_headers_about_limits_are_reported_by_name_with_numbers(space):
    """A number that changes is reported as "varies". In the loop's time, the rest of a period stays the same."""
    space.rate_limit = RateLimit(500)
    seen = observed_in(await reports.examine(space))
    assert seen["rate_limit_headers"] == {
        "x-ratelimit-limit": 500,
        "x-ratelimit-remaining": "varies",
        "x-ratelimit-reset": 10,
    }
    assert seen["retry_after"] is False


@in_loop_time
async def test_headers_about_something_else_are_not_reported(space):
    """A name must consist of words about limits, and of numbers. Others may be private, and so may a text."""
    headers = {"X-RateLimit-Limit-10s": "13800", "X-Integrated-Account": "8123456", "X-Generated-At": "7"}
    headers |= {"RateLimit": "hush", "X-RateLimit-Limit": "٣"}
    headers |= {"X-RateLimit-Alice": "7", "X-Localhost-RateLimit": "5", "X-Quota-Bob": "1"}
    handle = space.service.handle
    space.service.handle = lambda call: attrs.evolve(handle(call), headers=headers)
    seen = observed_in(await reports.examine(space))
    assert seen["rate_limit_headers"] == {
        "ratelimit": "not a number",
        "x-ratelimit-limit": "not a number",
        "x-ratelimit-limit-10s": 13800,
    }


@in_loop_time
@pytest.mark.parametrize("reference", ["address", "self", "us-central", "token", "x"])
async def test_a_reference_that_is_a_word_of_signalwire_s_makes_no_difference(space, reference):
    """Texts that SignalWire publishes stay in the report."""
    report = await reports.examine(space, reference)
    assert differences_in(report) == set()


@in_loop_time
async def test_each_request_is_sent_once(space):
    """Also those that are refused."""
    await reports.examine(space)
    assert Counter(entry.operation for entry in space.requests) == REQUESTS


INFO = b'{"id": "00000000-0000-4000-8000-000000000000"}'
EMPTY_PAGE = b'{"data": []}'
NO_ADDRESS = "the subscriber has no address"


@in_loop_time
@pytest.mark.parametrize(
    ("operation", "fault", "reasons"),
    [
        (
            "subscriber_info",
            Status(404),
            {
                "lifetime_fresh": "subscriber_info answered 404",
                "refresh_revokes_access": "subscriber_info answered 404",
                "issue_revokes_access": "subscriber_info answered 404",
            },
        ),
        (
            "subscriber_info",
            Raw(INFO),
            {"lifetime_fresh": "subscriber_info doesn't report when the token expires"},
        ),
        (
            "subscriber_addresses",
            Status(403),
            {"page_links": "subscriber_addresses answered 403", "lifetime_invite": NO_ADDRESS, "guest_ch": NO_ADDRESS},
        ),
        ("subscriber_addresses", Raw(EMPTY_PAGE), {"status_create_guest_token": NO_ADDRESS}),
        ("create_guest_token", Status(403), {"lifetime_guest": "create_guest_token answered 403"}),
        ("create_invite_token", Status(403), {"lifetime_invite": "create_invite_token answered 403"}),
    ],
)
async def test_a_fact_that_cannot_be_observed_is_null_with_a_reason(space, operation, fault, reasons):
    """The examination goes on."""
    space.fail(fault, operation=operation, times=None)
    report = await reports.examine(space)
    found = {fact["name"]: fact for fact in report["facts"]}
    assert {name: found[name]["reason"] for name in reasons} == reasons
    assert all(found[name]["observed"] is None and found[name]["agrees"] is None for name in reasons)
    assert found["unknown_subscriber"]["observed"]


@in_loop_time
@pytest.mark.parametrize(
    ("body", "form", "links"),
    [
        (b'[{"data": [], "links": {"self": "/", "first": "/"}}]', "array", ["first", "self"]),
        (b'{"data": [], "links": {"self": "/", "c2c_hush": "/"}}', "object", ["(not published)", "self"]),
        (EMPTY_PAGE, "object", []),
    ],
)
async def test_a_page_s_form_and_links_are_reported(space, body, form, links):
    """Only the names of the links are reported."""
    space.fail(Raw(body), operation="subscriber_addresses")
    seen = observed_in(await reports.examine(space))
    assert (seen["page_form"], seen["page_links"]) == (form, links)


THROTTLE = Status(429, retry_after=7)
FINAL = [
    Status(500),
    Status(500, code="invalid_parameter"),
    Status(422, code="cannot_process"),
    HTML,
    Redirect("http://example.com"),
]
STOPS = [
    *((operation, fault) for operation in REQUESTS for fault in (THROTTLE, Status(503))),
    *(("subscriber_info", fault) for fault in FINAL),
    ("create_subscriber_token", Status(401)),
    ("refresh_subscriber_token", Status(422)),  # without a second pair, reuse can't be observed
    ("create_guest_token", Reset()),
]
FIRST = ("create_subscriber_token", "refresh_subscriber_token", "subscriber_info")  # operations that it begins with


@in_loop_time
@pytest.mark.parametrize(
    ("operation", "fault"), [pytest.param(*stop, id=f"{number} {stop[0]}") for number, stop in enumerate(STOPS)]
)
async def test_throttling_and_failures_stop_the_examination(space, operation, fault):
    """Nothing more is sent, and what was found is in the report."""
    space.fail(fault, operation=operation, times=None)
    report, (finding,) = await examined(space)
    assert (finding.check, finding.verdict.value) == ("examination", "failed")
    assert finding.seen.startswith(f"{operation}: ")
    assert report.stopped.startswith(f"{operation} failed: ")
    assert [number for number, entry in enumerate(space.requests, 1) if entry.fault] == [len(space.requests)]
    found = {name for name, fact in report.facts.items() if fact.observed is not None}
    assert ("reuse_at_once" in found) is (operation not in FIRST)
    assert "unknown_subscriber" not in found


@in_loop_time
@pytest.mark.parametrize(("fault", "observed"), [(THROTTLE, True), (Status(429), False), (Reset(), None)])
async def test_a_pause_that_is_asked_for_is_a_fact(space, fault, observed):
    """Without any answer, it isn't known."""
    space.fail(fault)
    report, _ = await examined(space)
    assert report.facts["retry_after"].observed is observed


@in_loop_time
async def test_the_report_of_a_stopped_examination_names_the_request(space):
    """It has the kind of the error, and not its text."""
    space.fail(Status(503), operation="create_invite_token")
    report, _ = await examined(space)
    assert report.stopped == "create_invite_token failed: ServerError, status 503"


NAMED = "Alicia Perez"  # a reference that looks like nothing but words
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REPEATED = f"{NAMED}, {NAMED.upper()}, alicia-perez, Alicia%20Perez"


def quote_everything(emulator):
    """Make each refusal repeat what was sent. Return the set that collects secrets which were sent and received."""
    handle, seen = emulator.service.handle, set()

    def quoting(call):
        reply = handle(call)
        authorization = call.authorization or ""
        sent = re.findall(r"[\w.=-]{20,}", f"{authorization} {call.body.decode()} {call.path}")
        seen.update(one for one in sent if re.search(r"[0-9A-Z]", one))  # not the names of members
        seen.update(value for name, value in reply.body.items() if name in ("token", "refresh_token", "subscriber_id"))
        headers = {"X-Limit-Of": authorization or "none", f"X-Quota-{emulator.project_id}": "1"}
        if reply.status < 400:
            return attrs.evolve(reply, headers=headers)
        said = f"{authorization} {call.body.decode()} {call.path} {emulator.space} {emulator.api_token} {REPEATED}"
        problem = dict.fromkeys(("type", "code", "message", "attribute", "url"), said)
        words = {**problem, "code": "alicia_perez_is_unknown", "attribute": "perez"}
        return attrs.evolve(reply, headers=headers, body={"errors": [problem, words], "error": said})

    emulator.service.handle = quoting
    return seen


@in_loop_time
@pytest.mark.parametrize("fault", [None, Status(401), Status(503), Reset(), HTML], ids=repr)
async def test_no_secret_is_in_the_report_or_the_output(space, fault):
    """Whatever SignalWire repeats, in texts, codes or names of headers."""
    seen = quote_everything(space)
    seen |= {space.project_id, space.api_token}
    if fault is not None:
        space.fail(fault, operation="create_guest_token")
    report, findings = await examined(space, NAMED)
    output = repr(findings)
    written = json.dumps(report.to_json(0))
    assert (len(seen) > 40) is (fault in (None, Status(401)))
    for secret in {*seen, "eyJ", "Basic ey", "c2c_", "127.0.0.1"}:
        assert secret not in written
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", written)
    assert not re.search("alicia|perez", written, re.IGNORECASE)
    for secret in (space.api_token, "eyJ"):
        assert secret not in output


def answer_at(emulator, number, instead):
    """Give the request of this number another answer."""
    handle, count = emulator.service.handle, itertools.count(1)

    def failing(call):
        reply = handle(call)
        return instead if next(count) == number else reply

    emulator.service.handle = failing


@in_loop_time
@pytest.mark.parametrize("number", range(1, REQUESTS.total(), 3))
async def test_no_secret_is_in_the_frames_of_an_examination_that_is_cancelled(space, number):
    """Each part of it is cancelled at some request. (P37)"""
    seen = quote_everything(space)
    handle, count = space.service.handle, itertools.count(1)

    def cancelling(call):
        if next(count) == number:
            examination.cancel()
        return handle(call)

    space.service.handle = cancelling
    examination = asyncio.ensure_future(examined(space, NAMED))
    with pytest.raises(asyncio.CancelledError) as caught:
        await examination
    shown = frames_shown(caught.value)
    assert "Space object" in shown
    secrets = [space.api_token, *(one for one in seen if not UUID.fullmatch(one))]
    assert not [secret for secret in secrets if secret in shown]


def test_a_report_needs_a_reference():
    """It issues tokens."""
    result = run("doctor", "--report", "-")
    assert result.exit_code == 2
    assert "--report needs a --reference" in result.stderr


@pytest.mark.parametrize("name", ["missing/report.json", "", ".", "link"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_sent(service, tmp_path, monkeypatch, name):
    """No announcement is printed, either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    result = run("doctor", "--report", name, "--reference", "alice", **settings_of(service))
    assert result.exit_code == 1
    assert "can't write" in result.stderr
    assert "requests" not in result.stderr
    assert not service.requests
    assert [one.name for one in tmp_path.iterdir()] == ["link"]


def test_a_report_that_cannot_be_written_in_the_end_is_an_error(tmp_path, plain_environment):
    """The folder may be gone by then."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with emulator_in_thread(on_request=lambda _: folder.exists() and folder.rmdir()) as emulator:
        emulator.fail(Status(503), operation="create_subscriber_token")
        result = run("doctor", "--report", folder / "r", "--reference", "alice", **settings_of(emulator))
    assert result.exit_code == 1
    assert result.stderr.endswith("r: No such file or directory\n")


def test_what_is_written_half_is_not_left_behind(service, tmp_path, monkeypatch):
    """Here, the disk is full."""

    def refuse(handle):
        if os.fstat(handle).st_size:  # unlike what is written to find out whether that is possible
            raise OSError(28, "No space left on device")

    service.fail(Status(503), operation="create_subscriber_token")
    monkeypatch.setattr(os, "fsync", refuse)
    result = run("doctor", "--report", tmp_path / "r", "--reference", "alice", **settings_of(service))
    assert "No space left on device" in result.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("is_json", [False, True])
def test_what_will_be_sent_is_announced_and_a_report_is_left_if_it_stops(service, tmp_path, is_json):
    """Only its owner can read the report."""
    file = tmp_path / "report.json"
    file.write_text("an earlier one")
    service.fail(Status(429, retry_after=7), operation="create_subscriber_token")
    options = ["--json"] if is_json else []
    result = run("doctor", *options, "--report", file, "--reference", "alice", **settings_of(service))
    assert result.exit_code == 1
    assert result.stderr.startswith("The examination sends fewer than 50 requests, one at a time.")
    for words in ("It issues tokens for alice", "may be revoked", "a quarter of a"):
        assert words in result.stderr
    report = json.loads(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (report["complete"], report["stopped"]) == (
        False,
        "create_subscriber_token failed: RateLimited, status 429",
    )
    assert observed_in(report)["retry_after"] is True
    assert len(report["facts"]) == len(QUESTIONS)
    assert len([entry for entry in service.requests if entry.operation == "create_subscriber_token"]) == 1
    shown = json.loads(result.stdout)["findings"][-1]["seen"] if is_json else result.stdout.splitlines()[-2]
    assert "written to" in shown
    assert "incomplete, because create_subscriber_token failed" in shown


@pytest.mark.parametrize("is_json", [False, True])
def test_a_report_on_standard_output_has_it_for_itself(service, is_json):
    """Findings are written to standard error."""
    service.fail(Status(503), operation="create_subscriber_token")
    options = ["--json"] if is_json else []
    result = run("doctor", *options, "--report", "-", "--reference", "alice", **settings_of(service))
    assert json.loads(result.stdout)["complete"] is False
    assert "credentials" in result.stderr
    assert "written to standard output" in result.stderr
    assert "1 of 9 checks failed: examination; 1 warning. Follow the advice above." in result.stderr


@pytest.mark.parametrize(
    ("operation", "fault"),
    [("refresh_subscriber_token", Status(401)), ("subscriber_addresses", THROTTLE), ("subscriber_addresses", HTML)],
)
def test_a_check_that_fails_leaves_an_earlier_report_as_it_is(service, tmp_path, operation, fault):
    """Nothing more is sent, and nothing is issued."""
    file = tmp_path / "report.json"
    file.write_text("an earlier one")
    service.fail(fault, operation=operation, times=None)
    result = run("doctor", "--report", file, "--reference", "alice", **settings_of(service))
    assert result.exit_code == 1
    assert file.read_text() == "an earlier one"
    assert "not written, because nothing was observed" in result.stdout
    assert service.requests[-1].operation == operation


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_writes_what_it_has(tmp_path, plain_environment, number):
    """Here, while it waits to use a refresh token again."""
    file = tmp_path / "report.json"

    def interrupt(entry):
        operations.append(entry.operation)
        if operations.count("refresh_subscriber_token") == 3:  # of the checks, of the pair, and of the used token
            os.kill(os.getpid(), number)

    operations = []
    with emulator_in_thread(on_request=interrupt) as emulator, stoppable():
        result = run("doctor", "--report", file, "--reference", "alice", **settings_of(emulator))
    assert result.exit_code == 130
    report = json.loads(file.read_text())
    assert (report["complete"], report["stopped"]) == (False, "interrupted")
    assert observed_in(report)["lifetime_fresh"] == 7200
    assert operations.count("refresh_subscriber_token") == 3
    assert f"written to {file}" in result.stdout


@pytest.mark.slow  # it waits 12 seconds of real time
def test_the_command_writes_a_complete_report(tmp_path, plain_environment):
    """A difference is a warning, not a failure. Its finding names both sides."""
    file = tmp_path / "report.json"
    with ageing(rotation="grace") as emulator:
        result = run("doctor", "--report", file, "--reference", "alice", **settings_of(emulator))
        count = len(emulator.requests)
    assert result.exit_code == 0
    assert 40 < count < 50
    report = json.loads(file.read_text())
    assert report["complete"] is True
    assert differences_in(report) == {"reuse_at_once"}
    assert 'reuse_at_once SignalWire publishes "refused", this space "accepted"' in result.stdout
    report_line, summary = result.stdout.splitlines()[-2:]
    assert re.fullmatch(r"ok +report +written to .*report.json: facts: \d+ as.*", report_line)
    assert summary == "8 of 9 checks passed; 1 warning."
