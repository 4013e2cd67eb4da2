"""Browsers: the example's page with the official SDK, and what pages of other origins get."""

import json
import runpy
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from signalwire_tokens import SessionFleet
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.integrations.web import TokenBackend
from support.chromium import fetch_sdk, find_chromium, open_page
from support.paths import ROOT
from support.waiting import eventually

EXAMPLE = ROOT / "docs/examples/browser"
ASK = """async ([url, type, mode]) => {
    const headers = type ? { "Content-Type": type } : {};
    const request = { method: "POST", credentials: "include", mode, body: "{}", headers };
    try {
        const response = await fetch(url, request);
        return [response.type, response.status, await response.text()];
    } catch (error) {
        return [error.name, 0, ""];
    }
}"""

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed (Debian: chromium)")


@pytest.fixture(scope="module")
def sdk(tmp_path_factory):
    return fetch_sdk(tmp_path_factory.mktemp("sdk"))


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE / "backend.py"))


@pytest.fixture
async def emulator(example):
    async with Emulator(tls=True, channel="puc.localhost:{port}", lifetimes=example["MINUTE"]) as emulator:
        yield emulator


@asynccontextmanager
async def serve(app, context=None):
    """Serve an application on this machine, under the name by which browsers trust it."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"http{'s' if context else ''}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def page_at(example, emulator, sdk):
    """Show the example's page, from its backend, all of it over TLS."""

    @asynccontextmanager
    async def show():
        async with (
            emulator.client() as client,
            serve(example["build"](emulator, client, sdk), emulator.server_context) as origin,
            open_page(emulator.browser_pin, origin) as page,
        ):
            await page.goto("/")
            yield page

    return show


@pytest.fixture
async def page(page_at):
    async with page_at() as page:
        yield page


def connects(emulator):
    return [entry for entry in emulator.journal if entry.operation == "signalwire.connect"]


async def test_the_page_shows_whose_token_it_has_and_how_long_it_lives(emulator, page):
    """Connected to the gateway, and registered for calls."""
    await eventually(lambda: emulator.connections and emulator.connections[0].is_online)
    await page.get_by_text("alice@example.com").wait_for()
    await page.get_by_text("connected", exact=True).wait_for()
    await page.locator("#token", has_text="#").wait_for()
    runway = await page.locator("#runway").inner_text()
    assert 40 <= int(runway.removesuffix(" s")) <= 60
    assert await page.locator("#events li.bad").count() == 0


async def test_the_page_recovers_from_an_outage_at_its_start(emulator, page_at):
    """It goes on asking, and says what it waits for."""
    emulator.fail(Status(503), operation="create_subscriber_token", times=None)
    async with page_at() as page:
        await page.get_by_text("no token yet").first.wait_for()
        emulator.heal()
        await page.get_by_text("connected", exact=True).wait_for()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_page_stays_connected_through_two_expiries_and_an_outage(emulator, page, capsys):
    """Each time that the gateway closes at a token's end, the SDK is back at once, with the next token."""
    await eventually(lambda: emulator.connections)
    until, waits = [emulator.connections[0].expires_at], []

    async def is_about_to_renew():
        health = await page.evaluate("fetch('/health').then((response) => response.json())")
        return datetime.fromisoformat(health["next_due"]) - datetime.now(UTC) < timedelta(seconds=4)

    await eventually(is_about_to_renew)
    await page.locator("#outage").click()
    await page.get_by_text("the token service is down").wait_for()
    for number in (2, 3):
        await eventually(lambda number=number: len(connects(emulator)) >= number)
        await eventually(lambda: emulator.connections)
        until.append(emulator.connections[0].expires_at)
        waits.append((connects(emulator)[-1].at - until[-2]).total_seconds())
    await page.get_by_text("the token service is back").wait_for()
    await eventually(lambda: emulator.connections[0].is_online)
    with capsys.disabled():
        print(
            f"\n[back {waits[0]:.1f} s and {waits[1]:.1f} s after the gateway closed, with tokens for "
            f"{(until[1] - until[0]).total_seconds():.0f} s and {(until[2] - until[1]).total_seconds():.0f} s more]"
        )
    assert [entry.status for entry in connects(emulator)] == [200] * 3
    assert all(0 <= wait < 5 for wait in waits)
    assert any(entry.status == 503 for entry in emulator.journal), "the outage was met"
    assert await page.locator("#connection").inner_text() == "connected"
    assert await page.locator("#events li", has_text="a new token").count() >= 3


BOUND_PAGE = """<!doctype html><link rel=icon href="data:,">
<script>
  const random = (array) => crypto.getRandomValues(array);
  window.node_crypto = { randomUUID: () => crypto.randomUUID(), randomFillSync: random };
</script>
<script src="/sdk/browser.umd.js"></script>
<script>
  window.failures = [];
  const authenticate = async ({ fingerprint }) => {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("/token", { method: "POST", headers, body: JSON.stringify({ fingerprint }) });
    return response.json();
  };
  const client = new SignalWire.SignalWire({ authenticate }, { skipDeviceMonitoring: true });
  client.errors$.subscribe((error) => failures.push(error.message));
</script>"""


