"""Proofs of possession (DPoP, RFC 9449), and which token is bound to which key.

The service accepts a bound access token only with a proof, so a thief of the token alone can't use it. The only
exception is `subscriber_info`. A proof is a short-lived JWT that the device signs with its private key. It is valid for
one request. These parts of it are checked:

| part | must be |
| --- | --- |
| header `typ`, `alg` | `dpop+jwt`, `RS256` |
| header `jwk` | the public half of an RSA key of at least 2048 bits, which signed the proof |
| `htm`, `htu` | for an HTTP request: its method, and its path or full URI |
| `rpc`, `mth` | for a realtime call: `request`, and the method |
| `iat` | within 60 seconds of the emulator's time |
| `jti` | a random UUID that no earlier proof had |
| `ath` | the digest of the token. Required to refresh a bound token. Elsewhere a proof may leave it out |

SignalWire's own browser SDK sends only the path in `htu`, and no `ath` with a first exchange. So does this library.

A token becomes bound in one of three ways:

| token | bound |
| --- | --- |
| issued with a `fingerprint` | from its issue, to the key with this thumbprint |
| issued with the scope `sat:refresh` and no fingerprint | by its first use with a proof, to the key of that proof |
| returned by an exchange at a device operation | from the start, to the key of that exchange's proof |

All other tokens stay unbound. If a realtime client sends a proof with one of them, the proof must still be valid.
"""

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

__all__ = ["REFRESHABLE", "AuthenticationError", "KeyBindings", "token_digest"]

REFRESHABLE = "sat:refresh"  # the scope of access tokens that a device can exchange for a bound one
WINDOW = 60.0  # seconds by which a proof's `iat` may be before or after the emulator's time
LEAST_BITS = 2048  # of an RSA key
PUBLIC = ("e", "kty", "n")
# What each claim of a proof must name, for error texts.
WHAT_TO_SIGN = {
    "htm": "the method and path that you send",
    "htu": "the method and path that you send",
    "rpc": "a request",
    "mth": "the method that you call",
}
# Members of a JWK that hold secrets. A client that sends one of them has published its private key.
PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

# By default, joserfc accepts headers of up to 512 bytes. A header that holds an RSA key is longer.
PROOF_ALGORITHMS = jws.JWSRegistry(algorithms=["RS256"])
PROOF_ALGORITHMS.max_header_length = 4096


class AuthenticationError(Exception):
    """The authentication of a request failed: its token isn't accepted, or the proof is missing or wrong.

    The text explains why, for `Entry.reason`. It quotes nothing of the token or the proof.
    """


