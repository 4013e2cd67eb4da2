"""What only the ASGI backend has: its request, and its routes for Starlette and FastAPI."""

import asyncio
import importlib.util
import sys
from contextlib import asynccontextmanager
from typing import Annotated

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Security
from fastapi import Request as FastAPIRequest
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.routing import Mount

from signalwire_tokens import ConfigurationError, SessionFleet
from signalwire_tokens.integrations import asgi
from signalwire_tokens.integrations.asgi import Request, TokenBackend
from signalwire_tokens.integrations.fastapi_router import as_dependency
from signalwire_tokens.integrations.token_rules import LARGEST_REQUEST, TITLES

pytestmark = pytest.mark.usefixtures("loop_time")

FRIEND, STRANGER = "https://friend.example", "https://evil.example"
ALICE = {"X-User": "alice"}
PREFLIGHT = {"Origin": FRIEND, "Access-Control-Request-Method": "POST"}
JSON = {"Content-Type": "application/json"}


async def receive_nothing():
    raise AssertionError("there is nothing to receive")


async def send_nothing(message):
    raise AssertionError(f"nothing was to be sent, and {message['type']} was")


class User:
    """A user of the app."""

    def __init__(self, id_):
        self.id = id_


def current_user(x_user: Annotated[str | None, Header()] = None):
    if x_user == "mallory":
        raise HTTPException(418, "not this one")
    return None if x_user is None else User(x_user)


def identify(user: Annotated[User | None, Depends(current_user)]):
    return user and user.id


@asynccontextmanager
async def visiting(app):
    """Run an application's lifespan, and yield an HTTP client for it."""
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://app", headers=JSON) as http,
    ):
        yield http


def make_app(client, identify=identify, **settings):
    """Return an application of FastAPI's with the endpoints."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=identify, **settings)
    app = FastAPI()
    app.include_router(backend.router())
    return app


async def ask(app, method="POST", path="/token", **request):
    async with visiting(app) as http:
        return await http.request(method, path, **({"json": {}} if method == "POST" else {}) | request)


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_it_serves_http_only(client, kind):
    """A route for anything else is a mistake of the app."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda _: "alice")
    with pytest.raises(ValueError, match=f"the token endpoint got a {kind} scope"):
        await backend.token({"type": kind}, receive_nothing, send_nothing)


async def test_a_client_that_leaves_in_the_middle_of_a_body_gets_no_answer(emulator, client):
    """And SignalWire isn't asked."""
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda _: "alice")
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    async with backend.lifespan():
        await backend.token(scope, receive, send_nothing)
    assert emulator.requests == []


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        (None, {}),
        ("", {}),
        ("who=alice", {"who": "alice"}),
        ('who="alice"; theme=dark;  x = y ', {"who": "alice", "theme": "dark", "x": "y"}),
        ("a=b=c; nothing", {"a": "b=c"}),
        ("bad name=x; who=alice", {"bad name": "x", "who": "alice"}),  # the standard library gives up on this
        ("who=alice; who=mallory", {"who": "alice"}),
    ],
)
def test_cookies_are_read_as_they_came(header, cookies):
    """An odd one doesn't hide the others. The first of a name counts, because it is the most specific one."""
    assert Request({}, {} if header is None else {"cookie": header}).cookies == cookies


async def test_names_of_headers_are_case_insensitive(client):
    """As they are in HTTP."""
    seen = []
    backend = TokenBackend(
        lambda: SessionFleet(client), identify=lambda request: seen.append(request.headers["X-User"])
    )
    headers = [(b"content-type", b"application/json"), (b"x-user", b"alice")]

    async def send(message):
        seen.append(message["type"])

    await backend.token({"type": "http", "method": "POST", "headers": headers}, receive_nothing, send)
    assert seen == ["alice", "http.response.start", "http.response.body"]


def test_a_request_does_not_show_what_it_holds():
    """Its cookies sign a user in."""
    assert "alice" not in repr(Request({"headers": [(b"cookie", b"who=alice")]}, {"cookie": "who=alice"}))


