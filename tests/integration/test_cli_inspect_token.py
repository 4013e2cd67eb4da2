"""What can be known of a token, and what cannot."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest

from signalwire_tokens import SatClaims, SubscriberInfo
from signalwire_tokens.cli.inspect_token import describe_info, describe_token
from signalwire_tokens.secret import Secret
from support.cli_runner import Terminal, run, run_apart
from support.processes import settings_of

pytestmark = pytest.mark.usefixtures("plain_environment")
NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
KEY = "a key of the thirty-two characters that it needs"


def signed(**claims):
    return jwt.encode(claims, KEY, headers={"typ": "SAT"})


def encoded(header):
    return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")


# Of no known kind.
ENCRYPTED = f"{encoded({'alg': 'dir', 'enc': 'A256GCM'})}..aXY.Y2lwaGVy.{'T' * 22}"


def issue_pair(service):
    return json.loads(run("create", "subscriber", "alice@example.com", "--pair", **settings_of(service)).stdout)


@pytest.mark.parametrize(
    "way",
    [run, pytest.param(run_apart, marks=pytest.mark.slow)],  # the second starts the command in a process
)
def test_an_encrypted_token_tells_its_kind_and_not_its_end(service, way):
    """And why: nothing is sent, and no space is needed."""
    pair, requests = issue_pair(service), len(service.requests)
    text = way("inspect", stdin=pair["token"]).stdout
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert lines["kind"] == "SAT"
    assert lines["channel"] == "puc.signalwire.com"
    assert lines["format"] == "encrypted, five parts (JWE)"
    assert lines["characters"] == str(len(pair["token"]))
    assert lines["expires_at"] == "unknown"
    assert lines["life"].startswith(
        "only SignalWire can read when it expires, because it is encrypted; an access token is usually valid for 2 h"
    )
    assert pair["token"] not in text
    assert len(service.requests) == requests


def test_a_refresh_token_is_told_apart(service):
    """By its header, as far as that is to be trusted."""
    told = json.loads(run("inspect", "--json", stdin=issue_pair(service)["refresh_token"]).stdout)
    assert told["kind"] == "Refresh"
    assert "2 h 5 min" in told["life"]


@pytest.mark.parametrize(
    ("token", "form", "life"),
    [
        (signed(exp=NOW.timestamp() + 90), "signed", "expires in 1 min 30 s, by its own claim, which isn't verified"),
        (signed(exp=NOW.timestamp() - 7200), "signed", "expired 2 h ago, by its own claim, which isn't verified"),
        (signed(iat=NOW.timestamp()), "signed", "it names no expiry"),
        (ENCRYPTED, "encrypted, five parts (JWE)", "only SignalWire can read when it expires, because it is encrypted"),
        ("c2c_0123456789abcdef", "public click-to-call token", "valid as long as SignalWire has its setting"),
        ("c2t_0123456789abcdef", "public click-to-call token", "valid as long as SignalWire has its setting"),
        ("rubbish", "unknown: not a SignalWire token", "unknown"),
        ("a.b.c", "unknown: not a SignalWire token", "unknown"),
        ("a.b.c.d.e", "unknown: not a SignalWire token", "unknown"),
        ("\udcff", "unknown: not a SignalWire token", "unknown"),
    ],
)
def test_what_a_form_tells_of_a_life(token, form, life):
    """A signed token says its end, which nobody has verified; others say nothing."""
    told = describe_token(Secret(token), NOW)
    assert told["format"].startswith(form)
    assert told["life"] == life
    assert (told["expires_at"] is None) == ("claim" not in life)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_an_encrypted_token_that_was_cut_is_called_incomplete(service, parts):
    """Its header calls for five parts; a token of three would otherwise pass for a signed one."""
    cut = ".".join(issue_pair(service)["token"].split(".")[:parts])
    result = run("inspect", stdin=cut)
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["kind"] == "SAT"
    assert lines["format"] == f"encrypted, incomplete: {parts} of 5 parts (JWE)"
    assert lines["life"] == "unknown, because the token is incomplete: copy all of it"
    assert lines["characters"] == str(len(cut))
    assert cut not in result.output


@pytest.mark.parametrize(
    ("cut", "form"),
    [
        (ENCRYPTED[:-1], "encrypted, incomplete: its last part is cut (JWE)"),
        (ENCRYPTED[:-22], "encrypted, incomplete: its last part is cut (JWE)"),
        (signed(exp=1).rpartition(".")[0], "signed, incomplete: 2 of 3 parts (JWS)"),
        (signed(exp=1)[:-1], "signed, incomplete: its last part is cut (JWS)"),
    ],
    ids=["in the last part", "before the last part", "a signed one", "in the signature"],
)
def test_a_token_that_was_cut_elsewhere_is_called_incomplete(cut, form):
    """It names no time, even if a signed one shows some."""
    told = describe_token(Secret(cut), NOW)
    assert (told["format"], told["expires_at"]) == (form, None)
    assert told["life"] == "unknown, because the token is incomplete: copy all of it"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("\n", "1 character of white space"),
        ("\n \t", "3 characters of white space"),
        (" hush", "5 characters that aren't part of it"),
        ("hush", "4 characters that aren't part of it"),
        (".", "1 character that isn't part of it"),
        ("\n\nhush\n", "7 characters that aren't part of it"),
    ],
)
@pytest.mark.parametrize("token", [ENCRYPTED, signed(iat=1)], ids=["encrypted", "signed"])
def test_what_follows_a_token_is_named_and_not_shown(token, after, said):
    """The other lines are about the token alone."""
    result = run("inspect", "--json", stdin=f"\n {token}{after}")
    told = json.loads(result.stdout)
    assert told.pop("after") == said
    assert told == json.loads(run("inspect", "--json", stdin=token).stdout)
    assert "hush" not in result.output


def test_what_follows_a_click_to_call_token_is_named():
    """It is of any length, and ends with the first character that it can't have."""
    told = describe_token(Secret("c2c_0123456789abcdef hush"), NOW)
    assert (told["characters"], told["after"]) == (20, "5 characters that aren't part of it")


