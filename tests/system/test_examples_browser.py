"""Browsers: the example's page with the official SDK, and what pages of other origins get."""

import json
import os
import re
import runpy
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
from aiohttp import web

from signalwire_tokens import SessionFleet
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.integrations.aiohttp_server import TokenBackend
from support.chromium import PlaywrightError, fetch_sdk, find_chromium, open_page
from support.pages import BLOCK
from support.paths import ROOT
from support.processes import settings_of
from support.waiting import HANG, eventually

EXAMPLE = ROOT / "docs/examples/browser"
UPDATE = "UPDATE_PICTURES" in os.environ  # take the guide's picture, which shows what a reader sees
# Seconds that a bound token is valid, and that SignalWire says. Both are long, and the first is longer, so that no test
# depends on the machine's speed.
LIFE, SAID = (60, 60) if UPDATE else (7200, 3600)
LEFT = 300  # seconds that a token has left for the service when the page polls
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
async def page(example, emulator, sdk):
    """Show the example's page, from its backend, all of it over TLS. SignalWire's tokens last as long as the test."""
    handlers = emulator.service.handlers
    for operation in ("create_device_token", "refresh_device_token"):
        handlers[operation] = understated(handlers[operation])
    async with (
        emulator.client(timeout=HANG) as client,
        serve(example["build"](emulator, client, sdk), emulator.server_context) as origin,
        open_page(emulator.browser_pin, origin) as page,
    ):
        await page.clock.install()
        yield page


async def open_and_connect(page, emulator):
    """Load the page, and return its connection to the gateway once it presents a bound token."""
    await page.goto("/")
    await eventually(lambda: emulator.connections and emulator.connections[0].reauthenticated)
    return emulator.connections[0]


async def pass_time(page, emulator, seconds):
    """Advance the time at SignalWire and in the page, as if the machine had slept."""
    emulator.advance(seconds)
    await page.clock.fast_forward(round(1000 * seconds))


def asked(emulator, operation):
    """Return the statuses of the requests for an operation."""
    return [entry.status for entry in emulator.requests if entry.operation == operation]


async def test_the_page_shows_its_user_and_how_long_its_token_is_valid(emulator, page):
    """It is connected to the gateway, and registered for calls."""
    await open_and_connect(page, emulator)
    await eventually(lambda: emulator.connections[0].is_online)
    await page.get_by_text("alice@example.com").wait_for()
    await page.get_by_text("connected", exact=True).wait_for()
    await page.locator("#token", has_text="#").wait_for()
    await page.locator("#expires-in", has_text=" s").wait_for()
    assert 0 <= int((await page.locator("#expires-in").inner_text()).removesuffix(" s")) <= SAID
    assert await page.locator("#events li.bad").count() == 0


async def test_the_sdk_refreshes_its_token_in_place(emulator, page):
    """One connection goes on past the expiry of several tokens, and asks the backend only once."""
    first = await open_and_connect(page, emulator)
    digests = set()
    for number in range(1, 5):
        digests.add(await page.locator("#token").inner_text())
        await pass_time(page, emulator, SAID - 20)
        await eventually(lambda number=number: emulator.connections[0].reauthenticated > number)
    (last,) = emulator.connections
    assert last.id == first.id
    assert emulator.now() > first.expires_at, "its first bound token has expired"
    assert last.expires_at > emulator.now()
    assert asked(emulator, "create_subscriber_token") == [200]
    assert asked(emulator, "create_device_token") == [201]
    refreshed, shown = asked(emulator, "refresh_device_token"), asked(emulator, "signalwire.reauthenticate")
    assert len(shown) - len(refreshed) in (0, 1), "each token is presented; the last may be on its way"
    assert len(digests) >= 3
    assert [entry.reason for entry in emulator.requests if entry.reason] == []
    assert await page.locator("#events li.bad").count() == 0


async def test_failed_refreshes_do_not_interrupt_the_page(emulator, page):
    """The SDK tries again, and the connection stays."""
    first = await open_and_connect(page, emulator)
    await page.get_by_text("Fail the next 2").click()
    await eventually(lambda: emulator.faults)
    await pass_time(page, emulator, SAID - 29)
    await eventually(lambda: has_refreshed(page, emulator))
    assert asked(emulator, "refresh_device_token")[:3] == [503, 503, 201]
    assert [connection.id for connection in emulator.connections] == [first.id]
    assert await page.locator("#events li.bad", has_text="answer 503").count() == 2