def test_the_module_needs_no_framework(monkeypatch):
    """FastAPI and Starlette are imported by the methods that return their routes."""
    for name in ("fastapi", "starlette", "starlette.routing"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "signalwire_tokens.integrations.fastapi_router", raising=False)
    spec = importlib.util.spec_from_file_location(asgi.__name__, asgi.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    backend = module.TokenBackend(lambda: None, identify=lambda _: None)
    for method, name in ((backend.routes, "starlette"), (backend.router, "fastapi")):
        with pytest.raises(ModuleNotFoundError, match=name):
            method()


async def test_starlette_may_mount_the_routes(emulator, client):
    """Below a prefix, with the backend's lifespan given to the outer application."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda request: request.headers["x-user"])
    app = Starlette(routes=[Mount("/signalwire", routes=backend.routes())], lifespan=backend.lifespan)
    async with visiting(app) as http:
        answer = await http.post("/signalwire/token", json={}, headers=ALICE)
        assert emulator.accepts(answer.json()["token"])
        assert (await http.get("/signalwire/health")).json()["sessions"]["fresh"] == 1
        assert (await http.post("/signalwire/logout", json={}, headers=ALICE)).status_code == 204


async def test_identify_may_have_dependencies(emulator, client):
    """FastAPI resolves its parameters: a user of the app gets their token, and no user a 401."""
    app = make_app(client)
    answer = await ask(app, headers=ALICE)
    assert emulator.accepts(answer.json()["token"])
    assert (await client.subscriber_info(answer.json()["token"])).email == "alice"
    answer = await ask(app)
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")


async def test_fastapi_answers_what_identify_raises(client):
    """As it does everywhere in the app."""
    answer = await ask(make_app(client), headers={"X-User": "mallory"})
    assert (answer.status_code, answer.json()) == (418, {"detail": "not this one"})


async def test_tests_of_an_app_may_override_identify(client):
    """By the function that the backend was given."""
    app = make_app(client)
    app.dependency_overrides[identify] = lambda: "bob"
    answer = await ask(app)
    assert (await client.subscriber_info(answer.json()["token"])).email == "bob"


def from_request(request):
    return request.headers["x-user"] if isinstance(request, Request) else None


async def from_typed_request(request: Request):
    return from_request(request)


def from_written_type(request: "Request"):
    return from_request(request)


def from_fastapi_request(request: FastAPIRequest):
    return request.headers["x-user"]


def from_default(user=Depends(current_user)):  # noqa: B008 - the older way to write a dependency
    return user.id


def from_header_default(x_user=Header()):  # noqa: B008 - so too
    return x_user


def from_plain_default(request=None):
    return from_request(request)


def constant():
    return "alice"


@pytest.mark.parametrize(
    "function",
    [
        from_request,
        from_typed_request,
        from_written_type,
        from_plain_default,
        from_fastapi_request,
        from_default,
        from_header_default,
        constant,
    ],
)
async def test_identify_may_have_a_request(client, function):
    """Ours if it has no type, or FastAPI's by its type; a default such as `Depends(…)` is resolved by FastAPI."""
    answer = await ask(make_app(client, function), params={"request": "mallory"}, headers=ALICE)
    assert (await client.subscriber_info(answer.json()["token"])).email == "alice"


def test_a_type_that_cannot_be_resolved_is_left_to_fastapi():
    """It reports an unknown name in its own words."""

    def identify(request: "Unknown"):  # noqa: F821 - it has to be unknown
        return request

    assert as_dependency(identify) is identify


REFUSED = [
    ("GET", "/token", {}, 405),
    ("PUT", "/logout", {}, 405),
    ("OPTIONS", "/token", {}, 405),
    ("POST", "/token", {"Origin": STRANGER}, 403),
    ("POST", "/logout", {"Sec-Fetch-Site": "cross-site"}, 403),
    ("POST", "/token", {"Content-Type": "text/plain"}, 415),
    ("POST", "/token", {"Content-Length": str(LARGEST_REQUEST + 1)}, 413),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), REFUSED, ids=str)
