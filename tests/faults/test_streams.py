"""Streams of events while what they pass through is restarted or killed: none breaks off without a word."""

import asyncio
import os
import signal
from contextlib import suppress

from tests.faults.up_rig import GUARD_S, UNLIMITED, Up, up
from tests.integration.event_rig import Event, ask, begin
from tests.integration.gateway_rig import Client

READERS = 4
# Of a reader between two questions: what is restarted gets its turn as well.
PAUSE_S = 0.1


class Readers:
    """Some who ask one question after another, each for its events."""

    def __init__(self, mesh: Up) -> None:
        self._mesh = mesh
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self.streams: list[list[Event]] = []
        self.refused: list[int] = []
        self.broken = 0

    async def __aenter__(self) -> "Readers":
        self._tasks = [asyncio.create_task(self._read()) for _ in range(READERS)]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Until that many more have ended."""
        until = len(self.streams) + count
        async with asyncio.timeout(GUARD_S):
            while len(self.streams) < until:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def _read(self) -> None:
        while not self._stop.is_set():
            client = Client(self._mesh.gateway_port)
            try:
                stream = await begin(
                    client, ask(timeout_ms=20_000), headers={"X-API-Key": self._mesh.key or ""}
                )
                if stream.status != 200:
                    self.refused.append(stream.status)
                else:
                    self.streams.append(await stream.rest())
            except (ConnectionError, asyncio.IncompleteReadError):
                self.broken += 1
            finally:
                with suppress(ConnectionError):
                    await client.close()
            await asyncio.sleep(PAUSE_S)


async def test_a_restart_breaks_no_stream() -> None:
    async with up(**UNLIMITED) as mesh:
        async with Readers(mesh) as readers:
            await readers.more(20)
            for service in ("agents", "gateway", "eta", "agents", "gateway"):
                code, _, err = await mesh.run("restart", service)
                assert code == 0, err
                await readers.more(20)
        assert (readers.broken, readers.refused) == (0, [])
        ends = {events[-1].name for events in readers.streams}
        assert ends == {"result"}
        assert {events[0].name for events in readers.streams} == {"accepted"}
        print(f"{len(readers.streams)} streams, each to its end, through 5 restarts")


async def test_a_killed_agents_process_ends_each_stream_with_a_word() -> None:
    async with up(**UNLIMITED) as mesh:
        async with Readers(mesh) as readers:
            for turn in (2, 3):
                await readers.more(20)
                pid = mesh.state.services["agents"].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await mesh.until_line(r" agents +ready ", times=turn)
            await readers.more(20)
        assert readers.broken == 0
        assert set(readers.refused) <= {503}
        ends = [events[-1] for events in readers.streams]
        assert {end.name for end in ends} <= {"result", "error"}
        told = [end.data for end in ends if end.name == "error"]
        print(f"{len(ends)} streams, {len(told)} with an error at their end, {len(readers.refused)} refused")
