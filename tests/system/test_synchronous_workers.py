"""The programs of the page on Celery, RQ and Django, each under the real server or worker."""

import signal
from contextlib import asynccontextmanager

import aiohttp
import pytest

from signalwire_tokens import generate_encryption_key
from signalwire_tokens.emulator import Emulator
from support.pages import BLOCK, paste
from support.paths import ROOT
from support.presented import note_presented
from support.processes import is_open, reserve_port, run_program, settings_of
from support.redis_server import RedisServer
from support.waiting import HANG, eventually

pytestmark = pytest.mark.redis

PAGE = "docs/guides/celery-rq-django.md"
ALICE = "alice@example.com"
ISSUE, INFO, REFRESH = "create_subscriber_token", "subscriber_info", "refresh_subscriber_token"
RECOVERED = [(INFO, 401), (REFRESH, 201), (INFO, 200)]
NONE = {}
STOPPED = (0, -signal.SIGTERM)


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def emulator():
    async with Emulator() as emulator:
        yield emulator


@pytest.fixture
def environment(emulator, redis, tmp_path):
    """Paste the page's files into the test's folder, and return the settings that they need."""
    paste(PAGE, tmp_path)
    key = generate_encryption_key()
    home = str(tmp_path)  # where gunicorn has a socket
    return settings_of(emulator, REDIS_URL=redis.url, SIGNALWIRE_TOKENS_ENCRYPTION_KEY=key, HOME=home)


async def run_code(code, environment, folder):
    """Run a line of Python in a folder, as `python -c` does, and return what it prints."""
    async with run_program("-c", code, env=environment, cwd=folder) as process:
        printed, _ = await process.communicate()
        assert process.returncode == 0
        return printed.decode().strip()


def sent(emulator):
    return [(entry.operation, entry.status) for entry in emulator.requests]


def celery_task(name):
    return f"from tasks import whoami; print(whoami.delay({name!r}).get(timeout={HANG}))"


@pytest.mark.parametrize(("pool", "processes"), [("prefork", 3), ("threads", 1)])
async def test_a_celery_task_recovers_from_a_refused_token(pool, processes, emulator, environment, tmp_path):
    """Its worker's processes share the token, and close the fleet when the worker stops."""
    presented = note_presented(emulator)
    with (tmp_path / "tasks.py").open("a") as tasks:
        tasks.write("\nfrom pathlib import Path\n")
        tasks.write("note = lambda **_: Path(f'{os.getpid()}.ended').write_text(repr(tokens))\n")
        tasks.write("worker_process_shutdown.connect(note, weak=False)\n")  # after the page's own receiver
        tasks.write("worker_shutdown.connect(note, weak=False)\n")
    arguments = ("-m", "celery", "-A", "tasks", "worker", "--pool", pool, "--concurrency", "2")
    async with run_program(*arguments, env=environment, cwd=tmp_path) as worker:
        assert await run_code(celery_task(ALICE), environment, tmp_path) == ALICE
        emulator.revoke(presented[-1])
        assert await run_code(celery_task(ALICE), environment, tmp_path) == ALICE
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
    assert sent(emulator) == [(ISSUE, 200), (INFO, 200), *RECOVERED]
    assert [note.read_text() for note in tmp_path.glob("*.ended")] == ["<FleetThread closed>"] * processes


def test_a_synchronous_http_client_recovers_from_a_refused_token(service, redis, monkeypatch):
    """It gets the token from the thread, and reports the 401 to it."""
    monkeypatch.setenv("REDIS_URL", redis.url)
    monkeypatch.setenv("SIGNALWIRE_TOKENS_ENCRYPTION_KEY", generate_encryption_key())
    for name, value in settings_of(service).items():
        monkeypatch.setenv(name, value)
    namespace, presented = {}, note_presented(service)
    for block in BLOCK.findall((ROOT / PAGE).read_text(encoding="utf-8")):
        if block.startswith(("# tokens.py", "def get(")):
            exec(block, namespace)  # noqa: S102 - what the page says
    with namespace["tokens"]:
        url = f"http://{service.space}/api/fabric/subscriber/info"
        assert namespace["get"](url, ALICE).json()["email"] == ALICE
        service.revoke(presented[-1])
        assert namespace["get"](url, ALICE).json()["email"] == ALICE
    assert sent(service) == [(ISSUE, 200), (INFO, 200), *RECOVERED]


