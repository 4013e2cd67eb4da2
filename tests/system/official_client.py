"""Hold the emulator to SignalWire's own client, unmodified: `python tests/system/official_client.py PYTHON`.

The client has requirements of its own, so it runs under a Python of its own, which has it and which `.ci/run` makes.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from signalwire_tokens.emulator import Emulator

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers
from support.processes import last_lines

SCRIPT = """
import json, sys
from signalwire.rest.client import RestClient
space, project, token, click_to_call = sys.argv[1:]
client = RestClient(host=space, project=project, token=token)
tokens = client.fabric.tokens
pair = tokens.create_subscriber_token(reference="alice@example.com", first_name="Alice")
renewed = tokens.refresh_subscriber_token(refresh_token=pair["refresh_token"])
addresses = client.fabric.subscribers.list_addresses(pair["subscriber_id"])["data"]
guest = tokens.create_guest_token(allowed_addresses=[addresses[0]["id"]])
embed = tokens.create_embed_token(token=click_to_call)
print(json.dumps([renewed["token"], renewed["refresh_token"], guest["token"], embed["token"]]))
"""


async def main(python):
    async with Emulator() as emulator:
        settings = (emulator.space, emulator.project_id, emulator.api_token, emulator.click_to_call)
        process = await asyncio.create_subprocess_exec(python, "-c", SCRIPT, *settings, stdout=PIPE, stderr=PIPE)
        out, errors = await process.communicate()
        assert process.returncode == 0, last_lines(errors)
        assert all(emulator.accepts(token) for token in json.loads(out))
        assert [entry.status for entry in emulator.requests] == [200, 201, 200, 201, 201]
        print(f"{len(emulator.requests)} requests of the official client were answered as it expects")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
