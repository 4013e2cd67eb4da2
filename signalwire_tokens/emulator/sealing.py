"""The tokens of the emulator: encrypted like SignalWire's, so that a client can read only the header.

A token is a JWE in compact form (RFC 7516) of five parts. The header has the kind (`typ`) and the realtime host (`ch`).
Expiry and owner are in the encrypted part. A client that tries to read them fails here as it would against SignalWire.
"""

from __future__ import annotations

import json
from typing import Any, cast

import attrs
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.registry import HeaderParameter

__all__ = ["Claims", "TokenSealer"]

# joserfc rejects a header with a member that isn't registered.
TOKEN_ALGORITHMS = jwe.JWERegistry(
    header_registry={"ch": HeaderParameter("cluster", "str")}, algorithms=["dir", "A256GCM"]
)


@attrs.frozen(kw_only=True)
class Claims:
    """The encrypted content of a token, which only the service can read.

    - `id`: the token's own id, the `jti` that the gateway reports.
    - `kind`: `"SAT"` for an access token, `"Refresh"` for a refresh token.
    - `holder`: the kind of owner: `"subscriber"`, `"guest"`, `"invite"` or `"embed"`.
    - `issued_at`, `expires_at`: seconds since the epoch, by the emulator's clock.
    - `family`: an id that all tokens share which descend from one issue by refreshing or exchanging. See `rotation`.
    - `fingerprint`: the thumbprint of the key that the token is bound to, or None. See `possession`.
    - `is_exchanged`: whether the token comes from an exchange at a device operation. A token can have a `fingerprint`
      without that, if it was issued for a key and has not been exchanged yet.
    - `scope`, `addresses`: what the token allows.
    - `channel`: the `ch` for the header, if a guest's issue asked for one. None means the emulator's own.
    """

    id: str
    kind: str
    holder: str
    issued_at: float
    expires_at: float
    family: str
    subscriber_id: str | None = None
    application_id: str | None = None
    fingerprint: str | None = None
    scope: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    is_exchanged: bool = False
    channel: str | None = None


class TokenSealer:
    """Encrypts claims into tokens, and decrypts tokens into claims.

    `channel` is the realtime host that tokens name in their header. With None, they name no host. `key` has 32 bytes.
    Sealers with the same key can open each other's tokens.
    """

    def __init__(self, channel: str | None, key: bytes) -> None:
        self._key = OctKey.import_key(key)
        self.channel: str | None = channel

    def seal(self, claims: Claims) -> str:
        """Return a token with these claims."""
        header = {"alg": "dir", "enc": "A256GCM", "typ": claims.kind}
        channel = claims.channel or self.channel
        if channel is not None:
            header["ch"] = channel
        plain = json.dumps(attrs.asdict(claims)).encode()
        return jwe.encrypt_compact(header, plain, self._key, registry=TOKEN_ALGORITHMS)

    def open(self, token: str) -> Claims | None:
        """Return the claims of a token, or None if no sealer with this key has made it. The token may have expired."""
        try:
            plain = jwe.decrypt_compact(token, self._key, registry=TOKEN_ALGORITHMS).plaintext
        except (JoseError, ValueError, TypeError):
            return None
        data = cast("dict[str, Any]", json.loads(plain or b"{}"))
        return Claims(**{**data, "scope": tuple(data["scope"]), "addresses": tuple(data["addresses"])})
