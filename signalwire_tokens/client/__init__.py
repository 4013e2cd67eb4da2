"""`TokenClient`: sends what `wire` describes through aiohttp, and decides nothing.

`operations` is the client as its users see it, `credentials` the project's own, `sender` one request over HTTP;
`environment` reads settings from variables, and `observing` is who looks on.

No frame of these modules has a credential in a local variable while something below it can fail: secret arguments are
masked first, headers are written where they are passed, and errors are raised when nothing of aiohttp's is left.
"""

from .credentials import ask_caller
from .observing import Observer, tolerate
from .operations import ClientSettings, TokenClient, trusting

__all__ = ["ClientSettings", "Observer", "TokenClient", "ask_caller", "tolerate", "trusting"]