async def has_refreshed(page, emulator):
    """Return whether a refresh has succeeded after some more time."""
    await pass_time(page, emulator, 5)
    return 201 in asked(emulator, "refresh_device_token")


@pytest.mark.parametrize("seconds", [LIFE, 9 * 3600], ids=["outage", "night"])
async def test_an_expired_token_is_replaced_by_the_backend(emulator, page, seconds):
    """After an outage, and after a night's sleep. The gateway closes, and the SDK connects with another token."""
    first = await open_and_connect(page, emulator)
    emulator.fail(Status(503), operation="refresh_device_token", times=None)
    await pass_time(page, emulator, seconds)
    await eventually(lambda: len(asked(emulator, "create_subscriber_token")) >= 2)
    await eventually(lambda: emulator.connections and emulator.connections[0].reauthenticated)
    await eventually(lambda: emulator.connections[0].is_online)
    assert emulator.connections[0].id != first.id
    await page.get_by_text("connected", exact=True).wait_for()


@pytest.mark.parametrize("operation", ["create_subscriber_token", "subscriber_info", "create_device_token"])
async def test_the_page_recovers_from_an_outage_at_its_start(emulator, page, operation):
    """In each step that the SDK doesn't repeat for long, and without which it gives up."""
    emulator.fail(Status(503), operation=operation, times=None)
    await page.goto("/")
    await eventually(lambda: reports_an_error(page, emulator))
    assert 503 in asked(emulator, operation)
    emulator.clear_faults()
    await eventually(lambda: is_bound(page, emulator))


async def reports_an_error(page, emulator):
    """Return whether the page shows, after some more time, that the SDK gave up or got no token."""
    await pass_time(page, emulator, 2)
    return await page.locator("#events li.bad", has_text=re.compile("error in the SDK|no token yet")).count()


async def is_bound(page, emulator):
    """Return whether the page is connected with a bound token after some more time."""
    with suppress(PlaywrightError):  # the page may be loading again
        await pass_time(page, emulator, 2)
    return emulator.connections and emulator.connections[0].reauthenticated


async def test_the_page_shows_each_step_of_the_life_of_a_token(emulator, page, tmp_path):
    """The guide's picture shows the same. To take it again, set UPDATE_PICTURES=1, and run this test."""
    await open_and_connect(page, emulator)
    await pass_time(page, emulator, SAID - 29)
    await event(page, "refresh the token: a new one")
    await page.get_by_text("Fail the next 2").click()
    await eventually(lambda: emulator.faults)
    await pass_time(page, emulator, SAID - 29)
    await eventually(lambda: events(page, emulator, "refresh the token: a new one", times=2))
    await page.get_by_text("Fail the next 5").click()
    await eventually(lambda: emulator.faults)
    await pass_time(page, emulator, SAID - 29)
    await eventually(lambda: events(page, emulator, "refresh the token: answer 503", times=7))
    await pass_time(page, emulator, (emulator.connections[0].expires_at - emulator.now()).total_seconds())
    await event(page, "exchange that token: a new one", times=2)
    await event(page, "connected to the gateway", times=4)  # twice each: not connected, and connected
    await pass_time(page, emulator, 4)
    await page.locator("#expires-in", has_text=re.compile("^[1-9]")).wait_for()
    await page.set_viewport_size({"width": 720, "height": 640})
    path = EXAMPLE / "page.png" if UPDATE else tmp_path / "page.png"
    await page.screenshot(path=path, animations="disabled")
    assert path.read_bytes().startswith(b"\x89PNG")


async def event(page, text, *, times=1):
    """Wait until the page lists an event so many times."""
    await page.locator("#events li", has_text=text).nth(times - 1).wait_for()


async def events(page, emulator, text, *, times):
    """Return whether the page lists an event so many times after some more time."""
    await pass_time(page, emulator, 1)
    return await page.locator("#events li", has_text=text).count() >= times