@pytest.mark.timeout(120)
async def test_a_key_in_the_browser_renews_its_token_in_place(emulator, sdk):
    """One connection goes on past the end of its token, and of the one after, without the backend."""
    life = 33  # seconds; the SDK renews half a minute before a token's end

    async def page_of(_):
        return web.Response(text=BOUND_PAGE, content_type="text/html")

    async def shorten(route):
        asked = {**route.request.post_data_json, "expire_in": life}
        await route.continue_(post_data=json.dumps(asked))

    async with emulator.client() as client:
        app = build(client, [], fingerprints=True)
        app.add_routes([web.get("/", page_of), web.static("/sdk", sdk)])
        async with serve(app, emulator.server_context) as origin, open_page(emulator.browser_pin, origin) as page:
            await page.route("**/devices/token", shorten)
            await page.goto("/")
            await eventually(lambda: emulator.connections and emulator.connections[0].reauthenticated)
            (first,) = emulator.connections
            await eventually(lambda: emulator.now() > first.expires_at + timedelta(seconds=2))
            (last,) = emulator.connections
            assert await page.evaluate("failures") == []
    assert last.id == first.id, "it is the same connection"
    assert last.reauthenticated >= 5
    assert last.expires_at > first.expires_at + timedelta(seconds=20)
    asked = [entry.operation for entry in emulator.journal]
    assert asked.count("create_subscriber_token") == asked.count("create_device_token") == 1
    refreshed, shown = asked.count("refresh_device_token"), asked.count("signalwire.reauthenticate")
    assert refreshed >= 5
    assert shown - refreshed in (0, 1), "each token is shown; the last may be on its way"
    assert [entry.reason for entry in emulator.journal if entry.reason] == []


@pytest.mark.parametrize(
    ("type_", "mode"),
    [("application/json", "cors"), ("text/plain", "cors"), ("text/plain", "no-cors"), (None, "no-cors")],
    ids=str,
)
async def test_a_page_of_another_origin_gets_no_token(emulator, type_, mode):
    """Whatever it tries in whoever's browser: here, everybody is signed in."""
    async with (
        emulator.client() as client,
        serve(build(client, []), emulator.server_context) as origin,
        serve(elsewhere_app()) as elsewhere,
        open_page(emulator.browser_pin, origin) as page,
    ):
        await page.goto(f"{elsewhere}/")
        kind, status, body = await page.evaluate(ASK, [f"{origin}/token", type_, mode])
        assert (kind, status, body) in [("TypeError", 0, ""), ("opaque", 0, "")]
        await page.goto(f"{origin}/empty")
        kind, status, body = await page.evaluate(ASK, [f"{origin}/token", "application/json", "cors"])
        assert (kind, status) == ("basic", 200), "the application's own page does"
        assert '"token"' in body
    assert [entry.operation for entry in emulator.journal] == ["create_subscriber_token"]


async def test_a_page_of_an_allowed_origin_gets_a_token(emulator):
    """After a preflight, and with credentials; but not from a frame that is nobody's."""
    async with (
        emulator.client() as client,
        serve(elsewhere_app()) as elsewhere,
        serve(build(client, [elsewhere]), emulator.server_context) as origin,
        open_page(emulator.browser_pin, origin) as page,
    ):
        await page.goto(f"{elsewhere}/")
        kind, status, body = await page.evaluate(ASK, [f"{origin}/token", "application/json", "cors"])
        assert (kind, status) == ("cors", 200)
        assert '"token"' in body
        frame = await (await page.query_selector("iframe")).content_frame()
        assert await frame.evaluate(ASK, [f"{origin}/token", "application/json", "cors"]) == ["TypeError", 0, ""]


async def empty(request):
    text = '<!doctype html><link rel=icon href="data:,"><iframe sandbox="allow-scripts" srcdoc="framed"></iframe>'
    return web.Response(text=text, content_type="text/html")


def elsewhere_app():
    app = web.Application()
    app.router.add_get("/", empty)
    return app


def build(client, allowed_origins, **settings):
    """Make a backend to which everybody is signed in."""
    settings = {"identify": lambda _: "alice@example.com", "allowed_origins": allowed_origins, **settings}
    backend = TokenBackend(lambda: SessionFleet(client), **settings)
    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    app.router.add_get("/empty", empty)
    return app


def test_the_backend_is_forty_lines():
    """As much as somebody reads who wants to know what it takes."""
    lines = [line.strip() for line in (EXAMPLE / "backend.py").read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 40
