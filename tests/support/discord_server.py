"""A stand-in for Discord: as much of its HTTP API and its gateway as a bot with slash commands needs."""

import asyncio
import json
from itertools import count

from aiohttp import WSMsgType, web

from support.waiting import HANG

DISPATCH, HEARTBEAT, IDENTIFY, HELLO, HEARTBEAT_ACK = 0, 1, 2, 10, 11
SLASH_COMMAND, GUILD_TEXT, USER_CONTEXT = 2, 0, 0
DEFERRED, MESSAGE = 5, 4
APPLICATION, GUILD, CHANNEL = "7001", "7002", "7003"
BOT = {"id": APPLICATION, "username": "bot", "discriminator": "0", "avatar": None, "bot": True}


def reply(data):
    return web.Response(body=json.dumps(data).encode(), content_type="application/json")  # without a charset


class DiscordServer:
    """Serves one bot at a time. `async with` starts and stops it.

    `commands` are those that the bot has registered, by name. `events` has what happened, in order: "identified",
    "deferred", "answered" and "closed".
    """

    token = "discord-token"

    def __init__(self):
        self.commands = {}
        self.events = []
        self.identified = asyncio.Event()
        self.closed = asyncio.Event()
        self._answers = {}
        self._numbers = count(8000)
        self._socket = None

    @property
    def api(self):
        return f"http://127.0.0.1:{self._port}/api/v10"

    @property
    def gateway(self):
        return f"ws://127.0.0.1:{self._port}/gateway"

    async def __aenter__(self):
        app = web.Application()
        app.router.add_get("/gateway", self._serve_gateway)
        app.router.add_get("/api/v10/users/@me", self._get_user)
        app.router.add_get("/api/v10/oauth2/applications/@me", self._get_application)
        app.router.add_put("/api/v10/applications/{id}/commands", self._put_commands)
        app.router.add_post("/api/v10/interactions/{id}/{token}/callback", self._accept_response)
        app.router.add_post("/api/v10/webhooks/{id}/{token}", self._accept_follow_up)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def type_command(self, name, user="9001"):
        """Return the text of the bot's answer to a slash command that a user types."""
        token = f"interaction-{next(self._numbers)}"
        self._answers[token] = answer = asyncio.get_running_loop().create_future()
        command = self.commands[name]
        await self._dispatch(
            "INTERACTION_CREATE",
            {
                "id": str(next(self._numbers)),
                "application_id": APPLICATION,
                "type": SLASH_COMMAND,
                "token": token,
                "version": 1,
                "attachment_size_limit": 1,
                "channel": {"id": CHANNEL, "type": 1, "recipients": []},
                "context": USER_CONTEXT,
                "data": {"id": command["id"], "name": name, "type": 1},
                "user": {"id": user, "username": "user", "discriminator": "0", "avatar": None},
            },
        )
        async with asyncio.timeout(HANG):
            return await answer

    async def _dispatch(self, name, data):
        await self._socket.send_json({"op": DISPATCH, "t": name, "s": next(self._numbers), "d": data})

    async def _serve_gateway(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": HELLO, "d": {"heartbeat_interval": 3_600_000}})
        async for message in socket:
            assert message.type is WSMsgType.TEXT
            said = json.loads(message.data)
            if said["op"] == HEARTBEAT:
                await socket.send_json({"op": HEARTBEAT_ACK})
            elif said["op"] == IDENTIFY:
                assert said["d"]["token"] == self.token
                self._socket = socket
                ready = {"user": BOT, "guilds": [], "session_id": "1", "resume_gateway_url": self.gateway}
                await self._dispatch("READY", {**ready, "application": {"id": APPLICATION, "flags": 0}})
                self.events.append("identified")
                self.identified.set()
        self.events.append("closed")
        self.closed.set()
        return socket

    def _check_token(self, request):
        if request.headers["Authorization"] != f"Bot {self.token}":
            raise web.HTTPUnauthorized

    async def _get_user(self, request):
        self._check_token(request)
        return reply(BOT)

    async def _get_application(self, request):
        self._check_token(request)
        facts = {"bot_public": True, "bot_require_code_grant": False, "verify_key": "", "owner": BOT, "team": None}
        return reply(
            {"id": APPLICATION, "name": "bot", "icon": None, "description": "", "summary": "", "flags": 0, **facts}
        )

    async def _put_commands(self, request):
        self._check_token(request)
        registered = [
            {**command, "id": str(next(self._numbers)), "application_id": APPLICATION}
            for command in await request.json()
        ]
        self.commands = {command["name"]: command for command in registered}
        return reply(registered)

    async def _accept_response(self, request):
        """Accept the first answer to an interaction: a message, or the promise of one."""
        said = await request.json()
        self.events.append("deferred" if said["type"] == DEFERRED else "answered")
        if said["type"] == MESSAGE:
            self._answers.pop(request.match_info["token"]).set_result(said["data"]["content"])
        return reply({"interaction": {"id": request.match_info["id"], "type": SLASH_COMMAND}})

    async def _accept_follow_up(self, request):
        said = await request.json()
        self.events.append("answered")
        self._answers.pop(request.match_info["token"]).set_result(said["content"])
        message = {
            "id": str(next(self._numbers)),
            "channel_id": CHANNEL,
            "author": BOT,
            "content": said["content"],
            "timestamp": "2026-01-01T00:00:00+00:00",
            "type": 0,
        }
        nothing = {key: [] for key in ("attachments", "embeds", "mentions", "mention_roles", "components")}
        flags = dict.fromkeys(("tts", "pinned", "mention_everyone"), False)
        return reply({**message, **nothing, **flags, "edited_timestamp": None})
