"""Tokens as the service makes them: encrypted, with nothing to be read but the header."""

from __future__ import annotations

import json
from typing import Any, cast

import attrs
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.registry import HeaderParameter

__all__ = ["Claims", "Sealer"]

# joserfc refuses header members that it was not told of.
REGISTRY = jwe.JWERegistry(header_registry={"ch": HeaderParameter("cluster", "str")}, algorithms=["dir", "A256GCM"])


@attrs.frozen(kw_only=True)
class Claims:
    """What a token says to the service, and to nobody else."""

    id: str
    kind: str  # SAT or Refresh
    holder: str  # subscriber, guest, invite or embed
    issued_at: float
    expires_at: float
    line: str  # shared by all tokens that descend from one issue
    subscriber_id: str | None = None
    application_id: str | None = None
    fingerprint: str | None = None
    scope: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    is_bound: bool = False  # by an exchange, and not only meant to be
    channel: str | None = None  # of a guest who was given one


class Sealer:
    """Encrypts claims into tokens, and reads them back."""

    def __init__(self, channel: str | None, key: bytes) -> None:
        self._key = OctKey.import_key(key)
        self.channel: str | None = channel

    def seal(self, claims: Claims) -> str:
        """Make a token."""
        header = {"alg": "dir", "enc": "A256GCM", "typ": claims.kind}
        channel = claims.channel or self.channel
        if channel is not None:
            header["ch"] = channel
        plain = json.dumps(attrs.asdict(claims)).encode()
        return jwe.encrypt_compact(header, plain, self._key, registry=REGISTRY)

    def open(self, token: str) -> Claims | None:
        """Read a token of ours; None for any other string."""
        try:
            plain = jwe.decrypt_compact(token, self._key, registry=REGISTRY).plaintext
        except (JoseError, ValueError, TypeError):
            return None
        data = cast("dict[str, Any]", json.loads(plain or b"{}"))
        return Claims(**{**data, "scope": tuple(data["scope"]), "addresses": tuple(data["addresses"])})
