"""Integrations with other libraries. Import each module by its path: it needs the library that it is for.

================  =============================================  ========================================
module            for                                            what it does
================  =============================================  ========================================
`aiohttp_client`  aiohttp's client                               sends a session's token with your requests
`httpx`           httpx2 and httpx                               the same
`aiohttp_server`  aiohttp's server                               serves tokens to browsers
`asgi`            FastAPI, Starlette and other ASGI frameworks   the same
`threads`         synchronous code: Celery, Django under WSGI    keeps a fleet on an event loop in a thread
`opentelemetry`   OpenTelemetry                                  measures clients, sessions and fleets
================  =============================================  ========================================

`signing` is the common part of `aiohttp_client` and `httpx`. `token_endpoint` and `token_rules` are the common part of
`aiohttp_server` and `asgi`. `fastapi_router` has FastAPI's part of `asgi`.
"""

__all__: list[str] = []
