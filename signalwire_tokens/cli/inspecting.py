"""What `signalwire-tokens inspect` prints: what a token shows openly, what it doesn't, and why."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from signalwire_tokens.models import Secret, digest_of
from signalwire_tokens.wire.header import SIGNED, TokenShape, open_claims, read_form

from .command import Command, plain, say_json, written
from .issuing import ask_service, read_token
from .settings import Settings, located
from .telling import span

if TYPE_CHECKING:
    from signalwire_tokens.models import SubscriberInfo

__all__ = ["describe_token", "inspect"]

CLICK_TO_CALL = re.compile(r"c2[ct]_[A-Za-z0-9_-]*")
LIVES = {
    "SAT": "an access token usually lives two hours from its issue, unless another end was asked for",
    "Refresh": "a refresh token usually lives two hours and five minutes from its issue",
}


@click.command(cls=Command)
@click.option("--ask", "asks", is_flag=True, help="Ask the service, too: whose the token is, its end, its addresses.")
@located
def inspect(*, settings: Settings, asks: bool, as_json: bool) -> None:
    """Show what can be known of the token on standard input, and whether anything follows it.

    Without --ask, nothing is sent. It takes what `--pair` printed, too, and then looks at the access token.
    """
    text = read_token("token", "Token")
    facts = describe_token(text, datetime.now(UTC))
    if asks:
        if facts["kind"] == "Refresh":
            raise click.ClickException("the service cannot be asked about a refresh token without using it up")
        facts |= tell_info(ask_service(settings, lambda client: client.subscriber_info(token_in(text).value)))
    if as_json:
        say_json(facts)
        return
    for name, fact in facts.items():
        if isinstance(fact, list):
            for one in fact:
                click.echo(f"{name:<12} {written_out(one)}")
        else:
            click.echo(f"{name:<12} {written_out(fact)}")


def written_out(fact: object) -> str:
    """Write a fact for people."""
    if isinstance(fact, dict):
        return "  ".join(written_out(one) for one in fact.values())
    return "unknown" if fact is None else written(fact) if isinstance(fact, datetime) else plain(str(fact))


def describe_token(text: Secret[str], now: datetime) -> dict[str, Any]:
    """Return what can be read from the token at the start of a text."""
    form, token = read_form(text.value), token_in(text)
    claims = open_claims(token.value) if form is not None and form.is_whole else {}
    times = {name: datetime.fromtimestamp(claims[name], UTC) if name in claims else None for name in ("iat", "exp")}
    shape, life = form_and_life(token, form, times["exp"], now)
    rest = Secret(text.value[len(token.value) :])
    return {
        "kind": form and form.header.kind,
        "channel": form and form.header.channel,
        "format": shape,
        "characters": len(token.value),
        **({"after": describe_rest(rest)} if rest.value else {}),
        "digest": digest_of(token.value),
        "issued_at": times["iat"],
        "expires_at": times["exp"],
        "life": life,
    }


def token_in(text: Secret[str]) -> Secret[str]:
    """Return the token at the start of a text, or the text without trailing white space if its form is unknown."""
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


def form_and_life(
    token: Secret[str], form: TokenShape | None, until: datetime | None, now: datetime
) -> tuple[str, str]:
    """Return what form a token has, and what can be known of its life."""
    if form is None:
        if CLICK_TO_CALL.match(token.value):
            return "the public click-to-call token of a web page", "as long as its setting stands"
        return "none that the service's tokens have", "unknown"
    name, standard = ("signed", "JWS") if form.parts == SIGNED else ("encrypted", "JWE")
    if not form.is_whole:
        lack = f"{form.found} of {form.parts} parts" if form.found < form.parts else "its last part is cut"
        return f"{name}, incomplete: {lack} ({standard})", "unknown, because the token is incomplete: copy all of it"
    if form.parts != SIGNED:
        hidden = "it is encrypted, so only SignalWire can read when it expires"
        known = "" if form.header.kind is None else f"; {LIVES[form.header.kind]}"
        return "encrypted, five parts (JWE)", f"{hidden}{known}"
    if until is None:
        return "signed, three parts (JWS)", "it names no end"
    left = (until - now).total_seconds()
    said = f"it ends in {span(left)}" if left > 0 else f"it ended {span(-left)} ago"
    return "signed, three parts (JWS)", f"{said}, as it says of itself, unverified"


def tell_info(info: SubscriberInfo) -> dict[str, Any]:
    """Say what the service knows of a token."""
    claims = info.sat_claims
    whom = {"id": info.id, "email": info.email, "display_name": info.display_name}
    known: dict[str, Any] = {"subscriber": {name: fact for name, fact in whom.items() if fact is not None}}
    if claims is not None:
        known |= {"scope": " ".join(claims.scope) or None, "fingerprint": claims.fingerprint}
        if claims.expires_at is not None:
            known |= {"expires_at": claims.expires_at, "life": "as the service says"}
    known["addresses"] = [{"id": one.id, "name": one.name, "type": one.type} for one in info.fabric_addresses]
    return known
