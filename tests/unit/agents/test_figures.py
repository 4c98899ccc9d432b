"""Figures of a model's structured answer: an engine's value goes before a model's in the same place."""

import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.agent.v1.run_pb2 import Evidence
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.feedback.v1.delivery_pb2 import LegKind

from services.agents.builtin import BUILT_IN
from services.agents.llm.schema import shape_of
from services.agents.structs import plain, struct
from services.agents.tasks.figures import with_engines_figures
from services.agents.tools import Scope, shapes


def evidence(**result: Any) -> Evidence:
    return Evidence(source="get_order", result=struct(result))


def predicted(order_id: str, minutes: float) -> Evidence:
    """What get_order says of an order, as it says it."""
    scope = Scope(tenant="default")
    scope.order_ids.add(order_id)
    prediction = EtaPrediction(
        order_id=order_id,
        delivery_eta=Timestamp(seconds=1_800_000_000),
        delivery_eta_minutes=minutes,
        pickup_eta_minutes=minutes / 3,
        pickup=Quantiles(p10_minutes=minutes / 4, p50_minutes=minutes / 3, p90_minutes=minutes / 2),
        delivery=Quantiles(p10_minutes=0.8 * minutes, p50_minutes=minutes, p90_minutes=1.3 * minutes),
        confidence=0.723,
        factors=[Factor(name="traffic", minutes=-1.932589), Factor(name="steadiness", minutes=0.6041)],
        legs=[
            Leg(kind=LegKind.LEG_KIND_TO_PICKUP, minutes=minutes / 3, distance_m=1200),
            Leg(kind=LegKind.LEG_KIND_TO_DESTINATION, minutes=minutes / 2, distance_m=3400),
        ],
    )
    return evidence(
        order={"order_id": order_id, "status": "assigned", "priority": 3},
        prediction=shapes.prediction(prediction, scope),
    )


O1 = predicted("o1", 12.872867)
O2 = predicted("o2", 40.2349)

RIGHT: dict[str, Any] = {
    "the same": {"order_id": "o1", "delivery_eta_minutes": 12.872867},
    "rounded": {"order_id": "o1", "delivery_eta_minutes": 12.9, "confidence_score": 0.72},
    "in whole numbers": {"order_id": "o1", "delivery_eta_minutes": 13},
    "two orders": {
        "orders": [
            {"order_id": "o1", "delivery_eta_minutes": 12.9, "delivery": {"p90_minutes": 16.7}},
            {"order_id": "o2", "delivery_eta_minutes": 40.2, "delivery": {"p90_minutes": 52.3}},
        ]
    },
    "factors": {
        "order_id": "o1",
        "factors": [{"name": "traffic", "minutes": -1.9}, {"name": "steadiness", "minutes": 0.6}],
    },
    "legs": {"order_id": "o2", "legs": [{"kind": "to_pickup", "minutes": 13.4, "distance_m": 1200}]},
    "pickup and delivery": {
        "order_id": "o1",
        "pickup": {"p50_minutes": 4.3},
        "delivery": {"p50_minutes": 12.9},
    },
    "wrapped": {"prediction": {"order_id": "o2", "delivery_eta_minutes": 40}, "order": {"priority": 3}},
    "no order said": {"delivery_eta_minutes": 40.2},
    "an object of its own": {"order_id": "o1", "journey": {"minutes": 4.3, "delivery_eta_minutes": 40.2}},
    "what no engine gave, and no numbers": {"order_id": "o1", "late": True, "note": "rain", "stops": 3},
    "a list of numbers": {"order_id": "o1", "delivery_eta_minutes": [12.9, 40.2]},
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_what_is_right_stays_as_the_model_said_it(answer: dict[str, Any]) -> None:
    assert with_engines_figures(answer, [O1, O2]) == answer


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another estimate": (
        {"order_id": "o1", "delivery_eta_minutes": 16.7},
        {"order_id": "o1", "delivery_eta_minutes": 12.872867},
    ),
    "by the agents' name": (
        {"order_id": "o1", "confidence_score": 0.6},
        {"order_id": "o1", "confidence_score": 0.723},
    ),
    "another order's": (
        {"orders": [{"order_id": "o2", "delivery_eta_minutes": 12.9}]},
        {"orders": [{"order_id": "o2", "delivery_eta_minutes": 40.2349}]},
    ),
    "another factor's": (
        {"order_id": "o1", "factors": [{"name": "steadiness", "minutes": -1.9}]},
        {"order_id": "o1", "factors": [{"name": "steadiness", "minutes": 0.6041}]},
    ),
    "the delivery's for the pickup": (
        {"order_id": "o1", "pickup": {"p90_minutes": 16.7}},
        {"order_id": "o1", "pickup": {"p90_minutes": 12.872867 / 2}},
    ),
}


@pytest.mark.parametrize(("answer", "corrected"), WRONG.values(), ids=WRONG)
def test_a_number_in_the_wrong_place_gives_way_to_the_engines(
    answer: dict[str, Any], corrected: dict[str, Any]
) -> None:
    assert with_engines_figures(answer, [O1, O2]) == corrected


def test_of_several_values_of_one_place_the_models_stays() -> None:
    both = [evidence(duration_minutes=10), evidence(duration_minutes=20)]
    assert with_engines_figures({"duration_minutes": 20}, both) == {"duration_minutes": 20}
    assert with_engines_figures({"duration_minutes": 15}, both) == {"duration_minutes": 15}


def test_items_that_nothing_tells_apart_correct_nothing() -> None:
    ways = evidence(routes=[{"minutes": 7.5, "distance_km": 2.5}])
    answer = {"routes": [{"minutes": 9, "distance_km": 3}], "minutes": 9}
    assert with_engines_figures(answer, [ways]) == answer


def schema(**bounds: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"order_id": {"type": "string"}, "delivery_eta_minutes": bounds},
        "required": ["order_id", "delivery_eta_minutes"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ({"type": "number"}, 12.872867),
        ({"type": "integer"}, 13),
        ({"type": "integer", "minimum": 15}, 17),
    ],
)
def test_the_answer_stays_as_its_schema_says(bounds: dict[str, Any], told: float) -> None:
    answer = {"order_id": "o1", "delivery_eta_minutes": 17}
    corrected = with_engines_figures(answer, [O1], schema(**bounds))
    assert corrected["delivery_eta_minutes"] == told


@pytest.mark.parametrize(
    "answer",
    [
        {"order_id": "o", "confidence_score": 0.7, "factors": []},
        {"order_id": "o", "delivery_eta_minutes": 3, "confidence_score": 0.7, "factors": []},
        {
            "order_id": "o",
            "pickup_eta_minutes": 1,
            "delivery_eta_minutes": 3,
            "confidence_score": 0.7,
            "factors": [],
        },
    ],
    ids=["handed over", "picked up", "waiting"],
)
def test_the_shape_of_eta_can_be_met_in_every_state_of_an_order(answer: dict[str, Any]) -> None:
    (eta,) = [one for one in BUILT_IN if one.spec.name == "eta"]
    assert shape_of(plain(eta.spec.output_schema)).read(json.dumps(answer)) == answer