async def test_a_refused_head_runs_no_dependency(client, method, path, headers, status):
    """Nor is the body read. The answer is the same as on the other frameworks."""
    seen = []
    app = make_app(client, identify=lambda: seen.append("identify"))
    app.router.dependencies.append(Depends(lambda: seen.append("of the app")))
    outer = FastAPI()
    outer.include_router(app.router, dependencies=[Depends(lambda: seen.append("of the router"))])
    pairs = [(name.lower().encode(), value.encode()) for name, value in (JSON | headers).items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": pairs,
    }

    async def send(message):
        if message["type"] == "http.response.start":
            seen.append((message["status"], dict(message["headers"])[b"content-type"]))

    await outer(scope, receive_nothing, send)
    assert seen == [(status, b"application/problem+json")]


async def test_a_preflight_needs_no_sign_in(client):
    """Browsers send it without credentials, whatever the app requires of the router's requests."""

    def forbid():
        raise HTTPException(401)

    backend = TokenBackend(lambda: SessionFleet(client), identify=identify, allowed_origins=[FRIEND])
    app = FastAPI()
    app.include_router(backend.router(), dependencies=[Depends(forbid)])
    answer = await ask(app, "OPTIONS", headers=PREFLIGHT)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, FRIEND)
    assert (await ask(app, headers=ALICE)).status_code == 401
    assert [(await ask(app, method, "/health")).status_code for method in ("GET", "HEAD")] == [401, 401]


@pytest.mark.parametrize("length", [2, LARGEST_REQUEST + 1, 3 * LARGEST_REQUEST])
async def test_a_dependency_that_reads_the_body_gets_no_more_than_the_limit(client, length):
    """The endpoint still reads the body, and refuses it if it is too long."""
    seen = []

    async def identify(request: FastAPIRequest):
        seen.append(len(await request.body()))
        return "alice"

    async def body():
        yield b"{}"
        for _ in range(length - 2):
            yield b" "

    answer = await ask(make_app(client, identify), json=None, content=body())
    assert answer.status_code == (200 if length == 2 else 413)
    assert seen == [min(length, LARGEST_REQUEST + 1)]


async def test_a_client_that_leaves_fastapi_has_sent_no_json(emulator, client):
    """No user is asked about, and no error is raised."""
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    app = make_app(client, constant)
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/token", "raw_path": b"/token", "query_string": b""}
    async with app.router.lifespan_context(app):
        await app({**scope, "headers": headers}, receive, send)
    assert sent[0]["status"] == 400
    assert emulator.requests == []


async def test_the_router_opens_the_fleet(client):
    """However deep it is included, and once only, even if the app includes it twice and has the lifespan as well."""
    seen = []

    @asynccontextmanager
    async def open_fleet():
        seen.append("opened")
        async with SessionFleet(client) as fleet:
            yield fleet
        seen.append("closed")

    backend = TokenBackend(open_fleet, identify=identify)
    inner, outer = backend.router(), APIRouter(prefix="/v1")
    outer.include_router(inner, prefix="/signalwire")
    app = FastAPI(lifespan=backend.lifespan)
    app.include_router(outer, prefix="/api")
    app.include_router(inner, prefix="/v2")
    async with visiting(app) as http:
        for path in ("/api/v1/signalwire/token", "/v2/token"):
            assert (await http.post(path, json={}, headers=ALICE)).status_code == 200
            assert (await http.get(path)).headers["Allow"] == "POST, OPTIONS"
        assert seen == ["opened"]
    assert seen == ["opened", "closed"]
    with pytest.raises(ConfigurationError, match="isn't open"):
        _ = backend.fleet
    async with visiting(app) as http:  # as an app's tests do, one after the other
        assert (await http.post("/v2/token", json={}, headers=ALICE)).status_code == 200


async def test_two_apps_may_share_a_backend(client):
    """The first one opens the fleet, even if both start at once, and the last one closes it."""
    seen = []

    @asynccontextmanager
    async def open_fleet():
        seen.append("opening")
        await asyncio.sleep(0)  # another app starts
        async with SessionFleet(client) as fleet:
            yield fleet
        seen.append("closed")

    backend = TokenBackend(open_fleet, identify=constant)
    apps = FastAPI(), FastAPI()
    for app in apps:
        app.include_router(backend.router())
    one, other = (app.router.lifespan_context(app) for app in apps)
    await asyncio.gather(one.__aenter__(), other.__aenter__())
    await one.__aexit__(None, None, None)
    assert seen == ["opening"]
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(apps[1]), base_url="http://app") as http:
        assert (await http.post("/token", json={})).status_code == 200
    await other.__aexit__(None, None, None)
    assert seen == ["opening", "closed"]


