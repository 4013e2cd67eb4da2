"""Write a device's key while something happens at one moment after the other, and print what came of it.

`python interrupted_keys.py FOLDER kill|meet [--no-links]` goes through all lines of `device/key.py` that run while a
key is written. With `kill`, the process is killed there. With `meet`, another program writes its key there from
beginning to end, or gives up because it would have to wait. Each line of the output is a JSON list of what was read;
null stands for no file.
"""

import fcntl
import json
import os
import sys
from itertools import count
from pathlib import Path

from signalwire_tokens.device import key
from signalwire_tokens.secret import Secret

__all__ = ["main"]


def refuse(*_, **__):
    raise PermissionError(1, "Operation not permitted")


def at_line(number, act, run):
    """Run a function, and call `act` before a line of the module is run; return whether there are so many lines."""
    left = number

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != key.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                act()
                sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return left <= 0


def write(place, name):
    key.save_key(place, Secret(name.encode() * 500))
    return (place.read_text() or " ")[0]


def read(place):
    text = place.read_text() if place.exists() else None
    return text if text is None or (text and text == text[0] * 500) else "a part"


def kill(place, number):
    child = os.fork()
    if child == 0:
        at_line(number, lambda: os._exit(9), lambda: write(place, "a"))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, [read(place)]


def meet(place, number):
    found = []

    def write_other():
        blocking, fcntl.flock = fcntl.flock, lambda handle, _: blocking(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            found.append(write(place, "b"))
        except BlockingIOError:
            pass
        finally:
            fcntl.flock = blocking

    goes_on = at_line(number, write_other, lambda: found.append(write(place, "a")))
    found.append(write(place, "c"))
    return goes_on, [*found, (read(place) or " ")[0]]


def main(folder, what, *options):
    if options:
        os.link = refuse
    for number in count(1):
        goes_on, found = {"kill": kill, "meet": meet}[what](Path(folder, str(number)), number)
        print(json.dumps(found))  # noqa: T201 - this is a program of its own
        if not goes_on:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
