"""Open one of everything, fork, and print how the child's use of it fails, and then that the parent's still works.

`python forked.py LOOP SETTINGS` prints a line of JSON for the child, and one for the parent.

LOOP is "another" or "the same": whether the child has an event loop of its own, or goes on with the one that the parent
has used before the fork. A loop that runs during a fork doesn't go on in the child: asyncio itself refuses that.
"""

import asyncio
import gc
import json
import os
import sys
import warnings

from signalwire_tokens import SessionFleet, SqliteStore, SubscriberSession, TokenClient
from signalwire_tokens.governors.redis import RedisGovernor
from signalwire_tokens.stores import key_of
from signalwire_tokens.stores.postgres import PostgresStore
from signalwire_tokens.stores.redis import RedisStore

KEY = key_of(("a fork",))


async def open_all(settings):
    """Return how to use each thing again, after it was used once."""
    keys = {"encryption_keys": settings["key"]}
    client = TokenClient.from_env()
    session = await SubscriberSession(client, "alice").start()
    fleet = await SessionFleet(client).start()
    stores = [
        SqliteStore(settings["path"], **keys),
        RedisStore(settings["redis"], **keys),
        PostgresStore(settings["postgres"], **keys),
    ]
    await stores[-1].create_schema()
    governor = RedisGovernor(settings["redis"], account=KEY)
    uses = {
        "TokenClient": lambda: client.create_subscriber_token("bob"),
        "SubscriberSession": session.token,
        "SubscriberSession, to close it": session.aclose,
        "SessionFleet": lambda: fleet.token("carol"),
        "RedisGovernor": lambda: governor.turn(100.0, 5.0),
        **{type(store).__name__: lambda store=store: store.load(KEY) for store in stores},
    }
    for name, use in uses.items():
        if "close" not in name:
            await use()
            await use()  # what was checked once isn't checked again
    return uses


async def use_all(uses):
    """Print how each use fails."""
    errors = {}
    for name, use in uses.items():
        try:
            async with asyncio.timeout(30):
                errors[name] = f"worked: {type(await use()).__name__}"
        except Exception as error:  # noqa: BLE001 - which it is is what is asked for
            errors[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(errors) + "\n")
    sys.stdout.flush()


warnings.simplefilter("ignore")
loop = asyncio.new_event_loop()  # asyncio.run would end the tasks of what is open
opened = loop.run_until_complete(open_all(json.loads(sys.argv[2])))
child = os.fork()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
elif sys.argv[1] == "another":
    loop = asyncio.new_event_loop()
loop.run_until_complete(use_all(opened))
if not child:
    del opened["PostgresStore"]  # a store that is collected here must not touch the parent's connections
    gc.collect()
os._exit(0)
