"""A `waymesh up` of a bench's own: free ports, a folder of its own, nothing left running however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from services.cli import state
from services.cli.environment import SERVICES
from services.cli.state import MeshState
from services.mesh.store import EmbeddedPostgres
from tests.faults.up_rig import mesh_ports

WAYMESH: Final = (sys.executable, "-c", "from services.cli import main; main()")
_READY_S: Final = 120.0
_STOP_S: Final = 60.0
_BARE: Final = """
import asyncio, grpc
async def serve():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()
asyncio.run(serve())
"""


def say(text: str) -> None:
    """Progress, for who waits."""
    print(text, file=sys.stderr, flush=True)


def report(measure: Callable[[], Awaitable[Mapping[str, Any]]]) -> int:
    """Measure, print one JSON line; the exit code. Ctrl-C and SIGTERM stop what was started, then end it."""

    async def guarded() -> Mapping[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await measure()

    try:
        result = asyncio.run(guarded())
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped")
        return 130
    print(json.dumps(result), flush=True)
    return 0


@contextmanager
def a_folder() -> Iterator[Path]:
    """An empty data folder that PostgreSQL's account can reach, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bench-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Mesh:
    """A started `waymesh up`."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        own = {"DATABASE_URL", "FASTAPI_API_KEY"}
        kept = {name: value for name, value in os.environ.items() if name not in own}
        self.environ = {**kept, **mesh_ports(), "WAYMESH_DATA_DIR": str(folder), **variables}
        self.ready_s = 0.0
        """From the start of the command to its READY."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._said: deque[str] = deque(maxlen=20)

    @property
    def state(self) -> MeshState:
        found = state.load(self.folder)
        assert found is not None
        return found

    def processes(self) -> dict[str, list[int]]:
        """Process numbers by what they are: `up`, each service, `postgres` with all its backends."""
        known = self.state
        names = {entry.pid: entry.name for entry in known.services.values() if entry.pid is not None}
        if known.postgres_pid is not None:
            names[known.postgres_pid] = "postgres"
        found: dict[str, list[int]] = {"up": [known.pid]}

        def take(process: psutil.Process, above: str) -> None:
            name = names.get(process.pid, above)
            found.setdefault(name, []).append(process.pid)
            for child in process.children():
                take(child, name)

        for child in psutil.Process(known.pid).children():
            take(child, "other")
        return found

    async def start(self) -> None:
        began = time.perf_counter()
        self._process = await asyncio.create_subprocess_exec(
            *WAYMESH,
            "up",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environ,
            # Ctrl-C is for the bench, which then stops the mesh.
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ready, self._reading), timeout=_READY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        self.ready_s = time.perf_counter() - began
        if not self._ready.is_set():
            raise RuntimeError("\n".join(["waymesh up did not become ready:", *self._said]))

    async def stop(self) -> None:
        """Stops it and waits until it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading

    async def run(self, *arguments: str) -> str:
        """Another waymesh command on this mesh: what it prints. Raises RuntimeError if it fails."""
        process = await asyncio.create_subprocess_exec(
            *WAYMESH, *arguments, stdout=asyncio.subprocess.PIPE, env=self.environ, start_new_session=True
        )
        try:
            out, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise RuntimeError(f"waymesh {' '.join(arguments)} ended with {process.returncode}")
        return out.decode()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode().rstrip()
            self._said.append(text)
            if text.startswith("READY"):
                self._ready.set()


@asynccontextmanager
async def mesh(folder: Path | None = None, **variables: str) -> AsyncIterator[Mesh]:
    """A ready mesh, on `folder` or on an empty one of its own."""
    with a_folder() as own:
        running = Mesh(folder or own, variables)
        try:
            await running.start()
            yield running
        finally:
            await running.stop()


@asynccontextmanager
async def bare_stack(folder: Path) -> AsyncIterator[tuple[EmbeddedPostgres, list[int]]]:
    """The floor: the same PostgreSQL, and as many bare grpc.aio servers as the mesh has services, by their
    process numbers.
    """
    servers: list[asyncio.subprocess.Process] = []
    postgres = EmbeddedPostgres(folder)
    try:
        for _ in SERVICES:
            server = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _BARE, stdout=asyncio.subprocess.PIPE, start_new_session=True
            )
            servers.append(server)
        await postgres.start()
        for server in servers:
            assert server.stdout is not None
            await server.stdout.readline()
        yield postgres, [server.pid for server in servers]
    finally:
        for server in servers:
            server.terminate()
            await server.wait()
        await postgres.stop()
