"""The command `keep`: keeps a subscriber's token valid, in a file and for a command."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import click

from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import TokenUnavailable
from signalwire_tokens.policy import RefreshPolicy, SessionState
from signalwire_tokens.session import SubscriberSession
from signalwire_tokens.stores import SqliteStore

from .command import Command, Option, one_line, to_json
from .create import LIFETIME
from .exec_command import ExecCommand, parse_command
from .options import connection, profile, to_path
from .output import EventLog, Printer, status_view
from .signals import on_stop
from .store_option import Store, make_store, store_url
from .token_file import MIN_VALID_SECONDS, TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.secret import Secret

    from .options import MakeSettings

__all__ = ["keep"]

FRAME_SECONDS = 0.25  # between two live views
CHECK_SECONDS = 1.0  # between two looks at the file
REPORT_SECONDS = 2.0  # after which a session that isn't open yet is worth an event
RETRY_SECONDS = 5.0  # before a session is opened again, if SignalWire asks for no other pause
SHORTEST_LIFETIME = timedelta(seconds=5)


@click.command(
    cls=Command,
    examples=(
        "signalwire-tokens keep alice@example.com --output /run/alice/token",
        "signalwire-tokens keep alice@example.com --exec 'redis-cli -x SET alice-token'",
    ),
)
@click.argument("reference")
@click.option("--output", "path", cls=Option, type=to_path, metavar="FILE", help="File that holds a valid token.")
@click.option(
    "--exec", "words", cls=Option, type=parse_command, metavar="COMMAND", help="Command to run with each new token."
)
@click.option(
    "--store",
    cls=Option,
    envvar="SIGNALWIRE_TOKENS_STORE",
    callback=store_url,
    metavar="URL",
    help="Encrypted store of the pair: sqlite:FILE or redis://HOST.",
)
@click.option(
    "--encryption-key-file",
    cls=Option,
    type=to_path,
    envvar="SIGNALWIRE_TOKENS_ENCRYPTION_KEY_FILE",
    metavar="FILE",
    help="File with the store's key, instead of $SIGNALWIRE_TOKENS_ENCRYPTION_KEY.",
)
@LIFETIME
@profile
@connection()
def keep(
    *,
    settings: MakeSettings,
    reference: str,
    path: Path | None,
    words: list[str] | None,
    store: Secret[Any],
    encryption_key_file: Path | None,
    lifetime: timedelta | None,
    fields: dict[str, Any],
    as_json: bool,
) -> None:
    """Keep a subscriber's token valid.

    The command renews the token until Ctrl-C or SIGTERM. FILE holds a valid token that only you can read, or doesn't
    exist. COMMAND reads each new token on its standard input; no shell runs it. With a store, a restart continues with
    the same pair. A terminal shows the state of the token. Otherwise, and with --exec, each event is a line.
    """
    if lifetime is not None and lifetime < SHORTEST_LIFETIME:
        raise click.UsageError("--lifetime must be 5s or more, so that a renewal has time to succeed")
    client = settings().client()
    file = None if path is None else TokenFile(path, client.clock)
    command = None if words is None else ExecCommand(words)
    policy, usual = RefreshPolicy(), (lifetime or client.lifetimes.access).total_seconds()
    policy = attrs.evolve(policy, min_lifetime=min(policy.min_lifetime, usual))
    make = partial(SubscriberSession, client, reference, lifetime=lifetime, policy=policy, **fields)
    open_store = None if store.value is None else partial(make_store, store, encryption_key_file)
    printer = Printer(live=not (as_json or words))
    log = EventLog(printer.print, lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", as_json=as_json)
    try:
        asyncio.run(keep_valid(client, make, open_store, Outputs(log=log, printer=printer, file=file, command=command)))
    finally:
        printer.close()


@attrs.define(kw_only=True)
class Outputs:
    """Where tokens and events go."""

    log: EventLog
    printer: Printer
    file: TokenFile | None = None
    command: ExecCommand | None = None
    is_ready: bool = False  # whether the first token was delivered

    async def deliver(self, session: SubscriberSession | None) -> float:
        """Bring the current token to the file and the command, and return the seconds until the next look."""
        left = 0.0 if session is None else session.expires_in.total_seconds()
        token = None if session is None or left <= MIN_VALID_SECONDS else session.pair.access_token
        is_written = self.file is None or await self.file.put(token, left, self.log)
        is_executed = self.command is None or self.command.put(token, self.log)
        if token is not None and is_written and is_executed and not self.is_ready:
            self.is_ready = True
            notify_systemd()
        return CHECK_SECONDS if token is None else min(CHECK_SECONDS, max(0.05, left - MIN_VALID_SECONDS))


async def keep_valid(
    client: TokenClient,
    make: Callable[..., SubscriberSession],
    open_store: Callable[[], Store] | None,
    outputs: Outputs,
) -> None:
    """Keep a token valid until a signal stops the command, or until no way to renew is left."""
    stop, changed = asyncio.Event(), asyncio.Event()

    def end() -> None:
        stop.set()
        changed.set()

    async with AsyncExitStack() as stack:
        stack.enter_context(on_stop(end))
        await stack.enter_async_context(client)
        if open_store is not None:
            store = open_store()
            stack.push_async_callback(store.aclose)
            if isinstance(store, SqliteStore):  # a server may become reachable later, but a file must work now
                await store.load("0" * 64)  # a key that no session has
            make = partial(make, store=store)
        opening = asyncio.create_task(open_session(make, outputs.log, changed))
        opening.add_done_callback(lambda _: changed.set())
        try:
            while not stop.is_set():
                changed.clear()
                session = opening.result() if opening.done() else None
                pause = await outputs.deliver(session)
                if session is not None and session.state is SessionState.EXPIRED:
                    await session.token()  # raises the reason
                if session is not None and outputs.printer.is_live:
                    outputs.printer.show(status_view(session))
                    pause = min(pause, FRAME_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()
        finally:
            opening.cancel()
            await asyncio.wait([opening])
            session = None if opening.cancelled() or opening.exception() else opening.result()
            if session is not None:
                await session.aclose()  # waits for a renewal under way
            for _ in range(2):  # at first, the command may still run with an earlier token
                await outputs.deliver(session)
                if outputs.command is not None:
                    await outputs.command.wait()
        if session is not None:
            token = session.pair.access_token
            text = f"token #{token.digest} is valid until {to_json(token.expires_at)}"
            outputs.log.event("left", text, digest=token.digest, expires_at=token.expires_at)


async def open_session(
    make: Callable[[], SubscriberSession], log: EventLog, changed: asyncio.Event
) -> SubscriberSession:
    """Return an open session, however long SignalWire is unavailable. Each of its events sets `changed`."""
    while True:
        session = make()
        session.subscribe(log.session_event)
        session.subscribe(lambda _: changed.set())
        report = asyncio.get_running_loop().call_later(REPORT_SECONDS, report_wait, log, session)
        try:
            return await session.start()
        except TokenUnavailable as error:
            pause = error.retry_after or RETRY_SECONDS
        finally:
            report.cancel()
        report_wait(log, session, pause)
        await asyncio.sleep(pause)


def report_wait(log: EventLog, session: SubscriberSession, pause: float | None = None) -> None:
    """Print why a session isn't open yet, and when the next one is tried."""
    error = session.last_error
    reason = "SignalWire hasn't answered yet" if error is None else one_line(str(error))
    text = reason if pause is None else f"{reason}; trying again in {spoken(pause)}"
    log.event("waiting", text, error=reason, retry_after=pause and round(pause, 1))


def notify_systemd() -> None:
    """Send systemd the message that the command is ready, if systemd has started it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"READY=1", address.replace("@", "\0", 1) if address.startswith("@") else address)
