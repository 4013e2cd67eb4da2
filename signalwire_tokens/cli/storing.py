"""Where `hold` keeps its pair beyond a restart: a store, from its URL, and the keys that seal it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Protocol

from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Secret
from signalwire_tokens.stores import SqliteStore, TokenStore

from .settings import read_credential

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Store", "has_password", "look_into", "open_store"]


class Store(TokenStore, Protocol):
    """A store that is to be closed."""

    async def aclose(self) -> None:
        """Close it."""
        ...


def has_password(url: Secret[Any]) -> bool:
    """Tell whether a URL carries a password, or might: a user's name may be one."""
    return re.search(r"@|[?&]password=", url.value or "") is not None


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


async def look_into(store: Store) -> None:
    """Find out now whether a file can be a store; a server may be away, and come back."""
    if isinstance(store, SqliteStore):
        await store.load("0" * 64)  # a key that nobody has


def sealing_keys(path: Path | None) -> list[str]:
    """Find the keys that a store seals with: the first one seals, each opens."""
    text = Secret(os.environ.get("TOKEN_SEALING_KEY", "") if path is None else read_credential(path))
    keys = Secret([key for part in text.value.split(",") if (key := part.strip())])
    if not keys.value:
        message = "a store needs a key to seal with: set TOKEN_SEALING_KEY; `signalwire-tokens sealing-key` makes one"
        raise ConfigurationError(message)
    return keys.value
