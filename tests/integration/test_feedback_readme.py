"""What feedback's README shows in Python is run as it stands."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from waymesh.eta.v1 import eta_service_pb2

from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.errors import FailedPrecondition
from services.mesh.feedback import FeedbackPipeline
from services.mesh.feedback.spool import Spool
from services.mesh.telemetry import Telemetry
from tests.running_mesh import ROOT

README = (ROOT / "services" / "feedback" / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
ADDRESS = "127.0.0.1:50053"
GUARD_S = 120.0
# What the example takes as given: one outcome that is taken, one that breaks a rule.
OUTCOMES = """
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

outcomes = [
    OutcomeEvent(event_id=each, run_id="run", agent_name="agent", action_type="act", status=1, severity=1)
    for each in ("first", "second")
]
outcomes[0].timestamp.seconds = 1_700_000_000
"""


def block(word: str) -> str:
    """The one block of Python with this word."""
    [found] = [text for text in BLOCKS if word in text]
    return found


def test_every_block_of_python_is_run_here() -> None:
    assert sorted(BLOCKS) == sorted([block("StreamOutcomes("), block("Hooks()")])


async def test_the_stream_of_the_readme_is_answered(database: str, tmp_path: Path) -> None:
    settings = FeedbackSettings(
        port=0, admin=0, data_dir=tmp_path, drain_s=0, enable_outcome_logging=False, database_url=None
    )
    service = Feedback(settings, database)
    await service.start()
    try:
        text = OUTCOMES + block("StreamOutcomes(").replace(ADDRESS, f"127.0.0.1:{service.server.port}")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            text,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(GUARD_S):
            printed, said = await process.communicate()
    finally:
        await service.stop()
    assert (process.returncode, said.decode()) == (0, "")
    assert printed.decode() == "line 500 1 0 ['second']\n"


async def test_the_hooks_of_the_readme_run_around_actions_and_tasks(tmp_path: Path) -> None:
    async def predict(request: Any, context: Any) -> Any:
        return eta_service_pb2.PredictEtaResponse()

    async def kitchen(given: Any, context: Any) -> Any:
        return given

    names = [method.name for method in eta_service_pb2.DESCRIPTOR.services_by_name["EtaService"].methods]
    pipeline = FeedbackPipeline(send=None, spool=Spool(tmp_path))  # type: ignore[arg-type] # nothing runs
    shown: dict[str, Any] = {
        "pipeline": pipeline,
        "servicer": SimpleNamespace(**dict.fromkeys(names, predict)),
        "service": eta_service_pb2.DESCRIPTOR.services_by_name["EtaService"],
        "telemetry": Telemetry("eta"),
    }
    exec(compile(block("Hooks()"), "README.md", "exec"), shown)
    await shown["servicer"].PredictEta(eta_service_pb2.PredictEtaRequest(), None)
    closed = await shown["dispatcher"].dispatch(kitchen, "cook")
    assert isinstance(closed.error, FailedPrecondition)
    events = await pipeline.get_recent_events(10)
    assert [(each.agent_name, list(each.tags)) for each in events] == [
        ("kitchen", ["north"]),
        ("eta", ["north"]),
    ]
