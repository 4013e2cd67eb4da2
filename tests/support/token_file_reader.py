"""Reads a token's file at random moments, as a program in any language does, and tells what it found.

`python file_reader.py FILE READS SECONDS` prints each run of equal contents: the content, and when it was last read.
"""

import json
import random
import sys
import time
from pathlib import Path

__all__ = ["main"]


def main(path, reads, seconds):
    before = None
    last = 0.0
    for _ in range(reads):
        time.sleep(random.uniform(0, 2 * seconds / reads))
        at = time.time()  # before it is read: it is to be live then
        try:
            found = Path(path).read_text()
        except FileNotFoundError:
            found = None
        if found != before and last:
            sys.stdout.write(json.dumps([before, last]) + "\n")
        before, last = found, at
    sys.stdout.write(json.dumps([before, last]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
