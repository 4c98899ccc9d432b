"""An outcome belongs to whom it was recorded for, whenever and beside whatever it is delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from waymesh.eta.v1 import eta_service_pb2
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.errors import Unavailable
from services.mesh.feedback import FeedbackPipeline, create_dispatcher, recorded
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.mesh.feedback.spool import Spool
from services.mesh.principal import DEFAULT, MESH, Principal, acting, current
from services.mesh.telemetry import Telemetry
from services.mesh.tenancy import qualify, qualify_message, tenant_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANTS = ("acme", "rival", "default")
IDS = {"event_id": "event", "run_id": "run", "agent_name": "agent", "workflow_id": "acme/x"}


class Service:
    """Takes batches, or is away; and for whom work was at hand when they came."""

    def __init__(self) -> None:
        self.events: list[OutcomeEvent] = []
        self.batches: list[int] = []
        self.away = False

    async def send(self, events: Sequence[OutcomeEvent]) -> None:
        if self.away:
            raise Unavailable("away")
        self.batches.append(len(events))
        self.events += events


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def pipeline(service: Service, tmp_path: Path) -> FeedbackPipeline:
    return FeedbackPipeline(send=service.send, spool=Spool(tmp_path), linger_s=0.001)


def event(tenant: str) -> OutcomeEvent:
    """The same for every tenant, but for its tag."""
    made = outcome(
        agent_name="agent", agent_type="test", action_type="act", started=NOW, duration_ms=1, status=SUCCESS
    )
    made.MergeFrom(OutcomeEvent(**IDS, tags=[tenant]))
    return made


def record_for_all(pipeline: FeedbackPipeline) -> None:
    for tenant in TENANTS:
        with acting(Principal(tenant)):
            pipeline.record_outcome(event(tenant))


def as_they_should_be(events: Sequence[OutcomeEvent]) -> bool:
    return {one.tags[0]: tuple(getattr(one, name) for name in IDS) for one in events} == {
        tenant: tuple(qualify(tenant, plain) for plain in IDS.values()) for tenant in TENANTS
    }


async def delivered(pipeline: FeedbackPipeline, service: Service, number: int) -> None:
    running = asyncio.create_task(pipeline.run())
    async with asyncio.timeout(10):
        while len(service.events) < number:
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_one_batch_holds_those_of_several_tenants_each_by_its_own_ids(
    pipeline: FeedbackPipeline, service: Service
) -> None:
    record_for_all(pipeline)
    await delivered(pipeline, service, 3)
    assert service.batches == [3]
    assert as_they_should_be(service.events)


async def test_they_stay_theirs_on_disk_and_whoever_delivers_them(
    pipeline: FeedbackPipeline, service: Service, tmp_path: Path
) -> None:
    service.away = True
    record_for_all(pipeline)
    await pipeline.close()
    assert pipeline.spooled == 3
    service.away = False
    heir = FeedbackPipeline(send=service.send, spool=Spool(tmp_path), linger_s=0.001)
    with acting(Principal("stranger")):
        await delivered(heir, service, 3)
    assert as_they_should_be(service.events)


async def test_what_is_done_for_the_mesh_is_the_default_tenants(pipeline: FeedbackPipeline) -> None:
    with acting(MESH):
        pipeline.record_outcome(event("default"))
    [one] = await pipeline.get_recent_events(10)
    assert one.event_id == "event"


async def test_recent_events_are_those_of_the_tenant_that_asks_by_its_own_names(
    pipeline: FeedbackPipeline,
) -> None:
    record_for_all(pipeline)
    for tenant in TENANTS:
        with acting(Principal(tenant)):
            [one] = await pipeline.get_recent_events(10, agent_name="agent")
            assert [one] == await pipeline.get_recent_events(10, "success")
            assert not await pipeline.get_recent_events(10, agent_name="acme/agent")
        assert ({name: getattr(one, name) for name in IDS}, list(one.tags)) == (IDS, [tenant])
    with acting(Principal("stranger")):
        assert not await pipeline.get_recent_events(10)


async def test_an_agents_outcome_is_its_callers_wherever_it_ends(
    pipeline: FeedbackPipeline, service: Service
) -> None:
    dispatcher = create_dispatcher(pipeline)

    async def agent(given: Any, _context: Any) -> str:
        return current().tenant

    async def dispatched(tenant: str) -> str:
        with acting(Principal(tenant)):
            return str((await dispatcher.dispatch(agent, "act", None, {"run_id": "run"})).output)

    assert list(await asyncio.gather(*map(dispatched, TENANTS))) == list(TENANTS)
    await delivered(pipeline, service, 3)
    assert {one.run_id for one in service.events} == {"acme/run", "rival/run", "run"}
    assert [tenant_of(one.agent_name) for one in service.events] == list(TENANTS)


class Eta:
    """Knows orders by qualified ids."""

    def __init__(self) -> None:
        self.asked = ""

    async def PredictEta(self, request: Any, _context: Any) -> Any:
        self.asked = request.query.order_id
        answer = eta_service_pb2.PredictEtaResponse()
        answer.prediction.order_id = self.asked
        return answer


@pytest.mark.parametrize("order_id", ["order", "acme/x"])
async def test_outcomes_of_tasks_tell_ids_as_the_caller_knows_them(
    pipeline: FeedbackPipeline, order_id: str
) -> None:
    service = eta_service_pb2.DESCRIPTOR.services_by_name["EtaService"]
    bare: Any = type("Bare", (Eta,), {method.name: None for method in service.methods} | vars(Eta))()
    servicer = recorded(bare, service, pipeline, Telemetry("eta"))
    for tenant in TENANTS:
        request = eta_service_pb2.PredictEtaRequest()
        request.query.order_id = order_id
        qualify_message(request, tenant)
        with acting(Principal(tenant)):
            await servicer.PredictEta(request, None)
            [one, *_] = await pipeline.get_recent_events(10)
        assert bare.asked == qualify(tenant, order_id)
        assert one.input["query"]["order_id"] == one.output["prediction"]["order_id"] == order_id
    assert current() == DEFAULT
