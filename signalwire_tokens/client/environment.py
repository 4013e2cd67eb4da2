"""The environment variables that hold a client's settings.

A setting whose variable isn't set is None, except `lifetimes`. A variable that is empty or blank counts as one that
isn't set.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from signalwire_tokens.wire import read_lifetimes

if TYPE_CHECKING:
    from signalwire_tokens.models import Lifetimes

__all__ = ["api_token", "ca_file", "embed_origin", "lifetimes", "missing", "project_id", "space", "trimmed"]


def space() -> str | None:
    """Return the space, as its name, host or origin."""
    return trimmed(os.environ.get("SIGNALWIRE_SPACE"))


def project_id() -> str | None:
    """Return the project's id."""
    return trimmed(os.environ.get("SIGNALWIRE_PROJECT_ID"))


def api_token() -> str | None:
    """Return the project's API token."""
    return trimmed(os.environ.get("SIGNALWIRE_API_TOKEN"))


def ca_file() -> str | None:
    """Return the path of a PEM file with the certificates to trust in place of the system's."""
    return trimmed(os.environ.get("SIGNALWIRE_REST_CA_FILE"))


def embed_origin() -> str | None:
    """Return the origin that embed requests go to, if not the space."""
    return trimmed(os.environ.get("SIGNALWIRE_TOKENS_EMBED_ORIGIN"))


def lifetimes() -> Lifetimes:
    """Return how long the space's tokens live: SignalWire's standard lifetimes if the variable isn't set."""
    return read_lifetimes(trimmed(os.environ.get("SIGNALWIRE_TOKENS_LIFETIME")))


def missing() -> list[str]:
    """Return the names of the variables that aren't set, among those for the space and the project's credentials."""
    found = {"SIGNALWIRE_SPACE": space, "SIGNALWIRE_PROJECT_ID": project_id, "SIGNALWIRE_API_TOKEN": api_token}
    return [name for name, read in found.items() if read() is None]


def trimmed(text: str | None) -> str | None:
    """Return a setting without the blanks and line ends around it, or None if nothing is left."""
    return (text or "").strip() or None
