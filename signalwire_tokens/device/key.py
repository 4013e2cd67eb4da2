"""`DeviceKey`: a device's RSA key, its fingerprint, and the proofs that it signs (DPoP, RFC 9449).

A key file must never be lost or half written, because the device's tokens are bound to the key. `load_or_generate` also
works if several processes start at once and no file exists. Each writes its own key to a draft next to the final name.
The first hard link to the final name succeeds. The others fail, and their processes read the first one's file.
"""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64encode
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit
from uuid import uuid4

import jwt

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )
    from jwt.algorithms import RSAAlgorithm  # exists only if cryptography is installed
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "DeviceKey needs cryptography: install signalwire-tokens with its extra `crypto`", name="cryptography"
    ) from None

from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Token
from signalwire_tokens.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["DeviceKey"]

BITS = 2048
PUBLIC_EXPONENT = 65537
EMPTY_REFUSED = "password must not be empty: a key is never saved unencrypted"
LONGEST_PASSWORD = 1023  # bytes; OpenSSL's limit
# What is likely wrong with a PEM text that can't be loaded. The keys are marks in the text; the first that fits counts.
MARKS = {
    b"BEGIN OPENSSH PRIVATE KEY": "is in OpenSSH's own form: `ssh-keygen -p -m PKCS8 -f FILE` rewrites it",
    b"PRIVATE KEY-----": "can't be read: the password is wrong, or the text is damaged",
}
THUMBED = ("e", "kty", "n")  # the members from which RFC 7638 makes the thumbprint of an RSA key


class DeviceKey:
    """An RSA key that never leaves its device.

    `load_or_generate(path, password)` keeps the key in a file. With `generate()`, `to_pem(password)` and `from_pem()`,
    you can keep it elsewhere. A backend issues tokens for the key's `fingerprint`, which isn't secret.
    """

    __slots__ = ("_fingerprint", "_jwk", "_key")

    def __init__(self, private_key: RSAPrivateKey) -> None:
        held = Secret[Any](private_key)
        del private_key
        if not isinstance(held.value, RSAPrivateKey):
            raise ConfigurationError(
                "a device's key must be an RSA key: use DeviceKey.generate() or DeviceKey.from_pem()"
            )
        if held.value.key_size < BITS:
            raise ConfigurationError(
                f"a device's key must have {BITS} bits or more, and this one has {held.value.key_size}: "
                "create one with DeviceKey.generate()"
            )
        self._key: RSAPrivateKey = held.value
        jwk = cast("dict[str, str]", RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True))
        self._jwk: dict[str, str] = {name: jwk[name] for name in THUMBED}
        self._fingerprint: str = thumbprint(self._jwk)

    @property
    def fingerprint(self) -> str:
        """The RFC 7638 thumbprint of the key's public half, which identifies the key."""
        return self._fingerprint

    @classmethod
    def generate(cls) -> Self:
        """Return a new key. It isn't saved anywhere.

        The calculation blocks the event loop for a fraction of a second.
        """
        return cls(generate_private_key(PUBLIC_EXPONENT, BITS))

    @classmethod
    def from_pem(cls, pem: bytes | str, password: bytes | str | None = None) -> Self:
        """Return the key in a PEM text.

        `password` is needed if the text is encrypted, as that of `to_pem` is. Raise `ConfigurationError` if the text or
        the password is wrong.
        """
        text, word = Secret[Any](pem), Secret[Any](password)
        del pem, password
        return cls(cast("RSAPrivateKey", read_pem(as_bytes("pem", text), as_password(word))))

    @classmethod
    def load_or_generate(cls, path: str | os.PathLike[str], password: bytes | str) -> Self:
        """Return the key in a file, or a new one that it saves there, encrypted, if the file doesn't exist.

        A new file is readable only by its owner. Programs that start at the same time all get the same key. The file
        holds a whole key or doesn't exist, even if the disk is full or a program is killed while it writes.
        """
        place, word = Path(path).resolve(), Secret[Any](password)
        del password
        if as_password(word).value is None:
            raise ConfigurationError(EMPTY_REFUSED)
        if not place.parent.is_dir():
            raise ConfigurationError(
                f"the directory {place.parent} doesn't exist: create it, or choose another path for the key"
            )
        if not place.exists():
            save_key(place, Secret(cls.generate().to_pem(word.value)))
        try:
            return cls.from_pem(place.read_bytes(), word.value)
        except ConfigurationError as error:
            fault = error.message
        raise ConfigurationError(f"{place}: {fault}")

    def to_pem(self, password: bytes | str) -> bytes:
        """Return the key as an encrypted PEM text (PKCS #8)."""
        word = Secret[Any](password)
        del password
        secret = as_password(word)
        if secret.value is None:
            raise ConfigurationError(EMPTY_REFUSED)
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(secret.value))

    def proof(self, method: str, uri: str, token: str | Token | None = None, *, now: float | None = None) -> str:
        """Return a proof of possession of the key for one HTTP request.

        `method` and `uri` are those of the request. User, query and fragment of `uri` are left out of the proof.
        `token` is the token that the request carries, if the proof should name it. `now` is the time of the proof in
        unix seconds, by SignalWire's clock; None means this machine's wall clock. A proof is accepted once, and for
        about a minute.
        """
        hidden = Secret(token.value if isinstance(token, Token) else token)
        del token
        parts = urlsplit(uri)
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
        claims: dict[str, Any] = {"htm": method, "htu": place.geturl()}
        if hidden.value is not None:
            claims["ath"] = base64_digest(hidden.value.encode(errors="backslashreplace"))
        return self._sign(claims, now)

    def rpc_proof(self, method: str, *, now: float | None = None) -> str:
        """Return a proof of possession of the key for one call of `method` over a realtime connection.

        `now` is as for `proof`.
        """
        return self._sign({"rpc": "request", "mth": method}, now)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeviceKey) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"<DeviceKey {self.fingerprint}>"

    def _sign(self, claims: dict[str, Any], now: float | None) -> str:
        """Return a signed proof with `claims`. A random id makes each proof unique."""
        issued_at = int(time() if now is None else now)
        return jwt.encode(
            {"jti": str(uuid4()), **claims, "iat": issued_at},
            self._key,
            algorithm="RS256",
            headers={"typ": "dpop+jwt", "jwk": self._jwk},
        )


