"""How commands read a token from standard input, so that no other user of the machine sees it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from signalwire_tokens.secret import Secret

__all__ = ["refuse_argument", "token_from_stdin"]

LONGEST_INPUT = 64 * 1024  # characters


def refuse_argument(misplaced: tuple[str, ...]) -> None:
    """Raise an error if a token was passed as an argument. It isn't quoted."""
    if misplaced:
        raise click.UsageError(
            "pass the token on standard input, not as an argument, which other users of the machine can read"
        )


def token_from_stdin(member: str, prompt: str) -> Secret[str]:
    """Return the text on standard input: a token with whatever follows it, or that member of a JSON object."""
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: it must hold a token")
    if sys.stdin.isatty():
        return Secret(click.prompt(prompt, hide_input=True, err=True))
    text = Secret(sys.stdin.read(LONGEST_INPUT + 1).removeprefix("\ufeff").lstrip())
    if not text.value or len(text.value) > LONGEST_INPUT:
        raise click.UsageError("standard input must hold a token, or the JSON object of a pair")
    if not text.value.startswith("{"):
        return text
    try:
        found: Secret[Any] = Secret(json.loads(text.value)[member])
    except (ValueError, KeyError, RecursionError):
        found = Secret(None)
    if not isinstance(found.value, str):
        raise click.UsageError(f"the JSON object on standard input must have a string as {member!r}")
    return found
