"""The command `inspect`: what can be read from a token, and with `--ask`, what SignalWire knows about it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from signalwire_tokens.duration_text import spoken
from signalwire_tokens.secret import Secret, digest_of
from signalwire_tokens.token_header import SIGNED, TokenShape, open_claims, read_form

from .command import Command, Option, one_line, print_json, to_json
from .options import connection
from .standard_input import refuse_argument, token_from_stdin

if TYPE_CHECKING:
    from signalwire_tokens.models import SubscriberInfo

    from .options import MakeSettings

__all__ = ["describe_info", "describe_token", "inspect"]

CLICK_TO_CALL = re.compile(r"c2[ct]_[A-Za-z0-9_-]*")
USUAL_LIFETIMES = {
    "SAT": "; an access token is usually valid for 2 h",
    "Refresh": "; a refresh token is usually valid for 2 h 5 min",
}
ADVICE = "unknown, because the token is incomplete: copy all of it"


@click.command(
    cls=Command,
    examples=(
        "signalwire-tokens inspect < token",
        "signalwire-tokens create subscriber alice | signalwire-tokens inspect --ask",
    ),
)
@click.argument("misplaced", metavar="", nargs=-1)
@click.option("--ask", "asks", cls=Option, is_flag=True, help="Also ask SignalWire about an access token.")
@connection(project=False)
def inspect(*, settings: MakeSettings, misplaced: tuple[str, ...], asks: bool, as_json: bool) -> None:
    """Show what a token reveals.

    Standard input holds the token, or the JSON that `--pair` printed. With --ask, SignalWire is asked for the
    subscriber, the expiry, the scope and the addresses; otherwise nothing is sent. The token itself is never printed.
    """
    refuse_argument(misplaced)
    text = token_from_stdin("token", "Token")
    facts = describe_token(text, datetime.now(UTC))
    if asks:
        from .create import send  # noqa: PLC0415 - the client takes long to import

        if facts["kind"] == "Refresh":
            raise click.ClickException("SignalWire can't be asked about a refresh token without using it up")
        facts |= describe_info(send(settings, lambda client: client.subscriber_info(token_in(text).value)))
    if as_json:
        print_json(facts)
    else:
        for name, fact in facts.items():
            for one in fact if isinstance(fact, list) else [fact]:
                click.echo(f"{name:<12} {readable(one)}")
    if facts["format"].startswith("unknown"):
        raise click.ClickException(
            "standard input holds no SignalWire token: look for text around it, or a cut beginning"
        )
    if facts["life"] == ADVICE:
        raise click.ClickException("the token is incomplete")


def readable(fact: object) -> str:
    """Return a fact as text for people."""
    if isinstance(fact, dict):
        return "  ".join(readable(one) for one in fact.values())
    return "unknown" if fact is None else to_json(fact) if isinstance(fact, datetime) else one_line(str(fact))


def describe_token(text: Secret[str], now: datetime) -> dict[str, Any]:
    """Return what can be read from the token at the beginning of a text."""
    form, token = read_form(text.value), token_in(text)
    claims = open_claims(token.value) if form is not None and form.is_whole else {}
    issued_at, expires_at = (
        datetime.fromtimestamp(claims[name], UTC) if name in claims else None for name in ("iat", "exp")
    )
    shape, life = describe_form(token, form, expires_at, now)
    rest = Secret(text.value[len(token.value) :])
    return {
        "kind": form and form.header.kind,
        "channel": form and form.header.channel,
        "format": shape,
        "characters": len(token.value),
        **({"after": describe_rest(rest)} if rest.value else {}),
        "digest": digest_of(token.value),
        "issued_at": issued_at,
        "expires_at": expires_at,
        "life": life,
    }


def token_in(text: Secret[str]) -> Secret[str]:
    """Return the token at the beginning of a text, or the text without trailing white space if its form is unknown."""
    form = read_form(text.value)
    if form is not None:
        return Secret(text.value[: form.end])
    click_to_call = CLICK_TO_CALL.match(text.value)
    return Secret(text.value.rstrip() if click_to_call is None else click_to_call[0])


def describe_rest(rest: Secret[str]) -> str:
    """Return how much follows a token, without showing it."""
    count = len(rest.value)
    counted = "1 character" if count == 1 else f"{count} characters"
    if rest.value.isspace():
        return f"{counted} of white space"
    return f"{counted} that {'isn' if count == 1 else 'aren'}'t part of it"


def describe_form(
    token: Secret[str], form: TokenShape | None, until: datetime | None, now: datetime
) -> tuple[str, str]:
    """Return the form of a token, and what is known about its validity."""
    if form is None:
        if CLICK_TO_CALL.match(token.value):
            return "public click-to-call token of a web page", "valid as long as SignalWire has its setting"
        return "unknown: not a SignalWire token", "unknown"
    name, standard = ("signed", "JWS") if form.parts == SIGNED else ("encrypted", "JWE")
    if not form.is_whole:
        lack = f"{form.found} of {form.parts} parts" if form.found < form.parts else "its last part is cut"
        return f"{name}, incomplete: {lack} ({standard})", ADVICE
    if form.parts != SIGNED:
        usual = USUAL_LIFETIMES.get(form.header.kind or "", "")
        return (
            "encrypted, five parts (JWE)",
            f"only SignalWire can read when it expires, because it is encrypted{usual}",
        )
    if until is None:
        return "signed, three parts (JWS)", "it names no expiry"
    left = (until - now).total_seconds()
    said = f"expires in {spoken(left)}" if left > 0 else f"expired {spoken(-left)} ago"
    return "signed, three parts (JWS)", f"{said}, by its own claim, which isn't verified"


def describe_info(info: SubscriberInfo) -> dict[str, Any]:
    """Return what SignalWire reports about a token."""
    claims = info.sat_claims
    subscriber = {"id": info.id, "email": info.email, "display_name": info.display_name}
    facts: dict[str, Any] = {"subscriber": {name: fact for name, fact in subscriber.items() if fact is not None}}
    if claims is not None:
        facts |= {"scope": " ".join(claims.scope) or None, "fingerprint": claims.fingerprint}
        if claims.expires_at is not None:
            facts |= {"expires_at": claims.expires_at, "life": "as SignalWire reports"}
    facts["addresses"] = [{"id": one.id, "name": one.name, "type": one.type} for one in info.fabric_addresses]
    return facts
