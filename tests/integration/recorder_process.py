"""A process that records without end and prints the id of each outcome that it was acknowledged, a line each.

Arguments: the address of feedback, the data folder, the first number; tenants, that each of its outcomes is
recorded for under the same id. An outcome's tag is its tenant. Printed are qualified ids.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.client import ClientFactory
from services.mesh.feedback import FeedbackPipeline, Receipt
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.mesh.principal import DEFAULT_TENANT, Principal, acting
from services.mesh.settings import MeshSettings, load
from services.mesh.telemetry import Telemetry

AGENT: Final = "recorder"
_BURST: Final = 5
_PAUSE_S: Final = 0.01


def made(number: int, tenant: str) -> OutcomeEvent:
    event = outcome(
        agent_name=AGENT,
        agent_type="test",
        action_type="work",
        started=datetime.now(UTC),
        duration_ms=1.0,
        status=SUCCESS,
        input_data={"number": number},
    )
    event.event_id = f"event-{number:06d}"
    event.run_id = "run"
    event.tags.append(tenant)
    return event


async def tell(receipt: Receipt) -> None:
    # At once and past all buffers: who reads it takes it for acknowledged, whenever this process ends.
    if await receipt:
        os.write(1, f"{receipt.event.event_id}\n".encode())


async def record(target: str, folder: Path, number: int, tenants: Sequence[str]) -> None:
    settings = load(MeshSettings, feedback_target=target, data_dir=folder, kafka_linger_ms=5)
    telemetry = Telemetry("test")
    clients = ClientFactory("test", telemetry=telemetry)
    pipeline = FeedbackPipeline.create("test", settings, clients, telemetry)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.run())
        while True:
            for number in range(number, number + _BURST):  # noqa: B020 - it goes on where the burst ended
                for tenant in tenants:
                    with acting(Principal(tenant)):
                        receipt = pipeline.record_outcome(made(number, tenant))
                    tasks.create_task(tell(receipt))
            number += 1
            await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or [DEFAULT_TENANT]))
