"""What refreshers of tokens get wrong, asked of others and of us: `python -m tests.bakeoff`. It takes half a minute.

`probes` says what is asked, `issuers` what clients have their tokens from, and each client has a module that sets it
up. Those that are not installed are left out, and the table says so: `pip install --group bakeoff` brings them all.
"""

import argparse
import asyncio
import importlib
import logging
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from .probes import PROBES, measure
from .table import as_markdown, not_installed, row

# By the distribution that a client comes in; that is what pip calls it.
MODULES = {
    "signalwire-tokens": "ours",
    "supabase-auth": "supabase",
    "gcloud-aio-auth": "google",
    "aiobotocore": "amazon",
    "azure-core": "azure",
    "authlib": "authlib",
}


def clients_of(distribution):
    """Load what drives a client; nothing where it, or what it needs, is not there."""
    try:
        version(distribution)
        return importlib.import_module(f".{MODULES[distribution]}", __package__).CLIENTS
    except (PackageNotFoundError, ImportError):
        return ()


async def row_of(client):
    """Run all probes on a client, one after another."""
    title = f"{client.name} {version(client.distribution)}{client.variant}"
    return row(title, [await measure(probe, client) for probe in PROBES.values()])


async def rows_of(distribution):
    clients = clients_of(distribution)
    return await asyncio.gather(*map(row_of, clients)) if clients else [not_installed(distribution)]


async def compare(distributions):
    """Run all clients side by side, since most of the time is spent waiting."""
    found = await asyncio.gather(*map(rows_of, distributions))
    return [line for rows in found for line in rows]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bakeoff", description=__doc__)
    parser.add_argument("client", nargs="*", choices=[[], *MODULES], help="whom to ask; everybody by default")
    names = parser.parse_args().client or MODULES
    logging.disable()  # what clients log of the failures they meet is not asked here
    print(as_markdown(asyncio.run(compare(names))))
    print(f"\nMeasured on {datetime.now(UTC).date()} with Python {platform.python_version()}. How each was set up:\n")
    for client in (client for name in names for client in clients_of(name)):
        print(f"- **{client.name}{client.variant}**: {client.setup}")


if __name__ == "__main__":
    sys.exit(main())