async def test_a_mounted_app_needs_the_lifespan_of_the_outer_one(client):
    """FastAPI doesn't run its own, so there is no token until the outer application has the backend's lifespan."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=identify)
    inner = FastAPI()
    inner.include_router(backend.router())
    for lifespan, status in ((None, 503), (backend.lifespan, 200)):
        outer = FastAPI(lifespan=lifespan)
        outer.mount("/inner", inner)
        async with visiting(outer) as http:
            assert (await http.get("/inner/health")).status_code == status


@pytest.mark.parametrize("make", ["router", "routes"])
def test_paths_are_the_apps_choice(client, make):
    """And so is which endpoints there are."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=identify)
    made = getattr(backend, make)

    def paths(**settings):
        routes = made(**settings)
        return {route.path for route in (routes.routes if make == "router" else routes)}

    assert paths() == {"/token", "/logout", "/health"}
    assert paths(token="/sat", logout=None, health=None) == {"/sat"}
    assert paths(token=None, logout="/bye", health="/ready") == {"/bye", "/ready"}


@pytest.fixture
async def documented(client):
    """Return what OpenAPI says of each endpoint."""

    def identify(bearer: Annotated[object, Security(HTTPBearer())]):
        return "alice"

    async with visiting(make_app(client, identify)) as http:
        return (await http.get("/openapi.json")).json()["paths"]


def test_openapi_has_each_endpoint_once(documented):
    """With the method that it serves, a summary, and what `identify` requires."""
    assert {path: [*methods] for path, methods in documented.items()} == {
        "/token": ["post"],
        "/logout": ["post"],
        "/health": ["get"],
    }
    operations = [operation for methods in documented.values() for operation in methods.values()]
    assert all("SignalWire" in operation["summary"] for operation in operations)
    assert [operation.get("security") for operation in operations] == [[{"HTTPBearer": []}]] * 2 + [None]


def test_openapi_has_each_answer(documented):
    """Problems have their media type, and name the header with the time to wait."""
    statuses = {str(status) for status in TITLES} - {"405"}
    token, logout = (documented[path]["post"]["responses"] for path in ("/token", "/logout"))
    assert token.keys() == statuses | {"200"}
    assert logout.keys() == statuses - {"429"} | {"204"}
    assert "content" not in logout["204"]
    for responses in (token, logout):
        problems = {status: answer for status, answer in responses.items() if int(status) >= 400}
        assert all([*answer["content"]] == ["application/problem+json"] for answer in problems.values())
        assert {status for status, answer in problems.items() if "headers" in answer} == responses.keys() & {
            "429",
            "503",
        }


async def test_openapi_describes_the_bodies(client, documented):
    """With the members that requests and answers have."""

    def members(content, media_type="application/json"):
        return content["content"][media_type]["schema"]["properties"].keys()

    token, health = documented["/token"]["post"], documented["/health"]["get"]
    app = make_app(client, constant)
    assert members(token["responses"]["200"]) == (await ask(app)).json().keys()
    assert members(health["responses"]["200"]) == (await ask(app, "GET", "/health")).json().keys()
    problem = (await ask(app, headers={"Origin": STRANGER})).json()
    assert members(token["responses"]["403"], "application/problem+json") == problem.keys()


@pytest.mark.parametrize("allows", [False, True])
async def test_openapi_lists_the_fingerprint_if_it_is_allowed(client, allows):
    """The example is accepted in any case, so that "Try it out" of FastAPI's page works."""
    app = make_app(client, constant, allow_device_tokens=allows)
    async with visiting(app) as http:
        documented = (await http.get("/openapi.json")).json()["paths"]
        bodies = {
            path: documented[path]["post"]["requestBody"]["content"]["application/json"]
            for path in ("/token", "/logout")
        }
        assert {path: [*body["schema"]["properties"]] for path, body in bodies.items()} == {
            "/token": ["fingerprint"] if allows else [],
            "/logout": [],
        }
        answers = [await http.post(path, json=body["example"]) for path, body in bodies.items()]
    assert [answer.status_code for answer in answers] == [200, 204]
