"""The project's credentials, and how a caller's function is asked for them."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, TypeAlias

from signalwire_tokens import wire
from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Secret

__all__ = ["ProjectCredentials", "bare"]

Refusal: TypeAlias = tuple[str, Exception | None]


class ProjectCredentials:
    """Write the project's `Authorization`, from an API token or from a function that returns the current one."""

    def __init__(self, project_id: str | None, api_token: Secret[Any]) -> None:
        self.project_id = project_id
        self._api_token = api_token
        self._header: Secret[str] | None = None
        self._refused = False
        self._token: Secret[Any] = Secret(None)
        self._asking: asyncio.Task[Refusal | None] | None = None

    @property
    def secrets(self) -> tuple[Secret[str], ...]:
        """What must not come back in an error's text: the API token, alone and as it is sent."""
        if self._header is None:
            return ()
        return (self._token, Secret(self._header.value.removeprefix("Basic ")))

    async def header(self, operation: str) -> Secret[str]:
        """Return the header; a function's answer is kept until the service refuses it."""
        if self._header is None or self._refused:
            if self.project_id is None:
                raise ConfigurationError("needs project_id (SIGNALWIRE_PROJECT_ID)", operation=operation)
            if self._api_token.value is None:
                raise ConfigurationError("needs api_token (SIGNALWIRE_API_TOKEN)", operation=operation)
            if callable(self._api_token.value):
                await self._ask(operation)
            else:
                self._take(self._api_token)
        assert self._header is not None  # noqa: S101 - whoever asked has just taken one, or raised
        return self._header

    async def changed(self, refused: Secret[str], operation: str) -> bool:
        """After a 401, tell whether there is another API token than the one that was refused."""
        if not callable(self._api_token.value):
            return False
        self._refused = self._refused or self._header is refused
        return (await self.header(operation)).value != refused.value

    async def aclose(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _take(self, token: Secret[Any]) -> None:
        self._token, self._refused = token, False
        self._header = wire.basic_authorization(self.project_id or "", token)

    async def _ask(self, operation: str) -> None:
        """Ask the caller's function for the current API token, once for all who wait for it."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._answer(), name="signalwire-tokens: api_token")
        asking = self._asking
        await asyncio.wait([asking])
        if asking.cancelled():
            raise ConfigurationError("the client was closed before api_token had answered", operation=operation)
        if (refusal := asking.result()) is not None:
            message, cause = refusal
            raise ConfigurationError(message, operation=operation) from cause

    async def _answer(self) -> Refusal | None:
        failure: Exception | None = None
        token: Secret[Any] = Secret(None)
        try:
            token.value = self._api_token.value()
            if inspect.isawaitable(token.value):
                token.value = await token.value
        except Exception as error:  # noqa: BLE001 - the function is the caller's: it may raise anything
            failure = bare(error)
        finally:
            self._asking = None
        if failure is not None:
            return f"the function given as api_token raised {type(failure).__name__}", failure
        if not wire.is_credential(token.value):
            return "the function given as api_token must return visible ASCII characters", None
        self._take(token)
        return None


def bare(error: Exception) -> Exception:
    """Strip a chain of errors of its frames, which may hold credentials."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
