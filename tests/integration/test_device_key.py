"""A device's key: its thumbprint and its proofs, held against the RFCs' own figures and against another library."""

import asyncio
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from base64 import b64encode, urlsafe_b64decode
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc.jwk import RSAKey

from signalwire_tokens import ConfigurationError
from signalwire_tokens.device import DeviceKey
from signalwire_tokens.device.key import base64_digest, thumbprint
from support.dpop_proofs import open_proof
from support.paths import TESTS
from support.traceback_text import frames_shown
from support.waiting import HANG

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


@pytest.fixture
def made_before(monkeypatch, key):
    """Make the key beforehand: to find the primes of a new one takes a while."""
    monkeypatch.setattr(DeviceKey, "generate", lambda: key)


def private_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_thumbprints_are_those_of_the_rfcs():
    """RFC 7638's RSA key, and RFC 9449's own."""
    assert thumbprint(RSA_JWK) == RSA_THUMBPRINT
    assert thumbprint(EC_JWK) == EC_THUMBPRINT


def test_a_token_s_digest_is_that_of_rfc_9449():
    """What `ath` says of the access token of its examples."""
    claims = json.loads(urlsafe_b64decode(PROOF.split(".")[1] + "=="))
    assert base64_digest(ACCESS_TOKEN.encode()) == claims["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


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


def test_a_proof_names_the_token_and_not_what_follows_the_place(key):
    """The token by its digest, the place without query, fragment and user."""
    uri = f"{URI}?page=1#top".replace("https://", "https://me:hush@")
    _, claims = open_proof(key.proof("POST", uri, "a-token", now=NOW))
    assert claims["htu"] == URI
    assert claims["ath"] == base64_digest(b"a-token")


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


def test_a_key_that_another_program_has_written_is_read(key):
    """In the clear, or in the older form."""
    older = key._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert DeviceKey.from_pem(private_pem(key._key)) == DeviceKey.from_pem(older) == key


def der(key):
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def armor(data):
    return ["-----BEGIN PRIVATE KEY-----", b64encode(data).decode(), "-----END PRIVATE KEY-----"]


@pytest.fixture(scope="module")
def bad_pems(key):
    """Return what is wrong by its name: a PEM, the password for it, and what is said of it."""
    pem = key.to_pem("mellon")
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be refused
    curve = ec.generate_private_key(ec.SECP256R1())
    # P-256's name, and one that no curve has.
    unknown = "".join(f"{line}\n" for line in armor(der(curve).replace(b"\x3d\x03\x01\x07", b"\x3d\x03\x01\x77")))
    openssh = curve.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())[:200]
    public = key._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "another password": (pem, "sesame", "can't be read: the password is wrong, or the text is damaged"),
        "an empty password": (pem, "", "is encrypted: pass its password"),
        "OpenSSH's form": (openssh, None, "is in OpenSSH's own form: `ssh-keygen"),
        "no password": (pem, None, "is encrypted: pass its password"),
        "a password too many": (private_pem(key._key), "mellon", "isn't encrypted: omit the password"),
        "too small": (private_pem(small), None, "must have 2048 bits or more, and this one has 1024"),
        "a curve": (private_pem(curve), None, "must be an RSA key"),
        "an unknown curve": (unknown.encode(), None, "is of an unsupported kind"),
        "a public key": (public, None, "isn't a private key in PEM form"),
        "nonsense": (b"hush", None, "isn't a private key in PEM form"),
        "half": (private_pem(key._key)[:400], None, "can't be read"),
    }


BAD = [
    "another password",
    "an empty password",
    "OpenSSH's form",
    "no password",
    "a password too many",
    "too small",
    "a curve",
    "an unknown curve",
    "a public key",
    "nonsense",
    "half",
]


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_pem_is_said(bad_pems, name):
    """By name, and with what to do; nothing of the key or the password is shown."""
    pem, password, message = bad_pems[name]
    assert set(bad_pems) == set(BAD)
    with pytest.raises(ConfigurationError, match=message) as caught:
        DeviceKey.from_pem(pem, password)
    shown = frames_shown(caught.value)
    assert all(line not in shown for line in pem.decode().splitlines() if not line.startswith("-----"))
    assert not password or password not in shown


def test_a_key_of_another_kind_is_refused():
    """A device's key is an RSA key, and is made by `generate()`."""
    with pytest.raises(ConfigurationError, match="generate"):
        DeviceKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ConfigurationError, match="generate"):
        DeviceKey("hush")


@pytest.mark.parametrize(
    ("password", "match"),
    [
        ("", "password must not be empty"),
        (None, "password must not be empty"),
        (b"", "password must not be empty"),
        (7, "password must be bytes, or text"),
        ("hush\udcff", "password must be bytes, or text that UTF-8 can encode"),
        ("hush" * 256, "password must not be longer than 1023 bytes"),
    ],
    ids=["empty", "none", "no bytes", "a number", "no text", "long"],
)
def test_a_key_is_not_written_with_a_password_that_is_none(key, password, match):
    """Nor in the clear; and the password is not shown."""
    with pytest.raises(ConfigurationError, match=match) as caught:
        key.to_pem(password)
    assert "hush" not in frames_shown(caught.value)


@pytest.mark.parametrize("pem", [None, 7, Path("device.pem")], ids=str)
def test_what_is_no_text_is_no_pem(pem):
    """A path, say: the file is to be read first."""
    with pytest.raises(ConfigurationError, match="pem must be bytes, or text"):
        DeviceKey.from_pem(pem)


def test_a_key_that_is_passed_as_text_is_not_shown(key):
    """It has to be read first."""
    pem = private_pem(key._key).decode()
    with pytest.raises(ConfigurationError, match="from_pem") as caught:
        DeviceKey(pem)
    assert pem.splitlines()[3] not in frames_shown(caught.value)


