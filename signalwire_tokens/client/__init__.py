"""`TokenClient`: sends the requests that `wire` describes through aiohttp.

`wire` decides what to send, what an answer means and whether to repeat a request. This package sends, waits and keeps
the connections:

- `operations`: `TokenClient` itself, with a method for each operation
- `credentials`: the project's API token, and how it is fetched from your app's function
- `functions`: calls your app's functions for other credentials, such as `auth` of a `BackendSession`
- `sender`: one HTTP request and its answer
- `limits`: the time limits of calls, with one timer for all of them
- `reasons`: why a connection failed, in words, and what to check
- `connector`: the client's connections, and when one may be reused
- `environment`: settings from environment variables
- `observing`: how metrics and traces follow a client

Error trackers print the local variables of every frame of a traceback. So a frame of this package must not hold a
credential in a plain variable while a call below it can fail. Three habits ensure that:

1. A function wraps secret arguments in `Secret` first, and deletes the plain ones.
2. A header is built in the expression that passes it on, without a variable of its own.
3. An error is stored, and raised only when the frames of aiohttp, which hold headers, are gone from its traceback.
"""

from .functions import CallerFunction
from .observing import Observer, report_renewal
from .operations import ClientSettings, TokenClient, context_trusting, make_client

__all__ = [
    "CallerFunction",
    "ClientSettings",
    "Observer",
    "TokenClient",
    "context_trusting",
    "make_client",
    "report_renewal",
]
