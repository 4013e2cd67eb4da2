"""A device's key: its fingerprint, and the proofs that only its holder can give."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from hashlib import sha256
from time import time
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit
from uuid import uuid4

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm

from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Secret, Token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["DeviceKey"]

BITS = 2048
PUBLIC_EXPONENT = 65537
THUMBED = ("e", "kty", "n")  # the members that RFC 7638 has a thumbprint made of


class DeviceKey:
    """An RSA key that never leaves its device.

    Make it once with `generate()`, keep it as `to_pem(password)` writes it, in a file that nobody else can read, and
    read that with `from_pem`. `fingerprint` is what a backend has tokens issued for; it is no secret.
    """

    __slots__ = ("_jwk", "_key", "fingerprint")

    def __init__(self, private_key: RSAPrivateKey) -> None:
        if not isinstance(private_key, RSAPrivateKey):
            raise ConfigurationError("a device's key must be an RSA key: DeviceKey.generate() makes one")
        if private_key.key_size < BITS:
            raise ConfigurationError(
                f"a device's key must have {BITS} bits or more, and this one has {private_key.key_size}: "
                "DeviceKey.generate() makes one"
            )
        self._key = private_key
        jwk = cast("dict[str, str]", RSAAlgorithm.to_jwk(private_key.public_key(), as_dict=True))
        self._jwk: dict[str, str] = {name: jwk[name] for name in THUMBED}
        self.fingerprint: str = thumbprint(self._jwk)

    @classmethod
    def generate(cls) -> Self:
        """Make a new key, which takes a fraction of a second."""
        return cls(generate_private_key(PUBLIC_EXPONENT, BITS))

    @classmethod
    def from_pem(cls, pem: bytes | str, password: bytes | str | None = None) -> Self:
        """Read a key from the text that it was kept as."""
        text, word = Secret(as_bytes(pem)), Secret(None if password is None else as_bytes(password))
        del pem, password
        return cls(cast("RSAPrivateKey", read_pem(text, word)))

    def to_pem(self, password: bytes | str) -> bytes:
        """Write the key down, encrypted."""
        word = Secret(as_bytes(password))
        del password
        if not word.value:
            raise ConfigurationError("password must not be empty: a key is not written in the clear")
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(word.value))

    def proof(self, method: str, uri: str, token: str | Token | None = None, *, now: float | None = None) -> str:
        """Prove to have the key, for one request: `uri` counts without query and fragment.

        `token` is the one that the request carries, where the proof is to name it. A proof is good for about a minute
        and for once.
        """
        hidden = Secret(token.value if isinstance(token, Token) else token)
        del token
        place = urlsplit(uri)._replace(query="", fragment="").geturl()
        claims: dict[str, Any] = {"htm": method, "htu": place}
        if hidden.value is not None:
            claims["ath"] = encode(hidden.value.encode())
        return self._sign(claims, now)

    def rpc_proof(self, method: str, *, now: float | None = None) -> str:
        """Prove to have the key, for one call of a method over a realtime connection."""
        return self._sign({"rpc": "request", "mth": method}, now)

    def __repr__(self) -> str:
        return f"<DeviceKey {self.fingerprint}>"

    def _sign(self, claims: dict[str, Any], now: float | None) -> str:
        """Sign what is claimed, as a proof that there is no other of."""
        issued_at = int(time() if now is None else now)
        return jwt.encode(
            {"jti": str(uuid4()), **claims, "iat": issued_at},
            self._key,
            algorithm="RS256",
            headers={"typ": "dpop+jwt", "jwk": self._jwk},
        )


def read_pem(pem: Secret[bytes], password: Secret[bytes | None]) -> PrivateKeyTypes:
    """Read a private key, or say what is wrong with its text or its password."""
    try:
        return load_pem_private_key(pem.value, password.value)
    except TypeError:
        what = "is encrypted: give its password" if password.value is None else "is not encrypted: give no password"
    except ValueError:
        what = (
            "is not a private key in PEM form"
            if b"PRIVATE KEY-----" not in pem.value
            else "cannot be read: its password is another one, or it is damaged"
        )
    except UnsupportedAlgorithm:
        what = "is of a kind that is not supported: it must be an RSA key"
    raise ConfigurationError(f"the key's PEM {what}")


def as_bytes(text: bytes | str) -> bytes:
    """Take text as bytes."""
    return text.encode() if isinstance(text, str) else text


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Name a key, by the members that make it and no others, as RFC 7638 has it."""
    return encode(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode())


def encode(data: bytes) -> str:
    """Write data's digest as proofs and thumbprints have it."""
    return urlsafe_b64encode(sha256(data).digest()).decode().rstrip("=")