class KeyBindings:
    """The record of proofs that were presented, and of tokens that their first use has bound to a key.

    `now` returns the emulator's time, in seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._presented: dict[str, float] = {}  # ids of proofs, and when each is too old to be accepted
        self._bound: dict[str, str] = {}  # thumbprints of keys, by id of a token

    def verify(
        self, proof: object, expected: Mapping[str, str | tuple[str, ...]], *, token: str = "", must_name: bool = False
    ) -> str:
        """Return the thumbprint of the key that signed a proof. Raise an `AuthenticationError` for a wrong proof.

        `expected` maps the names of claims to the value that each must have, or to a tuple of values to choose from.
        `token` is the token that the request carries. If the proof has an `ath`, it must name this token. With
        `must_name`, the proof must have one.

        A valid proof counts as presented even if the service then refuses the token.
        """
        signed, key = open_proof(proof)
        claims = read_claims(signed)
        for name, wanted in expected.items():
            if claims.get(name) not in ((wanted,) if isinstance(wanted, str) else wanted):
                raise AuthenticationError(f"the proof's {name} doesn't match this request: sign {WHAT_TO_SIGN[name]}")
        issued_at, id_ = claims.get("iat"), claims.get("jti")
        now = self._now()
        if not isinstance(issued_at, int) or isinstance(issued_at, bool):
            raise AuthenticationError("the proof's iat isn't a whole number of unix seconds")
        if not now - WINDOW <= issued_at <= now + WINDOW:
            raise AuthenticationError("the proof's iat is over 60 s from the emulator's time: check the device's clock")
        if not isinstance(id_, str) or not UUID4.fullmatch(id_):
            raise AuthenticationError("the proof's jti isn't a random UUID (version 4)")
        if claims.get("ath") != token_digest(token) and (must_name or "ath" in claims):
            raise AuthenticationError("the proof's ath doesn't match the token: it must be the token's SHA-256")
        self._note(id_.lower())
        return key.thumbprint()

    def check_binding(self, claims: Claims, thumbprint: str | None) -> None:
        """Check a token against the key of the proof that came with it, or raise an `AuthenticationError`.

        `thumbprint` is the result of `verify`, or None if the request has no proof. A bound token needs a proof of the
        key that it is bound to. The first proof binds an unbound token that has the scope `sat:refresh`.
        """
        binding = self.binding_of(claims)
        if binding is None:
            if thumbprint is not None and REFRESHABLE in claims.scope:
                self._bound[claims.id] = thumbprint
        elif thumbprint is None:
            raise AuthenticationError("the token is bound to a key: send a proof with it")
        elif thumbprint != binding:
            raise AuthenticationError("the token is bound to another key: sign the proof with that key")

    def binding_of(self, claims: Claims) -> str | None:
        """Return the thumbprint of the key that a token is bound to, or None if it is unbound."""
        return claims.fingerprint or self._bound.get(claims.id)

    def _note(self, id_: str) -> None:
        """Record that a proof was presented, or raise an `AuthenticationError` if it was presented before.

        A proof may be made up to one window ahead of the emulator's time, and is accepted until one window after its
        `iat`. So each id has to be remembered for two windows, and can then be forgotten.
        """
        now = self._now()
        while self._presented and (oldest := next(iter(self._presented.items())))[1] < now:
            del self._presented[oldest[0]]
        if id_ in self._presented:
            raise AuthenticationError("the proof was already used: create a new one for each request")
        self._presented[id_] = now + 2 * WINDOW


def open_proof(proof: object) -> tuple[jws.CompactSignature, RSAKey]:
    """Return a proof with the key in its header, which has signed it. Raise an `AuthenticationError` for anything else.

    The claims are not checked yet.
    """
    try:
        signed = jws.extract_compact(proof.encode() if isinstance(proof, str) else b"", registry=PROOF_ALGORITHMS)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise AuthenticationError("the proof isn't a signed JWT in compact form") from None
    header = signed.headers()
    if header.get("typ") != "dpop+jwt" or header.get("alg") != "RS256":
        raise AuthenticationError("the proof's header must have the typ dpop+jwt and the alg RS256")
    key = read_key(header.get("jwk"))
    try:
        is_signed = jws.validate_compact(signed, key, registry=PROOF_ALGORITHMS)
    except (JoseError, ValueError, TypeError):
        is_signed = False
    if not is_signed:
        raise AuthenticationError("the proof isn't signed with the key in its header")
    return signed, key


def read_key(jwk: object) -> RSAKey:
    """Return the public RSA key that a proof's header holds, or raise an `AuthenticationError`."""
    members = cast("dict[str, Any]", jwk) if isinstance(jwk, dict) else {}
    if members.get("kty") != "RSA" or PRIVATE & members.keys():
        raise AuthenticationError("the proof's jwk isn't a public RSA key, or it has private members")
    uses = cast("object", members.get("key_ops", ["verify"]))
    if members.get("use", "sig") != "sig" or members.get("alg", "RS256") != "RS256" or uses != ["verify"]:
        raise AuthenticationError("the proof's jwk isn't for signatures with RS256: check use, alg and key_ops")
    try:
        bits = int.from_bytes(urlsafe_b64decode(f"{members['n']}==")).bit_length()
        if bits < LEAST_BITS:
            raise AuthenticationError(f"the proof's key has {bits} bits: it must have {LEAST_BITS} or more")
        return RSAKey.import_key({name: members[name] for name in PUBLIC})
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise AuthenticationError("the proof's jwk isn't a complete RSA public key (e, kty, n)") from None


def read_claims(signed: jws.CompactSignature) -> Mapping[str, object]:
    """Return the claims of a proof, or raise an `AuthenticationError` if its payload isn't a JSON object."""
    try:
        claims = read_json(signed.payload)
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise AuthenticationError("the proof's payload isn't a JSON object")
    return cast("dict[str, object]", claims)


def token_digest(token: str) -> str:
    """Return the `ath` of a token: its SHA-256 in base64url, without padding."""
    return urlsafe_b64encode(sha256(token.encode()).digest()).decode().rstrip("=")