async def test_rq_jobs_share_a_token(emulator, environment, tmp_path):
    """Each job runs in a process of its own, and the store keeps the token between them."""
    queue = f"rq.Queue(connection=redis.from_url({environment['REDIS_URL']!r}))"
    enqueue = f"import redis, rq; print({queue}.enqueue('jobs.whoami', {ALICE!r}).id)"
    jobs = [await run_code(enqueue, environment, tmp_path) for _ in range(2)]
    arguments = ("-m", "rq.cli", "worker", "--url", environment["REDIS_URL"], "--path", ".", "--burst")
    async with run_program(*arguments, env=environment, cwd=tmp_path) as worker:
        assert await worker.wait() == 0
    for job in jobs:
        show = f"import redis, rq; print({queue}.fetch_job({job!r}).return_value())"
        assert await run_code(show, environment, tmp_path) == ALICE
    assert sent(emulator) == [(ISSUE, 200), (INFO, 200), (INFO, 200)]


@asynccontextmanager
async def run_django(arguments, environment, folder, edits=NONE):
    """Start a Django project with the page's files, and run a server; yield a function that gets a path.

    `edits` are replacements in tokens.py.
    """
    project = folder / "project"
    project.mkdir()
    async with run_program("-m", "django", "startproject", "mysite", ".", cwd=project) as creating:
        assert await creating.wait() == 0
    paste(PAGE, project)
    tokens = project / "tokens.py"
    for before, after in edits.items():
        assert before in tokens.read_text()
        tokens.write_text(tokens.read_text().replace(before, after))
    with reserve_port() as port:
        arguments = [argument.format(port=port) for argument in arguments]
        async with (
            run_program("-m", *arguments, env=environment, cwd=project) as server,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(HANG)) as http,
        ):
            await eventually(lambda: is_open(port) or server.returncode is not None)
            assert server.returncode is None, "the server has ended"

            async def get(path):
                async with http.get(path) as response:
                    return response.status, await response.json()

            yield get
            await http.close()
            server.send_signal(signal.SIGTERM)
            assert await server.wait() in STOPPED


UVICORN = ("uvicorn", "mysite.asgi:application", "--lifespan", "on", "--port", "{port}")
GUNICORN = ("gunicorn", "mysite.wsgi", "--bind", "127.0.0.1:{port}", "--workers", "1")
PRELOADED = (*GUNICORN, "--preload")


@pytest.mark.parametrize(
    ("server", "path"),
    [(UVICORN, "/whoami"), (UVICORN, "/whoami-sync"), (GUNICORN, "/whoami-sync"), (PRELOADED, "/whoami-sync")],
)
async def test_a_django_view_recovers_from_a_refused_token(server, path, emulator, environment, tmp_path):
    """An async view with the fleet of the lifespan, and a sync view with the thread; SIGTERM stops the server."""
    presented = note_presented(emulator)
    async with run_django(server, environment, tmp_path) as get:
        assert await get(path) == (200, {"email": ALICE})
        emulator.revoke(presented[-1])
        assert await get(path) == (200, {"email": ALICE})
    assert sent(emulator) == [(ISSUE, 200), (INFO, 200), *RECOVERED]


async def test_a_django_view_answers_while_signalwire_is_down(emulator, environment, tmp_path):
    """With 503, as the page has it; here after half a second of waiting, not after ten."""
    waits = {"SessionFleet(client,": "SessionFleet(client, policy=RefreshPolicy(wait_timeout=0.5),"}
    imports = {"import SessionFleet,": "import RefreshPolicy, SessionFleet,"}
    async with run_django(UVICORN, environment, tmp_path, edits=waits | imports) as get, emulator.unreachable():
        status, answer = await get("/whoami")
    assert status == 503
    assert "can't be reached" in answer["error"]
