"""What is removed from SignalWire's texts before others may read them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["scrubber", "variants"]

LONGEST = 200
REMOVED = "***"
LONG = 6  # characters from which a private word is removed from the middle of other words, too
RUN = r"[A-Za-z0-9_+/=~-]"
# Whatever looks like a token, an id, an address or a number that may identify something.
FORMS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://\S+"  # a URL
    r"|\S+@\S+"  # an e-mail address
    r"|\beyJ[A-Za-z0-9_.-]*"  # a compact token
    r"|\bc2[ct]_\S+"  # a click-to-call token
    r"|(?<![g-zG-Z_])(?:[0-9a-fA-F]{0,4}:){2,}(?:\d+(?:\.\d+){3}|[0-9a-fA-F]{0,4})"  # an address of IPv6, or a time
    r"|\b\d+\.\d+\.\d+\.\d+(?::\d+)?"
    r"|\b[\w-]+(?:\.[\w-]+)*\.signalwire\.com(?::\d+)?"
    rf"|(?<!{RUN})(?={RUN}*\d){RUN}{{8,}}"
    rf"|(?<!{RUN})(?={RUN}*[a-z])(?={RUN}*[A-Z]){RUN}{{16,}}",
    re.ASCII,
)


def scrubber(words: Iterable[str | None]) -> Callable[[object], str]:
    """Return a function that makes a text fit to be published: one short line without these words and forms."""
    parts = [
        re.escape(word) if len(word) >= LONG else rf"(?<!\w){re.escape(word)}(?!\w)"
        for word in sorted({word for word in words if word}, key=len, reverse=True)
    ]
    private = re.compile("|".join(parts), re.IGNORECASE) if parts else None

    def scrub(value: object) -> str:
        text = " ".join("".join(one if one.isprintable() else " " for one in str(value)).split())
        if private is not None:
            text = private.sub(REMOVED, text)
        text = FORMS.sub(REMOVED, text)
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"

    return scrub


def variants(reference: str) -> set[str]:
    """Return the forms in which a service may repeat a subscriber's reference."""
    found: set[str] = set()
    for text in (reference, " ".join(reference.split()), reference.partition("@")[0].strip()):
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        found |= {text, quote(text), quote(text, safe=""), slug}
    return found
