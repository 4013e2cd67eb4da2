"""Run a bot as `python bot.py` does, against a stand-in for Discord: `discord_bot.py BOT API GATEWAY`."""

import runpy
import sys

import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route


def main(bot, api, gateway):
    Route.BASE = api
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway)
    sys.argv = [bot]
    runpy.run_path(bot, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
