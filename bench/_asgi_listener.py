"""The gateway's own listener around the bare app of bench/asgi.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import uvloop

from bench._asgi_apps import bare
from services.gateway.app import App
from services.gateway.listener import HttpServer


class Bare:
    """The app with the name that a listener asks for."""

    name = "bench"

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await bare(scope, receive, send)


async def main(port: int) -> None:
    server = HttpServer(max_head_bytes=16 << 10, keep_alive_s=75)
    server.add("127.0.0.1", port, cast(App, Bare()))
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
