"""The part of signing requests as a subscriber that doesn't depend on the HTTP client.

To sign a request is to send it with the session's access token in its `Authorization` header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalwire_tokens.errors import ConfigurationError, SessionError
from signalwire_tokens.origins import check_origins, write_origin
from signalwire_tokens.session import SubscriberSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from signalwire_tokens.models import Token

__all__ = ["Signer"]

HTTP_SCHEMES = {"ws": "http", "wss": "https"}  # a WebSocket begins as an HTTP request


class Signer:
    """Decides which requests get a session's token, and what happens after a 401.

    If `origins` is None, only requests to the session's space get it.
    """

    def __init__(self, session: SubscriberSession, origins: Iterable[str] | None) -> None:
        if not isinstance(session, SubscriberSession):
            raise ConfigurationError(
                f"session must be a SubscriberSession, not {type(session).__name__}: for any other session, set the "
                "header with `await session.token()`"
            )
        self._session = session
        self._origins = check_origins("origins", (session.client.origin,) if origins is None else origins)
        if not self._origins:
            raise ConfigurationError("origins must have at least one origin: without one, no request gets the token")

    def signs(self, scheme: str, host: str, port: int | None) -> bool:
        """Return whether requests to an origin get the token. A `port` of None is the scheme's usual port."""
        return write_origin(HTTP_SCHEMES.get(scheme, scheme), host.lower(), port) in self._origins

    async def token(self) -> Token:
        """Return a valid token, renewed first if needed. Raise what `session.token()` raises.

        Unlike a string, a `Token` doesn't show its value in a traceback with local variables.
        """
        await self._session.token()
        return self._session.pair.access_token

    def report_refused(self, token: Token) -> bool:
        """Report a 401 for a token to its session. Return whether to repeat the request with the next token."""
        try:
            return self._session.report_unauthorized(token)
        except SessionError:
            return True  # the next call of `token()` raises the reason
