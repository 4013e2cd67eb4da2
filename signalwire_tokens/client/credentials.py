"""The project's credentials, and how a function of your app is called for the API token."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, TypeAlias

from signalwire_tokens import wire
from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.secret import Secret

__all__ = ["ProjectCredentials", "ask_caller", "without_tracebacks"]

CLOSE_TIMEOUT = 1.0  # seconds that the function gets to stop after its cancellation, when the client closes
Refusal: TypeAlias = tuple[str, Exception | None]
WAS_CLOSED: Refusal = ("this TokenClient was closed before the api_token function returned: create a new one", None)
WAS_CANCELLED: Refusal = ("the api_token function was cancelled from inside: it must return the API token", None)


class ProjectCredentials:
    """The project's `Authorization` header, made from an API token or from a function that returns the current one.

    The header is kept until SignalWire refuses it::

        none ── header() ──> kept ── changed(refused header) ──> refused ── header() ──> kept

    `header()` uses the fixed API token, or calls the function. All requests that need the API token wait for the same
    call of the function, which runs in a task. If a request is cancelled, the others go on waiting. When none is left,
    the task is cancelled. A fixed API token never changes, so `changed()` returns False at once.

    If `from_environment` is True, `TokenClient.from_env()` read the credentials, and errors name environment variables
    rather than arguments.
    """

    def __init__(self, project_id: str | None, api_token: Secret[Any]) -> None:
        self.from_environment: bool = False
        self.project_id = project_id
        self._api_token = api_token
        self._header: Secret[str] | None = None
        self._refused = False
        self._token: Secret[Any] = Secret(None)
        self._asking: asyncio.Task[Refusal | None] | None = None
        self._waiting = 0
        self._closed = False

    @property
    def secrets(self) -> tuple[Secret[str], ...]:
        """The strings that no error text may repeat: the API token itself, and its Base64 form in the header."""
        if self._header is None:
            return ()
        return (self._token, Secret(self._header.value.removeprefix("Basic ")))

    @property
    def kept(self) -> Secret[str] | None:
        """The current header, or None if the API token must be fetched first or again."""
        return None if self._refused else self._header

    async def header(self, operation: str) -> Secret[str]:
        """Return the header. Fetch the API token first if no header is kept.

        Raise `ConfigurationError` if a credential is missing, or if the function fails. `operation` is named in it.
        """
        if self.kept is None:
            self._check(operation)
            if callable(self._api_token.value):
                await self._ask(operation)
            else:
                self._take(self._api_token)
        assert self._header is not None  # noqa: S101 - the branches above set it, or raise
        return self._header

    async def changed(self, refused: Secret[str], operation: str) -> bool:
        """Return whether there is another API token than the one that SignalWire refused.

        `refused` is the header that was sent. Several requests may report the same header. Only the first report marks
        it as refused, because a later header may be in use by then.
        """
        if not callable(self._api_token.value):
            return False
        self._refused = self._refused or self._header is refused
        return (await self.header(operation)).value != refused.value

    async def aclose(self) -> None:
        """Cancel the function if it is running. Wait at most `CLOSE_TIMEOUT` seconds for its end."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking], timeout=CLOSE_TIMEOUT)

    def _check(self, operation: str) -> None:
        """Raise an error that names every missing credential, by its environment variable or its argument."""
        names = {"project_id": self.project_id is None, "api_token": self._api_token.value is None}
        missing = [f"SIGNALWIRE_{name.upper()}" if self.from_environment else name for name in names if names[name]]
        if missing:
            kind = "environment variable" if self.from_environment else "argument"
            source = "set when TokenClient.from_env() was called" if self.from_environment else "given to TokenClient"
            message = f"needs the {kind}{'s' * (len(missing) > 1)} {' and '.join(missing)}: not {source}"
            raise ConfigurationError(message, operation=operation)

    def _take(self, token: Secret[Any]) -> None:
        self._token, self._refused = token, False
        self._header = wire.basic_authorization(self.project_id or "", token)

    async def _ask(self, operation: str) -> None:
        """Wait until the function has returned the current API token. Start its task if none is running."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._answer(), name="signalwire-tokens: api_token")
            self._asking.add_done_callback(self._forget)
        asking = self._asking
        self._waiting += 1
        try:
            await asyncio.wait([asking])
        finally:
            self._waiting -= 1
            if not self._waiting and not asking.done():
                asking.cancel()
                self._asking = None
        refusal = (WAS_CLOSED if self._closed else WAS_CANCELLED) if asking.cancelled() else asking.result()
        if refusal is not None:
            message, cause = refusal
            raise ConfigurationError(message, operation=operation) from cause

    def _forget(self, asking: asyncio.Task[Refusal | None]) -> None:
        if self._asking is asking:
            self._asking = None

    async def _answer(self) -> Refusal | None:
        token, failure = await ask_caller(self._api_token)
        if failure is not None:
            return (
                f"the api_token function raised {type(failure).__name__}: see the cause, and correct the function",
                failure,
            )
        if not wire.is_credential(token.value):
            return "the api_token function must return the API token: a string of visible ASCII characters", None
        self._take(token)
        return None


async def ask_caller(function: Secret[Any]) -> tuple[Secret[Any], Exception | None]:
    """Call a function, sync or async, and return its result or its exception.

    The exception is returned without its traceback, because the function's frames may hold a credential.
    """
    answer: Secret[Any] = Secret(None)
    try:
        answer.value = function.value()
        if inspect.isawaitable(answer.value):
            answer.value = await answer.value
    except Exception as error:  # noqa: BLE001 - a function of your app may raise any exception
        return Secret(None), without_tracebacks(error)
    return answer, None


def without_tracebacks(error: Exception) -> Exception:
    """Remove the tracebacks of an error and of all its causes and contexts, and return the error.

    The frames of a traceback may hold credentials.
    """
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            links += [link.__cause__, link.__context__]
    return error
