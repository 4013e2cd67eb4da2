"""The variable that sets the lifetime of a space's tokens."""

from __future__ import annotations

from signalwire_tokens.durations import parse_duration
from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import LONGEST_LIFE, Lifetimes

__all__ = ["read_lifetimes"]


def read_lifetimes(text: str | None) -> Lifetimes:
    """Return the lifetimes for a value of SIGNALWIRE_TOKENS_LIFETIME. None means the standard lifetimes.

    Raise `ConfigurationError` if the value isn't a duration, or is zero.
    """
    if text is None:
        return Lifetimes()
    access = parse_duration(text)
    if not access or access > LONGEST_LIFE:
        raise ConfigurationError(
            "SIGNALWIRE_TOKENS_LIFETIME must be the lifetime of the space's access tokens, such as 90s, 15m, 2h or 1d, "
            "and ten years at most"
        )
    return Lifetimes.of(access)
