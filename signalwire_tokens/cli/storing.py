"""Where `hold` keeps its pair beyond a restart: a store, from its URL, and the keys that seal it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Protocol

from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Secret
from signalwire_tokens.stores import SqliteStore, TokenStore

from .options import read_credential

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Store", "look_into", "may_hold_secret", "open_store"]

SERVERS = ("redis", "rediss", "unix")
HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]+)?"
OPTION = (
    r"(?:db=[0-9]+|protocol=[0-9]+|ssl_(?:ca_certs|ca_path|certfile|keyfile)=[A-Za-z0-9._/~+-]+"
    r"|ssl_cert_reqs=(?:none|optional|required)|ssl_check_hostname=(?i:true|false|yes|no|1|0))"
)
PLACE = rf"(?:rediss?://{HOST}(?:/[0-9]*)?|unix:(?:///|/(?!/))[^?#%\s]*)"
HARMLESS = re.compile(rf"{PLACE}(?:\?{OPTION}(?:&{OPTION})*)?")


class Store(TokenStore, Protocol):
    """A store that is to be closed."""

    async def aclose(self) -> None:
        """Close it."""
        ...


def may_hold_secret(url: Secret[Any]) -> bool:
    """Return whether a part of a server's URL may be a secret.

    redis-py has several names for passwords, and decodes them: only what is known to be harmless is allowed.
    """
    text = Secret(url.value or "")
    return text.value.partition(":")[0] in SERVERS and HARMLESS.fullmatch(text.value) is None


def open_store(url: Secret[Any], encryption_key_file: Path | None) -> Store:
    """Make the store that a URL names."""
    scheme, _, place = url.value.partition(":")
    keys = Secret(encryption_keys(encryption_key_file))
    match scheme:
        case "sqlite" if place:
            return SqliteStore(place.removeprefix("//"), encryption_keys=keys.value)
        case _ if scheme in SERVERS:
            try:
                from signalwire_tokens.stores.redis import RedisStore  # noqa: PLC0415 - its package is an extra
            except ModuleNotFoundError:
                message = "a store on Redis needs another package: pip install 'signalwire-tokens[redis]'"
                raise ConfigurationError(message) from None
            return RedisStore(url.value, encryption_keys=keys.value)
        case _:
            raise ConfigurationError("a store is sqlite:FILE, or redis://HOST[:PORT][/DATABASE]")


async def look_into(store: Store) -> None:
    """Find out now whether a file can be a store; a server may be away, and come back."""
    if isinstance(store, SqliteStore):
        await store.load("0" * 64)  # a key that nobody has


def encryption_keys(path: Path | None) -> list[str]:
    """Find the keys that a store seals with: the first one seals, each opens."""
    text = Secret(os.environ.get("SIGNALWIRE_TOKENS_ENCRYPTION_KEY", "") if path is None else read_credential(path))
    keys = Secret([key for part in text.value.split(",") if (key := part.strip())])
    if not keys.value:
        message = (
            "a store needs an encryption key: set SIGNALWIRE_TOKENS_ENCRYPTION_KEY. "
            "`signalwire-tokens generate-key` prints a new one"
        )
        raise ConfigurationError(message)
    return keys.value
