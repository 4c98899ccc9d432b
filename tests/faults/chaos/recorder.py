"""A process with a recorder, as any agent has one: records outcomes at a steady rate, says which are safe.

Lines on stdout: `safe ID…` once their receipts say so, `lost N` for those that were not taken, `idle` when
everything is delivered after `stop` on stdin. The end of stdin ends it at once.
"""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from services.mesh import logs
from services.mesh.client import ClientFactory
from services.mesh.feedback.pipeline import FeedbackPipeline
from services.mesh.feedback.receipts import Receipt
from services.mesh.settings import MeshSettings, load
from services.mesh.telemetry import Telemetry
from tests.faults.chaos.events import an_outcome

NAME: Final = "recorder"
_TICK_S: Final = 0.05


def say(word: str, rest: Sequence[str] = ()) -> None:
    """A line for the harness."""
    sys.stdout.write(" ".join((word, *rest)) + "\n")
    sys.stdout.flush()


def sweep(receipts: deque[Receipt]) -> None:
    """Tells of those that are settled and forgets them."""
    settled = [receipt for receipt in receipts if receipt.durable is not None]
    safe = [receipt.event.event_id for receipt in settled if receipt.durable]
    if safe:
        say("safe", safe)
    if len(settled) > len(safe):
        say("lost", [str(len(settled) - len(safe))])
    left = [receipt for receipt in receipts if receipt.durable is None]
    receipts.clear()
    receipts.extend(left)


async def main() -> None:
    logs.configure(NAME, "INFO")
    settings = load(MeshSettings)
    telemetry = Telemetry(NAME)
    pipeline = FeedbackPipeline.create(NAME, settings, ClientFactory(NAME, telemetry=telemetry), telemetry)
    spool = settings.data_dir / "spool" / NAME
    stop = asyncio.Event()
    listening = asyncio.create_task(_listen(stop))
    delivering = asyncio.create_task(pipeline.run())
    rate, prefix = float(os.environ["CHAOS_RATE"]), uuid4().hex[:12]
    receipts: deque[Receipt] = deque()
    made, began = 0, time.monotonic()
    while not stop.is_set():
        while made < (time.monotonic() - began) * rate:
            made += 1
            receipts.append(pipeline.record_outcome(an_outcome(f"rec-{prefix}-{made}", NAME)))
        sweep(receipts)
        await asyncio.sleep(_TICK_S)
    while receipts or any(spool.glob("*.spool")):
        sweep(receipts)
        await asyncio.sleep(_TICK_S)
    say("idle")
    await asyncio.gather(listening, delivering)


async def _listen(stop: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        if line.strip() == b"stop":
            stop.set()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
