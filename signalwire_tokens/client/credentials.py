"""The project's credentials, and how a caller's function is asked for them."""

from __future__ import annotations

import inspect
from typing import Any

from signalwire_tokens import wire
from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Secret

__all__ = ["ProjectCredentials", "bare"]


class ProjectCredentials:
    """Write the project's `Authorization`, from an API token or from a function that returns the current one."""

    def __init__(self, project_id: str | None, api_token: Secret[Any]) -> None:
        self.project_id = project_id
        self._api_token = api_token
        self._header: Secret[str] | None = None
        self._refused = False
        self._token: Secret[Any] = Secret(None)

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
            self._token = await self._ask(operation) if callable(self._api_token.value) else self._api_token
            self._header = wire.basic_authorization(self.project_id, self._token)
            self._refused = False
        return self._header

    async def changed(self, refused: Secret[str], operation: str) -> bool:
        """After a 401, tell whether there is another API token than the one that was refused."""
        if not callable(self._api_token.value):
            return False
        self._refused = self._refused or self._header is refused
        return (await self.header(operation)).value != refused.value

    async def _ask(self, operation: str) -> Secret[Any]:
        """Ask the caller's function for the current API token."""
        failure: Exception | None = None
        token: Secret[Any] = Secret(None)
        try:
            token.value = self._api_token.value()
            if inspect.isawaitable(token.value):
                token.value = await token.value
        except Exception as error:  # noqa: BLE001 - the function is the caller's: it may raise anything
            failure = error
        if failure is not None:
            message = f"the function given as api_token raised {type(failure).__name__}"
            raise ConfigurationError(message, operation=operation) from bare(failure)
        if not wire.is_credential(token.value):
            message = "the function given as api_token must return visible ASCII characters"
            raise ConfigurationError(message, operation=operation)
        return token


def bare(error: Exception) -> Exception:
    """Strip a chain of errors of its frames, which may hold credentials."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
