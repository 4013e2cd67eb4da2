"""gcloud-aio-auth, against a token endpoint of Google's kind."""

import asyncio
import io
import json
from contextlib import asynccontextmanager

from gcloud.aio.auth import Token

from .held import Client, Held
from .issuers import OAuth

USER = {"type": "authorized_user", "client_id": "id", "client_secret": "secret", "refresh_token": "first"}

AGE = 3.0  # seconds after which it is past its first, which it reckons in whole ones
FORCED = 180.0  # seconds left of an hour when it has its callers wait


@asynccontextmanager
async def opened(left):
    async with OAuth(reusable=True) as service:
        service.life = left + AGE if left else 1
        async with Token(service_file=io.StringIO(json.dumps(USER | {"token_uri": service.url}))) as token:
            if left:
                token.background_refresh_after = 1 / service.life
                token.force_refresh_after = 0.95 if left > FORCED else token.background_refresh_after
            await token.get()
            service.begin()
            await asyncio.sleep(AGE)
            yield Held(token.get, service)


CLIENTS = (
    Client(
        name="gcloud-aio-auth",
        distribution="gcloud-aio-auth",
        setup="`Token` with an authorized user's file, whose refresh token is good for ever, as Google's are; callers "
        "await `get()`. Of a token that lives an hour, it renews behind a caller when 30 minutes are left, and callers "
        "wait for it when 3 are; `background_refresh_after` and `force_refresh_after` are set so that it does not take "
        "an hour to get there.",
        windows=(600.0, 120.0),
        opened=opened,
    ),
)
