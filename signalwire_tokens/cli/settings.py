"""Where a command gets what it needs to ask the service: from options, the environment, files, or whoever types it."""

from __future__ import annotations

import sys
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import click

from signalwire_tokens.client import TokenClient, context_trusting, environment
from signalwire_tokens.client.environment import trimmed
from signalwire_tokens.durations import parse_duration
from signalwire_tokens.errors import ConfigurationError, InvalidRequest
from signalwire_tokens.models import Secret
from signalwire_tokens.session import TokenFields
from signalwire_tokens.wire import is_credential

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from datetime import timedelta

__all__ = [
    "Settings",
    "credentialed",
    "duration",
    "examining",
    "for_embeds",
    "located",
    "read_credential",
    "token_fields",
]

Option: TypeAlias = "Callable[[Callable[..., None]], Callable[..., None]]"
SPACE: tuple[Option, ...] = (
    click.option("--space", envvar="SIGNALWIRE_SPACE", help="The space: its name, host or origin.  [SIGNALWIRE_SPACE]"),
    click.option(
        "--ca-file",
        envvar="SIGNALWIRE_REST_CA_FILE",
        metavar="FILE",
        help="Certificates to trust in place of the system's.  [SIGNALWIRE_REST_CA_FILE]",
    ),
)
PROJECT: tuple[Option, ...] = (
    click.option("--project-id", envvar="SIGNALWIRE_PROJECT_ID", help="The project's id.  [SIGNALWIRE_PROJECT_ID]"),
    click.option(
        "--api-token-file",
        envvar="SIGNALWIRE_API_TOKEN_FILE",
        metavar="FILE",
        help="File that holds the API token, in place of SIGNALWIRE_API_TOKEN.  [SIGNALWIRE_API_TOKEN_FILE]",
    ),
)
EMBED_ORIGIN = "SIGNALWIRE_TOKENS_EMBED_ORIGIN"
EMBEDS: Option = click.option(
    "--embed-origin",
    envvar=EMBED_ORIGIN,
    metavar="ORIGIN",
    help="Where to ask for embed tokens instead of the space, such as https://embeds.signalwire.com.  "
    f"[{EMBED_ORIGIN}]",
)
# Not a password, which would stand on the command line, nor what has no form there.
FIELDS = tuple(name for name in TokenFields.__annotations__ if name not in ("password", "extra"))


def to_path(text: str | None) -> Path | None:
    """Return the path that an option names, if it names one."""
    name = trimmed(text)
    return None if name is None else Path(name)


@attrs.frozen(kw_only=True)
class Settings:
    """Where the space is, and who asks. Blanks around what was given don't count."""

    space: str | None = attrs.field(converter=trimmed)
    ca_file: str | None = attrs.field(converter=trimmed)
    needs_project: bool = False
    project_id: str | None = attrs.field(default=None, converter=trimmed)
    api_token_file: Path | None = attrs.field(default=None, converter=to_path)
    embed_origin: str | None = attrs.field(default=None, converter=trimmed)

    def client(self, *, retries: int = 3) -> TokenClient:
        """Make a client. What is missing is asked for where somebody can answer, and else named, all of it at once."""
        space = self.space or prompt_for("Space")
        given = [("SIGNALWIRE_SPACE (or --space)", bool(space))]
        project_id, token = None, Secret[Any](None)
        if self.needs_project:
            project_id, token = self.project_id or prompt_for("Project id"), self.api_token()
            given.append(("SIGNALWIRE_PROJECT_ID (or --project-id)", bool(project_id)))
            given.append(("SIGNALWIRE_API_TOKEN (or --api-token-file)", bool(token.value)))
        missing = [name for name, is_given in given if not is_given]
        if missing:
            raise ConfigurationError(f"not set: {', '.join(missing)}")
        lifetimes = environment.lifetimes()
        try:
            return TokenClient(
                space or "",
                project_id,
                token.value,
                embed_origin=self.embed_origin,
                ssl=self.context(),
                retries=retries,
                lifetimes=lifetimes,
            )
        except InvalidRequest as error:
            wrong = "; ".join(f"{variable_of(str(one.attribute))} {one.message}" for one in error.problems)
        raise ConfigurationError(wrong)

    def context(self) -> ssl.SSLContext | None:
        """Make what trusts the certificates that are given, if some are."""
        return None if self.ca_file is None else context_trusting(self.ca_file)

    def api_token(self) -> Secret[Any]:
        """Find the API token. A file's is read again when the service refuses it: it may have been replaced."""
        if self.api_token_file is not None:
            read_credential(self.api_token_file)  # what is wrong with the file is said now
            return Secret(partial(read_credential, self.api_token_file))
        return Secret(environment.api_token() or prompt_for("API token", hidden=True))


def variable_of(setting: str) -> str:
    """Return the environment variable of a client's setting."""
    return EMBED_ORIGIN if setting == "embed_origin" else f"SIGNALWIRE_{setting.upper()}"


def read_credential(path: Path) -> str:
    """Read the one secret that a file holds."""
    try:
        text = path.read_bytes().decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if not text:
        raise ConfigurationError(f"{path} is empty")
    if not is_credential(text):
        raise ConfigurationError(f"{path} must hold visible ASCII characters, in one line")
    return text


def prompt_for(what: str, *, hidden: bool = False) -> str | None:
    """Ask whoever sits at the terminal, if somebody does."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    answer: str = click.prompt(what, hide_input=hidden, err=True)
    return trimmed(answer)


def located(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the settings of one that sends nothing of the project's."""
    return gather(SPACE, command, needs_project=False)


def for_embeds(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the settings of one that asks for an embed token."""
    return gather((*SPACE, EMBEDS), command, needs_project=False)


def credentialed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the settings of one that needs the project's credentials."""
    return gather((*SPACE, *PROJECT), command, needs_project=True)


def examining(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the settings of one that examines a space."""
    return gather((*SPACE, *PROJECT, EMBEDS), command, needs_project=True)


def gather(options: Iterable[Option], command: Callable[..., None], *, needs_project: bool) -> Callable[..., None]:
    """Give a command options, and hand them to it as one argument."""

    @wraps(command)
    def run(**arguments: Any) -> None:  # noqa: ANN401 - whatever else the command takes
        names = attrs.fields_dict(Settings).keys() & arguments.keys()
        settings = Settings(needs_project=needs_project, **{name: arguments.pop(name) for name in names})
        command(settings=settings, **arguments)

    for option in reversed([*options]):
        option(run)
    return run


def token_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of a subscriber's token, and hand it those that were given."""

    @wraps(command)
    def run(**arguments: Any) -> None:  # noqa: ANN401 - whatever else the command takes
        fields = {name: value for name in FIELDS if (value := arguments.pop(name)) is not None}
        command(fields=fields, **arguments)

    for name in reversed(FIELDS):
        click.option(f"--{name.replace('_', '-')}", help="As the service has it.")(run)
    return run


def duration(text: str) -> timedelta:
    """Return the value of an option that is a length of time."""
    span = parse_duration(text)
    if span is None:
        raise click.BadParameter(f"{text!r} is not a length of time: write 90s, 15m, 2h or 1d")
    return span
