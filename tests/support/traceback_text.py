"""What a traceback would show of the library's frames, to whoever prints their locals."""

import traceback
from pathlib import Path

import aiohttp
import cryptography
import jwt
from _pytest._io.saferepr import saferepr
from rich.traceback import Traceback

import signalwire_tokens

LOOKED_AT = tuple(str(Path(one.__file__).parent) for one in (signalwire_tokens, aiohttp, cryptography, jwt))


def frames_shown(error):
    """Show the locals of our frames and of aiohttp's, as pytest and rich would, for the error and all it hangs on."""
    seen, queue, shown = set(), [error], []
    while queue:
        link = queue.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        queue += [link.__cause__, link.__context__]
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename.startswith(LOOKED_AT):
                shown += [saferepr(value, maxsize=10**6) for value in frame.f_locals.values()]
        limits = {"locals_max_length": 10**6, "locals_max_string": 10**6}
        rich = Traceback.extract(type(link), link, link.__traceback__, show_locals=True, **limits)
        for stack in rich.stacks:
            for frame in stack.frames:
                if frame.filename.startswith(LOOKED_AT):
                    shown += [node.render(max_width=10**6) for node in (frame.locals or {}).values()]
        shown += [repr(link), str(link), repr(vars(link)), repr(link.args)]
        shown += traceback.format_exception(link.with_traceback(None))
    return "\n".join(shown)
