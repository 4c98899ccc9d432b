"""Figures of a model's structured answer: an engine's value goes before the model's."""

from typing import Any

from waymesh.agent.v1.run_pb2 import Evidence

from services.agents.structs import struct
from services.agents.tasks.figures import with_engines_figures


def evidence(**result: Any) -> Evidence:
    return Evidence(source="eta.predict_eta", result=struct(result))


def test_a_number_in_the_wrong_place_gives_way_to_the_engines() -> None:
    given = evidence(order_id="o1", delivery_eta_minutes=12.5, delivery={"p90_minutes": 30})
    answer = {"order_id": "o1", "delivery_eta_minutes": 30}

    assert with_engines_figures(answer, [given]) == {"order_id": "o1", "delivery_eta_minutes": 12.5}


def test_each_order_keeps_its_own() -> None:
    both = [
        evidence(order_id="o1", delivery_eta_minutes=10),
        evidence(order_id="o2", delivery_eta_minutes=20),
    ]
    answer = {"orders": [{"order_id": "o2", "delivery_eta_minutes": 10}]}

    assert with_engines_figures(answer, both) == {"orders": [{"order_id": "o2", "delivery_eta_minutes": 20}]}


def test_of_several_values_the_answers_own_stays() -> None:
    both = [evidence(duration_minutes=10), evidence(duration_minutes=20)]

    assert with_engines_figures({"duration_minutes": 20}, both) == {"duration_minutes": 20}


def test_agents_names_are_those_of_the_engines() -> None:
    assert with_engines_figures({"confidence_score": 0.99}, [evidence(confidence=0.8)]) == {
        "confidence_score": 0.8
    }


def test_what_no_engine_gave_and_what_is_no_number_stays() -> None:
    answer = {"order_id": "o1", "late": True, "note": "rain", "factors": ["rain"], "stops": 3}

    assert with_engines_figures(answer, [evidence(order_id="o1", late=False)]) == answer
