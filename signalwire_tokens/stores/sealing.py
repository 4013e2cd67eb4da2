"""Records sealed for where others can read: AES-256-GCM, bound to the record's key and to the format's version."""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.models import Secret

from .records import Record, decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Sealer", "generate_encryption_key"]

VERSION, NO_VERSION = 1, 32  # from there on, it is somebody's text
PLAIN, SEALED = 0, 1
KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
KEY_BYTES, NAME_BYTES, NONCE_BYTES = 32, 4, 12
HEAD_BYTES = 2


def generate_encryption_key() -> str:
    """Make a key to seal records with: 32 random bytes, as URL-safe base64."""
    return urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


class Sealer:
    """Turn records into bytes, and back.

    The first of `keys` seals, and each of them opens. A record opens only under the key of the store that it was sealed
    for. Without keys, `plaintext=True` has to say that tokens may lie in the open. `store` names the store in errors.
    """

    def __init__(self, store: str, encryption_keys: str | Sequence[str] = (), *, plaintext: bool = False) -> None:
        given = Secret((encryption_keys,) if isinstance(encryption_keys, str) else encryption_keys)
        del encryption_keys
        self._store = store
        if not isinstance(given.value, list | tuple):
            raise ConfigurationError(f"{store}: encryption_keys must be a string or a list of strings")
        if not isinstance(plaintext, bool):
            raise ConfigurationError(f"{store}: plaintext must be True or False")
        hidden = [Secret(key) for key in given.value]
        if hidden and plaintext:
            raise ConfigurationError(f"{store}: with plaintext=True, nothing is encrypted: leave encryption_keys out")
        if not hidden and not plaintext:
            raise ConfigurationError(
                f"{store} needs encryption_keys, because it stores tokens: generate_encryption_key() makes one. "
                "To store tokens unencrypted, pass plaintext=True"
            )
        self._ciphers = dict(load(store, key) for key in hidden)  # by name; the first one seals

    def seal(self, key: str, record: Record) -> bytes:
        """Write a record as bytes that only the holder of a key can read."""
        if not self._ciphers:
            return bytes((VERSION, PLAIN)) + encode(record)
        head, nonce = bytes((VERSION, SEALED)), os.urandom(NONCE_BYTES)
        name, cipher = next(iter(self._ciphers.items()))
        return head + name + nonce + cipher.encrypt(nonce, encode(record), head + key.encode())

    def open(self, key: str, sealed: bytes) -> Record:
        """Read what `seal` wrote for the same key."""
        head, body = bytes(sealed[:HEAD_BYTES]), Secret(sealed[HEAD_BYTES:])
        del sealed
        match tuple(head):
            case (1, 0) if not self._ciphers:
                pass
            case (1, 0):
                raise self._refuse(key, "is not sealed, and this store takes only what is")
            case (1, 1) if not self._ciphers:
                raise self._refuse(key, "is sealed, and this store was given no keys")
            case (1, 1):
                body = self._unseal(key, head, body.value)
            case (version, _) if VERSION < version < NO_VERSION:
                raise self._refuse(key, "was written by a newer version of signalwire-tokens")
            case _:
                raise self._refuse(key, "is not one of signalwire-tokens")
        with suppress(ValueError):
            return decode(body.value)
        raise self._refuse(key, "cannot be read")

    def _unseal(self, key: str, head: bytes, body: bytes) -> Secret[bytes]:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra

        name, nonce, ciphertext = body[:NAME_BYTES], body[NAME_BYTES:][:NONCE_BYTES], body[NAME_BYTES + NONCE_BYTES :]
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise self._refuse(key, "was sealed with a key that is not among those given")
        try:
            return Secret(cipher.decrypt(nonce, ciphertext, head + key.encode()))
        except (InvalidTag, ValueError):
            raise self._refuse(key, "was tampered with, or moved here from another key") from None

    def _refuse(self, key: str, why: str) -> StoreError:
        return StoreError(f"{self._store}: the record #{key[:8]} {why}")


def is_key(text: object) -> bool:
    """Tell whether a text is an encryption key: no more and no less than one."""
    return isinstance(text, str) and KEY.fullmatch(text) is not None


def load(store: str, key: Secret[str]) -> tuple[bytes, AESGCM]:
    """Make a cipher of a key, with the name by which records know it."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            f"{store} encrypts tokens with the package cryptography: install signalwire-tokens[crypto]"
        ) from None
    if not is_key(key.value):
        raise ConfigurationError(
            f"{store}: an encryption key is 32 bytes as URL-safe base64, as generate_encryption_key() makes it. "
            "Pass several keys as a list"
        )
    raw = Secret(urlsafe_b64decode(key.value))
    return sha256(b"signalwire-tokens sealing key\n" + raw.value).digest()[:NAME_BYTES], AESGCM(raw.value)
