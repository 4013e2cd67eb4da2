"""What the tests of `wire` share: requests, answers, and how the one is read from the other."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from multidict import CIMultiDict

from signalwire_tokens import (
    Lifetimes,
    wire,
)
from signalwire_tokens.secret import Secret

SENT = 1_800_000_000.25
ORIGIN = "https://acme.signalwire.com"
ID = "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001"
SAT = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0..aXY.Y2lwaGVy.dGFn"
REFRESH = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiUmVmcmVzaCJ9..aXY.Y2lwaGVy.dGFn"
PAIR = {"subscriber_id": ID, "token": SAT, "refresh_token": REFRESH}
ISSUE = wire.create_subscriber_token("alice", now=SENT)
ROTATE = wire.refresh_subscriber_token(Secret(REFRESH))
GUEST = wire.create_guest_token([ID], now=SENT)
INVITE = wire.create_invite_token(ID, subscriber_token=Secret(SAT), now=SENT)
EMBED = wire.create_embed_token(Secret("c2c_1"))
INFO = wire.subscriber_info(Secret(SAT))
ADDRESSES = wire.subscriber_addresses(ID, origin=ORIGIN)
REACHABLE = wire.addresses(Secret(SAT), origin=ORIGIN)
ADDRESS = wire.address(ID, access_token=Secret(SAT))
PROVEN = {"proof": Secret("a-proof"), "lifetime": timedelta(minutes=15)}
EXCHANGE = wire.create_device_token(Secret(SAT), **PROVEN)
RENEWAL = wire.refresh_device_token(Secret(SAT), **PROVEN)
FETCH = wire.fetch_token(Secret("/token?key=a-key"), Secret({"Authorization": "Bearer a-secret"}))
EVERY = [
    ISSUE,
    ROTATE,
    GUEST,
    INVITE,
    EMBED,
    INFO,
    ADDRESSES,
    REACHABLE,
    ADDRESS,
    EXCHANGE,
    RENEWAL,
    FETCH,
]


def answer(body=None, status=201, *, sent=SENT, lifetimes=None, **headers):
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return wire.Answer(
        status=status,
        headers=CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items()),
        body=raw,
        sent=sent,
        lifetimes=lifetimes or Lifetimes(),
    )


def read(request, body=None, status=201, **more):
    secrets = more.pop("secrets", ())
    return wire.read(request, answer(body, status, **more), secrets=lambda: secrets)


def http_date(seconds):
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def lives(token):
    return (token.expires_at - token.issued_at).total_seconds()
