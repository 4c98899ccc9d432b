"""How commands talk to a running `up`: JSON lines over a Unix socket in the data folder, for its owner alone.

A request is one line, `{"command": "restart", "service": "eta"}`. The answer is any number of `{"progress":
"…"}` lines and one `{"ok": true, …}` or `{"ok": false, "error": "…"}`.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from services.cli.errors import CliError
from services.cli.state import SOCKET_FILE

Progress = Callable[[str], None]
Handler = Callable[[Mapping[str, Any], Progress], Awaitable[Mapping[str, Any]]]

_log = logging.getLogger(__name__)
_LINE_BYTES: Final = 64 * 1024


class _ShortPath:
    """A name for the socket that fits into the 107 bytes of a socket address, however deep the folder is."""

    def __init__(self, data_dir: Path) -> None:
        self._fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
        self.path = f"/proc/self/fd/{self._fd}/{SOCKET_FILE}"

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class ControlServer:
    """Answers commands with `handler` until it is closed."""

    def __init__(self, data_dir: Path, handler: Handler) -> None:
        self._data_dir = data_dir
        self._handler = handler
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Replaces a socket that a mesh that died has left."""
        path = self._data_dir / SOCKET_FILE
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        with _ShortPath(self._data_dir) as short:
            listener.bind(short)
        path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_BYTES)

    async def close(self) -> None:
        """Takes no further command."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(answer: Mapping[str, Any]) -> None:
            writer.write(json.dumps(answer).encode() + b"\n")

        try:
            line = await reader.readline()
            if not line:
                return
            try:
                request = json.loads(line)
                if not isinstance(request, dict):
                    raise ValueError("not an object")
                result = await self._handler(request, lambda words: send({"progress": words}))
                send({"ok": True, **result})
            except CliError as error:
                send({"ok": False, "error": str(error)})
            except ValueError:
                send({"ok": False, "error": "the command could not be read"})
            await writer.drain()
        except (OSError, ConnectionError):
            _log.debug("a command has gone without waiting for its answer")
        finally:
            writer.close()


def ask(data_dir: Path, request: Mapping[str, Any], progress: Progress = lambda _: None) -> dict[str, Any]:
    """Sends a command to the running mesh and waits for its answer. Raises CliError with what it says."""
    connection = socket.socket(socket.AF_UNIX)
    with connection:
        try:
            with _ShortPath(data_dir) as short:
                connection.connect(short)
        except OSError:
            raise CliError(
                f"no mesh answers on {data_dir}: start one with `waymesh up`, or set WAYMESH_DATA_DIR"
            ) from None
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                answer: dict[str, Any] = json.loads(line)
                if "progress" in answer:
                    progress(answer["progress"])
                elif answer["ok"]:
                    return answer
                else:
                    raise CliError(answer["error"])
    raise CliError(f"the mesh on {data_dir} ended before it answered")
