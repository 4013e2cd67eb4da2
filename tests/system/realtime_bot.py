"""A realtime connection in a process of its own: `realtime_bot.py GATEWAY`, with the settings of a space.

It prints each change of the connection's state, each event, and what becomes of each of its calls. It calls a method
that the gateway answers late, again and again.
"""

import asyncio
import sys

from signalwire_tokens import CallInterrupted, SubscriberSession, TokenClient
from signalwire_tokens.realtime import RealtimeConnection
from support.waiting import HANG


def note(change):
    print("state", change.state.value, change.cause or "", flush=True)


async def call_again_and_again(connection):
    while True:
        await connection.wait_connected()
        try:
            await connection.call("bot.work", timeout=HANG)
            print("call answered", flush=True)
        except CallInterrupted as error:
            print("call interrupted", "sent" if error.sent else "not sent", flush=True)


async def main(gateway):
    async with TokenClient.from_env() as client, SubscriberSession(client, "bot") as session:
        connection = RealtimeConnection(session, host=gateway, connect_timeout=HANG)
        connection.subscribe(note)
        async with connection:
            calling = asyncio.create_task(call_again_and_again(connection))
            async for event in connection.events():
                print("event", event.params["number"], flush=True)
            await calling


asyncio.run(main(sys.argv[1]))
