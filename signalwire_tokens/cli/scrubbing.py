"""What is removed from SignalWire's texts before others may read them."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["scrubber", "variants"]

LONGEST = 200
REMOVED = "***"
LONG = 6  # characters from which a private word is removed from the middle of other words, too
SHORT = 3  # characters from which a word of a private text is removed by itself
LETTER = r"[^\W\d_]"
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
    rf"|(?<!{RUN})(?={RUN}*[a-z])(?={RUN}*[A-Z]){RUN}{{16,}}"
    r"|\d{6,}",
    re.ASCII,
)


def scrubber(words: Iterable[str | None], *, known: Iterable[str] = ()) -> Callable[[object], str]:
    """Return a function that makes a text fit to be published: one short line without these words and forms.

    Texts that are `known` to be public stay as they are.
    """
    published = frozenset(known)
    parts = [pattern_of(word) for word in sorted({word for word in words if word}, key=len, reverse=True)]
    private = re.compile("|".join(parts), re.IGNORECASE) if parts else None

    def scrub(value: object) -> str:
        text = str(value)
        if text in published:
            return text
        text = unicodedata.normalize("NFC", html.unescape(text))
        text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
        text = FORMS.sub(REMOVED, text)
        if private is not None:
            text = private.sub(REMOVED, text)
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"

    return scrub


def pattern_of(word: str) -> str:
    """Return a pattern that finds a private word, or its plural. A short word isn't found within a longer one."""
    if len(word) >= LONG:
        return re.escape(word)
    if len(word) >= SHORT:
        return rf"(?<!{LETTER}){re.escape(word)}s?(?!{LETTER})"
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def variants(text: str) -> set[str]:
    """Return the forms in which a service may repeat a private text: as a whole, as a name in a URL, and by its words.

    Letters may have lost their accents.
    """
    found = {text, quote(text), quote(text, safe="")}
    whole = unicodedata.normalize("NFC", " ".join(text.split()))
    bare = "".join(one for one in unicodedata.normalize("NFKD", whole) if not unicodedata.combining(one))
    for form in (whole, bare):
        found |= {form, re.sub(r"[\W_]+", "-", form).strip("-")}
        found |= {re.sub(r"[\W_]+", "", part) for part in form.split()}
        found |= {word for word in re.findall(r"[^\W_]+", form) if len(word) >= SHORT}
    return {one for one in found if one}
