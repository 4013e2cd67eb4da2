"""The command `signalwire-tokens`, also as `python -m signalwire_tokens`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, or say which extra it needs."""
    try:
        from signalwire_tokens.cli import cli  # noqa: PLC0415 - its packages are an extra
    except ModuleNotFoundError as missing:
        sys.exit(f"signalwire-tokens needs {missing.name}: install it with its extra `cli`")
    try:
        cli(prog_name="signalwire-tokens")
    except OSError as error:  # of what is printed before there is a command, such as its help
        sys.exit(f"Error: {error.strerror}")


if __name__ == "__main__":
    main()
