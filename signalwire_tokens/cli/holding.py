"""What `signalwire-tokens hold` does: a session, and where its tokens go."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from click.core import ParameterSource

from signalwire_tokens.errors import TokenUnavailable
from signalwire_tokens.models import Secret
from signalwire_tokens.policy import RefreshPolicy
from signalwire_tokens.session import SubscriberSession

from .command import Command, one_line, to_json
from .feeding import Feed, greet
from .options import Settings, connection, duration, profile
from .program import Program
from .screen import Screen
from .signals import on_stop
from .storing import Store, look_into, may_hold_secret, open_store
from .telling import Teller, look_on
from .token_file import TokenFile
from .waiting import end, wait_for

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient

    from .feeding import Outlet

__all__ = ["hold"]

STDOUT = 1
FRAME = 0.25  # seconds
SOON = 2.0  # seconds after which it is worth a word that a session is not open yet
AGAIN = 5.0  # seconds before a session that could not be opened is opened again, where nobody says
SHORTEST = timedelta(seconds=5)  # of a life, in which renewals still have their time


@attrs.frozen(kw_only=True)
class Wanted:
    """What is to be held."""

    reference: str
    lifetime: timedelta | None
    fields: dict[str, Any]
    open_store: Callable[[], Store] | None


@click.command(cls=Command)
@click.argument("reference")
@click.option("--write", "path", type=click.Path(path_type=Path), metavar="FILE", help="File to keep the token in.")
@click.option("--exec", "line", metavar="COMMAND", help="Command to run with each token on its standard input.")
@click.option(
    "--store",
    envvar="SIGNALWIRE_TOKENS_STORE",
    metavar="URL",
    help="Store the pair in sqlite:FILE or redis://HOST, encrypted.  [SIGNALWIRE_TOKENS_STORE]",
)
@click.option(
    "--encryption-key-file",
    type=click.Path(path_type=Path),
    envvar="SIGNALWIRE_TOKENS_ENCRYPTION_KEY_FILE",
    metavar="FILE",
    help="Read the encryption key from FILE.  [SIGNALWIRE_TOKENS_ENCRYPTION_KEY_FILE]",
)
@click.option("--lifetime", type=duration, help="How long each token is to live: 90s, 15m, 2h or 1d.")
@profile
@connection()
@click.pass_context
def hold(
    context: click.Context,
    *,
    settings: Settings,
    reference: str,
    path: Path | None,
    line: str | None,
    store: str | None,
    encryption_key_file: Path | None,
    lifetime: timedelta | None,
    fields: dict[str, Any],
    as_json: bool,
) -> None:
    """Keep a token of a subscriber valid.

    On a terminal, it is drawn as it stands; elsewhere, each event is a line. With --write, a file that only you can
    read holds a live token, and is replaced as a whole with each new one. With --exec, a command is run with each, on
    its standard input and without a shell. SIGTERM and Ctrl-C let what is under way end, and leave with success.
    """
    url: Secret[Any] = Secret(store)
    del store
    if may_hold_secret(url) and context.get_parameter_source("store") is ParameterSource.COMMANDLINE:
        raise click.UsageError(
            "on the command line, a store's URL may have a host or a socket's path, a port, a database, and options "
            "that hold no secret: if it has more, such as a password, set SIGNALWIRE_TOKENS_STORE to this URL"
        )
    if lifetime is not None and lifetime < SHORTEST:
        raise click.UsageError("--lifetime must be 5s or more")
    outlets: list[Outlet] = [] if line is None else [Program(line)]
    client = settings.client()
    if path is not None:
        outlets.append(TokenFile(path, client.clock))
    wanted = Wanted(
        reference=reference,
        lifetime=lifetime,
        fields=fields,
        open_store=None if url.value is None else partial(open_store, url, encryption_key_file),
    )
    screen = Screen(STDOUT if sys.stdout else None, live=not as_json)
    try:
        teller = Teller(screen.say, lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", as_json=as_json)
        asyncio.run(keep(client, wanted, outlets, teller, screen))
    finally:
        screen.close()


async def keep(client: TokenClient, wanted: Wanted, outlets: list[Outlet], teller: Teller, screen: Screen) -> None:
    """Keep a token alive until told to stop, or until that is not possible any more."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(on_stop(stop.set))
        await stack.enter_async_context(client)
        store: Store | None = None
        if wanted.open_store is not None:
            store = wanted.open_store()
            stack.push_async_callback(store.aclose)
            await look_into(store)
        feeds = [Feed(outlet, teller) for outlet in outlets]
        stack.push_async_callback(finish, feeds)
        session = await begin(partial(make, client, store, wanted, teller), teller, stop)
        if session is not None:
            await serve(session, feeds, stop, screen)
            token = session.pair.access_token
            told = f"token #{token.digest} is good until {to_json(token.expires_at)}"
            stack.callback(teller.note, "left", told, digest=token.digest, expires_at=token.expires_at)
            stack.push_async_callback(finish, feeds)


