"""aiobotocore, against the endpoint that gives containers their credentials."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from aiobotocore.credentials import AioContainerProvider, AioCredentialResolver
from aiobotocore.session import get_session
from aiohttp import web

from .held import Client, Held
from .issuers import Issuer


class Container(Issuer):
    """Credentials for whoever asks; nothing is used up."""

    async def grant(self, _):
        ends = datetime.now(UTC) + timedelta(seconds=self.life)
        keys = {"AccessKeyId": "id", "SecretAccessKey": "secret", "Token": self.issue()}
        return web.json_response(keys | {"Expiration": ends.isoformat()})


@asynccontextmanager
async def opened(left):
    async with Container() as service:
        service.life = left or 1
        provider = AioContainerProvider(environ={AioContainerProvider.ENV_VAR_FULL: service.url})
        session = get_session()
        session.register_component("credential_provider", AioCredentialResolver([provider]))
        credentials = await session.get_credentials()
        service.begin()

        async def ask():
            return (await credentials.get_frozen_credentials()).token

        await asyncio.sleep(0 if left else 1.1)
        yield Held(ask, service)


CLIENTS = (
    Client(
        name="aiobotocore",
        distribution="aiobotocore",
        setup="a session's credentials from `AioContainerProvider`, which has no refresh token; callers await "
        "`get_frozen_credentials()`. One caller renews when 15 minutes are left, and all wait for it when 10 are.",
        windows=(12 * 60.0, 3 * 60.0),
        opened=opened,
    ),
)
