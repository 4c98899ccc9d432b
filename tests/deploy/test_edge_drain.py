"""The edge's preStop, with the real Envoy: not ready from its start, nothing cut off before its end."""

import asyncio
import http.client
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from manifests import overlay

from tests.edge.edge_rig import GUARD_S, RunningEdge, running_edge
from tests.processes import until
from tools.k8s.render import ROOT

SCRIPT: Final = ROOT / "deploy" / "envoy" / "drain.sh"


class SlowGateway:
    """Says that it is ready, and answers nothing else before `answer` is set."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["SlowGateway"]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"GET /health/ready "):
            self.asked.set()
            await self.answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()


def get(port: int, path: str) -> tuple[int, str]:
    """Status, and what the answer says of its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("connection", "")
    finally:
        connection.close()


async def drain(admin_port: int, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "/bin/bash",
        str(SCRIPT),
        env={"PATH": "/usr/bin:/bin", "ADMIN_PORT": str(admin_port), **environ},
        start_new_session=True,
    )


@asynccontextmanager
async def edge_before(gateway: SlowGateway, folder: Path) -> AsyncIterator[RunningEdge]:
    """As the manifest starts it, its ports and its number of threads apart."""
    arguments = overlay("production").workloads["edge"].container["args"]
    options = tuple(each for each in arguments if each == "--disable-hot-restart")
    assert options
    async with running_edge(folder, {"gateway": [f"127.0.0.1:{gateway.port}"]}, options=options) as edge:
        await edge.until_hosts("gateway", **{f"p{gateway.port}": "healthy"})
        yield edge


async def test_a_request_under_way_is_answered_before_the_script_ends(tmp_path: Path) -> None:
    async with SlowGateway().serving() as gateway, edge_before(gateway, tmp_path) as edge:
        probe = edge.ports["probe"]
        assert (await asyncio.to_thread(get, probe, "/ready"))[0] == 200
        asking = asyncio.create_task(asyncio.to_thread(get, edge.public, "/docs"))
        await gateway.asked.wait()

        script = await drain(edge.ports["admin"], HEARD_S="0")
        statuses: list[int] = []
        async with asyncio.timeout(GUARD_S):
            while 503 not in statuses:
                statuses.append((await asyncio.to_thread(get, probe, "/ready"))[0])
        asked = asks(edge)  # and again by each look of the script, and of ours
        looks = itertools.count(asked + 1)
        await until(lambda: script.returncode is not None or asks(edge) > next(looks), "a look of the script")
        assert script.returncode is None
        gateway.answer.set()

        assert await asking == (200, "close")
        assert await script.wait() == 0


def asks(edge: RunningEdge) -> int:
    """How often its admin port was asked."""
    return int(edge._admin("/stats?filter=^http.admin.downstream_rq_total$", "GET").rpartition(" ")[2])


async def test_new_connections_are_served_until_everybody_has_heard(tmp_path: Path) -> None:
    async with SlowGateway().serving() as gateway, edge_before(gateway, tmp_path) as edge:
        gateway.answer.set()
        script = await drain(edge.ports["admin"], HEARD_S="600")
        try:
            async with asyncio.timeout(GUARD_S):
                while (await asyncio.to_thread(get, edge.ports["probe"], "/ready"))[0] != 503:
                    pass
            assert await asyncio.to_thread(get, edge.public, "/docs") == (200, "close")
        finally:
            os.killpg(script.pid, signal.SIGKILL)
            await script.wait()


async def test_the_script_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async with SlowGateway().serving() as gateway, edge_before(gateway, tmp_path) as edge:
        asking = asyncio.create_task(asyncio.to_thread(get, edge.public, "/docs"))
        await gateway.asked.wait()

        script = await drain(edge.ports["admin"], HEARD_S="0", LONGEST_S="1")

        assert await asyncio.wait_for(script.wait(), GUARD_S) == 0
        gateway.answer.set()
        assert (await asking)[0] == 200


async def test_an_edge_that_has_gone_holds_nobody_up(tmp_path: Path) -> None:
    async with SlowGateway().serving() as gateway, edge_before(gateway, tmp_path) as edge:
        edge.process.kill()
        await edge.process.wait()

        assert await (await drain(edge.ports["admin"])).wait() == 0


ACTIVE: Final = "http.internal.downstream_rq_active: {}\nhttp.public.downstream_rq_active: {}\n"


class SilentAdmin:
    """An admin port that has something wrong with each look at what is under way, until the last one."""

    def __init__(self) -> None:
        self.looks: list[bytes | None] = [
            b"",
            b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + ACTIVE.format(0, 0).encode(),
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n" + ACTIVE.partition("\n")[0].format(0).encode() + b"\n",
            None,
            b"HTTP/1.1 200 OK\r\n\r\n" + ACTIVE.format(0, 1).encode(),
            b"HTTP/1.1 200 OK\r\n\r\n" + ACTIVE.format(0, 0).encode(),
        ]
        self.stopped = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST /healthcheck/fail "):
            self.stopped += 1
            # Too busy the first time.
            answer: bytes | None = b"HTTP/1.1 200 OK\r\n\r\nOK\n" if self.stopped > 1 else b""
        else:
            answer = self.looks.pop(0)
        if answer is None:
            await reader.read()  # silent until it is hung up on
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()


async def test_an_edge_that_does_not_say_what_is_under_way_is_waited_for() -> None:
    admin = SilentAdmin()
    async with await asyncio.start_server(admin.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        script = await drain(port, HEARD_S="0", ANSWER_S="1")

        assert await asyncio.wait_for(script.wait(), GUARD_S) == 0

    assert admin.looks == []
    assert admin.stopped == 2
