"""Histories of a simulated world: `python tests/system/proof.py [--suite replicas] [--seconds 60] [--first 0]`.

Each history is one seed's: with `--seed 17`, one history is played twice and printed. With `--planted`, the table
shows how many histories it takes to find each planted fault.
"""

import argparse
import gc
import hashlib
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.planted import FAULTS, HISTORIES, find
from support.world.suites import SUITES, play


def play_for(suite, seconds, histories, first):
    """Play one seed after another, and print what came of it. Return the seeds that failed.

    The trace is a digest of all histories, which is the same each time for the same number of `histories`.
    """
    began, totals, faults, failed, traces = time.perf_counter(), Counter(), Counter(), [], hashlib.sha256()
    for seed in count(first):
        is_over = time.perf_counter() - began >= seconds if histories is None else seed >= first + histories
        if is_over:
            break
        record = play(suite, seed)
        totals.update(histories=1, callbacks=record.steps, tokens=record.tokens, requests=record.requests)
        totals["hours"] += record.hours
        faults.update(record.faults)
        traces.update(record.trace.encode())
        if record.failures:
            failed.append(seed)
            guarantee, text = record.failures[0]
            print(f"  seed {seed}: {guarantee}: {text}")
    print(
        f"{suite:10}{totals['histories']:>7,} histories, {totals['hours']:>9,.0f} virtual hours, "
        f"{totals['callbacks']:>12,} callbacks, {totals['requests']:>9,} requests, {totals['tokens']:>9,} tokens, "
        f"{faults.total():>8,} faults met, {len(failed)} failed; trace {traces.hexdigest()[:16]}"
    )
    for kind, number in sorted(faults.items()):
        print(f"            {kind:<30}{number:>9,}")
    return failed


def show(suite, seed):
    """Play one history twice, and print it. Return whether it failed, or wasn't the same both times."""
    record, again = play(suite, seed), play(suite, seed)
    print(record.history)
    print(f"{suite} {seed}: trace {record.trace}, and {again.trace} the second time")
    for guarantee, text in record.failures:
        print(f"{guarantee}: {text}")
    return bool(record.failures) or record.trace != again.trace


def find_planted(part):
    """Print which histories find the faults whose names have this part. Return whether any isn't found."""
    print(f"{'planted fault':<62}{'breaks':<8}{'suite':<10}{'histories':>9}{'seconds':>9}")
    found = []
    for planted in FAULTS.values():
        if part not in planted.name:
            continue
        began = time.perf_counter()
        found.append(finding := find(planted))
        seconds = time.perf_counter() - began
        row = ("-", "-", f"> {HISTORIES}") if finding is None else (finding.guarantee, finding.suite, finding.histories)
        print(f"{planted.name:<62}{row[0]:<8}{row[1]:<10}{row[2]:>9}{seconds:>9.1f}", flush=True)
    print(f"{len(found)} planted faults, {found.count(None)} of them not found")
    return None in found or not found


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", choices=sorted(SUITES), action="append")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all suites")
    parser.add_argument("--histories", type=int, help="of each suite, in place of a time")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="the only seed, whose history is printed")
    parser.add_argument("--planted", nargs="?", const="", metavar="NAME", help="a part of the names of planted faults")
    options = parser.parse_args(arguments)
    gc.freeze()
    if options.planted is not None:
        return find_planted(options.planted)
    suites = options.suite or list(SUITES)
    if options.seed is not None:
        return max(show(suite, options.seed) for suite in suites)
    return max(
        bool(play_for(suite, options.seconds / len(suites), options.histories, options.first)) for suite in suites
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
