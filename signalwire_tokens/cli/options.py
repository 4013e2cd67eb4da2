"""Options that commands share."""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click

from .command import Option

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path

    from .settings import Settings

    Function = Callable[..., None]
    MakeSettings = Callable[[], Settings]

__all__ = ["EMBED_ORIGIN", "PROFILE", "connection", "duration", "profile", "to_path"]

EMBED_ORIGIN = "SIGNALWIRE_TOKENS_EMBED_ORIGIN"
SPACE = {
    "--space": ("SIGNALWIRE_SPACE", "NAME", "Name, host or origin of the space."),
    "--ca-file": ("SIGNALWIRE_REST_CA_FILE", "FILE", "Certificates to trust instead of the system's (PEM)."),
}
PROJECT = {
    "--project-id": ("SIGNALWIRE_PROJECT_ID", "ID", "Id of the project."),
    "--api-token-file": (
        "SIGNALWIRE_API_TOKEN_FILE",
        "FILE",
        "File with the API token, instead of $SIGNALWIRE_API_TOKEN.",
    ),
}
EMBEDS = {"--embed-origin": (EMBED_ORIGIN, "ORIGIN", "Where embed requests go, if not to the space.")}
# The fields of a subscriber. A password has no option, because other users can read the command line.
PROFILE = {
    "application_id": ("UUID", "Application that the token is for."),
    "first_name": ("TEXT", "First name of the subscriber."),
    "last_name": ("TEXT", "Last name of the subscriber."),
    "display_name": ("TEXT", "Name that others see."),
    "job_title": ("TEXT", "Job title."),
    "time_zone": ("TEXT", "Time zone, such as Europe/Berlin."),
    "country": ("TEXT", "Country."),
    "region": ("TEXT", "Region, such as us-central."),
    "company_name": ("TEXT", "Name of the company."),
    "fingerprint": ("TEXT", "Thumbprint of the device's key (RFC 7638)."),
    "scope": ("TEXT", "Scope of the token, such as sat:refresh."),
}


def to_path(text: str | None) -> Path | None:
    """Return the path that an option names, if it names one."""
    from pathlib import Path  # noqa: PLC0415 - the help and `inspect` need none

    name = (text or "").strip()
    return Path(name) if name else None


def make_settings(**given: Any) -> Settings:  # noqa: ANN401 - the options of a connection
    """Return the settings that the options have."""
    from .settings import Settings  # noqa: PLC0415 - its client takes long to import

    return Settings(**given)


def connection(*, project: bool = True, embeds: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that adds the options of a connection.

    The command gets them as one argument, `settings`: a function that imports the `Settings` and returns them.
    """

    def decorate(command: Function) -> Function:
        @wraps(command)
        def run(**arguments: Any) -> None:  # noqa: ANN401 - whatever else the command takes
            given = {name: arguments.pop(name) for name in names}
            command(settings=partial(make_settings, needs_project=project, **given), **arguments)

        options = {**SPACE, **(PROJECT if project else {}), **(EMBEDS if embeds else {})}
        names = [name.removeprefix("--").replace("-", "_") for name in options]
        for name, (variable, metavar, text) in reversed(options.items()):
            click.option(name, cls=Option, section="Connection", envvar=variable, metavar=metavar, help=text)(run)
        return run

    return decorate


def profile(command: Function) -> Function:
    """Return a command with an option for each field of a subscriber's token. It gets the given ones as `fields`."""

    @wraps(command)
    def run(**arguments: Any) -> None:  # noqa: ANN401 - whatever else the command takes
        fields = {name: value for name in PROFILE if (value := arguments.pop(name)) is not None}
        command(fields=fields, **arguments)

    for name, (metavar, text) in reversed(PROFILE.items()):
        click.option(f"--{name.replace('_', '-')}", cls=Option, section="Profile", metavar=metavar, help=text)(run)
    return run


def duration(text: str) -> timedelta:
    """Return the value of an option that is a duration."""
    from signalwire_tokens.durations import parse_duration  # noqa: PLC0415 - not all commands need it

    span = parse_duration(text)
    if not span:
        raise click.BadParameter(f"{text!r} isn't a duration of more than 0: write 90s, 15m, 2h or 1d")
    return span
