"""Browsers: the example's page with the official SDK, and what pages of other origins get."""

import json
import runpy
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import attrs
import pytest
from aiohttp import ClientSession, ClientTimeout, web

from signalwire_tokens import SessionFleet
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.integrations.aiohttp_server import TokenBackend
from support.chromium import fetch_sdk, find_chromium, open_page
from support.paths import ROOT
from support.waiting import HANG, eventually

EXAMPLE = ROOT / "docs/examples/browser"
LEFT = 300  # seconds that a token has left for the service when the page takes it to be ending
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

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="Chromium is not installed: apt-get install chromium, or put it on PATH"
)


@pytest.fixture(scope="module")
def sdk(tmp_path_factory):
    return fetch_sdk(tmp_path_factory.mktemp("sdk"))


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE / "backend.py"))


@pytest.fixture
async def emulator():
    """Run an emulator whose tokens live for two hours: none expires unless a test lets time pass."""
    async with Emulator(tls=True, channel="puc.localhost:{port}") as emulator:
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
    """Show the example's page, from its backend, all of it over TLS; the backend may have a token before."""

    @asynccontextmanager
    async def show(*, has_token):
        async with (
            emulator.client(timeout=HANG) as client,
            serve(example["build"](emulator, client, sdk), emulator.server_context) as origin,
            open_page(emulator.browser_pin, origin) as page,
        ):
            await page.clock.install()
            if has_token:
                await eventually(lambda: gets_token(origin))
            await page.goto("/")
            yield page

    return show


async def gets_token(origin):
    """Return whether the example's user gets a token."""
    async with (
        ClientSession(cookies={"who": "alice@example.com"}, timeout=ClientTimeout(total=HANG)) as http,
        http.post(f"{origin}/token", json={}, ssl=False) as response,
    ):
        return response.status == 200


async def go_to(page, moment):
    """Let the page's time pass until a moment, as if the machine had slept."""
    ahead = 1000 * moment.timestamp() - await page.evaluate("Date.now()")
    await page.clock.fast_forward(max(0, round(ahead)))


async def has_token_after(page, moment):
    """Return whether the page has a token that expires later than a moment."""
    return await page.evaluate("credential.expiry_at") > 1000 * (moment.timestamp() + LEFT)


@pytest.fixture
async def page(page_at):
    async with page_at(has_token=True) as page:
        yield page


def connects(emulator):
    return [entry for entry in emulator.requests if entry.operation == "signalwire.connect"]


async def test_the_page_shows_whose_token_it_has_and_how_long_it_lives(emulator, page):
    """Connected to the gateway, and registered for calls."""
    await eventually(lambda: emulator.connections and emulator.connections[0].is_online)
    await page.get_by_text("alice@example.com").wait_for()
    await page.get_by_text("connected", exact=True).wait_for()
    await page.locator("#token", has_text="#").wait_for()
    left = await page.locator("#expires-in").inner_text()
    assert 0 < int(left.removesuffix(" s")) <= emulator.lifetimes.access.total_seconds()
    assert await page.locator("#events li.bad", has_text="no token").count() == 0


async def test_the_page_recovers_from_an_outage_at_its_start(emulator, page_at):
    """It goes on asking, and says what it waits for."""
    emulator.fail(Status(503), operation="create_subscriber_token", times=None)
    async with page_at(has_token=False) as page:
        await page.get_by_text("no token yet").first.wait_for()
        emulator.clear_faults()
        await page.get_by_text("connected", exact=True).wait_for()


async def test_the_page_stays_connected_through_two_expiries_and_an_outage(emulator, page, capsys, monkeypatch):
    """Each time that the gateway closes at a token's end, the SDK comes back with the next token."""
    await eventually(lambda: emulator.connections and emulator.connections[0].is_online)
    await page.get_by_text("connected", exact=True).wait_for()
    until, waits = [emulator.connections[0].expires_at], []

    # The backend's token is due for renewal, and the service is down.
    emulator.advance(0.85 * emulator.lifetimes.access.total_seconds())
    with monkeypatch.context() as patch:
        patch.setattr(emulator, "clear_faults", lambda: None)  # the outage lasts until it was met, and not ten seconds
        await page.locator("#outage").click()
        await page.get_by_text("the token service is down").wait_for()
        await page.evaluate(ASK, ["/token", "application/json", "same-origin"])
        await eventually(lambda: any(entry.status == 503 for entry in emulator.requests))
    assert emulator.connections, "the token is still valid"
    emulator.clear_faults()
    await page.clock.fast_forward(10_000)
    await page.get_by_text("the token service is back").wait_for()

    for number in (2, 3):
        # First the page gets its next token, since for the page the end is near; then the end comes.
        emulator.advance(max(0.0, (until[-1] - emulator.now()).total_seconds() - LEFT))
        await go_to(page, until[-1] - timedelta(seconds=4))
        await eventually(lambda: has_token_after(page, until[-1]))
        began = time.monotonic()
        emulator.advance(LEFT + 1)
        await eventually(lambda number=number: len(connects(emulator)) >= number and emulator.connections)
        waits.append(time.monotonic() - began)
        await eventually(lambda: emulator.connections[0].is_online)
        until.append(emulator.connections[0].expires_at)
    with capsys.disabled():
        print(f"\n[back {waits[0]:.1f} s and {waits[1]:.1f} s after the gateway closed]")
    assert [entry.status for entry in connects(emulator)] == [200] * 3
    assert until == sorted(set(until))
    await page.get_by_text("connected", exact=True).wait_for()


