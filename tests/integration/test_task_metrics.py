"""Each task is counted in one place: by the service that had it, else by the gateway."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eta_rig import Rig, rig
from gateway_rig import GPS, gateway

from services.eta.server import Eta
from services.feedback.server import Feedback
from services.mesh.feedback import create_dispatcher
from services.mesh.telemetry import Telemetry


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


def calls(*telemetries: Telemetry) -> dict[tuple[str, str], float]:
    """agent_calls_total of several processes, added up by agent_type and status."""
    return added(telemetries, "agent_calls_total", "agent_type", "status")


def added(telemetries: tuple[Telemetry, ...], name: str, *labels: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for telemetry in telemetries:
        for family in telemetry.registry.collect():
            for sample in family.samples:
                if sample.name == name:
                    key = tuple(sample.labels[label] for label in labels)
                    found[key] = found.get(key, 0.0) + sample.value
    return found


async def test_a_task_is_counted_once_however_many_processes_it_goes_through(mesh: Rig) -> None:
    eta: Eta = await mesh.start()
    async with gateway(eta_target=f"127.0.0.1:{eta.server.port}") as front:
        client = front.client()
        assert (await client.task("report_gps", GPS)).status == 200
        assert (await client.task("report_gps", {**GPS, "driver_id": "b"})).status == 200
        demo = front.client("agent-demo")
        assert (await demo.task("report_gps", {**GPS, "driver_id": "c"}, path="/run", key=None)).status == 200
        assert (await client.task("report_gps", {**GPS, "speed_kph": "fast"})).status == 400
        assert (await client.task("optimize_route", {})).status == 503  # nobody listens there
        telemetries = (front.gateway.telemetry, eta.telemetry)
        assert calls(*telemetries) == {
            ("eta", "success"): 3, ("gateway", "failure"): 2
        }  # fmt: skip
        durations = added(telemetries, "agent_duration_seconds_count", "agent_type")
        assert durations == {("eta",): 3, ("gateway",): 2}


async def test_what_feedback_takes_in_is_counted_though_it_leaves_no_outcome(mesh: Rig) -> None:
    feedback: Feedback = await mesh.with_feedback()
    async with gateway(feedback_target=f"127.0.0.1:{feedback.server.port}") as front:
        assert (await front.client().task("list_outcomes", {})).status == 200
        assert (await front.client().task("record_signals", {"signals": []})).status in (200, 400)
        counted = calls(front.gateway.telemetry, feedback.telemetry)
        assert {service for service, _ in counted} == {"feedback"}


async def test_a_dispatcher_counts_under_its_service() -> None:
    telemetry = Telemetry("route")

    class Silent:
        def record_clean(self, _event: Any) -> None: ...

    async def agent(given: Any, _context: Any) -> Any:
        return added((telemetry,), "active_sessions_current", "agent_type")

    pipeline: Any = Silent()
    result = await create_dispatcher(pipeline, telemetry=telemetry).dispatch(agent, "tick")
    assert result.output == {("route",): 1}
    assert calls(telemetry) == {("route", "success"): 1}
