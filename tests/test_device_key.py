"""A device's key: its thumbprint and its proofs, held against the RFCs' own figures and against another library."""

import json
import pickle
from base64 import b64encode, urlsafe_b64decode
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from frames import frames_shown
from joserfc import jws
from joserfc.jwk import RSAKey
from proofs import REGISTRY, open_proof

from signalwire_tokens import ConfigurationError
from signalwire_tokens.device import DeviceKey
from signalwire_tokens.device.key import encode, thumbprint

# RFC 7638, section 3.1.
RSA_JWK = {
    "e": "AQAB",
    "kty": "RSA",
    "n": (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    ),
}
RSA_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
# RFC 9449: the key of its examples (sections 4.1 and 6.1), and the token, proof and digest of section 7.1.
EC_JWK = {
    "crv": "P-256",
    "kty": "EC",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
}
EC_THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
ACCESS_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
PROOF = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQy"
    "VVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
    ".eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZX"
    "NvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9"
    ".2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
NOW = 1_800_000_000.9
URI = "https://acme.signalwire.com/api/fabric/subscriber/devices/token"


@pytest.fixture(scope="module")
def key():
    return DeviceKey.generate()


def private_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_thumbprints_are_those_of_the_rfcs():
    """RFC 7638's RSA key, and RFC 9449's own."""
    assert thumbprint(RSA_JWK) == RSA_THUMBPRINT
    assert thumbprint(EC_JWK) == EC_THUMBPRINT


def test_a_token_s_digest_is_that_of_rfc_9449():
    """What `ath` says of the access token of its examples."""
    claims = json.loads(urlsafe_b64decode(PROOF.split(".")[1] + "=="))
    assert encode(ACCESS_TOKEN.encode()) == claims["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


def test_a_proof_has_the_members_of_rfc_9449_s(key):
    """Those, and no others; the algorithm and the key are the service's choice."""
    published = jwt.api_jws.decode_complete(PROOF, jwt.PyJWK(EC_JWK).key, algorithms=["ES256"])
    ours = jwt.api_jws.decode_complete(
        key.proof("GET", "https://resource.example.org/protectedresource", ACCESS_TOKEN),
        key._key.public_key(),
        algorithms=["RS256"],
    )
    assert ours["header"].keys() == published["header"].keys()
    assert ours["header"]["typ"] == published["header"]["typ"]
    there, here = json.loads(published["payload"]), json.loads(ours["payload"])
    assert here.keys() == there.keys()
    assert all(here[name] == there[name] for name in ("htm", "htu", "ath"))


def test_another_library_verifies_a_proof(key):
    """With the public key that it carries, and nothing of the private one."""
    header, claims = open_proof(key.proof("POST", URI, now=NOW))
    assert header.keys() == {"typ", "alg", "jwk"}
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "RS256")
    assert header["jwk"].keys() == {"e", "kty", "n"}
    assert RSAKey.import_key(header["jwk"]).thumbprint() == key.fingerprint
    assert UUID(claims.pop("jti")).version == 4
    assert claims == {"htm": "POST", "htu": URI, "iat": 1_800_000_000}


def test_another_library_refuses_a_proof_that_was_changed(key):
    """So it is the signature that it has looked at."""
    head, _, signature = key.proof("POST", URI).split(".")
    _, other, _ = key.proof("PUT", URI).split(".")
    signed = jws.extract_compact(f"{head}.{other}.{signature}".encode(), registry=REGISTRY)
    jwk = RSAKey.import_key(signed.headers()["jwk"])
    assert not jws.validate_compact(signed, jwk, registry=REGISTRY)


def test_a_proof_names_the_token_and_not_what_follows_the_place(key):
    """The token by its digest, the place without query and fragment."""
    _, claims = open_proof(key.proof("POST", f"{URI}?page=1#top", "a-token", now=NOW))
    assert claims["htu"] == URI
    assert claims["ath"] == encode(b"a-token")


def test_a_call_has_a_proof_of_its_own_form(key):
    """It names the method, and no place."""
    header, claims = open_proof(key.rpc_proof("signalwire.reauthenticate", now=NOW))
    assert header["typ"] == "dpop+jwt"
    assert UUID(claims.pop("jti")).version == 4
    assert claims == {"rpc": "request", "mth": "signalwire.reauthenticate", "iat": 1_800_000_000}


def test_no_two_proofs_are_the_same(key):
    """Each is good for once."""
    assert len({open_proof(key.proof("POST", URI, now=NOW))[1]["jti"] for _ in range(20)}) == 20


def test_a_key_is_the_same_after_it_was_written_and_read(key):
    """Encrypted, with a password as text or as bytes."""
    pem = key.to_pem("word")
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert DeviceKey.from_pem(pem, "word").fingerprint == key.fingerprint
    assert DeviceKey.from_pem(pem.decode(), b"word").fingerprint == key.fingerprint


def test_a_key_that_another_program_has_written_is_read():
    """In the clear, or in the older form."""
    made = rsa.generate_private_key(65537, 2048)
    older = made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert DeviceKey.from_pem(private_pem(made)).fingerprint == DeviceKey.from_pem(older).fingerprint


def der(key):
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def armor(data):
    return ["-----BEGIN PRIVATE KEY-----", b64encode(data).decode(), "-----END PRIVATE KEY-----"]


def bad_pems():
    key = DeviceKey.generate()
    pem = key.to_pem("mellon")
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be refused
    curve = ec.generate_private_key(ec.SECP256R1())
    # P-256's name, and one that no curve has.
    unknown = "".join(f"{line}\n" for line in armor(der(curve).replace(b"\x3d\x03\x01\x07", b"\x3d\x03\x01\x77")))
    public = key._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "another password": (pem, "sesame", "cannot be read: its password is another one, or it is damaged"),
        "no password": (pem, None, "is encrypted: give its password"),
        "a password too many": (private_pem(key._key), "mellon", "is not encrypted: give no password"),
        "too small": (private_pem(small), None, "must have 2048 bits or more, and this one has 1024"),
        "a curve": (private_pem(curve), None, "must be an RSA key"),
        "an unknown curve": (unknown.encode(), None, "is of a kind that is not supported"),
        "a public key": (public, None, "is not a private key in PEM form"),
        "nonsense": (b"hush", None, "is not a private key in PEM form"),
        "half": (private_pem(key._key)[:400], None, "cannot be read"),
    }


BAD = bad_pems()


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_pem_is_said(name):
    """By name, and with what to do; nothing of the key or the password is shown."""
    pem, password, message = BAD[name]
    with pytest.raises(ConfigurationError, match=message) as caught:
        DeviceKey.from_pem(pem, password)
    shown = frames_shown(caught.value)
    assert all(line not in shown for line in pem.decode().splitlines() if not line.startswith("-----"))
    assert password is None or password not in shown


def test_a_key_of_another_kind_is_refused():
    """A device's key is an RSA key, and is made by `generate()`."""
    with pytest.raises(ConfigurationError, match="generate"):
        DeviceKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ConfigurationError, match="generate"):
        DeviceKey("hush")


def test_a_key_is_not_written_in_the_clear(key):
    """An empty password is none."""
    with pytest.raises(ConfigurationError, match="password"):
        key.to_pem("")


def test_a_key_shows_its_fingerprint_and_nothing_else(key):
    """Neither as text nor pickled."""
    assert repr(key) == str(key) == f"<DeviceKey {key.fingerprint}>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
