"""How records are sealed (encrypted), for stores whose content others may read, such as a file or a server.

A record as bytes:

======  =====  ============================================================================
offset  bytes  content
======  =====  ============================================================================
0       1      version of the record's format: 1
1       1      1 if the record is sealed, 0 if the rest is the JSON of `records.encode`
2       4      only if sealed: the name of the encryption key, which is the start of a SHA-256
6       12     only if sealed: a random nonce
18      rest   only if sealed: the JSON, encrypted with AES-256-GCM
======  =====  ============================================================================

The encryption also authenticates the first two bytes and the key under which the store keeps the record. So a record
that was changed, or copied to another key, doesn't open. An older record of the same key does open: an attacker who can
write to the store can bring it back.

**Versions.** `FORMATS` has each version that this release can read. It writes the newest. A release that changes the
format adds a version, and still reads the one before. A process with an older release refuses the newer record, and
leaves it as it is: the store compares digests, which are not part of the format.

The name lets a store that has several encryption keys choose the right one. So keys can be replaced while processes
run.

`Secret` and `del` keep encryption keys and tokens out of tracebacks that show local variables.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from signalwire_tokens.errors import ConfigurationError, UnreadableRecord
from signalwire_tokens.secret import Secret

from .records import Record, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Sealer", "generate_encryption_key"]

FIRST_TEXT_BYTE = 32  # a first byte below it may be a version; from it on, it is text, which is not ours
PLAIN, SEALED = 0, 1
KEY = re.compile(r"[A-Za-z0-9_-]{43}=")  # 32 bytes as URL-safe base64
KEY_BYTES, NAME_BYTES, NONCE_BYTES = 32, 4, 12
HEAD_BYTES = 2
# Why a record can't be opened. Each text follows the store's name and the key.
IN_PLAIN_TEXT = (
    "is in plain text, but this store has encryption keys. It was saved with plaintext=True: delete it, or use another "
    "file, prefix or table"
)
NEEDS_KEY = "is encrypted, but this store was made with plaintext=True: pass the key as encryption_keys=…"
TOO_NEW = (
    "was written by a newer version of signalwire-tokens: update this process, or use another file, prefix or table"
)
FOREIGN = "wasn't written by signalwire-tokens: another application may use the same file, prefix or table"
UNKNOWN_KEY = "was encrypted with a key that isn't in encryption_keys=…: add the previous key to the list"
NOT_AUTHENTIC = (
    "failed authentication: it was changed, or copied from another key. Find out who can write to the store, then "
    "delete the record"
)


class Format(NamedTuple):
    """How a version of the format turns a record into JSON, and back. `decode` raises `ValueError` if it can't."""

    encode: Callable[[Record], bytes]
    decode: Callable[[bytes], Record]


FORMATS = {1: Format(encode, decode)}


def generate_encryption_key() -> str:
    """Return a new encryption key for a store: 32 random bytes, as URL-safe base64."""
    return urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


