"""Batches of outcomes in, an answer for each once it is durable: several under way, answered in order."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from waymesh.feedback.v1 import feedback_service_pb2 as pb

from services.feedback.intake import Intake, conflict
from services.feedback.store import Fate
from services.mesh.errors import MeshError, to_status

# Batches of one stream that may wait for their commit: one is being written, others gather for the next.
# The sender of more is kept waiting by gRPC's flow control.
IN_FLIGHT: Final = 8


async def answers(
    requests: AsyncIterator[pb.StreamOutcomesRequest], intake: Intake
) -> AsyncIterator[pb.StreamOutcomesResponse]:
    """One answer per request, in order.

    Raises what the store raises for a batch: what was answered before is durable, the rest may be. Whoever
    stops iterating ends what waits.
    """
    under_way: asyncio.Queue[asyncio.Task[pb.StreamOutcomesResponse] | None] = asyncio.Queue()
    room = asyncio.Semaphore(IN_FLIGHT)
    tasks: set[asyncio.Task[pb.StreamOutcomesResponse]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.create_task(_take(request, intake))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                under_way.put_nowait(task)
        finally:
            under_way.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await under_way.get()) is not None:
            answer = await task
            room.release()
            yield answer
        await reader
    finally:
        reader.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)


async def _take(request: pb.StreamOutcomesRequest, intake: Intake) -> pb.StreamOutcomesResponse:
    events = request.events
    fates, invalid = await intake.unchecked_outcomes(events)
    refused: dict[int, MeshError] = {**invalid}
    if Fate.CONFLICT in fates:
        refused |= {n: conflict(events[n].event_id) for n, fate in enumerate(fates) if fate is Fate.CONFLICT}
    return pb.StreamOutcomesResponse(
        cursor=request.cursor,
        stored=fates.count(Fate.STORED),
        duplicates=fates.count(Fate.DUPLICATE),
        refused=[
            pb.WriteResult(index=place, id=events[place].event_id, error=to_status(error))
            for place, error in sorted(refused.items())
        ],
    )
