"""What all commands share: `--json`, `--debug`, sections in the help, one line for an error, and an exit code."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Command", "Exit", "Group", "Option", "exit_of", "one_line", "print_json", "to_json"]

SECTIONS = ("Options", "Profile", "Connection", "Output")
EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong settings, 4 refused by SignalWire, 5 invalid request, "
    "6 unavailable (try again), 7 session expired, 130 interrupted"
)
TOKEN_LIKE = re.compile(r"[\w.~+/=-]{40,}")  # what may be a token that was passed in the wrong place
DEBUG = "signalwire_tokens.debug"


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SETTINGS = 3
    REFUSED = 4
    INVALID = 5
    UNAVAILABLE = 6
    EXPIRED = 7
    INTERRUPTED = 130


def exit_of(error: Exception) -> Exit:
    """Return the exit code for an error. It shows whether to try again, and what must be fixed."""
    from signalwire_tokens.errors import (  # noqa: PLC0415 - only a command that fails needs them
        ApiError,
        ConfigurationError,
        Forbidden,
        InvalidRequest,
        NotFound,
        SessionExpired,
        Unauthorized,
        is_transient,
    )

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


class Option(click.Option):
    """An option that the help lists in a section, with its default and its environment variable."""

    def __init__(self, names: Sequence[str], *, section: str = "Options", **settings: Any) -> None:  # noqa: ANN401 - as click has them
        if "envvar" in settings:
            settings["help"] += f"  [${settings['envvar']}]"
        super().__init__(names, **settings)
        self.section = section


class Command(click.Command):
    """A command with `--json` and `--debug`. An error is one line, or with `--json` an object."""

    def __init__(self, name: str | None, *, examples: Sequence[str] = (), **settings: Any) -> None:  # noqa: ANN401 - as click has them
        self._examples = examples
        common = [
            Option(["--json", "as_json"], is_flag=True, section="Output", help="Print JSON, also for errors."),
            Option(
                ["--debug"],
                is_flag=True,
                section="Output",
                expose_value=False,
                callback=lambda context, _, debug: context.meta.update({DEBUG: debug}),
                help="Print logs and tracebacks, without secrets.",
            ),
        ]
        super().__init__(name, params=[*settings.pop("params", ()), *common], **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their sections."""
        for section in SECTIONS:
            options = [one for one in self.get_params(ctx) if getattr(one, "section", "Output") == section]
            records = [
                record for one in options if isinstance(one, click.Option) and (record := one.get_help_record(ctx))
            ]
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as click has it
        """Write the examples, and what the exit codes mean."""
        with formatter.section("Examples"):
            for example in self._examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. An error quotes nothing that may be a token."""
        as_json = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            shown = without_tokens(error)
        if as_json:
            fail(ctx, Exit.USAGE, {"type": "UsageError", "message": shown.format_message()}, as_json=True)
        raise shown

    def invoke(self, ctx: click.Context) -> None:
        """Run the command."""
        as_json, debug = bool(ctx.params.get("as_json")), bool(ctx.meta.get(DEBUG))
        try:
            with logging_to_stderr(debug=debug):
                super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except (KeyboardInterrupt, click.Abort):
            code, text = Exit.INTERRUPTED, {"type": "Interrupted", "message": "interrupted"}
        except click.UsageError as error:
            if not as_json:
                raise
            code, text = Exit.USAGE, {"type": "UsageError", "message": error.format_message()}
        except BrokenPipeError:  # the reader has closed the pipe
            ctx.exit(Exit.FAILED)
        except click.ClickException as error:
            code, text = Exit.FAILED, {"type": "Failed", "message": error.format_message()}
        except Exception as error:  # noqa: BLE001 - any error becomes one line
            code, text = exit_of(error), facts_of(error)
            if debug:
                import traceback  # noqa: PLC0415 - as above

                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        else:
            return
        fail(ctx, code, text, as_json=as_json)


class Group(click.Group):
    """A group of commands. An unknown name isn't quoted if it may be a token."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            shown = without_tokens(error)
        raise shown


def without_tokens(error: click.UsageError) -> click.UsageError:
    """Return the error, or one like it without what may be a token: someone may have passed it in the wrong place."""
    text = error.format_message()
    return click.UsageError(TOKEN_LIKE.sub("…", text), error.ctx) if TOKEN_LIKE.search(text) else error


def fail(ctx: click.Context, code: Exit, text: dict[str, Any], *, as_json: bool) -> NoReturn:
    """End a command, and print why: as a line, or as an object."""
    if as_json:
        print_json({"error": text, "exit_code": int(code)}, err=True)
    else:
        click.echo(f"Error: {text['message']}", err=True)
    ctx.exit(code)


@contextmanager
def logging_to_stderr(*, debug: bool) -> Iterator[None]:
    """Log to standard error in the block if `debug` is true. Otherwise, log nothing: commands print their errors."""
    import logging  # noqa: PLC0415 - the help doesn't need it

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


def facts_of(error: Exception) -> dict[str, Any]:
    """Return an error as members of a JSON object."""
    import attrs  # noqa: PLC0415 - only a command that fails needs it

    from signalwire_tokens.errors import SignalWireTokenError  # noqa: PLC0415 - as above

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
        return {"type": kind, "message": one_line(str(error)), **known}
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return {"type": kind, "message": f"{place}{error.strerror}"}
    # The text of any other error may hold a secret.
    return {"type": kind, "message": f"unexpected {kind}: run the command with --debug, and report what it prints"}


def one_line(text: str) -> str:
    """Return a text of others in one line, without control characters that a terminal would obey."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def print_json(value: object, *, err: bool = False) -> None:
    """Print a value as a line of JSON."""
    click.echo(json.dumps(value, default=to_json), err=err)


def to_json(value: object) -> str:
    """Return a time or an id as the text that stands for it in JSON."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"JSON has no form for {type(value).__name__}")