@pytest.mark.usefixtures("made_before")
def test_a_machine_s_key_is_made_once_and_found_again(tmp_path):
    """In a file that nobody else can read, and that is there whole or not at all."""
    path = tmp_path / "device.pem"
    key = DeviceKey.load_or_generate(path, "mellon")
    assert path.stat().st_mode & 0o777 == 0o600
    assert DeviceKey.load_or_generate(str(path), b"mellon") == key
    assert DeviceKey.from_pem(path.read_bytes(), "mellon") == key
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigurationError, match="password"):
        DeviceKey.load_or_generate(path, "another")
    with pytest.raises(ConfigurationError, match="password must not be empty"):
        DeviceKey.load_or_generate(tmp_path / "new.pem", "")
    assert list(tmp_path.iterdir()) == [path]


def refuse_links(*_, **__):
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture
def without_links(monkeypatch):
    """Have no hard links, as on a memory card."""
    monkeypatch.setattr(os, "link", refuse_links)


@pytest.fixture(params=["with links", "without links"])
def links(request):
    if request.param == "without links":
        request.getfixturevalue("without_links")


@pytest.mark.usefixtures("made_before", "without_links")
@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_a_file_system_without_links_holds_a_key_all_the_same(tmp_path, monkeypatch, locks):
    """On Windows, which has no such locks, a file that is renamed never replaces another."""
    if locks == "without locks":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    path = tmp_path / "device.pem"
    key = DeviceKey.load_or_generate(path, "mellon")
    assert DeviceKey.load_or_generate(path, "mellon") == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def full_disk(size):
    """Have no file grow beyond a size: the write that reaches it is short, and the next one fails."""
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("made_before", "links")
@pytest.mark.parametrize("size", [0, 700])
def test_a_full_disk_leaves_no_key(tmp_path, size):
    """A part of one would be in its place for good."""
    path = tmp_path / "device.pem"
    with full_disk(size), pytest.raises(OSError, match="File too large"):
        DeviceKey.load_or_generate(path, "mellon")
    assert list(tmp_path.iterdir()) == []
    key = DeviceKey.load_or_generate(path, "mellon")
    assert DeviceKey.load_or_generate(path, "mellon") == key


def interrupt(folder, *arguments):
    """Return what was read after each moment at which something happened to a program that writes a key."""
    command = [sys.executable, TESTS / "support/interrupted_keys.py", folder, *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANG)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow  # it starts a program
@pytest.mark.parametrize("options", [[], ["--no-links"]], ids=["with links", "without links"])
def test_a_program_that_is_killed_at_any_moment_leaves_a_whole_key_or_none(tmp_path, options):
    """The next one reads it, or makes one."""
    found = [one for (one,) in interrupt(tmp_path, "kill", *options)]
    assert {None, "a" * 500} == {*found}
    assert found == sorted(found, key=lambda one: one is not None)
    assert len(found) > 10


@pytest.mark.slow  # it starts a program
@pytest.mark.parametrize("options", [[], ["--no-links"]], ids=["with links", "without links"])
def test_two_programs_that_meet_at_any_moment_go_on_with_one_key(tmp_path, options):
    """Neither replaces the other's."""
    found = interrupt(tmp_path, "meet", *options)
    assert all(len({*one}) == 1 for one in found), found
    assert {one[0] for one in found} == {"a", "b"}


@pytest.mark.usefixtures("made_before")
def test_a_place_for_a_key_may_be_a_link(tmp_path):
    """The file is made where it leads."""
    (tmp_path / "device.pem").symlink_to(tmp_path / "there.pem")
    key = DeviceKey.load_or_generate(tmp_path / "device.pem", "mellon")
    assert DeviceKey.load_or_generate(tmp_path / "there.pem", "mellon") == key


def test_what_is_wrong_with_a_key_s_file_is_said_with_its_name(tmp_path):
    """A folder that is not there, or a file that holds no key."""
    with pytest.raises(ConfigurationError, match="none doesn't exist: create it"):
        DeviceKey.load_or_generate(tmp_path / "none/device.pem", "mellon")
    (tmp_path / "device.pem").touch()
    with pytest.raises(ConfigurationError, match=r"device\.pem: the key's PEM isn't a private key"):
        DeviceKey.load_or_generate(tmp_path / "device.pem", "mellon")


async def test_programs_that_begin_at_once_go_on_with_one_key(tmp_path):
    """Whichever was first has made it."""
    path = tmp_path / "device.pem"
    keys = await asyncio.gather(*(asyncio.to_thread(DeviceKey.load_or_generate, path, "mellon") for _ in range(3)))
    assert len(set(keys)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_keys_are_told_apart_by_what_they_are(key):
    """The same key is the same, wherever it was read; and it does not change."""
    again = DeviceKey.from_pem(key.to_pem("mellon"), "mellon")
    assert (again, hash(again)) == (key, hash(key))
    assert key != DeviceKey.generate()
    assert key != key.fingerprint
    with pytest.raises(AttributeError):
        key.fingerprint = "another"


def test_without_cryptography_it_is_said_what_to_install(monkeypatch):
    """By the name of the extra."""
    for name in [name for name in sys.modules if name.startswith(("cryptography", DeviceKey.__module__))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, DeviceKey.__module__)
    with pytest.raises(ModuleNotFoundError, match=r"install signalwire-tokens with its extra `crypto`"):
        import_module(DeviceKey.__module__)


def test_a_key_shows_its_fingerprint_and_nothing_else(key):
    """Neither as text nor pickled."""
    assert repr(key) == str(key) == f"<DeviceKey {key.fingerprint}>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
