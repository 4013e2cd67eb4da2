"""The commands that issue a token each, and the one that renews a pair."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from signalwire_tokens.models import Secret, Token, TokenPair

from .command import Command, say_json, written
from .settings import Settings, credentialed, duration, for_embeds, token_fields
from .signals import on_stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from signalwire_tokens.client import TokenClient

__all__ = ["ask_service", "embed", "guest", "invite", "read_token", "refresh", "subscriber"]

T = TypeVar("T")
LONGEST_TOKEN = 64 * 1024
LIFETIME = click.option("--lifetime", type=duration, help="How long the token is to live: 90s, 15m, 2h or 1d.")
PAIR = click.option("--pair", "whole", is_flag=True, help="Print the pair as JSON, its refresh token included.")


@click.command(cls=Command)
@click.argument("reference")
@LIFETIME
@token_fields
@PAIR
@credentialed
def subscriber(
    *,
    settings: Settings,
    reference: str,
    lifetime: timedelta | None,
    fields: dict[str, Any],
    whole: bool,
    as_json: bool,
) -> None:
    """Issue an access token for the subscriber REFERENCE, who is created if new.

    The token is printed alone on standard output, and what is known of it on standard error.
    """
    issued = ask_service(
        settings, lambda client: client.create_subscriber_token(reference, expire_at=lifetime, **fields)
    )
    show(issued, whole=whole, as_json=as_json)


@click.command(cls=Command)
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@LIFETIME
@click.option("--region", help="As the service has it.")
@click.option("--ch", help="As the service has it.")
@PAIR
@credentialed
def guest(
    *,
    settings: Settings,
    addresses: tuple[str, ...],
    lifetime: timedelta | None,
    region: str | None,
    ch: str | None,
    whole: bool,
    as_json: bool,
) -> None:
    """Issue a guest's token, good for reaching each ADDRESS (an id) and nothing else."""
    issued = ask_service(
        settings, lambda client: client.create_guest_token(addresses, expire_at=lifetime, region=region, ch=ch)
    )
    show(issued, whole=whole, as_json=as_json)


@click.command(cls=Command)
@click.argument("address")
@click.option("--as", "reference", required=True, metavar="REFERENCE", help="The subscriber who invites.")
@LIFETIME
@credentialed
def invite(*, settings: Settings, address: str, reference: str, lifetime: timedelta | None, as_json: bool) -> None:
    """Invite somebody to ADDRESS (an id), in the name of a subscriber, who is created if new.

    An access token is issued for the subscriber first, and sent with the invitation.
    """

    async def issue(client: TokenClient) -> Token:
        pair = await client.create_subscriber_token(reference)
        return await client.create_invite_token(address, subscriber_token=pair.access_token, expires_at=lifetime)

    show(ask_service(settings, issue), as_json=as_json)


@click.command(cls=Command)
@click.argument("click_to_call", metavar="C2C")
@for_embeds
def embed(*, settings: Settings, click_to_call: str, as_json: bool) -> None:
    """Issue a guest's token for C2C, the public click-to-call token of a web page (c2c_… or c2t_…).

    No credentials are sent.
    """
    show(ask_service(settings, lambda client: client.create_embed_token(click_to_call)), as_json=as_json)


@click.command(cls=Command)
@credentialed
def refresh(*, settings: Settings, as_json: bool) -> None:  # noqa: ARG001 - it speaks JSON in any case
    """Exchange the refresh token on standard input for a new pair, printed as JSON.

    It takes what `--pair` printed, too. The refresh token is used up: keep the new one.
    """
    token = read_token("refresh_token", "Refresh token")
    client = settings.client()

    async def renew() -> None:
        # To leave now would be to lose the new pair, of which the service may have used up the old one.
        with on_stop(lambda: click.echo("waiting for the answer, which holds the new pair", err=True)):
            async with client:
                pair = await client.refresh_subscriber_token(token.value.strip())
            try:
                show(pair, whole=True, as_json=True)
            except OSError as error:
                message = f"the new pair could not be printed and is lost, issue another: {error.strerror}"
                raise click.ClickException(message) from None

    asyncio.run(renew())


def ask_service(settings: Settings, describe: Callable[[TokenClient], Awaitable[T]]) -> T:
    """Ask the service for something."""
    client = settings.client()  # before the event loop runs, which keeps Ctrl-C from a prompt

    async def main() -> T:
        async with client:
            return await describe(client)

    return asyncio.run(main())


def show(issued: TokenPair | Token, *, whole: bool = False, as_json: bool) -> None:
    """Print a token for programs, and what is known of it for people."""
    if sys.stdout is None:
        raise click.ClickException("standard output is closed, and the token would be lost")
    token = issued.access_token if isinstance(issued, TokenPair) else issued
    if as_json or whole:
        say_json(facts_of(issued, whole=whole))
        return
    click.echo(token.value)
    whose = issued.subscriber_id if isinstance(issued, TokenPair) else None
    whom = "" if whose is None else f" of subscriber {whose}"
    where = f", for {token.channel}" if token.channel else ""
    kind = token.kind or "token"
    click.echo(f"{kind} #{token.digest}{whom}, live until {written(token.expires_at)}{where}", err=True)
    if isinstance(issued, TokenPair):
        click.echo("its refresh token is not shown: --pair prints both", err=True)


def facts_of(issued: TokenPair | Token, *, whole: bool) -> dict[str, Any]:
    """Say what is known of an access token, itself included; of a whole pair, the same of its refresh token."""
    token = issued.access_token if isinstance(issued, TokenPair) else issued
    facts: dict[str, Any] = {
        "token": token.value,
        "kind": token.kind,
        "channel": token.channel,
        "issued_at": token.issued_at,
        "expires_at": token.expires_at,
    }
    if isinstance(issued, TokenPair) and issued.subscriber_id is not None:
        facts["subscriber_id"] = issued.subscriber_id
    if isinstance(issued, TokenPair) and whole:
        facts |= {"refresh_token": issued.refresh_token.value, "refresh_expires_at": issued.refresh_token.expires_at}
    return facts


def read_token(member: str, prompt: str) -> Secret[str]:
    """Return what standard input holds: a token with whatever follows it, or the member of a JSON object."""
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: it must hold a token")
    if sys.stdin.isatty():
        return Secret(click.prompt(prompt, hide_input=True, err=True))
    text = Secret(sys.stdin.read(LONGEST_TOKEN + 1).removeprefix("\ufeff").lstrip())
    if not text.value or len(text.value) > LONGEST_TOKEN:
        raise click.UsageError("standard input must hold a token, or the JSON object of a pair")
    if not text.value.startswith("{"):
        return text
    found: Secret[Any] = Secret(parsed(text).get(member))
    if not isinstance(found.value, str):
        raise click.UsageError(f"the JSON object on standard input must have a string as {member!r}")
    return found


def parsed(text: Secret[str]) -> dict[str, Any]:
    """Read a JSON object; what is wrong with it is not quoted."""
    try:
        value = json.loads(text.value)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}
