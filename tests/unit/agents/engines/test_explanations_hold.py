"""No explanation names a number that its engine did not give.

Looked through twice: as answers of models are, and by a reader that shares nothing with the product.
"""

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from hypothesis import HealthCheck, example, given, settings
from waymesh.agent.v1.task_pb2 import PlanDeliveryResponse
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

from services.agents.engines import critique, explain_eta, explain_route
from services.agents.grounding import Grounds
from tests.examples import examples
from tests.unit.agents.engines import engine_answers as made
from tests.unit.agents.engines.plain_reader import strange

# Three kinds of answers: 600 cases in all.
CASES = settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def holds(text: str, answer: Message) -> None:
    assert strange(text, answer) == [], text
    assert Grounds(answer).ungrounded(text) == [], text


@CASES
@given(made.predictions, made.questions)
def test_every_number_of_a_predictions_explanation_is_the_predictions(
    prediction: EtaPrediction, question: str
) -> None:
    holds(explain_eta(prediction, question), prediction)


@CASES
@example(OptimizeRouteResponse(optimization={"reason": "0A0AA"}, plan={"stops": [{"order_id": "o"}]}), "")
@given(made.routes, made.questions)
def test_every_number_of_a_routes_explanation_is_the_routes(
    route: OptimizeRouteResponse, question: str
) -> None:
    holds(explain_route(route, question), route)


@CASES
@given(made.delivery_plans)
def test_every_number_of_a_critique_is_the_plans(plan: PlanDeliveryResponse) -> None:
    holds(critique(plan.plans, plan.routes), plan)


ANSWER = {
    "order_id": "order_456",
    "driver_id": "17",
    "delivery_eta": "2026-11-21T19:53:00Z",
    "delivery_eta_minutes": 24.4,
    "confidence": 0.72,
    "legs": [{"kind": 2, "minutes": 133.2, "distance_m": 2349.0}],
}
TRUE = (
    "Order order_456 is expected at the door at 19:53 UTC on 2026-11-21, 24 minutes after its last update. "
    "Courier 17 has 2 h 13 min, 2.3 km, to go; the confidence is 72% (P10 to P90)."
)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("24 minutes", "25 minutes"),
        ("24 minutes", "24 to 30 minutes"),
        ("24 minutes", "24 km"),
        ("24 minutes", "24.0 minutes"),
        ("19:53", "19:54"),
        ("2026-11-21", "2026-11-22"),
        ("2 h 13 min", "2 h 14 min"),
        ("2.3 km", "2.4 km"),
        ("2.3 km", "2 m"),
        ("72%", "73%"),
        ("P10", "P11"),
        ("order_456", "order_457"),
        ("Courier 17", "Courier 18"),
        ("to go", "to go, 3 times"),
    ],
)
def test_the_reader_finds_a_number_that_is_nobodys(right: str, wrong: str) -> None:
    answer = ParseDict(ANSWER, EtaPrediction())
    assert strange(TRUE, answer) == []
    assert strange(TRUE.replace(right, wrong), answer) != []
