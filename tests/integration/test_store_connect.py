"""A Unix socket on which PostgreSQL does not answer is a store that is away, like any other."""

import asyncio
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from services.mesh.store import connect, is_transient


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_socket_that_is_full_is_a_store_that_is_away(run: Callable[[Any], Any]) -> None:
    async def ask(folder: str) -> None:
        with pytest.raises(Exception) as refused:  # noqa: PT011 - each loop says it in its own way
            await connect(f"postgresql://nobody@/none?host={folder}", timeout=10)
        assert is_transient(refused.value)

    with tempfile.TemporaryDirectory(prefix="waymesh-test-", dir="/tmp") as folder:
        path = Path(folder) / ".s.PGSQL.5432"
        waiting: list[socket.socket] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(0)
            # Nobody accepts: the queue is full after the first one or two.
            full = 0
            while not full:
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                waiting.append(one)
                full = one.connect_ex(str(path))
            try:
                run(ask(folder))
            finally:
                for one in waiting:
                    one.close()
