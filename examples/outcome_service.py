"""A service of one's own that records what it does: two agents, a workflow, every action one outcome.

Run it beside `make run`: .venv/bin/python examples/outcome_service.py
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from services.mesh.client import ClientFactory
from services.mesh.feedback import FeedbackPipeline, create_dispatcher
from services.mesh.settings import MeshSettings, load
from services.mesh.telemetry import Telemetry


class Kitchen:
    """An agent is anything with a name and `run`; `compensate` undoes what it did if a later step fails."""

    name = "kitchen"
    agent_type = "example"

    async def run(self, order: dict[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
        return {**order, "ready_in_minutes": 3 * len(order["items"])}

    async def compensate(self, order: dict[str, Any], context: Mapping[str, Any]) -> None:
        print("kitchen: order taken back")


def courier(order: dict[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """A plain function is an agent too; it runs in a thread, so it may block."""
    if order["ready_in_minutes"] > 30:
        raise ValueError("no courier waits that long")
    return {**order, "courier": "driver_123"}


async def main() -> None:
    settings = load(MeshSettings)
    telemetry = Telemetry.create("example", settings)
    clients = ClientFactory("example", telemetry=telemetry)
    pipeline = FeedbackPipeline.create("example", settings, clients, telemetry)
    delivering = asyncio.create_task(pipeline.run())
    dispatcher = create_dispatcher(pipeline)

    for items in (["soup"], ["soup"] * 20):
        done = await dispatcher.execute_workflow([Kitchen(), courier], {"items": items}, tags=["example"])
        print(done.workflow_id, done.status, *done.outputs, sep="\n  ")

    delivering.cancel()
    await pipeline.close()  # what feedback did not take yet waits in the spool for the next start
    print(f"{pipeline.delivered} outcomes delivered, {pipeline.spooled} in the spool")
    await clients.close()


asyncio.run(main())
