"""Commands to a running mesh."""

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.cli.control import ControlServer, Progress, ask
from services.cli.errors import CliError
from services.cli.state import SOCKET_FILE


async def handler(request: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    if request.get("command") == "refuse":
        raise CliError("not now")
    progress("half way")
    return {"did": request["command"]}


async def test_progress_and_result_come_back_line_by_line(tmp_path: Path) -> None:
    server = ControlServer(tmp_path, handler)
    await server.start()
    said: list[str] = []
    answer = await asyncio.to_thread(ask, tmp_path, {"command": "x"}, said.append)
    assert answer == {"ok": True, "did": "x"}
    assert said == ["half way"]
    with pytest.raises(CliError, match=r"^not now$"):
        await asyncio.to_thread(ask, tmp_path, {"command": "refuse"})
    await server.close()


async def test_the_socket_is_for_its_owner_alone_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        server = ControlServer(tmp_path, handler)
        await server.start()
        assert (tmp_path / SOCKET_FILE).stat().st_mode & 0o777 == 0o600
        await server.close()


async def test_a_folder_deeper_than_a_socket_address_is_long_will_do(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    server = ControlServer(deep, handler)
    await server.start()
    assert (await asyncio.to_thread(ask, deep, {"command": "x"}))["did"] == "x"
    await server.close()


async def test_what_is_not_a_command_is_answered_in_words(tmp_path: Path) -> None:
    server = ControlServer(tmp_path, handler)
    await server.start()
    for line in (b"nonsense\n", b"[]\n"):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET_FILE))
        writer.write(line)
        assert json.loads(await reader.readline())["ok"] is False
        writer.close()
        await writer.wait_closed()
    await server.close()


def test_without_a_mesh_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="waymesh up"):
        ask(tmp_path, {"command": "x"})
    with socket.socket(socket.AF_UNIX) as left:  # a socket file that nobody listens on
        left.bind(str(tmp_path / SOCKET_FILE))
    with pytest.raises(CliError, match="waymesh up"):
        ask(tmp_path, {"command": "x"})
