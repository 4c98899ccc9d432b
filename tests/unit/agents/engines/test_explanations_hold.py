"""No explanation names a number that its engine did not give: looked through by a reader of its own."""

from hypothesis import HealthCheck, given, settings
from waymesh.agent.v1.task_pb2 import PlanDeliveryResponse
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

from services.agents.engines import critique, explain_eta, explain_route
from services.agents.grounding import Grounds
from tests.unit.agents.engines import engine_answers as made

# Three kinds of answers: 600 cases in all.
CASES = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CASES
@given(made.predictions, made.questions)
def test_every_number_of_a_predictions_explanation_is_the_predictions(
    prediction: EtaPrediction, question: str
) -> None:
    text = explain_eta(prediction, question)
    assert Grounds(prediction).ungrounded(text) == [], text


@CASES
@given(made.routes, made.questions)
def test_every_number_of_a_routes_explanation_is_the_routes(
    route: OptimizeRouteResponse, question: str
) -> None:
    text = explain_route(route, question)
    assert Grounds(route).ungrounded(text) == [], text


@CASES
@given(made.delivery_plans)
def test_every_number_of_a_critique_is_the_plans(plan: PlanDeliveryResponse) -> None:
    text = critique(plan.plans, plan.routes)
    assert Grounds(plan).ungrounded(text) == [], text
