"""Proofs of possession against the service: verified to the last claim, and refused without a word on why."""

import json
from base64 import b64encode
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import jwt
import pytest
from joserfc import jws
from joserfc.jwk import OctKey, RSAKey

from signalwire_tokens import Lifetimes
from signalwire_tokens.emulator.calls import Call
from signalwire_tokens.emulator.possession import AuthenticationError, KeyBindings
from signalwire_tokens.emulator.rotation import ROTATIONS, Rotation
from signalwire_tokens.emulator.service import Service
from support.dpop_proofs import REGISTRY, digest, make_proof

DEVICES = "/api/fabric/subscriber/devices/token"
REFRESH = "/api/fabric/subscriber/devices/refresh"
INFO, INVITES = "/api/fabric/subscriber/info", "/api/fabric/subscriber/invites"
ORIGIN = "http://127.0.0.1:1"
NOW = 1_800_000_000
BASIC = "Basic " + b64encode(b"project:PTsecret").decode()
KEY, OTHER = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
SMALL = {"kty": "RSA", "e": "AQAB", "n": "A" * 200 + "_" * 171}
UNBOUND = timedelta(seconds=60)


class Device:
    """The service, and somebody who holds a key."""

    def __init__(self, rotation=ROTATIONS["single-use"]):
        self.now = NOW
        self.service = Service(
            now=lambda: self.now,
            lifetimes=Lifetimes(unbound=UNBOUND),
            rotation=rotation,
            channel=None,
            page_size=50,
            project_id="project",
            api_token="PTsecret",
            key=bytes(32),
        )
        self.service.origin = ORIGIN

    def issue(self, **fields):
        fields = {"reference": "alice", "scope": "sat:refresh", **fields}
        return self.post("/api/fabric/subscribers/tokens", BASIC, **fields).body["token"]

    def post(self, path, authorization, **body):
        return self.service.handle(json_call("POST", path, authorization, body))

    def info(self, token):
        return self.service.handle(Call(method="GET", path=INFO, authorization=f"Bearer {token}"))

    def exchange(self, token, proof=None, **body):
        return self.post(DEVICES, f"Bearer {token}", dpop_token=proof or self.proof(), **body)

    def refresh(self, token, proof=None, **body):
        proof = proof or self.proof(htu=REFRESH, ath=digest(token))
        return self.post(REFRESH, f"Bearer {token}", dpop_token=proof, **body)

    def proof(self, key=KEY, **claims):
        return make_proof(key, **{"htm": "POST", "htu": DEVICES, "iat": int(self.now), **claims})


def json_call(method, path, authorization, body):
    return Call(method=method, path=path, authorization=authorization, body=json.dumps(body).encode())


@pytest.fixture
def device():
    return Device()


def test_a_token_is_exchanged_and_refreshed(device):
    """From a SAT to a bound token, and on from one to the next, each for as long as was asked."""
    first = device.exchange(device.issue(fingerprint=KEY.thumbprint()), expire_in=600.0)
    assert first.status == 201
    assert first.body.keys() == {"token", "expires_at", "expires_in"}
    assert (first.body["expires_at"], first.body["expires_in"]) == (NOW + 600, 600)
    device.now += 500
    second = device.refresh(first.body["token"])
    assert second.body["expires_in"] == 900
    device.now += 150
    assert device.refresh(first.body["token"]).reason == "the token has expired"
    assert device.refresh(second.body["token"]).status == 201


def test_a_bound_token_is_not_taken_for_a_replaced_one():
    """It comes from an access token, whose place in the pair it doesn't take."""
    device = Device(Rotation(refresh_revokes_access=True))
    bound = device.exchange(device.issue()).body["token"]
    assert device.info(bound).status == 200
    assert device.refresh(bound).status == 201


def test_information_on_a_bound_token_tells_the_binding(device):
    """Without a proof, since browsers learn there that they need one."""
    token = device.exchange(device.issue()).body["token"]
    claims = device.info(token).body["sat_claims"]
    assert claims == {"scope": ["sat:refresh"], "expires_at": NOW + 900, "cnf": {"jkt": KEY.thumbprint()}}


def test_a_bound_token_is_refused_where_no_proof_can_come_with_it(device):
    """An invitation, say."""
    token = device.exchange(device.issue()).body["token"]
    reply = device.post(INVITES, f"Bearer {token}", address_id=str(uuid4()))
    assert (reply.status, reply.reason) == (401, "the token is bound to a key: send a proof with it")


@pytest.mark.parametrize("htu", [DEVICES, ORIGIN + DEVICES])
def test_a_proof_names_the_path_or_the_whole_uri(device, htu):
    """The service's own client has the one, and the RFC the other."""
    assert device.exchange(device.issue(), device.proof(htu=htu)).status == 201


