"""What a text says of an arrival: of it alone, only its own times."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.feedback.v1.delivery_pb2 import LEG_KIND_TO_DESTINATION

from services.agents.claims import of_arrival
from services.agents.engines import explain_eta

PREDICTION = EtaPrediction(
    order_id="order_1",
    delivery_eta_minutes=19.5,
    delivery=Quantiles(p10_minutes=12, p50_minutes=19.5, p90_minutes=31),
    pickup_eta_minutes=7,
    factors=[Factor(name="traffic", minutes=5.2)],
    legs=[Leg(kind=LEG_KIND_TO_DESTINATION, minutes=5.75, distance_m=3000)],
)
PREDICTION.delivery_eta.FromSeconds(1_795_298_344)  # 21:59:04 UTC


@pytest.mark.parametrize(
    "text",
    [
        "It arrives in 5 minutes.",
        "Your order will be at the door in 7 minutes.",
        "All is well. It will be delivered in about 6 minutes.",
        "It takes 5.2 minutes.",
        "It arrives at 21:34.",
        "Delivered in 5 to 7 minutes.",
    ],
)
def test_another_time_told_as_the_arrival_is_found(text: str) -> None:
    assert of_arrival(PREDICTION)(text)


@pytest.mark.parametrize(
    "text",
    [
        "It arrives in about 20 minutes, at 21:59 UTC.",
        "It will be at the door in 12 to 31 minutes.",
        "Delivered in 19.5 minutes.",
        "It takes 20 minutes.",
        "Traffic adds 5 minutes to the arrival.",
        "The courier arrives at the pickup in 7 minutes.",
        "The way to the customer takes 5.75 minutes.",
        "All is well.",
    ],
)
def test_what_is_said_of_something_else_or_rightly_passes(text: str) -> None:
    assert of_arrival(PREDICTION)(text) == []


@settings(deadline=None)
@given(st.floats(1, 90), st.floats(0, 20), st.floats(0, 60), st.floats(-20, 20))
def test_the_engines_own_words_pass(minutes: float, less: float, more: float, factor: float) -> None:
    prediction = EtaPrediction()
    prediction.CopyFrom(PREDICTION)
    prediction.delivery_eta_minutes = minutes
    prediction.delivery.CopyFrom(
        Quantiles(p10_minutes=max(0.0, minutes - less), p50_minutes=minutes, p90_minutes=minutes + more)
    )
    prediction.factors[0].minutes = factor

    assert of_arrival(prediction)(explain_eta(prediction)) == []
