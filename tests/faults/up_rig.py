"""A `waymesh up` of one's own: free ports, a folder of its own, every line it prints with a way to wait
for it.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from services.cli.environment import SERVICES
from services.cli.state import MeshState, ProcessId, load
from tests.processes import end_with_us
from tools.ports import free_ports

GUARD_S = 180.0
# Nothing but the load itself bounds a client.
UNLIMITED: dict[str, Any] = {"WAYMESH_RATE_PER_S": "1000000", "WAYMESH_RATE_BURST": "1000000"}
WAYMESH = (sys.executable, "-c", "from services.cli import main; main()")


@contextmanager
def a_folder() -> Iterator[Path]:
    """A data folder that PostgreSQL's account can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-up-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mesh_ports() -> dict[str, str]:
    """A free port for every listener, by its variable. No call of another test can take it meanwhile."""
    variables = [port.variable for spec in SERVICES for port in spec.ports]
    return {variable: str(port) for variable, port in zip(variables, free_ports(len(variables)), strict=True)}


class Up:
    """A started `waymesh up`."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, *options: str) -> None:
        """Does not wait for it to be ready."""
        self._process = await asyncio.create_subprocess_exec(
            *WAYMESH,
            "up",
            *options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environ,
            start_new_session=True,
            preexec_fn=end_with_us,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def state(self) -> MeshState:
        """What it says of itself to other commands."""
        found = load(self.folder)
        assert found is not None
        return found

    @property
    def gateway_port(self) -> int:
        return self.state.services["gateway"].port

    @property
    def runtime_ports(self) -> list[int]:
        """Of the listeners that speak the runtime contract."""
        return [int(self.environ[f"WAYMESH_AGENT_{name}_PORT"]) for name in ("DEMO", "CUSTOM")]

    @property
    def key(self) -> str:
        return (self.folder / "api_key").read_text().strip()

    def processes(self) -> list[ProcessId]:
        """Everything it runs, itself left out, PostgreSQL with its backends."""
        state = self.state
        assert state.postgres_pid is not None
        backends = [
            int(pid)
            for pid in Path(f"/proc/{state.postgres_pid}/task/{state.postgres_pid}/children")
            .read_text()
            .split()
        ]
        return [*state.processes, *(ProcessId.of(pid) for pid in (state.postgres_pid, *backends))]

    async def until_line(self, pattern: str, *, times: int = 1) -> str:
        """The line that matches for the so-manieth time. Fails if the process ends before."""
        async with asyncio.timeout(GUARD_S):
            while True:
                found = [line for line in self.lines if re.search(pattern, line)]
                if len(found) >= times:
                    return found[times - 1]
                assert self._reading is not None
                assert not self._reading.done(), "\n".join(["it ended:", *self.lines])
                self._news.clear()
                await self._news.wait()

    async def until_ready(self) -> None:
        await self.until_line(r"^READY")
        await self.until_line(r"^  curl ")

    async def wait(self) -> int:
        """Its exit code."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(GUARD_S):
            await self._reading
            return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def close(self) -> None:
        """Ends it, however it stands."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await self.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Another waymesh command with the same variables but these: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *WAYMESH,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.environ, **variables},
        )
        async with asyncio.timeout(GUARD_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def curl(self, line: str) -> Any:
        """Runs a curl line as it was printed; the answer's JSON."""
        process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(out)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(line.decode().rstrip("\n"))
            self._news.set()
        self._news.set()


@asynccontextmanager
async def up(
    *options: str, ready: bool = True, folder: Path | None = None, **variables: str
) -> AsyncIterator[Up]:
    """A mesh of its own, stopped at the end whatever happened."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "FASTAPI_API_KEY")
    }
    with a_folder() as own:
        place = folder or own
        running = Up(place, {**kept, "WAYMESH_DATA_DIR": str(place), **mesh_ports(), **variables})
        try:
            await running.start(*options)
            if ready:
                await running.until_ready()
            yield running
        finally:
            await running.close()


def living_off(folder: Path) -> list[str]:
    """Command lines of processes that name the folder, or were given it in a variable."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                command = (process / "cmdline").read_bytes()
                given = (process / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command + given:
                found.append(command.replace(b"\0", b" ").decode())
    return found


async def gone(processes: list[ProcessId]) -> None:
    """Until none of them lives."""
    async with asyncio.timeout(GUARD_S):
        while any(process.alive for process in processes):
            await asyncio.sleep(0.01)