def test_an_unbound_token_lives_a_minute_and_is_bound_by_its_first_use(device):
    """Whoever comes second with another key is refused; the same key may come again."""
    token = device.issue()
    assert device.exchange(token).status == 201
    assert device.exchange(token).status == 201
    reply = device.exchange(token, device.proof(OTHER))
    assert (reply.status, reply.reason) == (401, "the token is bound to another key: sign the proof with that key")
    device.now += 60
    assert device.exchange(token).reason == "the token has expired"


def test_a_token_that_is_bound_to_nothing_is_not_refreshed(device):
    """It has to be exchanged first."""
    reply = device.refresh(device.issue())
    assert (reply.status, reply.reason) == (401, "the token isn't bound yet: exchange it at devices/token first")


def test_a_token_that_was_exchanged_is_not_exchanged_again(device):
    """It is to be refreshed, with a proof that names it."""
    token = device.exchange(device.issue()).body["token"]
    assert device.exchange(token).reason == "the token is already bound: send it to devices/refresh"


def test_a_first_proof_need_not_name_the_token_but_no_other(device):
    """The service's own client does not name it."""
    token = device.issue()
    assert device.exchange(token, device.proof(ath=digest(token))).status == 201
    assert (
        device.exchange(token, device.proof(ath=digest("another"))).reason
        == "the proof's ath doesn't match the token: it must be the token's SHA-256"
    )


def test_a_token_without_the_scope_is_not_exchanged(device):
    """Nor is it bound by the attempt."""
    token = device.post("/api/fabric/subscribers/tokens", BASIC, reference="alice").body["token"]
    assert device.exchange(token).reason == 'the token lacks the scope sat:refresh: issue it with scope="sat:refresh"'
    assert "cnf" not in device.info(token).body["sat_claims"]