async def test_an_older_answer_that_comes_late_replaces_no_token(page):
    """Two requests may be under way at once, and their answers may overtake each other."""
    await eventually(lambda: page.evaluate("credential.expiry_at > 0"))
    kept = await page.evaluate("""async () => {
      const before = credential.token, old = { token: "old", expiry_at: credential.expiry_at - 1 };
      window.fetch = async () => new Response(JSON.stringify(old));
      await getToken();
      return credential.token === before;
    }""")
    assert kept


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


async def test_a_key_in_the_browser_renews_its_token_in_place(emulator, sdk):
    """One connection goes on past the end of its token, and of the one after, without the backend.

    The SDK renews half a minute before a token's end. It learns an end that is an hour too soon, so that it comes in
    time however slow the machine is.
    """
    life, told, renewals = 7200, 3600, 4

    async def page_of(_):
        return web.Response(text=BOUND_PAGE, content_type="text/html")

    handlers = emulator.service.handlers
    for operation in ("create_device_token", "refresh_device_token"):
        handlers[operation] = understated(handlers[operation], life, told)

    async with emulator.client(timeout=HANG) as client:
        app = build(client, [], allow_device_tokens=True)
        app.add_routes([web.get("/", page_of), web.static("/sdk", sdk)])
        async with serve(app, emulator.server_context) as origin, open_page(emulator.browser_pin, origin) as page:
            await page.clock.install()
            await page.goto("/")
            await eventually(lambda: emulator.connections and emulator.connections[0].reauthenticated)
            (first,) = emulator.connections
            for number in range(1, renewals + 1):
                emulator.advance(told - 20)  # the page follows
                await page.clock.fast_forward(1000 * (told - 20))
                await eventually(lambda number=number: emulator.connections[0].reauthenticated > number)
            (last,) = emulator.connections
            assert await page.evaluate("failures") == []
    assert last.id == first.id, "it is the same connection"
    assert emulator.now() > first.expires_at + timedelta(seconds=told), "the second token has ended as well"
    assert last.expires_at > emulator.now()
    asked = [entry.operation for entry in emulator.requests]
    assert asked.count("create_subscriber_token") == asked.count("create_device_token") == 1
    refreshed, shown = asked.count("refresh_device_token"), asked.count("signalwire.reauthenticate")
    assert refreshed >= renewals
    assert shown - refreshed in (0, 1), "each token is shown; the last may be on its way"
    assert [entry.reason for entry in emulator.requests if entry.reason] == []


def understated(handler, life, told):
    """Return the handler of an operation whose tokens live for some seconds, and are said to live for fewer."""

    def handle(call):
        reply = handler(attrs.evolve(call, body=json.dumps({**json.loads(call.body), "expire_in": life}).encode()))
        if reply.status == 201:
            ends = {"expires_in": told, "expires_at": reply.body["expires_at"] - life + told}
            reply = attrs.evolve(reply, body={**reply.body, **ends})
        return reply

    return handle


@pytest.mark.parametrize(
    ("type_", "mode"),
    [("application/json", "cors"), ("text/plain", "cors"), ("text/plain", "no-cors"), (None, "no-cors")],
    ids=str,
)
async def test_a_page_of_another_origin_gets_no_token(emulator, type_, mode):
    """Whatever it tries, although every browser is signed in here."""
    async with (
        emulator.client(timeout=HANG) as client,
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
    assert [entry.operation for entry in emulator.requests] == ["create_subscriber_token"]


async def test_a_page_of_an_allowed_origin_gets_a_token(emulator):
    """After a preflight, and with credentials; but not from a frame without an origin."""
    async with (
        emulator.client(timeout=HANG) as client,
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
    """Return a backend to which every browser is signed in."""
    settings = {"identify": lambda _: "alice@example.com", "allowed_origins": allowed_origins, **settings}
    backend = TokenBackend(lambda: SessionFleet(client), **settings)
    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    app.router.add_get("/empty", empty)
    return app


def test_the_backend_is_forty_lines():
    """So you can read it in a minute."""
    lines = [line.strip() for line in (EXAMPLE / "backend.py").read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith('"""')]) <= 40
