"""Where tokens are used: a module for each framework, named after it, and imported by path where it is installed.

`aiohttp` and `httpx` sign requests as a subscriber; `web` (aiohttp's server) and `asgi` are what a browser's SDK asks
for its token, and both of them do what `backend` says; `opentelemetry` tells how all of it is doing.
"""

__all__: list[str] = []
