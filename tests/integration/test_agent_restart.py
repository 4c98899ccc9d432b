"""A service that is replaced: runs under way go on to their answer, and their streams with them."""

import asyncio
from pathlib import Path

from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import task_pb2

from tests.integration.agents_rig import MODEL, agents_mesh
from tests.mock_openai import MockOpenAI, Script

TEXT = "All is well."
ASK = task_pb2.AskRequest(question="Is all well?")


async def refused(target: str) -> None:
    """Until nobody new is taken."""
    host, _, port = target.partition(":")
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_a_run_under_way_ends_with_its_answer_while_the_service_drains(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
) -> None:
    answering = asyncio.Event()
    mock_openai.always(Script(text=TEXT, held=answering), MODEL)
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        kinds: list[str | None] = []
        asked = asyncio.Event()

        async def follow() -> pb.StreamRunResponse:
            async for event in mesh.stub.StreamRun(pb.StreamRunRequest(ask=ASK), timeout=30):
                kinds.append(event.WhichOneof("event"))
                asked.set()
            return event

        streaming = asyncio.create_task(follow())
        unary = asyncio.create_task(mesh.stub.Ask(ASK, timeout=30))
        await asyncio.wait_for(asked.wait(), 30)
        await mock_openai.until(lambda: len(mock_openai.asked(MODEL)) == 2)

        draining = asyncio.create_task(mesh.agents.lifecycle.drain())
        # The answers come when it has closed its door.
        await refused(mesh.target)
        answering.set()
        await draining

        assert (await asyncio.wait_for(streaming, 30)).result.ask.answer == TEXT
        assert (kinds[0], kinds[-1]) == ("accepted", "result")
        assert (await unary).answer == TEXT
