"""What all commands have in common: `--json`, `--debug`, one line where something went wrong, and an exit code."""

from __future__ import annotations

import json
import logging
import traceback
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import attrs
import click

from signalwire_tokens.errors import (
    ApiError,
    ConfigurationError,
    Forbidden,
    InvalidRequest,
    NotFound,
    SessionExpired,
    SignalWireTokenError,
    Unauthorized,
    is_transient,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Command", "Exit", "exit_of", "plain", "say_json", "written"]


class Exit(IntEnum):
    """What a command ends with."""

    DONE = 0
    FAILED = 1
    MISWRITTEN = 2
    SETTINGS = 3
    REFUSED = 4
    INVALID = 5
    UNAVAILABLE = 6
    EXPIRED = 7
    INTERRUPTED = 130


def exit_of(error: Exception) -> Exit:
    """Say what a command ends with that failed so: whether to try again, and who can mend it, show in it."""
    match error:
        case ConfigurationError():
            return Exit.SETTINGS
        case Unauthorized() | Forbidden() | NotFound():
            return Exit.REFUSED
        case SessionExpired():
            return Exit.EXPIRED
        case _ if is_transient(error):
            return Exit.UNAVAILABLE
        case InvalidRequest() | ApiError():
            return Exit.INVALID
        case _:
            return Exit.FAILED


class Command(click.Command):
    """A command that can speak JSON, and says in one line what went wrong."""

    def __init__(self, name: str | None, params: list[click.Parameter] | None = None, **settings: Any) -> None:  # noqa: ANN401 - as click has them
        common: list[click.Parameter] = [
            click.Option(["--json", "as_json"], is_flag=True, help="Speak JSON, of errors too."),
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=note_debug,
                help="Log what is done, and show where an error came from. No secret is shown.",
            ),
        ]
        super().__init__(name, params=[*(params or []), *common], **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        as_json = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if not as_json:
                raise
            fail(ctx, Exit.MISWRITTEN, {"type": "UsageError", "message": error.format_message()}, as_json=True)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command."""
        as_json, debug = bool(ctx.params.get("as_json")), bool(ctx.meta.get(DEBUG))
        try:
            with logged(debug=debug):
                super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            code, text = Exit.INTERRUPTED, {"type": "Interrupted", "message": "interrupted"}
        except click.UsageError as error:
            if not as_json:
                raise
            code, text = Exit.MISWRITTEN, {"type": "UsageError", "message": error.format_message()}
        except BrokenPipeError:  # whoever read it has heard enough
            ctx.exit(Exit.FAILED)
        except click.ClickException as error:
            code, text = Exit.FAILED, {"type": "Failed", "message": error.format_message()}
        except Exception as error:  # noqa: BLE001 - whatever it is, who typed the command is told in a line
            code, text = exit_of(error), describe(error)
            if debug:
                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        else:
            return
        fail(ctx, code, text, as_json=as_json)


def fail(ctx: click.Context, code: Exit, text: dict[str, Any], *, as_json: bool) -> NoReturn:
    """End a command, and say why: in a line, or as an object."""
    if as_json:
        say_json({"error": text, "exit_code": int(code)}, err=True)
    else:
        click.echo(f"Error: {text['message']}", err=True)
    ctx.exit(code)


DEBUG = "signalwire_tokens.debug"


def note_debug(ctx: click.Context, _: click.Parameter, debug: bool) -> None:
    """Remember what `--debug` said."""
    ctx.meta[DEBUG] = debug


@contextmanager
def logged(*, debug: bool) -> Iterator[None]:
    """Let the library log to standard error where that is wanted; else commands speak for themselves."""
    logger = logging.getLogger("signalwire_tokens")
    handler = logging.StreamHandler() if debug else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    if debug:
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def describe(error: Exception) -> dict[str, Any]:
    """Say what went wrong, as facts."""
    kind = type(error).__name__
    if isinstance(error, SignalWireTokenError):
        facts = {
            "operation": error.operation,
            "status": error.status,
            "errors": [attrs.asdict(one) for one in error.errors] or None,
            "request_id": error.request_id,
            "retry_after": error.retry_after,
        }
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return {"type": kind, "message": plain(str(error)), **known}
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return {"type": kind, "message": f"{place}{error.strerror}"}
    # What it says of itself may hold anything.
    return {"type": kind, "message": f"{kind}, which should not have happened: --debug shows where"}


def plain(text: str) -> str:
    """Put what others have written into one line, without what a terminal would obey."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def say_json(value: object, *, err: bool = False) -> None:
    """Print a value as a line of JSON."""
    click.echo(json.dumps(value, default=written), err=err)


def written(value: object) -> str:
    """Write what JSON has no form for."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
