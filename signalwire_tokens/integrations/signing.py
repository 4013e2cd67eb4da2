"""What it takes to sign requests as a subscriber, whatever the HTTP client: which are signed, and what a 401 means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalwire_tokens.errors import ConfigurationError, SessionError
from signalwire_tokens.origins import check_origins, write_origin
from signalwire_tokens.session import SubscriberSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from signalwire_tokens.models import Token

__all__ = ["Signer"]

PLAIN = {"ws": "http", "wss": "https"}


class Signer:
    """A session's tokens, for certain origins alone."""

    def __init__(self, session: SubscriberSession, origins: Iterable[str] | None) -> None:
        if not isinstance(session, SubscriberSession):
            raise ConfigurationError(
                "requests are signed with the token of a SubscriberSession; another session's goes into the header by "
                "`await session.token()`"
            )
        self._session = session
        self._origins = check_origins("origins", (session.client.origin,) if origins is None else origins)
        if not self._origins:
            raise ConfigurationError("origins must name at least one, or nothing would be signed")

    def signs(self, scheme: str, host: str, port: int | None) -> bool:
        """Tell whether requests to a place are signed; a WebSocket begins as a request of HTTP."""
        return write_origin(PLAIN.get(scheme, scheme), host.lower(), port) in self._origins

    async def token(self) -> Token:
        """Return a live token, as a value that frames can hold."""
        await self._session.token()
        return self._session.pair.access_token

    def refuse(self, token: Token) -> bool:
        """Report a 401 for a token; return whether to repeat the request with the next one."""
        try:
            return self._session.report_unauthorized(token)
        except SessionError:
            return True  # and `token()` raises why there is no next one
