"""Deliveries teach means, speeds and detours, each order once."""

import numpy as np
import pytest
from eta_fleet import START_S
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegKind, LegOutcome

from services.eta import priors
from services.eta.learning import OVERDUE, RAW_PICKUP_MINUTES, Learned
from services.eta.spread import AFTER_PICKUP, BEFORE_PICKUP, PICKUP, quantile
from services.eta.spread import OVERDUE as OVERDUE_GROUP


def outcome(number: int, *, merchant: str = "", area: str = "", **legs: LegOutcome) -> DeliveryOutcome:
    made = DeliveryOutcome(
        outcome_id=f"outcome_{number}",
        order_id=f"order_{number}",
        p50_minutes=20,
        p10_minutes=10,
        p90_minutes=30,
        actual_minutes=25,
    )
    made.predicted_at.seconds = START_S
    made.delivered_at.seconds = START_S + 1500
    if merchant:
        made.context.merchant_id = merchant
    if area:
        made.context.area = area
    for name, leg in legs.items():
        leg.kind = LegKind.Value(f"LEG_KIND_{name.upper()}")
        made.legs.append(leg)
    return made


def test_a_slow_merchant_is_learned_and_others_only_drawn_along() -> None:
    learned = Learned()
    learned.learn(
        outcome(number, merchant="slow", wait=LegOutcome(actual_minutes=14)) for number in range(40)
    )
    assert learned.usual("dwell", merchant="slow") == pytest.approx(14, abs=1.0)
    assert priors.DWELL_MIN < learned.usual("dwell", merchant="other") < 14
    assert learned.usual("handover") == priors.HANDOVER_MIN


def test_one_observation_moves_a_mean_a_little() -> None:
    learned = Learned()
    learned.learn([outcome(1, merchant="m", wait=LegOutcome(actual_minutes=60))])
    assert learned.usual("dwell", merchant="m") < 20


def test_speeds_and_detours_come_from_what_was_travelled() -> None:
    learned = Learned()
    way = {"actual_minutes": 10.0, "distance_m": 2000.0, "travelled_m": 3200.0}
    learned.learn(outcome(number, to_destination=LegOutcome(**way)) for number in range(500))
    assert learned.speed_mps()[0] == pytest.approx(3200 / 600, rel=0.05)
    assert learned.detour()[0] == pytest.approx(1.6, rel=0.05)


def test_a_way_shorter_than_the_straight_line_teaches_nothing() -> None:
    learned, fresh = Learned(), Learned()
    way = {"actual_minutes": 10.0, "distance_m": 2000.0, "travelled_m": 900.0}
    learned.learn([outcome(1, to_destination=LegOutcome(**way))])
    assert learned.detour().tolist() == fresh.detour().tolist()


def test_several_outcomes_of_one_order_tell_its_legs_once() -> None:
    once, thrice = Learned(), Learned()
    made = outcome(1, wait=LegOutcome(actual_minutes=30))
    once.learn([made])
    thrice.learn([made, made, made])
    assert once.usual("dwell") == thrice.usual("dwell")


def test_what_was_learned_survives_a_restart() -> None:
    learned = Learned()
    learned.learn(
        outcome(number, merchant="m", area="a", assign=LegOutcome(actual_minutes=9)) for number in range(9)
    )
    restored = Learned.restore(learned.dump())
    assert restored.version == learned.version == "greatcircle-1.9"
    assert restored.usual("assign", merchant="m", area="a") == learned.usual("assign", merchant="m", area="a")


def test_predictions_that_were_too_early_make_the_next_ones_later() -> None:
    learned = Learned()
    learned.learn(outcome(number) for number in range(200))
    table = learned.spread.minutes(np.array([BEFORE_PICKUP]), np.array([20.0]))
    assert quantile(table, 0.5)[0] == pytest.approx(25, abs=1.0)


def test_who_was_overdue_teaches_of_those_who_are_overdue_alone() -> None:
    learned = Learned()
    made = [outcome(number) for number in range(200)]
    for one in made:
        one.picked_up_at.seconds = START_S - 3600
        one.context.numbers[OVERDUE] = 1.0
    learned.learn(made)
    groups = np.array([BEFORE_PICKUP, AFTER_PICKUP, OVERDUE_GROUP])
    taught, fresh = (
        quantile(one.spread.minutes(groups, np.full(3, 20.0)), 0.5) for one in (learned, Learned())
    )
    assert taught[:2] == pytest.approx(fresh[:2])
    assert taught[2] == pytest.approx(25, abs=2.0)


def test_pickups_that_came_late_make_the_next_ones_later_and_tell_no_delivery() -> None:
    learned, blind = Learned(), Learned()
    made = [outcome(number) for number in range(200)]
    for one in made:
        one.picked_up_at.seconds = START_S + 600
    blind.learn(made)
    for one in made:
        one.context.numbers[RAW_PICKUP_MINUTES] = 5.0
    learned.learn(made)
    groups = np.array([PICKUP, BEFORE_PICKUP, AFTER_PICKUP])
    pickup, *deliveries = quantile(learned.spread.minutes(groups, np.array([5.0, 20.0, 20.0])), 0.5)
    assert pickup == pytest.approx(10, abs=1.0)
    assert deliveries == pytest.approx(quantile(blind.spread.minutes(groups[1:], np.full(2, 20.0)), 0.5))
