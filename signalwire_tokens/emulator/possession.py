"""Who holds which key: proofs of possession, verified to the last claim, and the tokens that keys bind."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from .strict_json import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .sealing import Claims

__all__ = ["REFRESHABLE", "Holders", "UnprovenError", "digest"]

REFRESHABLE = "sat:refresh"  # the scope of tokens that a key may exchange
WINDOW = 60.0  # seconds that a proof may be old, or ahead of its time
LEAST_BITS = 2048
PUBLIC = ("e", "kty", "n")
PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

# joserfc takes headers of 512 bytes, and one with a key in it is longer.
REGISTRY = jws.JWSRegistry(algorithms=["RS256"])
REGISTRY.max_header_length = 4096


class UnprovenError(Exception):
    """A proof is missing, or is none; its text says why, and holds nothing of it."""


class Holders:
    """Remember which proofs were presented, and which key an unbound token was first used with."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._presented: dict[str, float] = {}  # proofs, and until when each would still be in time
        self._bound: dict[str, str] = {}  # keys' thumbprints, by the ids of tokens

    def verify(
        self, proof: object, expected: Mapping[str, str | tuple[str, ...]], *, token: str = "", must_name: bool = False
    ) -> str:
        """Return the thumbprint of the key that signed a proof of what is expected, or refuse it.

        Where it names a token, it must be the one that it came with; `must_name` says that it has to.
        """
        signed, key = open_proof(proof)
        claims = read_claims(signed)
        for name, wanted in expected.items():
            if claims.get(name) not in ((wanted,) if isinstance(wanted, str) else wanted):
                raise UnprovenError(f"the proof's {name} is for something else")
        issued_at, id_ = claims.get("iat"), claims.get("jti")
        now = self._now()
        is_time = isinstance(issued_at, int) and not isinstance(issued_at, bool)
        if not is_time or not now - WINDOW <= cast("int", issued_at) <= now + WINDOW:
            raise UnprovenError("the proof's iat is not within 60 s")
        if not isinstance(id_, str) or not UUID4.fullmatch(id_):
            raise UnprovenError("the proof's jti is no random UUID")
        if claims.get("ath") != digest(token) and (must_name or "ath" in claims):
            raise UnprovenError("the proof's ath is not the token's")
        self._note(id_.lower())
        return key.thumbprint()

    def admit(self, claims: Claims, thumbprint: str | None) -> None:
        """Take a token from whoever has proven to hold a key, or nothing; refuse one that another key binds.

        One that is to be bound, and is not, is bound by its first use.
        """
        binding = self.binding_of(claims)
        if binding is None:
            if thumbprint is not None and REFRESHABLE in claims.scope:
                self._bound[claims.id] = thumbprint
        elif thumbprint is None:
            raise UnprovenError("the token is bound to a key, and no proof came with it")
        elif thumbprint != binding:
            raise UnprovenError("the token is bound to another key than the proof's")

    def binding_of(self, claims: Claims) -> str | None:
        """Tell the thumbprint of the key that a token is bound to, if it is to any."""
        return claims.fingerprint or self._bound.get(claims.id)

    def _note(self, id_: str) -> None:
        """Take a proof once."""
        now = self._now()
        while self._presented and (oldest := next(iter(self._presented.items())))[1] < now:
            del self._presented[oldest[0]]
        if id_ in self._presented:
            raise UnprovenError("the proof was presented before")
        self._presented[id_] = now + 2 * WINDOW


def open_proof(proof: object) -> tuple[jws.CompactSignature, RSAKey]:
    """Take what is signed by the key that it names, in the form that proofs have."""
    try:
        signed = jws.extract_compact(proof.encode() if isinstance(proof, str) else b"", registry=REGISTRY)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise UnprovenError("the proof is no signed token") from None
    header = signed.headers()
    if header.get("typ") != "dpop+jwt" or header.get("alg") != "RS256":
        raise UnprovenError("the proof's header must say dpop+jwt and RS256")
    key = read_key(header.get("jwk"))
    try:
        is_signed = jws.validate_compact(signed, key, registry=REGISTRY)
    except (JoseError, ValueError, TypeError):
        is_signed = False
    if not is_signed:
        raise UnprovenError("the proof is not signed by the key that it names")
    return signed, key


def read_key(jwk: object) -> RSAKey:
    """Take a public key."""
    members = cast("dict[str, Any]", jwk) if isinstance(jwk, dict) else {}
    if members.get("kty") != "RSA" or PRIVATE & members.keys():
        raise UnprovenError("the proof's jwk is not the public half of an RSA key")
    uses = cast("object", members.get("key_ops", ["verify"]))
    if members.get("use", "sig") != "sig" or members.get("alg", "RS256") != "RS256" or uses != ["verify"]:
        raise UnprovenError("the proof's jwk is not for signatures")
    try:
        bits = int.from_bytes(urlsafe_b64decode(f"{members['n']}==")).bit_length()
        if bits < LEAST_BITS:
            raise UnprovenError(f"the proof's key has {bits} bits, and must have {LEAST_BITS}")
        return RSAKey.import_key({name: members[name] for name in PUBLIC})
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise UnprovenError("the proof's jwk is no key") from None


def read_claims(signed: jws.CompactSignature) -> Mapping[str, object]:
    """Take what a proof says."""
    try:
        claims = read_json(signed.payload)
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise UnprovenError("the proof says nothing")
    return cast("dict[str, object]", claims)


def digest(token: str) -> str:
    """Name a token as proofs do."""
    return urlsafe_b64encode(sha256(token.encode()).digest()).decode().rstrip("=")
