"""What it takes to sign requests as a subscriber, whatever the HTTP client: which are signed, and what a 401 means."""

from __future__ import annotations

from contextlib import suppress
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
            raise ConfigurationError("requests are signed with the token of a SubscriberSession")
        self._session = session
        self._origins = check_origins("origins", (session.client.origin,) if origins is None else origins)
        if not self._origins:
            raise ConfigurationError("origins must name at least one, or nothing would be signed")
        self._doubted: Token | None = None

    def signs(self, scheme: str, host: str, port: int | None) -> bool:
        """Tell whether requests to a place are signed; a WebSocket begins as a request of HTTP."""
        name = f"[{host.strip('[]')}]" if ":" in host else host
        return write_origin(PLAIN.get(scheme, scheme), name.lower(), port) in self._origins

    async def token(self) -> Token:
        """Return a live token, as a value that frames can hold."""
        await self._session.token()
        return self._session.pair.token

    def refuse(self, token: Token) -> bool:
        """Learn that a token was refused; tell whether the next one may be taken."""
        if token == self._doubted:
            return False
        with suppress(SessionError):  # whoever wants the next token hears that there will be none
            self._session.invalidate(token)
        return True

    def doubt(self, token: Token) -> None:
        """Learn that a token was refused, too, that took a refused one's place: what was asked for is at fault.

        It stays in use: otherwise one address that no token opens would take everybody's away, again and again.
        """
        self._doubted = token