async def finish(feeds: list[Feed]) -> None:
    """Let each outlet take the last token."""
    for feed in feeds:
        feed.finish()
    await asyncio.gather(*(feed.task for feed in feeds))


def make(client: TokenClient, store: Store | None, wanted: Wanted, teller: Teller) -> SubscriberSession:
    """Make a session that is told of."""
    session = SubscriberSession(
        client,
        wanted.reference,
        lifetime=wanted.lifetime,
        policy=policy_for(wanted.lifetime or client.lifetimes.access),
        store=store,
        **wanted.fields,
    )
    session.subscribe(teller.tell)
    return session


def policy_for(lifetime: timedelta) -> RefreshPolicy:
    """Return a policy that keeps tokens of this lifetime, however short it is."""
    policy = RefreshPolicy()
    return attrs.evolve(policy, min_lifetime=min(policy.min_lifetime, lifetime.total_seconds()))


async def begin(make: Callable[[], SubscriberSession], teller: Teller, stop: asyncio.Event) -> SubscriberSession | None:
    """Open a session, again and again while the service cannot be reached; None where told to stop before."""
    told = None
    while not stop.is_set():
        session = make()
        starting, stopping = asyncio.create_task(session.start()), asyncio.create_task(stop.wait())
        try:
            while not (starting.done() or stopping.done()):
                if told is None and session.last_error is not None:
                    told = session.last_error
                    say_why(teller, told)
                await asyncio.wait([starting, stopping], timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(starting, stopping)
        if starting.cancelled():
            break
        error = starting.exception()
        if not isinstance(error, TokenUnavailable):
            return starting.result()
        pause = error.retry_after or AGAIN
        told = session.last_error
        say_why(teller, told, pause)
        await wait_for(stop, pause)
    return None


def say_why(teller: Teller, error: Exception | None, pause: float | None = None) -> None:
    """Tell why there is no session yet, and when another is tried."""
    reason = None if error is None else one_line(str(error))
    again = "" if pause is None else f"trying again in {pause:.0f} s"
    facts = {"retry_after": None if pause is None else round(pause, 1), "error": reason}
    teller.note("waiting", "; ".join(filter(None, [reason, again])), **facts)


async def serve(session: SubscriberSession, feeds: list[Feed], stop: asyncio.Event, screen: Screen) -> None:
    """Hand a session's tokens on until told to stop, or until there are none any more."""
    for feed in feeds:
        feed.follow(session)
    stopping, closed = asyncio.create_task(stop.wait()), asyncio.create_task(session.wait_closed())
    helping = [asyncio.create_task(greet(feeds))]
    if screen.is_live:
        helping.append(asyncio.create_task(look_on(session, screen.show, every=FRAME)))
    try:
        await asyncio.wait([stopping, closed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await session.aclose()
        await end(stopping, *helping)
    await closed  # the session's end is the command's
