"""Read a token's file again and again, as a program in any language does, and print what it held.

`python token_file_reader.py FILE READS` reads it so many times, at random moments of a few milliseconds each, and goes
on until its standard input ends. It prints a line for each run of equal contents: the content, or null while there is
no file.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path

__all__ = ["main"]


def main(path, reads):
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    before, count = "nothing yet", 0
    while count < reads or not is_over.is_set():
        time.sleep(random.uniform(0, 0.004))
        try:
            found = Path(path).read_text()
        except FileNotFoundError:
            found = None
        if found != before:
            print(json.dumps(found), flush=True)  # noqa: T201 - this is a program of its own
        before, count = found, count + 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