FORM, HALF, NO_KEY = (
    "header must have the typ dpop+jwt and the alg RS256",
    "jwk isn't a public RSA key, or it has private members",
    "jwk isn't a complete RSA public key (e, kty, n)",
)
ELSE, LATE = (
    "doesn't match this request: sign the method and path that you send",
    "iat is over 60 s from the emulator's time",
)
NO_TIME, NO_UUID = "iat isn't a whole number of unix seconds", "jti isn't a random UUID"
MODULUS = KEY.as_dict()["n"]
WRONG = {
    "another form": ({"header": {"typ": "JWT"}}, FORM),
    "no form": ({"header": {"typ": None}}, FORM),
    "another algorithm": ({"header": {"alg": "PS256"}}, FORM),
    "no key": ({"header": {"jwk": None}}, HALF),
    "a private key": ({"header": {"jwk": KEY.as_dict(private=True)}}, HALF),
    "a secret": ({"header": {"jwk": {"kty": "oct", "k": "x"}}}, HALF),
    "for another use": ({"header": {"jwk": {**KEY.as_dict(private=False), "use": "enc"}}}, "jwk isn't for signatures"),
    "for other ends": ({"header": {"jwk": {**KEY.as_dict(), "key_ops": ["encrypt"]}}}, "jwk isn't for signatures"),
    "half a key": ({"header": {"jwk": {"kty": "RSA", "n": MODULUS}}}, NO_KEY),
    "no numbers": ({"header": {"jwk": {"kty": "RSA", "n": MODULUS, "e": 7}}}, NO_KEY),
    "a small key": ({"header": {"jwk": SMALL}}, "key has 1024 bits: it must have 2048"),
    "not signed by it": ({"key": OTHER, "header": {"jwk": KEY.as_dict(private=False)}}, "isn't signed with the key"),
    "another key": ({"key": OTHER}, "the token is bound to another key: sign the proof with that key"),
    "another method": ({"htm": "GET"}, f"htm {ELSE}"),
    "no method": ({"htm": None}, f"htm {ELSE}"),
    "another place": ({"htu": REFRESH}, f"htu {ELSE}"),
    "a query": ({"htu": f"{DEVICES}?x"}, f"htu {ELSE}"),
    "no place": ({"htu": ["a"]}, f"htu {ELSE}"),
    "too old": ({"iat": NOW - 61}, LATE),
    "too new": ({"iat": NOW + 61}, LATE),
    "no time": ({"iat": None}, NO_TIME),
    "never": ({"iat": 10**400}, LATE),
    "true": ({"iat": True}, NO_TIME),
    "a time as text": ({"iat": str(NOW)}, NO_TIME),
    "no id": ({"jti": None}, NO_UUID),
    "a number": ({"jti": 5}, NO_UUID),
    "a short id": ({"jti": "1"}, NO_UUID),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_proof_that_is_wrong_in_anything_is_refused(device, name):
    """Nobody outside is told why."""
    wrong, reason = WRONG[name]
    reply = device.exchange(device.issue(fingerprint=KEY.thumbprint()), device.proof(**wrong))
    assert (reply.status, reply.body) == (401, {"error": "Unauthorized"})
    assert reason in reply.reason


DEEP = f"{b64encode(b'[' * 2400).decode().rstrip('=')}.e30.x"


@pytest.mark.parametrize("proof", ["hush", "eyJ", "a.b.c", "é.e30.x", DEEP], ids=lambda proof: proof[:9])
def test_what_is_no_proof_is_refused(device, proof):
    """Whatever else it is."""
    assert device.exchange(device.issue(), proof).reason == "the proof isn't a signed JWT in compact form"


@pytest.mark.parametrize("ath", [None, "", "x", digest("another"), 5, "\ud800"], ids=ascii)
def test_a_refresh_s_proof_names_the_token(device, ath):
    """That one, by its digest."""
    token = device.exchange(device.issue()).body["token"]
    reply = device.refresh(token, device.proof(htu=REFRESH, ath=ath))
    assert (reply.status, reply.reason) == (
        401,
        "the proof's ath doesn't match the token: it must be the token's SHA-256",
    )


def test_a_proof_is_good_for_once(device):
    """Also where it was refused for the token that it came with."""
    token, proof = device.issue(), device.proof()
    assert device.exchange(token, proof).status == 201
    assert device.exchange(token, proof).reason == "the proof was already used: create a new one for each request"
    device.now += 60
    late = device.exchange(device.issue(), proof)
    assert late.reason == "the proof was already used: create a new one for each request"


def test_proofs_are_remembered_for_no_longer_than_they_are_in_time(device):
    """So the service's memory has a bound."""
    for _ in range(5):
        assert device.exchange(device.issue()).status == 201
    device.now += 121
    assert device.exchange(device.issue()).status == 201
    assert len(device.service.holders._presented) == 1


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ({}, ["missing_required_parameter"]),
        ({"dpop_token": ""}, ["missing_required_parameter"]),
        ({"dpop_token": 7}, ["invalid_parameter"]),
        ({"dpop_token": "x", "expire_in": 0}, ["invalid_parameter"]),
        ({"dpop_token": "x", "expire_in": "900"}, ["invalid_parameter"]),
        ({"dpop_token": "x", "expire_in": True}, ["invalid_parameter"]),
        ({"dpop_token": "x", "expire_in": 10**9}, ["invalid_parameter"]),
        ({"expire_in": 1.5}, ["missing_required_parameter", "invalid_parameter"]),
    ],
)
def test_a_body_that_is_wrong_is_said_to_be(device, body, codes):
    """As with any other operation."""
    reply = device.post(DEVICES, f"Bearer {device.issue()}", **body)
    assert reply.status == 422
    assert [problem["code"] for problem in reply.body["errors"]] == codes


def test_the_lives_of_bound_tokens_follow_one_another(device):
    """A hundred times, with a proof each."""
    tokens = [device.exchange(device.issue(), expire_in=60).body["token"]]
    for _ in range(100):
        device.now += 50
        tokens.append(device.refresh(tokens[-1], expire_in=60).body["token"])
    assert all(before != after for before, after in pairwise(tokens))


def test_a_proof_that_wants_more_than_the_service_knows_is_refused(device):
    """A header that calls a member critical which nobody here understands."""
    header = {"typ": "dpop+jwt", "jwk": KEY.as_dict(private=False), "crit": ["other"], "other": 1}
    claims = {"jti": str(uuid4()), "htm": "POST", "htu": DEVICES, "iat": NOW}
    proof = jwt.encode(claims, KEY.private_key, algorithm="RS256", headers=header)
    assert device.exchange(device.issue(), proof).status == 401


def test_a_proof_that_says_nothing_is_refused():
    """One whose payload is no object."""
    header = {"typ": "dpop+jwt", "alg": "RS256", "jwk": KEY.as_dict(private=False)}
    for payload in (b"", b"[]", b"\xff"):
        proof = jws.serialize_compact(header, payload, KEY, registry=REGISTRY)
        with pytest.raises(AuthenticationError, match="payload isn't a JSON object"):
            KeyBindings(lambda: NOW).verify(proof, {})


def test_a_proof_s_key_is_not_taken_for_a_secret():
    """A signature that was made with the public key as the key of an HMAC, say."""
    proof = make_proof(OctKey.generate_key(256), header={"alg": "HS256", "jwk": KEY.as_dict(private=False)})
    with pytest.raises(AuthenticationError, match="RS256"):
        KeyBindings(lambda: NOW).verify(proof, {})
