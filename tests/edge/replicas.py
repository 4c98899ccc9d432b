"""Replicas of a gateway as processes, replicas that lie, and clients that keep asking through an edge."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.gateway_rig import GPS, KEY, Client, Reply, took_in
from tests.integration.gateway_rig import gateway as gateway_here
from tests.processes import end_with_us
from tools.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
GUARD_S = 60.0
# Of a gateway that ends: the least that deploy/envoy/README.md asks for.
DRAIN_S = 3.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def gateway_process(folder: Path, port: int, eta: str, **environ: str) -> asyncio.subprocess.Process:
    """A ready gateway of its own process; another one may have the port as well."""
    demo, custom = free_ports(2)
    data = folder / f"data-{demo}"
    data.mkdir()
    with (folder / f"gateway-{demo}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.gateway"),
            env={
                **os.environ,
                "PORT": str(port),
                "WAYMESH_AGENT_DEMO_PORT": str(demo),
                "WAYMESH_AGENT_CUSTOM_PORT": str(custom),
                "WAYMESH_ETA_TARGET": eta,
                "WAYMESH_DATA_DIR": str(data),
                "WAYMESH_RATE_PER_S": "1000000",
                "WAYMESH_RATE_BURST": "1000000",
                "WAYMESH_DRAIN_S": str(DRAIN_S),
                "FASTAPI_API_KEY": KEY,
                "DATABASE_URL": "",
                **environ,
            },
            cwd=ROOT,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_us,
        )
    # On a port of its own: the shared one may still be answered by the process before.
    client = Client(demo)
    async with asyncio.timeout(GUARD_S):
        while True:
            assert process.returncode is None, (folder / f"gateway-{demo}.log").read_text()
            with contextlib.suppress(OSError, EOFError):
                if (await client.ask("GET", "/health")).status == 200:
                    break
            await client.close()
            await asyncio.sleep(0.05)
    await client.close()
    return process


async def end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and until it is gone."""
    process.terminate()
    async with asyncio.timeout(GUARD_S):
        await process.wait()


async def kill(process: asyncio.subprocess.Process) -> None:
    """At once, if it still lives."""
    if process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def eta_service(handler: Any = took_in) -> AsyncIterator[str]:
    """The target of a service that takes fixes in."""
    async with gateway_here({"ReportGps": handler}) as rig:
        yield f"127.0.0.1:{rig.eta.port}"


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Liar:
    """A replica that says that it is well, and does as `behaviour` says with whatever else comes."""

    behaviour: Behaviour
    well: bool = True
    requests: int = 0
    port: int = 0
    _open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        try:
            while True:  # until the other end has enough, or `close`
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/health/ready" in head and self.well:
                    writer.write(OK)
                    continue
                if b"/health/ready" not in head:
                    self.requests += 1
                await self.behaviour(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._open.pop(writer, None)
            writer.close()

    def hang_up(self) -> None:
        """Ends what is open."""
        for writer, task in list(self._open.items()):
            writer.transport.abort()
            if task is not None:
                task.cancel()


@asynccontextmanager
async def liar(behaviour: Behaviour) -> AsyncIterator[Liar]:
    made = Liar(behaviour)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.hang_up()
        await asyncio.sleep(0)


async def resets(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends the connection in the middle of the request."""
    writer.transport.abort()
    raise EOFError


async def fails(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers that it cannot."""
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")


async def answers(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers, as any does."""
    writer.write(OK)


def failing_each(nth: int) -> Behaviour:
    """Answers, but for each nth request, which it fails."""
    count = 0

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await (fails if count % nth == 0 else answers)(reader, writer)

    return behaviour


async def babbles(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers what is no HTTP."""
    writer.write(b"\x00\x01 no\r\n\r\n")


async def is_silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


@dataclass
class Asking:
    """Clients that send one task after the other until told to stop."""

    port: int
    clients: int = 4
    replies: list[Reply] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _stop: bool = False
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> "Asking":
        # Half of them with a new connection each time.
        self._workers = [asyncio.create_task(self._work(n % 2 == 0)) for n in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._workers)

    async def more(self, count: int) -> None:
        """Until so many more answers have come."""
        target = len(self.replies) + len(self.broken) + count
        async with asyncio.timeout(GUARD_S):
            while len(self.replies) + len(self.broken) < target:
                await asyncio.sleep(0.005)

    @property
    def statuses(self) -> Counter[int]:
        """How often each came; 0 where a connection broke."""
        return Counter([*(reply.status for reply in self.replies), *([0] * len(self.broken))])

    async def _work(self, keep: bool) -> None:
        client = Client(self.port)
        while not self._stop:
            try:
                async with asyncio.timeout(120):
                    self.replies.append(await client.task("report_gps", GPS))
            except (OSError, EOFError, TimeoutError) as error:
                self.broken.append(repr(error))
                await client.close()
            if not keep:
                await client.close()
        await client.close()
