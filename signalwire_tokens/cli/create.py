"""The commands `create …`, which issue tokens, `refresh`, which renews a pair, and `generate-key`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.stores import generate_encryption_key

from .command import Command, Group, Option, one_line, print_json, to_json
from .options import connection, duration, profile
from .signals import on_stop
from .standard_input import refuse_argument, token_from_stdin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from signalwire_tokens.client import TokenClient

    from .options import MakeSettings

__all__ = ["create", "generate_key", "refresh", "send"]

T = TypeVar("T")
LIFETIME = click.option(
    "--lifetime",
    cls=Option,
    type=duration,
    metavar="DURATION",
    help="Lifetime: 90s, 15m, 2h or 1d.  [default: 2h, or $SIGNALWIRE_TOKENS_LIFETIME]",
)
PAIR = click.option(
    "--pair", "whole", cls=Option, section="Output", is_flag=True, help="Print JSON with the refresh token, too."
)


@click.group(cls=Group)
def create() -> None:
    """Issue a token."""


@create.command(
    cls=Command,
    examples=(
        "signalwire-tokens create subscriber alice@example.com --first-name Alice",
        "signalwire-tokens create subscriber alice@example.com --pair > pair.json",
    ),
)
@click.argument("reference")
@LIFETIME
@profile
@PAIR
@connection()
def subscriber(
    *,
    settings: MakeSettings,
    reference: str,
    lifetime: timedelta | None,
    fields: dict[str, Any],
    whole: bool,
    as_json: bool,
) -> None:
    """Issue a subscriber's access token.

    SignalWire creates the subscriber REFERENCE if there is none. The token alone goes to standard output, and facts
    about it to standard error.
    """
    show(
        send(settings, lambda client: client.create_subscriber_token(reference, expire_at=lifetime, **fields)),
        whole=whole,
        as_json=as_json,
    )


@create.command(
    cls=Command, examples=("signalwire-tokens create guest 11111111-2222-4333-8444-555555555555 --lifetime 15m",)
)
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@LIFETIME
@click.option("--region", cls=Option, metavar="TEXT", help="Region, such as us-central.")
@click.option("--ch", cls=Option, metavar="TEXT", help="Cluster to connect to, such as us-central.")
@PAIR
@connection()
def guest(
    *,
    settings: MakeSettings,
    addresses: tuple[str, ...],
    lifetime: timedelta | None,
    region: str | None,
    ch: str | None,
    whole: bool,
    as_json: bool,
) -> None:
    """Issue a guest token.

    A guest can reach each ADDRESS (an id), and nothing else. `inspect --ask` prints the ids of a subscriber's
    addresses.
    """
    show(
        send(settings, lambda client: client.create_guest_token(addresses, expire_at=lifetime, region=region, ch=ch)),
        whole=whole,
        as_json=as_json,
    )


@create.command(
    cls=Command,
    examples=("signalwire-tokens create invite 11111111-2222-4333-8444-555555555555 --as alice@example.com",),
)
@click.argument("address")
@click.option("--as", "reference", cls=Option, required=True, metavar="REFERENCE", help="Subscriber who invites.")
@LIFETIME
@connection()
def invite(*, settings: MakeSettings, address: str, reference: str, lifetime: timedelta | None, as_json: bool) -> None:
    """Issue an invite token.

    It invites its holder to ADDRESS (an id), in the name of a subscriber. SignalWire creates the subscriber if there is
    none.
    """

    async def issue(client: TokenClient) -> Token:
        pair = await client.create_subscriber_token(reference)
        return await client.create_invite_token(address, subscriber_token=pair.access_token, expires_at=lifetime)

    show(send(settings, issue), as_json=as_json)


@create.command(cls=Command, examples=("signalwire-tokens create embed c2c_0123456789abcdef",))
@click.argument("click_to_call", metavar="CLICK_TO_CALL")
@connection(project=False, embeds=True)
def embed(*, settings: MakeSettings, click_to_call: str, as_json: bool) -> None:
    """Issue a web page visitor's token.

    CLICK_TO_CALL is the public click-to-call token of the page (c2c_… or c2t_…). The command sends no credentials.
    """
    show(send(settings, lambda client: client.create_embed_token(click_to_call)), as_json=as_json)


@click.command(cls=Command, examples=("signalwire-tokens refresh < pair.json > next.json",))
@click.argument("misplaced", metavar="", nargs=-1)
@connection()
def refresh(*, settings: MakeSettings, misplaced: tuple[str, ...], as_json: bool) -> None:  # noqa: ARG001 - it always prints JSON
    """Exchange a refresh token for a new pair.

    Standard input holds the refresh token, or the JSON that `--pair` printed. The new pair goes to standard output as
    JSON. Write it to another file than the one that you read. The old refresh token can't be used again.
    """
    refuse_argument(misplaced)
    token = token_from_stdin("refresh_token", "Refresh token")
    client = settings().client()

    async def renew() -> None:
        # SignalWire may have used up the old refresh token: leaving now would lose the only valid one.
        with on_stop(lambda: click.echo("waiting for the answer, which holds the new pair", err=True)):
            async with client:
                pair = await client.refresh_subscriber_token(token.value.strip())
            try:
                show(pair, whole=True, as_json=True)
            except OSError as error:
                message = f"can't print the new pair, so it is lost; create another one: {error.strerror}"
                raise click.ClickException(message) from None

    asyncio.run(renew())


@click.command(cls=Command, examples=("export SIGNALWIRE_TOKENS_ENCRYPTION_KEY=$(signalwire-tokens generate-key)",))
def generate_key(*, as_json: bool) -> None:
    """Print a new encryption key for a store.

    Set it as SIGNALWIRE_TOKENS_ENCRYPTION_KEY, and keep it where you keep the API token.
    """
    key = generate_encryption_key()
    if as_json:
        print_json({"key": key})
    else:
        click.echo(key)


def send(settings: MakeSettings, operation: Callable[[TokenClient], Awaitable[T]]) -> T:
    """Return the result of an operation of a client."""
    client = settings().client()  # before the event loop runs, so that Ctrl-C reaches a prompt

    async def main() -> T:
        async with client:
            return await operation(client)

    return asyncio.run(main())


def show(issued: TokenPair | Token, *, whole: bool = False, as_json: bool) -> None:
    """Print a token for programs, and facts about it for people."""
    if sys.stdout is None:
        raise click.ClickException("standard output is closed, so the token would be lost")
    token, owner = (issued.access_token, issued.subscriber_id) if isinstance(issued, TokenPair) else (issued, None)
    if as_json or whole:
        facts = {
            "token": token.value,
            "kind": token.kind,
            "channel": token.channel,
            "issued_at": token.issued_at,
            "expires_at": token.expires_at,
            **({} if owner is None else {"subscriber_id": owner}),
        }
        if isinstance(issued, TokenPair) and whole:
            refresh_token = issued.refresh_token
            facts |= {"refresh_token": refresh_token.value, "refresh_expires_at": refresh_token.expires_at}
        print_json(facts)
        return
    click.echo(token.value)
    of_owner = "" if owner is None else f" of subscriber {owner}"
    host = "" if token.channel is None else f", for {one_line(token.channel)}"
    click.echo(
        f"{token.kind or 'token'} #{token.digest}{of_owner}, valid until {to_json(token.expires_at)}{host}", err=True
    )
    if isinstance(issued, TokenPair):
        click.echo("its refresh token isn't shown: --pair prints both", err=True)
