"""PostgreSQL that dies and comes back with runs under way: each has one end, and the same answer for all."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import run_pb2, task_pb2

from services.mesh.errors import MeshError, Unavailable
from services.mesh.store import EmbeddedPostgres
from tests.integration.agents_rig import MODEL, agents_mesh
from tests.integration.postgres_death import killed
from tests.mock_openai import MockOpenAI, Script

RUNS = 20
# As long as a run may be: PostgreSQL is a while away.
LIMIT_S = 60.0
TEXT = "All is well."
ENDS = {run_pb2.RUN_STATUS_SUCCEEDED, run_pb2.RUN_STATUS_FAILED}


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    # Under /tmp: the server runs as another user, who cannot pass through pytest's folders.
    made = Path(tempfile.mkdtemp(prefix="waymesh-test-", dir="/tmp"))
    yield made
    await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)


async def test_no_run_hangs_or_has_two_answers_when_the_store_dies_under_it(
    folder: Path, tmp_path: Path, mock_openai: MockOpenAI
) -> None:
    # Held until all have asked: who comes after an answer is given that one, and asks no model.
    before, after = asyncio.Event(), asyncio.Event()
    held = [Script(text=TEXT, held=before), Script(text=TEXT, held=after)] * (RUNS // 2)
    mock_openai.queue(MODEL, *held)
    mock_openai.always(Script(text=TEXT), MODEL)
    first = EmbeddedPostgres(folder)
    dsn = await first.start()
    second = EmbeddedPostgres(folder)
    try:
        async with agents_mesh(
            dsn, tmp_path, base_url=mock_openai.base_url, run_timeout_s=LIMIT_S, model_timeout_s=LIMIT_S
        ) as mesh:

            async def ask(number: int) -> task_pb2.AskResponse | MeshError:
                request = task_pb2.AskRequest(question="Is all well?", run_id=f"run-{number}")
                try:
                    answer: task_pb2.AskResponse = await mesh.stub.Ask(request, timeout=LIMIT_S)
                except MeshError as error:
                    return error
                return answer

            calls = [asyncio.create_task(ask(number)) for number in range(RUNS)]
            all_ask = asyncio.create_task(mock_openai.until(lambda: mock_openai.total == RUNS))
            ended, _ = await asyncio.wait([all_ask, *calls], return_when=asyncio.FIRST_COMPLETED)
            assert ended == {all_ask}, ended
            await all_ask
            # Half of the answers come while the store dies, and half when it is dead.
            before.set()
            await killed(first)
            after.set()
            # Those who come now are told so; nothing of theirs could be kept.
            late = await ask(RUNS)
            assert isinstance(late, Unavailable)
            await second.start()

            seen = await asyncio.wait_for(asyncio.gather(*calls), 2 * LIMIT_S)
            assert all(isinstance(one, Unavailable | task_pb2.AskResponse) for one in seen), seen

            for number, one in enumerate(seen):
                run = await _ended(mesh.stub, f"run-{number}")
                if isinstance(one, task_pb2.AskResponse):
                    assert (run.status, run.answer) == (run_pb2.RUN_STATUS_SUCCEEDED, one.answer)
                # Whoever asks again gets what is recorded, and is not charged twice.
                again = await ask(number)
                if run.status == run_pb2.RUN_STATUS_SUCCEEDED:
                    assert isinstance(again, task_pb2.AskResponse)
                    assert (again.answer, again.usage) == (run.answer, run.usage)
                else:
                    assert isinstance(again, MeshError)
            answer = await ask(RUNS)
            assert isinstance(answer, task_pb2.AskResponse)
            assert answer.answer == TEXT
            listed = await mesh.stub.ListRuns(pb.ListRunsRequest(page_size=RUNS + 2))
            assert {run.run_id for run in listed.runs} == {f"run-{number}" for number in range(RUNS + 1)}
            assert {run.status for run in listed.runs} <= ENDS
    finally:
        await first.stop()
        await second.stop()


async def _ended(stub: Any, run_id: str) -> run_pb2.Run:
    """The run once it has an end."""
    async with asyncio.timeout(120):
        while True:
            try:
                found = await stub.GetRun(pb.GetRunRequest(run_id=run_id))
            except Unavailable:
                pass
            else:
                if found.run.status in ENDS:
                    run: run_pb2.Run = found.run
                    return run
            await asyncio.sleep(0.1)
