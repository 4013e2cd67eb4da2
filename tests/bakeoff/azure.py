"""azure-core, with a credential of one's own and a service that it is presented to."""

import asyncio
import time
from contextlib import asynccontextmanager

import aiohttp
from azure.core import AsyncPipelineClient
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy, AsyncRetryPolicy
from azure.core.rest import HttpRequest

from .held import Client, Held
from .issuers import OAuth


class Credential:
    """Ask the server each time, and fail as the protocol has it."""

    def __init__(self, url, http):
        self._url, self._http = url, http

    async def get_token(self, *scopes, **_):
        form = {"grant_type": "client_credentials", "scope": " ".join(scopes)}
        try:
            async with self._http.post(self._url, data=form, raise_for_status=True) as response:
                body = await response.json()
        except aiohttp.ClientError as error:
            raise ClientAuthenticationError("the server gave no token") from error
        return AccessToken(body["access_token"], int(time.time()) + body["expires_in"])

    async def close(self):
        """Its session is closed by whoever made it."""


@asynccontextmanager
async def opened(left):
    async with OAuth() as service, aiohttp.ClientSession() as http:
        service.life = left or 1
        policies = [AsyncRetryPolicy(), AsyncBearerTokenCredentialPolicy(Credential(service.url, http), "scope")]
        async with AsyncPipelineClient(service.origin, policies=policies) as client:

            async def ask():
                request = HttpRequest("GET", f"{service.origin}/resource")
                response = await client.send_request(request, enforce_https=False)
                return response.json()["token"]

            await ask()
            service.begin()
            await asyncio.sleep(0 if left else 1.1)
            yield Held(ask, service)


CLIENTS = (
    Client(
        name="azure-core",
        distribution="azure-core",
        setup="`AsyncPipelineClient` with `AsyncRetryPolicy` and `AsyncBearerTokenCredentialPolicy`, over a credential "
        "of our own that asks the server each time, with a client's credentials; callers send a request that needs a "
        "token. It renews when 4 to 5 minutes are left.",
        windows=(180.0,),
        opened=opened,
    ),
)
