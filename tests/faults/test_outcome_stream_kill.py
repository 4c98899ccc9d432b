"""kill -9 of feedback, and of PostgreSQL, in the middle of streams: nothing acknowledged is lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.store import connect
from tests.faults.up_rig import Up, up

pytestmark = pytest.mark.faults

BATCH = 50
# Of a sender between two batches: the next is under way before the last is acknowledged.
PAUSE_S = 0.005
# INTERNAL is grpc.aio's own word for a connection that breaks under a message on its way out.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


def batch(sender: int, number: int) -> pb.StreamOutcomesRequest:
    """The same number gives the same outcomes."""
    request = pb.StreamOutcomesRequest(cursor=str(number))
    for n in range(BATCH):
        event = OutcomeEvent(
            event_id=f"{sender}-{number}-{n}", run_id=f"run-{n}", agent_name="streamer", action_type="act",
            status=1, severity=1,
        )  # fmt: skip
        event.timestamp.seconds = 1_700_000_000 + number
        request.events.append(event)
    return request


class Sender:
    """Streams batches; after a break it goes on behind the last mark it saw."""

    def __init__(self, number: int, port: int) -> None:
        self.acked = 0
        self.breaks = 0
        self.refused = 0
        self._number = number
        self._port = port
        self._more = asyncio.Condition()
        self._ending = False

    async def run(self) -> None:
        """Until `end`; then everything that was sent is acknowledged."""
        while not self._ending:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
                stub: Any = FeedbackServiceStub(channel)
                try:
                    async for answer in stub.StreamOutcomes(self._requests()):
                        assert answer.cursor == str(self.acked)
                        assert answer.stored + answer.duplicates == BATCH
                        self.refused += len(answer.refused)
                        self.acked += 1
                        async with self._more:
                            self._more.notify_all()
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _BROKEN:
                        raise
                    self.breaks += 1
                    await asyncio.sleep(0.1)

    async def _requests(self) -> AsyncIterator[pb.StreamOutcomesRequest]:
        number = self.acked
        while not self._ending:
            yield batch(self._number, number)
            number += 1
            await asyncio.sleep(PAUSE_S)

    async def more(self, batches: int) -> None:
        """Waits until that many more are acknowledged."""
        wanted = self.acked + batches
        async with asyncio.timeout(90), self._more:
            await self._more.wait_for(lambda: self.acked >= wanted)

    def end(self) -> None:
        self._ending = True


async def test_streams_go_on_behind_their_last_mark_and_every_outcome_is_there_once() -> None:
    async with up() as mesh:
        senders = [Sender(n, mesh.state.services["feedback"].port) for n in range(3)]
        running = [asyncio.create_task(sender.run()) for sender in senders]

        async def on() -> None:
            await asyncio.gather(*(sender.more(20) for sender in senders))

        await on()
        for turn in (2, 3):
            pid = mesh.state.services["feedback"].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await mesh.until_line(r" feedback +ready ", times=turn)
            await on()
        assert mesh.state.postgres_pid is not None
        os.kill(mesh.state.postgres_pid, signal.SIGKILL)
        await mesh.until_line(r" postgres +ready ", times=2)
        await on()
        for sender in senders:
            sender.end()
        await asyncio.gather(*running)
        assert all(sender.breaks >= 2 for sender in senders)
        assert sum(sender.refused for sender in senders) == 0
        await _all_there_once(mesh, [sender.acked for sender in senders])


async def _all_there_once(mesh: Up, acked: list[int]) -> None:
    wanted = {
        f"{sender}-{number}-{n}"
        for sender, batches in enumerate(acked)
        for number in range(batches)
        for n in range(BATCH)
    }
    connection = await connect(mesh.state.dsn)
    try:
        rows = await connection.fetch("SELECT id FROM feedback.outcomes WHERE agent_name = 'streamer'")
        published = await connection.fetch(
            "SELECT l.event_id AS id FROM bus.log l JOIN bus.partitions p USING (part)"
            " WHERE p.topic = 'agent-outcomes' AND l.event_id ~ '^[0-9]+-[0-9]+-[0-9]+$'"
        )
        numbers = await connection.fetchrow(
            "SELECT count(*), count(DISTINCT number), min(number), max(number) FROM feedback.outcomes"
        )
    finally:
        await connection.close()
    for found in ([row["id"] for row in rows], [row["id"] for row in published]):
        assert len(found) == len(set(found))
        assert wanted - set(found) == set()
    assert len(rows) == len(published)
    assert (numbers[0], numbers[2], numbers[3]) == (numbers[1], 1, numbers[1])
