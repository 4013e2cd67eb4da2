"""Run SignalWire's own client, unmodified, against the emulator: `python tests/system/official_client.py PYTHON`.

It makes each request, and runs the code that the guide on migrating shows as "before". The client has requirements of
its own, so it runs under a Python of its own, which has it and which `.ci/run` makes.
"""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from signalwire_tokens.emulator import Emulator

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers
from support.paths import ROOT
from support.processes import last_lines, settings_of

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


BEFORE = "\n".join(
    re.findall(r"^```py\n(.*?)^```", (ROOT / "docs/guides/migrating.md").read_text(), re.MULTILINE | re.DOTALL)
)


async def run(python, emulator, script, *arguments):
    """Return what a script prints that uses the client."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-c", script, *arguments), stdout=PIPE, stderr=PIPE, env={**os.environ, **settings_of(emulator)}
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, last_lines(errors)
    return out


async def main(python):
    async with Emulator() as emulator:
        settings = (emulator.space, emulator.project_id, emulator.api_token, emulator.click_to_call)
        out = await run(python, emulator, SCRIPT, *settings)
        assert all(emulator.accepts(token) for token in json.loads(out))
        assert [entry.status for entry in emulator.requests] == [200, 201, 200, 201, 201]
        await run(python, emulator, BEFORE)
        done = [(entry.operation, entry.status) for entry in emulator.requests[5:]]
        assert done == [("create_subscriber_token", 200), ("refresh_subscriber_token", 201)]
        print(f"{len(emulator.requests)} requests of the official client were answered as it expects")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
