"""What `signalwire-tokens hold` does: a session, and where its tokens go."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import click
from click.core import ParameterSource
from rich.console import Console
from rich.live import Live
from yarl import URL

from signalwire_tokens.errors import ConfigurationError, TokenUnavailable
from signalwire_tokens.models import Secret
from signalwire_tokens.policy import RefreshPolicy
from signalwire_tokens.session import SubscriberSession
from signalwire_tokens.stores import SqliteStore

from .command import Command, written
from .outlets import Program, TokenFile
from .settings import Settings, credentialed, duration, read_credential, token_fields
from .signals import on_stop
from .telling import Teller, draw

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.stores import TokenStore
    from signalwire_tokens.stores.redis import RedisStore

    Store: TypeAlias = SqliteStore | RedisStore

__all__ = ["hold"]

FRAMES = 4
GLANCE = 1.0  # seconds between two looks at whether the file is as it should be
SLIVER = 0.5  # seconds: a token with less left is not worth reading
AGAIN = 5.0  # seconds before a session that could not be opened is opened again, where nobody says


@attrs.frozen(kw_only=True)
class Wanted:
    """What is to be held, and where it is to go."""

    reference: str
    lifetime: timedelta | None
    fields: dict[str, Any]
    outlets: tuple[TokenFile | Program, ...]
    open_store: Callable[[], Store] | None


@click.command(cls=Command)
@click.argument("reference")
@click.option("--write", "path", type=click.Path(path_type=Path), metavar="FILE", help="File to keep the token in.")
@click.option("--exec", "line", metavar="COMMAND", help="Command to run with each token on its standard input.")
@click.option(
    "--store",
    envvar="SIGNALWIRE_STORE",
    metavar="URL",
    help="Keep the pair in sqlite:FILE or redis://HOST, sealed by the key in TOKEN_SEALING_KEY.  [SIGNALWIRE_STORE]",
)
@click.option(
    "--sealing-key-file",
    type=click.Path(path_type=Path),
    envvar="TOKEN_SEALING_KEY_FILE",
    metavar="FILE",
    help="File that holds the sealing key, in place of TOKEN_SEALING_KEY.  [TOKEN_SEALING_KEY_FILE]",
)
@click.option("--lifetime", type=duration, help="How long each token is to live: 90s, 15m, 2h or 1d.")
@token_fields
@credentialed
@click.pass_context
def hold(
    context: click.Context,
    *,
    settings: Settings,
    reference: str,
    path: Path | None,
    line: str | None,
    store: str | None,
    sealing_key_file: Path | None,
    lifetime: timedelta | None,
    fields: dict[str, Any],
    as_json: bool,
) -> None:
    """Keep a token of the subscriber REFERENCE alive, until told to stop.

    On a terminal, it is drawn as it stands; elsewhere, each event is a line. With --write, a file that only you can
    read holds a live token, and is replaced as a whole with each new one. With --exec, a command is run with each, on
    its standard input and without a shell. SIGTERM and Ctrl-C let what is under way end, and leave with success.
    """
    url: Secret[Any] = Secret(store)
    del store
    if has_password(url) and context.get_parameter_source("store") is ParameterSource.COMMANDLINE:
        raise click.UsageError("a password does not belong on the command line: set SIGNALWIRE_STORE to this URL")
    outlets: list[TokenFile | Program] = []
    if path is not None:
        file = TokenFile(path)
        file.check()
        outlets.append(file)
    if line is not None:
        outlets.append(Program(line))
    wanted = Wanted(
        reference=reference,
        lifetime=lifetime,
        fields=fields,
        outlets=tuple(outlets),
        open_store=None if url.value is None else partial(open_store, url, sealing_key_file),
    )
    console = Console(highlight=False, soft_wrap=True)
    asyncio.run(keep(settings.client(), wanted, console, as_json=as_json))


async def keep(client: TokenClient, wanted: Wanted, console: Console, *, as_json: bool) -> None:
    """Keep a token alive until told to stop, or until that is not possible any more."""
    teller = Teller(console, lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", as_json=as_json)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(on_stop(stop.set))
        await stack.enter_async_context(client)
        store: Store | None = None
        if wanted.open_store is not None:
            store = wanted.open_store()
            stack.push_async_callback(store.aclose)
        session = await begin(partial(make, client, store, wanted, teller), teller, stop)
        if session is not None:
            await serve(session, wanted, teller, stop, None if as_json or not console.is_terminal else console)


def make(client: TokenClient, store: TokenStore | None, wanted: Wanted, teller: Teller) -> SubscriberSession:
    """Make a session that is told of."""
    session = SubscriberSession(
        client,
        wanted.reference,
        lifetime=wanted.lifetime,
        policy=policy_for(wanted.lifetime),
        store=store,
        **wanted.fields,
    )
    session.subscribe(teller.tell)
    return session


def policy_for(lifetime: timedelta | None) -> RefreshPolicy:
    """Take a short life for meant where it is asked for."""
    policy = RefreshPolicy()
    if lifetime is None:
        return policy
    return attrs.evolve(policy, min_life=min(policy.min_life, lifetime.total_seconds()))


async def begin(make: Callable[[], SubscriberSession], teller: Teller, stop: asyncio.Event) -> SubscriberSession | None:
    """Open a session, again and again while the service cannot be reached; None where told to stop before."""
    while not stop.is_set():
        starting = asyncio.create_task(make().start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(stopping)
            starting.cancel()
            await asyncio.wait([starting])
        if starting.cancelled():
            break
        error = starting.exception()
        if not isinstance(error, TokenUnavailable):
            return starting.result()
        pause = error.retry_after or AGAIN
        teller.note("waiting", f"trying again in {pause:.0f} s", retry_after=round(pause, 1))
        await wait_for(stop, pause)
    return None


async def serve(
    session: SubscriberSession, wanted: Wanted, teller: Teller, stop: asyncio.Event, screen: Console | None
) -> None:
    """Hand a session's tokens on until told to stop, or until there are none any more."""
    feeds = [Feed(session, outlet, teller) for outlet in wanted.outlets]
    stopping, closed = asyncio.create_task(stop.wait()), asyncio.create_task(session.wait_closed())
    greeting = asyncio.create_task(greet(feeds))
    view = Live(console=screen, get_renderable=partial(draw, session), refresh_per_second=FRAMES, transient=True)
    try:
        with view if screen is not None else nullcontext():
            await asyncio.wait([stopping, closed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await session.aclose()
        for task in (greeting, stopping):
            await end(task)
        for feed in feeds:
            await feed.finish()
    await closed  # the session's end is the command's
    token = session.pair.token
    teller.note("left", f"token #{token.digest} is good until {written(token.expires_at)}", expires_at=token.expires_at)


class Feed:
    """Shows an outlet the session's token at each event, and once a second."""

    def __init__(self, session: SubscriberSession, outlet: TokenFile | Program, teller: Teller) -> None:
        self._session, self._outlet, self._teller = session, outlet, teller
        self._news = asyncio.Event()
        self._over = False
        self.shown: asyncio.Event = asyncio.Event()
        session.subscribe(lambda _: self._news.set())
        self._task = asyncio.create_task(self._run())

    async def finish(self) -> None:
        """Show the last token, and be done."""
        self._over = True
        self._news.set()
        await self._task

    async def _run(self) -> None:
        over = False
        while not over:
            over = self._over
            self._news.clear()
            left = self._session.runway.total_seconds() - SLIVER
            if await self._outlet.put(self._session.pair.token if left > 0 else None, self._teller):
                self.shown.set()
            if not over:
                await wait_for(self._news, min(GLANCE, left) if left > 0 else GLANCE)


async def greet(feeds: list[Feed]) -> None:
    """Tell systemd that the command is ready, once the first token is where it is to be."""
    for feed in feeds:
        await feed.shown.wait()
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, suppress(OSError):
            one.sendto(b"READY=1", place.replace("@", "\0", 1) if place.startswith("@") else place)


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than so."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def end(task: asyncio.Task[Any]) -> None:
    """End a task, and leave what it ended with to whoever asks."""
    task.cancel()
    await asyncio.wait([task])


def has_password(url: Secret[Any]) -> bool:
    """Tell whether a URL carries a password."""
    try:
        place = URL(url.value or "")
    except ValueError:
        return False  # it will be refused as what it is
    return place.password is not None or "password" in place.query


def open_store(url: Secret[Any], sealing_key_file: Path | None) -> Store:
    """Make the store that a URL names."""
    scheme, _, place = url.value.partition(":")
    keys = Secret(sealing_keys(sealing_key_file))
    match scheme:
        case "sqlite" if place:
            return SqliteStore(place.removeprefix("//"), keys=keys.value)
        case "redis" | "rediss" | "unix":
            try:
                from signalwire_tokens.stores.redis import RedisStore  # noqa: PLC0415 - its package is an extra
            except ModuleNotFoundError:
                message = "a store on Redis needs another package: pip install 'signalwire-tokens[redis]'"
                raise ConfigurationError(message) from None
            return RedisStore(url.value, keys=keys.value)
        case _:
            raise ConfigurationError("a store is sqlite:FILE, or redis://HOST[:PORT][/DATABASE]")


def sealing_keys(path: Path | None) -> list[str]:
    """Find the keys that a store seals with: the first one seals, each opens."""
    text = Secret(os.environ.get("TOKEN_SEALING_KEY", "") if path is None else read_credential(path))
    keys = Secret([key for part in text.value.split(",") if (key := part.strip())])
    if not keys.value:
        message = "a store needs a key to seal with: set TOKEN_SEALING_KEY; `signalwire-tokens sealing-key` makes one"
        raise ConfigurationError(message)
    return keys.value
