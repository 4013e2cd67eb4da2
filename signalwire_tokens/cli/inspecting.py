"""What `signalwire-tokens inspect` says of a token: what it tells openly, what it does not, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from signalwire_tokens.models import digest_of
from signalwire_tokens.wire.header import ENCRYPTED, SIGNED, open_claims, read_header

from .command import Command, plain, say_json, written
from .issuing import ask_service, read_token
from .settings import Settings, located
from .telling import span

if TYPE_CHECKING:
    from signalwire_tokens.models import Secret, SubscriberInfo

__all__ = ["describe_token", "inspect"]

LIVES = {
    "SAT": "an access token lives two hours from its issue, unless another end was asked for",
    "Refresh": "a refresh token lives two hours and five minutes from its issue",
}


@click.command(cls=Command)
@click.option("--ask", "asks", is_flag=True, help="Ask the service, too: whose the token is, its end, its addresses.")
@located
def inspect(*, settings: Settings, asks: bool, as_json: bool) -> None:
    """Say what can be known of the token on standard input.

    Without --ask, nothing is sent. It takes what `--pair` printed, too, and then looks at the access token.
    """
    token = read_token("token", "Token")
    facts = describe_token(token, datetime.now(UTC))
    if asks:
        if facts["kind"] == "Refresh":
            raise click.ClickException("the service cannot be asked about a refresh token without using it up")
        facts |= tell_info(ask_service(settings, lambda client: client.subscriber_info(token.value)))
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


def describe_token(token: Secret[str], now: datetime) -> dict[str, Any]:
    """Say what a token tells openly."""
    header, claims = read_header(token.value), open_claims(token.value)
    times = {name: datetime.fromtimestamp(claims[name], UTC) if name in claims else None for name in ("iat", "exp")}
    form, life = form_and_life(token, header.kind, times["exp"], now)
    return {
        "kind": header.kind,
        "channel": header.channel,
        "format": form,
        "characters": len(token.value),
        "digest": digest_of(token.value),
        "issued_at": times["iat"],
        "expires_at": times["exp"],
        "life": life,
    }


def form_and_life(token: Secret[str], kind: str | None, until: datetime | None, now: datetime) -> tuple[str, str]:
    """Say what form a token has, and what can be known of its life."""
    if token.value.startswith("c2c_"):
        return "the public click-to-call token of a web page", "as long as its setting stands"
    parts = token.value.count(".") + 1
    if parts == ENCRYPTED and kind is not None:
        return "encrypted, five parts (JWE)", f"only the service can read it, for it is encrypted; {LIVES[kind]}"
    if parts != SIGNED or (kind is None and until is None):
        return "none that the service's tokens have", "unknown"
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
