"""The store of `--store`: which URLs may stand on the command line, and the keys that encrypt it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.core import ParameterSource

from signalwire_tokens.client.environment import trimmed
from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.secret import Secret
from signalwire_tokens.stores import SqliteStore

from .settings import read_credential

if TYPE_CHECKING:
    from pathlib import Path

    from signalwire_tokens.stores.redis import RedisStore

__all__ = ["Store", "make_store", "store_url"]

Store: TypeAlias = "SqliteStore | RedisStore"
KEYS = "SIGNALWIRE_TOKENS_ENCRYPTION_KEY"
FORMS = "sqlite:FILE, redis://HOST[:PORT][/DATABASE], rediss://… or unix:///SOCKET"
# The URLs without a secret: redis-py has several names for passwords, so a server's URL has no options at all.
HARMLESS = re.compile(
    r"sqlite:.+|unix:(?:///|/(?!/))[^?#%\s]*|rediss?://(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]+)?(?:/[0-9]*)?",
    re.ASCII,
)


def store_url(context: click.Context, _: click.Parameter, text: str | None) -> Secret[Any]:
    """Return the URL as a secret, or raise an error if the command line has it and may show a password to others."""
    url = Secret[Any](trimmed(text))
    is_typed = context.get_parameter_source("store") is ParameterSource.COMMANDLINE
    if is_typed and not HARMLESS.fullmatch(url.value or ""):
        raise click.BadParameter(f"it must be {FORMS}. Set any other URL as SIGNALWIRE_TOKENS_STORE")
    return url


def make_store(url: Secret[Any], encryption_key_file: Path | None) -> Store:
    """Return the store that a URL names."""
    text = Secret(os.environ.get(KEYS, "") if encryption_key_file is None else read_credential(encryption_key_file))
    keys = Secret([key for part in text.value.split(",") if (key := part.strip())])
    if not keys.value:
        advice = f"set {KEYS} to a key from `signalwire-tokens generate-key`"
        raise ConfigurationError(f"a store needs an encryption key: {advice}")
    scheme, _, place = url.value.partition(":")
    if scheme == "sqlite" and place:
        return SqliteStore(place.removeprefix("//"), encryption_keys=keys.value)
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError(f"SIGNALWIRE_TOKENS_STORE must be {FORMS}")
    try:
        from signalwire_tokens.stores.redis import RedisStore  # noqa: PLC0415 - its package is an extra
    except ModuleNotFoundError:
        advice = "install signalwire-tokens with its extra `redis`"
        raise ConfigurationError(f"a store on Redis needs another package: {advice}") from None
    return RedisStore(url.value, encryption_keys=keys.value)