def read_pem(pem: Secret[bytes], password: Secret[bytes | None]) -> PrivateKeyTypes:
    """Return a private key, or raise an error that names what is wrong with its text or its password."""
    try:
        return load_pem_private_key(pem.value, password.value)
    except TypeError:
        what = "is encrypted: pass its password" if password.value is None else "isn't encrypted: omit the password"
    except ValueError:
        what = next((text for mark, text in MARKS.items() if mark in pem.value), "isn't a private key in PEM form")
    except UnsupportedAlgorithm:
        what = "is of an unsupported kind: it must be an RSA key"
    raise ConfigurationError(f"the key's PEM {what}")


def save_key(place: Path, pem: Secret[bytes]) -> None:
    """Save a key as a new file, completely or not at all. Do nothing if the file exists by then."""
    draft = place.with_name(uuid4().hex)
    try:
        write_new(draft, pem)
        with suppress(FileExistsError):
            publish(draft, place)
    finally:
        draft.unlink(missing_ok=True)


def publish(draft: Path, place: Path) -> None:
    """Move a complete draft to its final name, unless another file has that name.

    In that case, do nothing or raise `FileExistsError`. A hard link is used, because it fails if the name exists. On
    file systems without hard links, a lock protects the check and the renaming.
    """
    try:
        os.link(draft, place)
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        with locked(place.parent):
            if not place.exists():
                draft.rename(place)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other programs. The system releases the lock even if the process is killed."""
    try:
        import fcntl  # noqa: PLC0415 - Windows doesn't have it
    except ModuleNotFoundError:
        yield  # on Windows, renaming never replaces a file, so no lock is needed
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_new(place: Path, pem: Secret[bytes]) -> None:
    """Create a file that only its owner can read, and write all of it to the disk, or raise an `OSError`."""
    with open(place, "xb", opener=partial(os.open, mode=0o600)) as file:
        file.write(pem.value)
        file.flush()  # it repeats writes that were cut short
        os.fsync(file.fileno())


def as_bytes(name: str, given: Secret[Any]) -> Secret[bytes]:
    """Return text as UTF-8 bytes, or bytes as they are. `name` is the argument that an error names."""
    if isinstance(given.value, bytes):
        return given
    if isinstance(given.value, str):
        with suppress(UnicodeEncodeError):
            return Secret(given.value.encode())
    raise ConfigurationError(f"{name} must be bytes, or text that UTF-8 can encode")


def as_password(given: Secret[Any]) -> Secret[bytes | None]:
    """Return a password as bytes. An empty one counts as None."""
    if given.value is None:
        return given
    secret = as_bytes("password", given)
    if len(secret.value) > LONGEST_PASSWORD:
        raise ConfigurationError(f"password must not be longer than {LONGEST_PASSWORD} bytes")
    return Secret(secret.value or None)


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Return the RFC 7638 thumbprint of a public key. `jwk` must have only the members in `THUMBED`."""
    return base64_digest(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode())


def base64_digest(data: bytes) -> str:
    """Return the SHA-256 of data in URL-safe Base64 without padding, as proofs and thumbprints use it."""
    return urlsafe_b64encode(sha256(data).digest()).decode().rstrip("=")
