"""The settings of a command, and the client that they make. Secrets come from the environment, a file or a prompt."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from signalwire_tokens.client import TokenClient, context_trusting, environment
from signalwire_tokens.client.environment import trimmed
from signalwire_tokens.errors import ConfigurationError, InvalidRequest
from signalwire_tokens.secret import Secret
from signalwire_tokens.wire import is_api_token, is_credential

from .options import EMBED_ORIGIN, to_path

if TYPE_CHECKING:
    import ssl

__all__ = ["Settings", "read_credential"]


@attrs.frozen(kw_only=True)
class Settings:
    """The space and the credentials of a command. White space around the values doesn't count."""

    space: str | None = attrs.field(converter=trimmed)
    ca_file: str | None = attrs.field(converter=trimmed)
    needs_project: bool = False
    project_id: str | None = attrs.field(default=None, converter=trimmed)
    api_token_file: Path | None = attrs.field(default=None, converter=to_path)
    embed_origin: str | None = attrs.field(default=None, converter=trimmed)

    def client(self, *, retries: int = 3) -> TokenClient:
        """Return a client. On a terminal, prompt for missing settings; otherwise raise an error that names all."""
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
        """Return a context that trusts the given certificates, or None for the system's."""
        return None if self.ca_file is None else context_trusting(self.ca_file)

    def api_token(self) -> Secret[Any]:
        """Return the API token, or a function that reads it from its file, again after SignalWire has refused it."""
        if self.api_token_file is not None:
            read_credential(self.api_token_file)  # raises now what is wrong with the file
            return Secret(partial(read_credential, self.api_token_file))
        return Secret(environment.api_token() or prompt_for("API token", hidden=True))


def variable_of(setting: str) -> str:
    """Return the environment variable of a client's setting."""
    return EMBED_ORIGIN if setting == "embed_origin" else f"SIGNALWIRE_{setting.upper()}"


def read_credential(path: Path) -> str:
    """Return the one secret that a file holds."""
    if is_api_token(str(path)):
        raise ConfigurationError("the name of a file looks like an API token: pass the path of a file that holds it")
    try:
        text = path.read_bytes().decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise ConfigurationError(f"can't read {path}: {error.strerror}") from None
    if not text:
        raise ConfigurationError(f"{path}: the file is empty")
    if not is_credential(text):
        raise ConfigurationError(f"{path} must hold visible ASCII characters, in one line")
    return text


def prompt_for(what: str, *, hidden: bool = False) -> str | None:
    """Return what the user types at a prompt, or None if there is no terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    answer: str = click.prompt(what, hide_input=hidden, err=True)
    return trimmed(answer)