def test_white_space_after_a_text_of_unknown_form_is_named():
    """It isn't part of what has the digest."""
    told = describe_token(Secret("rubbish\n"), NOW)
    assert told == {**describe_token(Secret("rubbish"), NOW), "after": "1 character of white space"}


def test_nothing_after_a_token_is_mentioned_if_there_is_nothing():
    """The line is there only if something follows the token."""
    assert "after" not in run("inspect", stdin=ENCRYPTED).stdout
    assert f"{'after':<12} 1 character of white space\n" in run("inspect", stdin=f"{ENCRYPTED}\n").stdout


def test_the_service_is_asked_about_the_token_alone(service):
    """White space or text after it would not pass as a header."""
    text = f"{issue_pair(service)['token']} and more\n"
    told = json.loads(run("inspect", "--ask", "--json", stdin=text, SIGNALWIRE_SPACE=service.space).stdout)
    assert told["subscriber"]["email"] == "alice@example.com"


def test_the_service_is_asked_where_that_is_wanted(service):
    """Whose the token is, when it ends, and what can be reached."""
    pair = issue_pair(service)
    given = json.dumps(pair)
    told = json.loads(run("inspect", "--ask", "--json", stdin=given, SIGNALWIRE_SPACE=service.space).stdout)
    assert told["subscriber"]["email"] == "alice@example.com"
    assert datetime.fromisoformat(told["expires_at"]) - datetime.now(UTC) > timedelta(minutes=119)
    (address,) = told["addresses"]
    text = run("inspect", "--ask", stdin=given, SIGNALWIRE_SPACE=service.space).stdout
    assert f"addresses    {address['id']}  alice-example-com  subscriber\n" in text
    assert service.requests[-1].auth == "Bearer"


def test_a_dead_token_is_refused_by_the_service(service):
    """In one line, with the exit code for credentials."""
    pair = issue_pair(service)
    service.advance(7201)
    result = run("inspect", "--ask", stdin=pair["token"], SIGNALWIRE_SPACE=service.space)
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: subscriber_info: ")


def test_a_refresh_token_cannot_be_asked_about(service):
    """To present it is to use it up."""
    pair, requests = issue_pair(service), len(service.requests)
    result = run("inspect", "--ask", stdin=pair["refresh_token"], SIGNALWIRE_SPACE=service.space)
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: SignalWire can't be asked about a refresh token without using it up\n",
    )
    assert len(service.requests) == requests


def test_a_service_that_says_nothing_of_claims_leaves_the_end_unknown():
    """Fields may be missing from its answer."""
    assert describe_info(SubscriberInfo(id=UUID(int=1))) == {"subscriber": {"id": UUID(int=1)}, "addresses": []}
    claims = SatClaims(scope=("sat:refresh",))
    assert "expires_at" not in describe_info(SubscriberInfo(id=UUID(int=1), sat_claims=claims))


def test_what_people_call_themselves_forges_no_line(service):
    """A name may hold anything."""
    name = "Alice\nkind         Refresh\x1b[31m"
    token = run("create", "subscriber", "alice@example.com", "--display-name", name, **settings_of(service)).stdout
    result = run("inspect", "--ask", stdin=token, SIGNALWIRE_SPACE=service.space)
    assert result.stdout.count("\nkind") == 0
    assert "\x1b" not in result.stdout
    assert "Alice kind Refresh [31m" in result.stdout


@pytest.mark.parametrize("text", ["rubbish\n", "Bearer eyJ", "a.b.c.d.e"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
def test_a_text_that_is_no_token_is_an_error(text, form):
    """What is known about the text is printed all the same."""
    result = run("inspect", *form, stdin=text)
    assert result.exit_code == 1
    assert "holds no SignalWire token" in result.stderr
    assert "unknown: not a SignalWire token" in result.stdout


def test_an_incomplete_token_is_an_error():
    """It can't be used."""
    result = run("inspect", stdin=ENCRYPTED[:-1])
    assert (result.exit_code, result.stderr) == (1, "Error: the token is incomplete\n")


@pytest.mark.slow  # it starts the command on a terminal
def test_on_a_terminal_the_token_is_asked_for_and_not_shown(service):
    """It may be pasted."""
    pair = issue_pair(service)
    with Terminal("inspect") as terminal:
        terminal.read_until("Token: ")
        terminal.type(f"{pair['token']}\n")
        shown, code = terminal.end()
    assert code == 0
    assert pair["token"] not in shown
    assert "SAT" in shown
