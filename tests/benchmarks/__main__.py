"""What things cost, as ratios taken in one run: `python tests/benchmarks`."""

import asyncio
import time
from statistics import median

from signalwire_tokens import SubscriberSession, SystemClock
from signalwire_tokens.emulator import Emulator

ROUNDS, CALLS = 41, 20_000


class Floor:
    """The least that a live token can cost: read the clock, compare, return."""

    __slots__ = ("now", "until", "value")

    def __init__(self, value, until):
        self.now, self.value, self.until = SystemClock().now, value, until

    async def token(self):
        if self.now() < self.until:
            return self.value
        raise AssertionError


async def seconds(token):
    start = time.perf_counter()
    for _ in range(CALLS):
        await token()
    return time.perf_counter() - start


async def fresh_token():
    """Compare `await session.token()` while fresh with its floor, in turns, so that both meet the same machine."""
    async with (
        Emulator() as emulator,
        emulator.client(clock=SystemClock()) as client,
        SubscriberSession(client, "alice") as session,
    ):
        floor = Floor(await session.token(), SystemClock().now() + 3600)
        pairs = [(await seconds(session.token), await seconds(floor.token)) for _ in range(ROUNDS)]
    return median(ours / least for ours, least in pairs)


ROWS = [("session.token() while fresh, to its floor", fresh_token, 1.2)]


def main():
    print(f"{'what':<45} {'ratio':>6}  {'goal':>7}")
    for name, measure, goal in ROWS:
        print(f"{name:<45} {asyncio.run(measure()):>6.2f}  {'<=':>3} {goal:.2f}")


if __name__ == "__main__":
    main()
