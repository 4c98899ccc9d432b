"""Batches of outcomes in, an answer for each once it is durable: several under way, answered in order."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from waymesh.feedback.v1 import feedback_service_pb2 as pb

from services.feedback.intake import Intake, conflict
from services.feedback.owners import sent
from services.feedback.store import Fate
from services.mesh import principal
from services.mesh.errors import MeshError, to_status

# Batches of one stream that may wait for their commit: one is being written, others gather for the next.
# The sender of more is kept waiting by gRPC's flow control.
IN_FLIGHT: Final = 8


async def answers(
    requests: AsyncIterator[pb.StreamOutcomesRequest], intake: Intake
) -> AsyncIterator[pb.StreamOutcomesResponse]:
    """One answer per request, in order.

    Raises what the store raises for a batch, once those before it are answered: they are durable, the rest
    may be. Whoever stops iterating ends what waits.
    """
    waiting: asyncio.Queue[asyncio.Task[pb.StreamOutcomesResponse] | None] = asyncio.Queue()
    room = asyncio.Semaphore(IN_FLIGHT)
    under_way: set[asyncio.Task[pb.StreamOutcomesResponse]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                task = asyncio.create_task(_take(request, intake))
                under_way.add(task)
                waiting.put_nowait(task)
        finally:
            waiting.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await waiting.get()) is not None:
            answer = await task
            under_way.remove(task)
            room.release()
            yield answer
        await reader
    finally:
        for one in (reader, *under_way):
            one.cancel()
        await asyncio.gather(reader, *under_way, return_exceptions=True)


async def _take(request: pb.StreamOutcomesRequest, intake: Intake) -> pb.StreamOutcomesResponse:
    events, sender = request.events, principal.current().tenant
    ids = [sent(sender, event.event_id) for event in events]
    fates, invalid = await intake.unchecked_outcomes(events, sender)
    refused: dict[int, MeshError] = {**invalid}
    if Fate.CONFLICT in fates:
        refused |= {n: conflict(ids[n]) for n, fate in enumerate(fates) if fate is Fate.CONFLICT}
    return pb.StreamOutcomesResponse(
        cursor=request.cursor,
        stored=fates.count(Fate.STORED),
        duplicates=fates.count(Fate.DUPLICATE),
        refused=[
            pb.WriteResult(index=place, id=ids[place], error=to_status(error))
            for place, error in sorted(refused.items())
        ],
    )
