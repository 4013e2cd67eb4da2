"""The doctor, on an emulator with what can be wrong."""

import json
import re
import socket

import pytest
from yarl import URL

from signalwire_tokens.cli.doctor import examine, shake_hands
from signalwire_tokens.cli.options import Settings
from signalwire_tokens.emulator import HTML, Raw, SkewDate, Status
from support.cli_runner import code_of, run, run_apart, served
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")


def verdicts(result):
    return {one["check"]: one["verdict"] for one in json.loads(result.stdout)["findings"]}


@pytest.mark.parametrize(
    "way",
    [run, pytest.param(run_apart, marks=pytest.mark.slow)],  # the second starts the command in a process
)
def test_where_all_is_well_it_says_so_and_issues_nothing(service, way):
    """A line for each check, and success."""
    result = way("doctor", **settings_of(service))
    assert code_of(result) == 0
    assert re.findall(r"^(ok|skipped) +([a-z]+)", result.stdout, re.MULTILINE) == [
        *(("ok", check) for check in ("settings", "dns", "tls", "clock", "credentials", "scope", "latency")),
        ("skipped", "issue"),
    ]
    assert {entry.operation for entry in service.requests} == {"refresh_subscriber_token", "subscriber_addresses"}
    assert all(entry.status in (422, 404) for entry in service.requests)
    assert service.api_token not in result.stdout


def test_with_a_reference_it_issues_and_renews(service):
    """And compares what the service says with what is reckoned."""
    result = run("doctor", "--json", "--reference", "alice", **settings_of(service))
    assert result.exit_code == 0
    assert json.loads(result.stdout)["healthy"] is True
    assert {**verdicts(result)} == dict.fromkeys(
        ("settings", "dns", "tls", "clock", "credentials", "scope", "latency", "issue", "life", "refresh"), "ok"
    )


def test_missing_settings_are_a_finding():
    """The first, and the last."""
    result = run("doctor")
    assert result.exit_code == 1
    assert re.match(r"wrong +settings +not set: SIGNALWIRE_SPACE", result.stdout)
    assert "fix what the error names" in result.stdout
    assert result.stderr == "Error: 1 thing is wrong\n"


def test_a_name_without_an_address_is_found_out(monkeypatch):
    """With or without a network: the lookup is replaced, since without a network it takes long."""

    def look_up(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    settings = {"SIGNALWIRE_PROJECT_ID": "project", "SIGNALWIRE_API_TOKEN": "PThush"}
    result = run("doctor", "--json", SIGNALWIRE_SPACE="nowhere.invalid", **settings)
    assert verdicts(result) == {"settings": "ok", "dns": "wrong"}
    assert "hush" not in result.stdout


def test_a_port_where_nobody_listens_is_found_out(service, reserved_port):
    """The connection is refused."""
    result = run("doctor", "--json", **settings_of(service, SIGNALWIRE_SPACE=f"127.0.0.1:{reserved_port}"))
    assert verdicts(result) == {"settings": "ok", "dns": "ok", "tls": "wrong"}
    assert "Connect call failed" in result.stdout or "refused" in result.stdout


async def test_one_who_listens_and_says_nothing_is_found_out():
    """In no longer than it is given."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = URL(f"https://127.0.0.1:{silent.getsockname()[1]}")
        found = await shake_hands(place, Settings(space=None, ca_file=None), limit=0.3)
    assert found.verdict.value == "wrong"
    assert found.seen == "no connection: no answer in time"


def test_one_who_speaks_no_tls_is_found_out(service):
    """With what the system says of it."""
    place = f"https://127.0.0.1:{service.port}"
    result = run("doctor", "--json", **settings_of(service, SIGNALWIRE_SPACE=place))
    assert verdicts(result)["tls"] == "wrong"
    assert "no TLS is spoken there" in result.stdout


def test_a_certificate_is_to_be_trusted():
    """By the authority's own, where that is given."""
    with served(tls=True) as emulator:
        distrusted = run("doctor", "--json", **settings_of(emulator))
        trusted = run("doctor", "--json", **settings_of(emulator, SIGNALWIRE_REST_CA_FILE=str(emulator.ca_file)))
    assert verdicts(distrusted)["tls"] == "wrong"
    assert "SIGNALWIRE_REST_CA_FILE" in distrusted.stdout
    assert verdicts(trusted)["tls"] == "ok"
    assert re.search(r"TLSv1\.[23], certificate good until \d{4}-", trusted.stdout)


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        (Status(401), "credentials"),
        (Status(403), "scope"),
        (Status(503), "credentials"),
        (HTML, "credentials"),
        (SkewDate(3600), "clock"),
    ],
    ids=["wrong token", "no scope", "down", "something else", "clock"],
)
def test_what_is_wrong_is_told_with_its_remedy(service, fault, wrong):
    """And the exit code says that something is."""
    service.fail(fault, times=None)
    result = run("doctor", "--json", **settings_of(service))
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["healthy"] is False
    (one,) = [one for one in found["findings"] if one["verdict"] == "wrong"]
    assert one["check"] == wrong
    assert one["remedy"]


def test_a_place_that_takes_anything_is_not_the_service(service):
    """A refresh token that is none is to be refused."""
    service.fail(Raw(b'{"token": "eyJ", "refresh_token": "eyK"}', status=201))
    result = run("doctor", "--json", **settings_of(service))
    assert "it is not the service that answers" in result.stdout
    assert verdicts(result)["credentials"] == "wrong"


def test_it_takes_the_embed_origin_from_the_environment(service):
    """It names the variable if that is wrong."""
    result = run("doctor", **settings_of(service, SIGNALWIRE_TOKENS_EMBED_ORIGIN="a b"))
    assert "SIGNALWIRE_TOKENS_EMBED_ORIGIN must be" in result.stdout


def test_any_refusal_of_an_unknown_subscriber_is_an_answer(service):
    """Its code, as any other, says that SignalWire has answered."""
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


def test_what_goes_wrong_later_is_told_where_it_does(service):
    """While answers are timed, and while a token is tried out."""
    service.fail(Status(500), operation="subscriber_addresses")
    result = run("doctor", "--json", "--reference", "alice", **settings_of(service))
    assert verdicts(result)["latency"] == "wrong"
    for operation, check in (("create_subscriber_token", "issue"), ("subscriber_info", "life")):
        service.fail(Status(500), operation=operation)
        result = run("doctor", "--json", "--reference", "alice", **settings_of(service))
        assert verdicts(result)[check] == "wrong"
        assert "refresh" not in verdicts(result)


def test_two_things_that_are_wrong_are_counted(service):
    """Each with its own remedy."""
    service.fail(Status(500), operation="subscriber_addresses")
    service.fail(SkewDate(3600), times=None)
    result = run("doctor", **settings_of(service))
    assert result.exit_code == 1
    assert result.stderr == "Error: 2 things are wrong\n"


async def test_a_service_that_says_nothing_of_a_token_s_end_is_not_wrong(emulator):
    """Its answer may lack the claims."""
    info = b'{"id": "00000000-0000-4000-8000-000000000000"}'
    emulator.fail(Raw(info), operation="subscriber_info")
    settings = Settings(space=emulator.space, ca_file=None)
    found = {one.check: one async for one in examine(emulator.client(retries=0), settings, "alice")}
    assert found["life"].verdict.value == "skipped"
    assert found["refresh"].verdict.value == "ok"
