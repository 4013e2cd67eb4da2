"""`Secret`, which hides its value from `repr`, and a digest that identifies a secret in logs.

Error trackers and pretty tracebacks print the local variables of each frame. A secret in a plain variable would end up
in their output.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Generic, NoReturn, TypeVar

__all__ = ["Secret", "digest_of"]

T = TypeVar("T")


class Secret(Generic[T]):
    """A wrapper that reveals its value only through `value`, never through `repr`.

    Tracebacks that print local variables show `***`. A secret can't be pickled or copied, because a pickle would
    contain the value.
    """

    __slots__ = ("value",)
    value: T

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied, and neither can an object that holds one")


def digest_of(text: str) -> str:
    """Return the first 8 hex digits of a text's SHA-256, which identify it in logs without revealing it."""
    return sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
