"""Proofs of possession as another library than the project's has them: made, and taken apart."""

import json
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from uuid import uuid4

from joserfc import jws
from joserfc.jwk import RSAKey

REGISTRY = jws.JWSRegistry(algorithms=["RS256"])
REGISTRY.max_header_length = 4096


def open_proof(proof):
    """Verify a proof by the key that it carries; give its header and its claims."""
    signed = jws.extract_compact(proof.encode(), registry=REGISTRY)
    assert jws.validate_compact(signed, RSAKey.import_key(signed.headers()["jwk"]), registry=REGISTRY)
    return signed.headers(), json.loads(signed.payload)


def digest(token):
    return urlsafe_b64encode(sha256(token.encode()).digest()).decode().rstrip("=")


def make_proof(key, *, header=None, **claims):
    """Sign claims, with what they do not say filled in, or left out where it is None."""
    header = {"typ": "dpop+jwt", "alg": "RS256", "jwk": key.as_dict(private=False), **(header or {})}
    whole = {"jti": str(uuid4()), "iat": int(time.time()), **claims}
    payload = json.dumps({name: value for name, value in whole.items() if value is not None}).encode()
    kept = {name: value for name, value in header.items() if value is not None}
    registry = jws.JWSRegistry(algorithms=["RS256", "PS256", "HS256"], strict_check_header=False)
    return jws.serialize_compact(kept, payload, key, registry=registry)
