"""Where tokens are used: a module for each framework, named after it, and imported by path where it is installed.

`aiohttp` and `httpx` sign requests as a subscriber. `web` (for aiohttp's server) and `asgi` answer browsers that ask
for a token: `backend` does what both have in common, by the rules in `token_rules`. `opentelemetry` measures clients,
sessions and fleets.
"""

__all__: list[str] = []
