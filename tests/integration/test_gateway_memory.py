"""Clients that would fill the memory of a gateway without an edge: its limits bound what they cost."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.edge.replicas import eta_service, gateway_process, kill
from tests.integration.gateway_rig import GPS, KEY, Client
from tools.ports import free_ports

pytestmark = pytest.mark.faults

HANG_S = 60.0
CONNECTIONS = 400
HEAD_BYTES = 16 << 10
BODY_BYTES = 64 << 10
# Of a connection, besides what has come by it: parser, protocol, task, and what the socket was read by.
OWN_BYTES = 32 << 10
BOUND = CONNECTIONS * (HEAD_BYTES + BODY_BYTES + OWN_BYTES)

HEAD = (
    b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: %s\r\n" % KEY.encode()
)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
# One that is held until its end comes.
BEGUN = CHUNKED + b"%x\r\n" % BODY_BYTES + b" " * (BODY_BYTES - 1)
# Far more than the bound, in less than a body may be.
PACKED = gzip.compress(b" " * (64 << 20), 9)
BOMB = gzip.compress(PACKED, 9)
NESTED = b'{"task":"report_gps","parameters":' + b'{"a":[' * 10_000


@dataclass
class Attacked:
    """A gateway of its own process."""

    port: int
    pid: int

    async def open(self, begun: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(begun)
        return reader, writer

    async def status(self, request: bytes) -> int:
        """Of the answer, which ends the connection or is all that is read of it."""
        reader, writer = await self.open(request)
        try:
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()

    async def endless(self) -> int:
        """The status for chunks that go on until somebody has had enough."""
        reader, writer = await self.open(CHUNKED)
        answer = asyncio.ensure_future(reader.readline())
        try:
            while not answer.done():
                writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
            return int((await answer).split()[1])
        finally:
            writer.close()

    def forget_the_most(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def most(self) -> int:
        """The largest resident size since then, in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        [found] = [line for line in lines if line.startswith("VmHWM:")]
        return int(found.split()[1]) << 10


@asynccontextmanager
async def attacked(folder: Path) -> AsyncIterator[Attacked]:
    [port] = free_ports(1)
    limits = {
        "WAYMESH_MAX_CONNECTIONS": CONNECTIONS,
        "WAYMESH_MAX_HEAD_BYTES": HEAD_BYTES,
        "WAYMESH_MAX_BODY_BYTES": BODY_BYTES,
    }
    async with eta_service() as eta:
        process = await gateway_process(folder, port, eta, **{k: str(v) for k, v in limits.items()})
        try:
            async with asyncio.timeout(HANG_S):
                yield Attacked(port, process.pid)
        finally:
            await kill(process)


async def test_memory_is_bounded_and_others_are_answered(tmp_path: Path) -> None:
    async with attacked(tmp_path) as gateway:
        client = Client(gateway.port)
        for _ in range(50):
            assert (await client.task("report_gps", GPS)).status == 200
        gateway.forget_the_most()
        before = gateway.most()

        slow = [await gateway.open(b"GET /health HTTP/1.1\r\nX-Slow: " + b"x" * 15_000) for _ in range(220)]
        slow += [await gateway.open(BEGUN) for _ in range(60)]
        long = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * (64 << 10) + b"\r\n\r\n"
        encoded = HEAD + b"Content-Encoding: gzip\r\n"
        kinds = {
            "long headers": lambda: gateway.status(long),
            "bomb": lambda: gateway.status(encoded + b"Content-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
            "nested": lambda: gateway.status(HEAD + b"Content-Length: %d\r\n\r\n" % len(NESTED) + NESTED),
            "endless": gateway.endless,
        }
        statuses: dict[str, set[int]] = {kind: set() for kind in kinds}
        ours: list[int] = []
        for _ in range(5):
            attacks = [(kind, attack()) for kind, attack in kinds.items() for _ in range(20)]
            attacking = asyncio.gather(*(attack for _, attack in attacks))
            while not attacking.done():
                ours.append((await client.task("report_gps", GPS)).status)
            for (kind, _), status in zip(attacks, attacking.result(), strict=True):
                statuses[kind].add(status)
        grown = gateway.most() - before
        for _, writer in slow:
            writer.close()
        await client.close()

        assert set(ours) == {200}
        assert statuses == {"long headers": {431}, "bomb": {415}, "nested": {400}, "endless": {413}}
        assert grown < BOUND
