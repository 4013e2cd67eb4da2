"""`TokenClient`: sends what `wire` describes through aiohttp, and decides nothing.

`operations` is the client as its users see it. `credentials` are the project's own, and `functions` calls those that
callers give for other credentials. `sender` sends one request over HTTP. `environment` reads settings from variables.
`observing` is how observers follow the client.

No frame of these modules has a credential in a local variable while something below it can fail: secret arguments are
masked first, headers are written where they are passed, and errors are raised when nothing of aiohttp's is left.
"""

from .functions import CallerFunction
from .observing import Observer, report_renewal
from .operations import ClientSettings, TokenClient, make_client, trusting

__all__ = [
    "CallerFunction",
    "ClientSettings",
    "Observer",
    "TokenClient",
    "make_client",
    "report_renewal",
    "trusting",
]