class Sealer:
    """Turns records into bytes and back, encrypted (sealed) or in plain text.

    The first of `encryption_keys` seals, and each of them opens what it has sealed. `generate_encryption_key()` returns
    such a key. To keep tokens unsealed, pass `plaintext=True` and no keys. `store` is the store's name in errors.

    A sealed record opens only under the store's key that it was sealed for. Sealing needs the extra `crypto`.
    """

    formats: ClassVar[Mapping[int, Format]] = FORMATS

    def __init__(self, store: str, encryption_keys: str | Sequence[str] = (), *, plaintext: bool = False) -> None:
        given = Secret((encryption_keys,) if isinstance(encryption_keys, str) else encryption_keys)
        del encryption_keys
        self._store = store
        if not isinstance(given.value, list | tuple):
            raise ConfigurationError(
                f"{store}: encryption_keys must be a string or a list of strings, not {type(given.value).__name__}"
            )
        if not isinstance(plaintext, bool):
            raise ConfigurationError(f"{store}: plaintext must be True or False, not {type(plaintext).__name__}")
        hidden = [Secret(key) for key in given.value]
        if hidden and plaintext:
            raise ConfigurationError(
                f"{store}: plaintext=True encrypts nothing: omit encryption_keys, or omit plaintext=True"
            )
        if not hidden and not plaintext:
            raise ConfigurationError(
                f"{store} needs encryption_keys, because it stores tokens: create one with generate_encryption_key(). "
                "To store tokens unencrypted, pass plaintext=True"
            )
        self._ciphers = dict(load(store, key) for key in hidden)  # by name; the first one seals

    def seal(self, key: str, record: Record) -> bytes:
        """Return a record as bytes, sealed for the store's key `key`, or in plain text without encryption keys."""
        version = max(self.formats)
        written = Secret(self.formats[version].encode(record))
        if not self._ciphers:
            return bytes((version, PLAIN)) + written.value
        head, nonce = bytes((version, SEALED)), os.urandom(NONCE_BYTES)
        name, cipher = next(iter(self._ciphers.items()))
        return head + name + nonce + cipher.encrypt(nonce, written.value, head + key.encode())

    def open(self, key: str, sealed: bytes) -> Record:
        """Return the record that `seal` wrote for the same key. Raise `UnreadableRecord` if this process can't."""
        head, body = bytes(sealed[:HEAD_BYTES]), Secret(sealed[HEAD_BYTES:])
        del sealed
        if len(head) < HEAD_BYTES:
            raise self._refuse(key, FOREIGN)
        version, kind = head
        if max(self.formats) < version < FIRST_TEXT_BYTE:
            raise self._refuse(key, TOO_NEW)
        if version not in self.formats or kind not in (PLAIN, SEALED):
            raise self._refuse(key, FOREIGN)
        if (kind == SEALED) != bool(self._ciphers):
            raise self._refuse(key, NEEDS_KEY if kind == SEALED else IN_PLAIN_TEXT)
        if kind == SEALED:
            body = self._unseal(key, head, body.value)
        with suppress(ValueError):
            return self.formats[version].decode(body.value)
        raise self._refuse(key, "is damaged: delete it; the session then issues a new pair")

    def _unseal(self, key: str, head: bytes, body: bytes) -> Secret[bytes]:
        """Return a record's JSON. Raise `UnreadableRecord` if no key fits, or if the bytes aren't authentic."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra

        name, nonce, ciphertext = body[:NAME_BYTES], body[NAME_BYTES:][:NONCE_BYTES], body[NAME_BYTES + NONCE_BYTES :]
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise self._refuse(key, UNKNOWN_KEY)
        try:
            return Secret(cipher.decrypt(nonce, ciphertext, head + key.encode()))
        except (InvalidTag, ValueError):
            raise self._refuse(key, NOT_AUTHENTIC) from None

    def _refuse(self, key: str, why: str) -> UnreadableRecord:
        return UnreadableRecord(f"{self._store}: the record #{key[:8]} {why}")


def is_key(text: object) -> bool:
    """Return whether a value is exactly one encryption key, as `generate_encryption_key` returns it."""
    return isinstance(text, str) and KEY.fullmatch(text) is not None


def load(store: str, key: Secret[str]) -> tuple[bytes, AESGCM]:
    """Return an encryption key's name in records, and its cipher. Raise `ConfigurationError` if the key isn't one."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            f"{store} needs the package cryptography to encrypt tokens: install signalwire-tokens with its extra "
            "`crypto`"
        ) from None
    if not is_key(key.value):
        raise ConfigurationError(
            f"{store}: an encryption key must be 32 bytes as URL-safe base64, as generate_encryption_key() returns. "
            "Pass several keys as a list"
        )
    raw = Secret(urlsafe_b64decode(key.value))
    return sha256(b"signalwire-tokens sealing key\n" + raw.value).digest()[:NAME_BYTES], AESGCM(raw.value)
