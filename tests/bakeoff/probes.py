"""What is asked of every client: four things that refreshers of tokens get wrong.

Each probe gives an outcome: what was counted, and whether it passed, or None where there was nothing to pass. It runs
against a server of its own, which counts, and alone decides whether a token is live. All time is the event loop's.
"""

import asyncio
from collections import Counter

import attrs

from .held import Fault
from .issuers import now

WAITING, TOGETHER, CALLS = 50, 20, 5
SLOW = 1.0  # seconds that an answer takes, so that all callers are waiting for it
APART = 0.2  # seconds from one caller to the next
PATIENCE = 3.0  # seconds after a failure in which a client may renew by itself
FIRES = 10.0  # seconds in which what renews by itself begins to
LIMIT = 25.0  # seconds for one probe


@attrs.frozen
class Outcome:
    """What was counted, and whether that is as it should be."""

    text: str
    passed: bool | None


async def one_cancelled(client):
    """Fifty callers wait on a dead token, and the first one is cancelled while the answer is on its way.

    The first, since with some clients it is the first caller who refreshes for all. It passes where that one alone is
    cancelled, and all others get a live token. How many requests it took is counted, but is the next probe's business.
    """
    async with client.opened(0) as held:
        held.service.slow(SLOW)
        calls = [asyncio.create_task(ask(held)) for _ in range(WAITING)]
        await asyncio.sleep(SLOW / 2)
        calls[0].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        came = Counter("cancelled" if isinstance(result, BaseException) else result for result in results)
        text = f"{counted(held.service)}; {told(came)}"
        return Outcome(text, came == {"valid": WAITING - 1, "cancelled": 1})


async def all_at_once(client):
    """Twenty callers ask at once for a token where the one at hand is dead.

    It passes where one request serves them all with a live token.
    """
    async with client.opened(0) as held:
        held.service.slow(SLOW)
        came = Counter(await asyncio.gather(*(ask(held) for _ in range(TOGETHER))))
        passed = held.service.requests == 1 and came == {"valid": TOGETHER}
        return Outcome(f"{counted(held.service)}; {told(came)}", passed)


async def service_down(client):
    """The service answers 500 while the token lives, so short of its end that the client wants to renew it.

    Five callers, a fifth of a second apart. It passes where each gets the live token that there is. How often the
    service was asked and how long the slowest caller waited is counted, and not scored. How much is left is for the
    client to say: where it renews behind its callers first, and lets them wait for it later, both are tried.
    """
    seen = await asyncio.gather(*(outage(client, left) for left in client.windows))
    return Outcome("; ".join(outcome.text for outcome in seen), all(outcome.passed for outcome in seen))


async def outage(client, left):
    async with client.opened(left) as held:
        held.service.fail(Fault.ERROR, times=None)
        calls = await asyncio.gather(*(later(held, APART * number) for number in range(CALLS)))
        came, slowest = Counter(what for what, _ in calls), max(seconds for _, seconds in calls)
        much = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
        text = f"with {much} left: {told(came)}, {counted(held.service)}, slowest call {slowest:.1f} s"
        return Outcome(text, came == {"valid": CALLS})


async def one_failure(client):
    """One renewal fails, and the service is well again: with a 500, with a 503, and with an answer that was lost.

    A client that renews in the background is left alone, and passes where it has renewed within three seconds after
    the failure. One that does not is asked, and passes where that caller or the next gets a live token. An answer is
    lost when the service has done what it was asked, and a single-use refresh token with that is used up: whoever
    holds nothing else cannot come back, and is not scored for that.
    """
    seen = await asyncio.gather(*(recovery(client, fault) for fault in Fault))
    ways = {}
    for fault, way in zip(Fault, seen, strict=True):
        ways.setdefault(way.text, []).append(fault.value)
    text = "; ".join(f"{', '.join(faults)}: {way}" for way, faults in ways.items())
    scored = [way.passed for way in seen if way.passed is not None]
    return Outcome(text if client.timed else f"renews only when asked; {text}", all(scored) if scored else None)


async def recovery(client, fault):
    async with client.timed() if client.timed else client.opened(0) as held:
        held.service.fail(fault, times=1)
        if client.timed:
            if not await becomes(lambda: held.service.requests, FIRES):
                return Outcome("did not begin to renew", passed=False)
            if await becomes(lambda: held.service.granted, PATIENCE):
                came = await ask(held)
                return Outcome(f"{came} by itself", came == "valid")
        elif await ask(held) == "valid":
            return Outcome("valid within the call", passed=True)
        came = await ask(held)
        if came == "valid":
            return Outcome(
                "not by itself, valid when asked" if client.timed else "valid when asked again", not client.timed
            )
        if fault is Fault.LOST and not client.reissues:
            return Outcome(f"{came} from then on, and not scored", passed=None)
        return Outcome(f"{came} when asked again", passed=False)


PROBES = {
    "50 wait, one is cancelled": one_cancelled,
    "20 ask at once": all_at_once,
    "down while the token is valid": service_down,
    "one failure": one_failure,
}


async def ask(held):
    """Ask for a token as one caller; tell what came of it."""
    try:
        token = await held.ask()
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what its caller gets
        return type(error).__name__
    return "valid" if held.service.accepts(token) else "refused"


async def later(held, seconds):
    """Ask after a while; tell what came of it, and how long it took."""
    await asyncio.sleep(seconds)
    start = now()
    return await ask(held), now() - start


async def becomes(holds, within):
    """Tell whether a condition comes to hold in time."""
    give_up = now() + within
    while now() < give_up:
        if holds():
            return True
        await asyncio.sleep(0.02)  # how often it looks
    return False


def counted(service):
    return f"{service.requests} request{'' if service.requests == 1 else 's'}"


def told(came):
    return ", ".join(f"{count} {what}" for what, count in came.most_common())


async def measure(probe, client):
    """Run a probe, for so long at most."""
    try:
        async with asyncio.timeout(LIMIT):
            return await probe(client)
    except TimeoutError:
        return Outcome(f"no end within {LIMIT:g} s", passed=False)
