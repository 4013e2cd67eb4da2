"""Words that need decoding, for the tests of the package's English and of the pages'."""

import re

GUIDE = "docs/contributing.md"
# Words, and what to write in their place.
WORDS = {
    "whoever": "the caller, or who it is",
    "somebody": "the caller, or who it is",
    "anybody": "a caller, or who it is",
    "nobody": "no caller, or who it is",
    "those who": "callers, or who they are",
    "is to be": "must be, or is",
    "are to be": "must be, or are",
    "anew": "again",
    "at hand": "current",
    "mend": "fix",
    "mended": "fixed",
    "reckon": "calculate",
    "reckoned": "calculated",
    "lapse": "close when idle",
    "in vain": "without success",
    "but for": "except",
    "lest": "so that … doesn't",
    "dead": "expired",
    "dies": "expires",
    "died": "ended, or expired",
    "tell": "return, log or report",
    "tells": "returns, logs or reports",
    "told": "returned, logged or reported",
    "hears": "is notified",
    "heard": "was notified",
    "alive": "valid",
    "is no": "isn't a",
}
FORM = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
FINE = re.compile(r"is no (?:longer|valid|way)|there is no", re.IGNORECASE)


def odd_words(text):
    """Return the words of a text that the list has, except in phrases that are plain."""
    return [found.lower() for found in FORM.findall(FINE.sub("", text))]
