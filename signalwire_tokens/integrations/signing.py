"""What it takes to sign requests as a subscriber, whatever the HTTP client: which are signed, and what a 401 means."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
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
        return self._session.pair.token

    def refuse(self, token: Token) -> bool:
        """Learn that a token was refused; tell whether the next one may be taken.

        One that has only just replaced a refused one stays in use: it is what was asked for that is at fault, and
        everybody else would be without a token until the session may renew again.
        """
        is_in_use = token == self._session.pair.token and self._session.runway > timedelta(0)
        if is_in_use and not self._session.may_force:
            return False
        with suppress(SessionError):  # whoever wants the next token hears that there will be none
            self._session.invalidate(token)
        return True
