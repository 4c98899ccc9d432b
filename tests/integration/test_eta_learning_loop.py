"""Delivered orders are scored, feedback keeps the scores, and eta learns from what feedback keeps."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eta_rig import START_S, Rig, counted, order, rig, stream, way
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.eta.v1.eta_service_pb2 import PredictEtaRequest
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegKind
from waymesh.feedback.v1.feedback_service_pb2 import (
    ListDeliveryOutcomesRequest,
    RecordDeliveryOutcomesRequest,
)
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.order.v1.order_pb2 import OrderStatus

from services.eta.learning import Learned
from services.feedback.cursors import number_token
from services.mesh.client import ClientFactory


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


async def test_outcomes_wait_for_feedback_arrive_once_and_teach(mesh: Rig) -> None:
    await mesh.place(*(order(number) for number in range(4)))
    eta = await mesh.start()
    stub = mesh.stub(eta)
    events = [event for number in range(4) for event in way(number)]
    await stream(stub, events)
    await counted(mesh, stub, len(events))
    waiting = (await mesh.row("SELECT count(*) AS n FROM eta.outcome_outbox"))["n"]
    assert waiting > 0
    untaught = await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order=order(9))))
    await eta.stop()

    feedback = await mesh.with_feedback()
    eta = await mesh.start(learn_every_s=0.05)
    stub = mesh.stub(eta)

    async def taught() -> bool:
        answer = await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order=order(9))))
        return bool(answer.prediction.model_version == f"greatcircle-1.{waiting}")

    await mesh.until(taught, "every outcome was learned from")
    assert (await mesh.row("SELECT count(*) AS n FROM eta.outcome_outbox"))["n"] == 0
    assert untaught.prediction.model_version == "greatcircle-1.0"

    clients = ClientFactory("test", telemetry=mesh.telemetry)
    stored = await clients.stub(
        FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}"
    ).ListDeliveryOutcomes(ListDeliveryOutcomesRequest(page_size=1000))
    await clients.close()
    assert len(stored.outcomes) == waiting
    for outcome in stored.outcomes:
        assert outcome.delivered_at.seconds == START_S + 39 * 30
        assert outcome.picked_up_at.seconds == START_S + 30
        minutes = (outcome.delivered_at.seconds - outcome.predicted_at.seconds) / 60
        assert outcome.actual_minutes == pytest.approx(minutes)
        carried = {leg.kind: leg for leg in outcome.legs}[LegKind.LEG_KIND_TO_DESTINATION]
        assert carried.actual_minutes == pytest.approx(19.0)
        assert carried.distance_m == pytest.approx(3336, rel=0.01)
        assert 0.9 < carried.travelled_m / carried.distance_m < 1.1
    await eta.stop()

    # What was learned is still there when feedback is not.
    await feedback.stop()
    stub = mesh.stub(await mesh.start())
    answer = await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order=order(9))))
    assert answer.prediction.model_version == f"greatcircle-1.{waiting}"


async def test_an_order_that_route_calls_delivered_is_scored_as_well(mesh: Rig) -> None:
    await mesh.place(order(1))
    stub = mesh.stub(await mesh.start())
    events = way(1)[:-1]
    await stream(stub, events)
    await counted(mesh, stub, len(events))
    delivered = order(1)
    delivered.revision, delivered.status = 2, OrderStatus.ORDER_STATUS_DELIVERED
    delivered.delivered_at.seconds = START_S + 3000
    await mesh.place(delivered)

    async def scored() -> bool:
        return bool((await mesh.row("SELECT count(*) AS n FROM eta.outcome_outbox"))["n"])

    await mesh.until(scored, "the outcome is queued")
    last = max(await mesh.published(), key=lambda one: one.timestamp.seconds)
    assert last.delivery_eta_minutes == 0
    assert last.delivery_eta.seconds == START_S + 3000


async def test_a_score_that_breaks_a_rule_does_not_keep_the_others_from_feedback(mesh: Rig) -> None:
    feedback = await mesh.with_feedback()
    eta = await mesh.start(learn_every_s=3600)
    outcomes = [
        DeliveryOutcome(outcome_id=f"outcome_{n}", order_id="o", p50_minutes=1, p90_minutes=2)
        for n in range(5)
    ]
    for outcome in outcomes:
        outcome.predicted_at.seconds = outcome.delivered_at.seconds = START_S
    outcomes[2].p90_minutes = 0  # as one from before the rule might be
    await mesh.store.pool.execute(
        "INSERT INTO eta.outcome_outbox (outcome_id, outcome) SELECT * FROM unnest($1::text[], $2::bytea[])",
        [one.outcome_id for one in outcomes],
        [one.SerializeToString() for one in outcomes],
    )

    async def empty() -> bool:
        return not (await mesh.row("SELECT count(*) AS n FROM eta.outcome_outbox"))["n"]

    await mesh.until(empty, "nothing waits for feedback any more")
    rows = await mesh.store.pool.fetch("SELECT id FROM feedback.deliveries ORDER BY id")
    assert [row["id"] for row in rows] == ["outcome_0", "outcome_1", "outcome_3", "outcome_4"]
    await eta.stop()
    await feedback.stop()


async def test_a_feedback_that_lost_its_store_is_learned_from_anew(mesh: Rig) -> None:
    feedback = await mesh.with_feedback()
    await (await mesh.start(learn_every_s=3600)).stop()  # makes the tables
    await mesh.store.pool.execute(
        "INSERT INTO eta.learned (page_token, state) VALUES ($1, $2)",
        number_token(1000),
        json.dumps(Learned().dump()),
    )
    made = DeliveryOutcome(outcome_id="outcome", order_id="o", p50_minutes=1, p90_minutes=2, actual_minutes=1)
    made.predicted_at.seconds = made.delivered_at.seconds = START_S
    eta = await mesh.start(learn_every_s=0.05)
    clients = ClientFactory("test", telemetry=mesh.telemetry)
    stub = clients.stub(FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}")
    await stub.RecordDeliveryOutcomes(RecordDeliveryOutcomesRequest(outcomes=[made]))

    async def learned() -> bool:
        return bool((await mesh.row("SELECT page_token FROM eta.learned"))["page_token"] == number_token(1))

    await mesh.until(learned, "the new store is read from its start")
    await clients.close()
    await eta.stop()
    await feedback.stop()