GUIDE = (ROOT / "docs/guides/browser-apps.md").read_text()
BACKEND = BLOCK.findall(GUIDE)[0]
RECIPE, LOGOUT, POLLING = re.findall(r"^```javascript\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
# What a bundler does for a page: it finds the package, and what the package takes from Node.
PAGE = """<!doctype html><link rel=icon href="data:,">
<script type="importmap">{"imports": {"@signalwire/js": "/sdk/browser.mjs", "node:crypto": "/crypto.js"}}</script>
<script type="module">%s
window.credential = typeof credential === "object" && credential;
</script>"""
NODE = "export const randomUUID = () => crypto.randomUUID(); export const randomFillSync = null;"


@pytest.fixture
def guide_page(emulator, sdk):
    """Show a page with a script of the guide, from an app that has a token endpoint."""

    @asynccontextmanager
    async def show(script, app):
        content = {"/": ("text/html", PAGE % script), "/crypto.js": ("text/javascript", NODE)}
        for path, (kind, text) in content.items():
            app.router.add_get(path, serve_text(kind, text))
        app.router.add_static("/sdk", sdk)
        async with serve(app) as origin, open_page(emulator.browser_pin, origin) as page:
            await page.context.add_cookies([{"name": "session", "value": "a-session-id", "url": origin}])
            await page.clock.install()
            await page.goto("/")
            yield page

    return show


def serve_text(kind, text):
    async def answer(_):
        return web.Response(text=text, content_type=kind)

    return answer


async def test_the_recipe_of_the_guide_connects_with_a_bound_token(emulator, guide_page, monkeypatch):
    """As it stands, with the settings in the environment."""
    for name, value in settings_of(emulator, SIGNALWIRE_REST_CA_FILE=str(emulator.ca_file)).items():
        monkeypatch.setenv(name, value)
    namespace = {"__name__": "app"}
    exec(BACKEND, namespace)  # noqa: S102 - the guide's own code
    namespace["app"].router.add_route("*", "/logout", namespace["backend"].logout)
    async with guide_page(RECIPE, namespace["app"]) as page:
        await eventually(lambda: emulator.connections and emulator.connections[0].reauthenticated)
        await eventually(lambda: emulator.connections[0].is_online)
        assert await page.evaluate(f"async () => ({LOGOUT.strip().rstrip(';')}).status") == 204
    assert asked(emulator, "create_device_token") == [201]


def test_the_recipe_of_the_guide_is_25_lines():
    """Backend and page, without blank lines and comments."""
    lines = [line for line in (BACKEND + RECIPE).splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 25


async def test_polling_brings_the_page_back_after_an_expiry(emulator, guide_page):
    """The gateway closes when the token expires, and the SDK comes back with the one that the page asked for."""
    async with emulator.client(timeout=HANG) as client, guide_page(POLLING, build(client, [])) as page:
        await eventually(lambda: emulator.connections and emulator.connections[0].is_online)
        (first,) = emulator.connections
        await pass_time(page, emulator, (first.expires_at - emulator.now()).total_seconds() - LEFT)
        await eventually(lambda: asked(emulator, "refresh_subscriber_token"))
        await pass_time(page, emulator, 30)
        later = 1000 * (first.expires_at.timestamp() + LEFT)
        await eventually(lambda: page.evaluate(f"credential.expiry_at > {later}"))
        await pass_time(page, emulator, LEFT)
        await eventually(lambda: emulator.connections and emulator.connections[0].id != first.id)
        await eventually(lambda: emulator.connections[0].is_online)
    assert asked(emulator, "create_device_token") == []
    assert 401 not in asked(emulator, "signalwire.connect")


def understated(handler):
    """Return the handler of an operation whose tokens are valid for longer than it says.

    The SDK refreshes half a minute before the expiry that it is told. So it is in time however slow the machine is.
    """

    def handle(call):
        reply = handler(attrs.evolve(call, body=json.dumps({**json.loads(call.body), "expire_in": LIFE}).encode()))
        if reply.status == 201:
            ends = {"expires_in": SAID, "expires_at": reply.body["expires_at"] - LIFE + SAID}
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
