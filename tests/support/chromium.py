"""A real browser for the tests, and the official SDK that it runs."""

import os
import shutil
import subprocess
import tarfile
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import async_playwright

SDK = "@signalwire/js@4.0.0-beta.12"


def find_chromium():
    """Name the browser that is installed."""
    return next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


def fetch_sdk(folder):
    """Give the folder of the SDK's bundles: one that was fetched before, or fetched now."""
    if "BROWSER_SDK" in os.environ:
        return os.environ["BROWSER_SDK"]
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"npm is needed to fetch {SDK}, or BROWSER_SDK to name the folder of its bundles")
    packed = subprocess.run(
        [npm, "pack", "--silent", "--fetch-timeout=20000", "--fetch-retries=1", SDK],
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
    """Open a tab of a browser that trusts one certificate more than others do."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", f"--ignore-certificate-errors-spki-list={pin}"],
        )
        try:
            context = await browser.new_context(base_url=origin, viewport={"width": 800, "height": 640})
            yield await context.new_page()
        finally:
            await browser.close()
