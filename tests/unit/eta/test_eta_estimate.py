"""What holds for every prediction, whatever is known and whatever was learned."""

import math
from typing import Any

import numpy as np
import pytest
from eta_fleet import DEGREE_M, START_S, known, order
from hypothesis import given
from hypothesis import strategies as st
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1.delivery_pb2 import LegKind
from waymesh.order.v1.context_pb2 import DeliveryContext
from waymesh.order.v1.order_pb2 import Order

from services.eta.answers import answer
from services.eta.cases import Case
from services.eta.couriers import NEVER
from services.eta.learning import Learned
from services.eta.orders import micros
from services.eta.predict import Phase
from services.eta.scoring import raw_minutes, raw_pickup_minutes
from services.eta.spread import (
    AFTER_PICKUP,
    BEFORE_PICKUP,
    LEVELS,
    OVERDUE,
    PICKUP,
    Spread,
    chance_by,
    quantile,
)
from services.eta.steady import held

MINUTE_US = 60_000_000
TO_PICKUP_LEGS = (LegKind.LEG_KIND_ASSIGN, LegKind.LEG_KIND_TO_PICKUP, LegKind.LEG_KIND_WAIT)
NOW_US = START_S * 1_000_000


@st.composite
def experience(draw: st.DrawFn) -> Learned:
    """A spread of errors that was learned from anything, however odd."""
    learned = Learned()
    count = draw(st.integers(0, 40))
    minutes = st.lists(st.floats(0, 300), min_size=count, max_size=count)
    groups = draw(
        st.lists(
            st.sampled_from([BEFORE_PICKUP, AFTER_PICKUP, OVERDUE, PICKUP]), min_size=count, max_size=count
        )
    )
    learned.spread.learn(
        np.array(groups, dtype=np.int64),
        np.array(draw(minutes), dtype=np.float64),
        np.array(draw(minutes), dtype=np.float64),
        np.ones(count),
    )
    return learned


degrees = st.floats(-0.2, 0.2)
ago = st.one_of(st.just(NEVER), st.integers(-90, 90).map(lambda minutes: NOW_US + minutes * MINUTE_US))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    made = order()
    made.pickup.lat, made.pickup.lon = draw(degrees), draw(degrees)
    made.dropoff.lat, made.dropoff.lon = draw(degrees), draw(degrees)
    made.placed_at.seconds = START_S + draw(st.integers(-7200, 7200))
    if draw(st.booleans()):
        made.ready_at.seconds = made.placed_at.seconds + draw(st.integers(0, 5400))
    if draw(st.booleans()):
        made.promised_window.latest.seconds = START_S + draw(st.integers(-7200, 7200))
    if draw(st.booleans()):
        made.promised_window.earliest.seconds = START_S + draw(st.integers(-7200, 7200))
    context = made.context
    if draw(st.booleans()):
        context.traffic_density = draw(st.integers(1, 4))
        context.weather = draw(st.integers(1, 8))
        context.batch_size = draw(st.integers(1, 5))
    nowhere = (math.nan, math.nan)
    return Case(
        order=known(made),
        driver_id="driver_1",
        phase=draw(st.sampled_from(Phase)),
        as_of_us=NOW_US,
        here=draw(st.one_of(st.just(nowhere), st.tuples(degrees, degrees))),
        run_m=draw(st.floats(0, 20_000)),
        run_s=draw(st.floats(0, 3000)),
        vehicle=draw(st.integers(0, 6)),
        traffic=draw(st.integers(0, 4)),
        since_us=draw(ago),
        picked_up_us=draw(ago),
        shown_pickup_us=draw(ago),
        shown_delivery_us=draw(ago),
        fresh=draw(st.booleans()),
    )


@given(st.lists(cases(), min_size=1, max_size=4), experience())
def test_every_prediction_is_sound(asked: list[Case], learned: Learned) -> None:
    for case, prediction in zip(asked, answer(asked, learned, chained=False), strict=True):
        _sound(case, prediction)


def _sound(case: Case, prediction: EtaPrediction) -> None:
    delivery = prediction.delivery
    assert 0 <= delivery.p10_minutes <= delivery.p50_minutes <= delivery.p90_minutes < math.inf
    assert delivery.p50_minutes == prediction.delivery_eta_minutes
    assert 0 <= prediction.confidence <= 1
    shown_us = micros(prediction.delivery_eta)
    if case.phase != Phase.DONE:
        assert abs(shown_us - NOW_US - prediction.delivery_eta_minutes * MINUTE_US) <= 1
    total = prediction.base_minutes + sum(factor.minutes for factor in prediction.factors)
    assert total == pytest.approx(prediction.delivery_eta_minutes, abs=1e-6)
    assert [abs(factor.minutes) for factor in prediction.factors] == sorted(
        (abs(factor.minutes) for factor in prediction.factors), reverse=True
    )
    assert all(leg.minutes > 0 and leg.distance_m >= 0 for leg in prediction.legs)
    if prediction.legs:
        assert sum(leg.minutes for leg in prediction.legs) == pytest.approx(prediction.delivery_eta_minutes)
    assert prediction.HasField("pickup") == prediction.HasField("pickup_eta_minutes")
    assert prediction.HasField("pickup") == (case.phase < Phase.TO_DESTINATION)
    if prediction.HasField("pickup"):
        pickup = prediction.pickup
        assert 0 <= pickup.p10_minutes <= pickup.p50_minutes <= pickup.p90_minutes
        assert pickup.p10_minutes <= delivery.p10_minutes + 1e-9
        assert pickup.p50_minutes <= delivery.p50_minutes
        assert pickup.p90_minutes <= delivery.p90_minutes + 1e-9
        to_pickup = sum(leg.minutes for leg in prediction.legs if leg.kind in TO_PICKUP_LEGS)
        assert to_pickup == pytest.approx(pickup.p50_minutes, abs=1e-6)
    elif case.picked_up_us != NEVER:
        assert micros(prediction.pickup_eta) == case.picked_up_us
    promised = case.order.earliest_us != NEVER or case.order.latest_us != NEVER
    assert prediction.HasField("promise_probability") == promised
    assert 0 <= prediction.promise_probability <= 1


@given(cases(), experience(), st.floats(0, 0.3), st.floats(0, 0.3))
def test_further_away_is_never_earlier(case: Case, learned: Learned, one: float, other: float) -> None:
    near, far = sorted((one, other))
    minutes = []
    for degrees_off in (near, far):
        made = Order()
        made.CopyFrom(order())
        made.placed_at.seconds = START_S
        made.dropoff.lat, made.dropoff.lon = made.pickup.lat + degrees_off, made.pickup.lon
        moved = Case(
            order=known(made),
            driver_id="driver_1",
            phase=case.phase,
            as_of_us=NOW_US,
            here=order().pickup and (made.pickup.lat, made.pickup.lon),
            run_m=case.run_m,
            run_s=case.run_s,
            vehicle=case.vehicle,
        )
        [prediction] = answer([moved], learned)
        minutes.append(prediction.delivery_eta_minutes)
    assert minutes[0] <= minutes[1] + 1e-9


@given(
    st.one_of(st.just(NEVER), st.integers(-60, 120).map(lambda minutes: NOW_US + minutes * MINUTE_US)),
    st.floats(0, 120),
)
def test_what_is_shown_stays_near_the_estimate_and_never_lies_in_the_past(
    previous: int, minutes: float
) -> None:
    shown = held(previous, NOW_US, minutes)
    assert shown >= 0
    assert abs(shown - minutes) <= max(0.5, 0.05 * minutes) + 1e-9


def test_what_is_shown_holds_still_while_the_estimate_wobbles() -> None:
    shown_us, as_of_us = NOW_US + 20 * MINUTE_US, NOW_US
    seen = set()
    for step, wobble in enumerate([0.3, -0.4, 0.2, -0.1, 0.4]):
        as_of_us = NOW_US + step * MINUTE_US
        minutes = held(shown_us, as_of_us, 20 - step + wobble)
        seen.add(round(as_of_us + minutes * MINUTE_US))
    assert seen == {shown_us}


def test_chained_predictions_hold_and_a_new_stage_lets_go() -> None:
    base: dict[str, Any] = {
        "order": known(order()),
        "driver_id": "driver_1",
        "phase": Phase.TO_DESTINATION,
        "here": (-23.55, -46.63),
    }
    first = Case(as_of_us=NOW_US, **base)
    second = Case(as_of_us=NOW_US + MINUTE_US // 4, fresh=False, **base)
    third = Case(as_of_us=NOW_US + MINUTE_US // 4, fresh=True, **base)
    one, two = answer([first, second], Learned())
    assert two.delivery_eta == one.delivery_eta
    assert any(factor.name == "steadiness" for factor in two.factors)
    one, three = answer([first, third], Learned())
    assert three.delivery_eta != one.delivery_eta


def test_each_circumstance_is_a_factor_of_its_own() -> None:
    made = order()
    made.context.MergeFrom(DeliveryContext(weather=7, batch_size=3))
    case = Case(
        order=known(made),
        driver_id="driver_1",
        phase=Phase.TO_PICKUP,
        as_of_us=NOW_US,
        here=(-23.57, -46.63),
        vehicle=6,
        traffic=4,
        run_m=500.0,
        run_s=300.0,
    )
    [prediction] = answer([case], Learned())
    minutes = {factor.name: factor.minutes for factor in prediction.factors}
    assert minutes["traffic"] > 0
    assert minutes["weather"] > 0
    assert minutes["courier_pace"] > 0
    assert minutes["batch"] == pytest.approx(4.0)


def test_after_the_handover_nothing_is_left() -> None:
    delivered = Case(
        order=known(order()),
        driver_id="driver_1",
        phase=Phase.DONE,
        as_of_us=NOW_US,
        picked_up_us=NOW_US - 9 * MINUTE_US,
        delivered_us=NOW_US - MINUTE_US,
    )
    [prediction] = answer([delivered], Learned())
    assert prediction.delivery_eta_minutes == 0
    assert micros(prediction.delivery_eta) == NOW_US - MINUTE_US
    assert micros(prediction.pickup_eta) == NOW_US - 9 * MINUTE_US
    assert not prediction.legs


def test_a_clock_far_behind_the_order_does_not_make_the_kitchen_slow() -> None:
    made = order(placed_at=START_S + 10**8, ready_at=START_S + 10**8 + 900)
    case = Case(
        order=known(made), driver_id="driver_1", phase=Phase.TO_PICKUP, as_of_us=NOW_US, here=(-23.55, -46.63)
    )
    [prediction] = answer([case], Learned())
    assert prediction.delivery_eta_minutes < 120


def test_quantiles_approach_what_was_seen() -> None:
    random, spread = np.random.default_rng(3), Spread()
    predicted = np.full(2000, 16.0)
    actual = 16.0 * np.exp(random.normal(0.3, 0.2, size=2000))
    spread.learn(np.full(2000, AFTER_PICKUP), predicted, actual, np.ones(2000))
    table = spread.minutes(np.array([AFTER_PICKUP]), np.array([16.0]))
    for level in (0.1, 0.5, 0.9):
        assert quantile(table, level)[0] == pytest.approx(np.quantile(actual[-400:], level), rel=0.06)
    untouched = spread.minutes(np.array([BEFORE_PICKUP]), np.array([16.0]))
    fresh = Spread().minutes(np.array([BEFORE_PICKUP]), np.array([16.0]))
    np.testing.assert_allclose(untouched, fresh)


@pytest.mark.parametrize("predicted_min", [0.0, 3.0, 16.0, 50.0, 200.0])
def test_before_anything_was_seen_an_order_may_take_much_longer_but_hardly_less(predicted_min: float) -> None:
    groups = np.array([AFTER_PICKUP, BEFORE_PICKUP, OVERDUE])
    table = Spread().minutes(groups, np.full(3, predicted_min))
    p10, p50, p90 = (quantile(table, level) for level in (0.1, 0.5, 0.9))
    assert (np.diff(table, axis=1) >= 0).all()
    assert (p90 - p50 > p50 - p10).all()
    assert (p10 <= predicted_min).all()
    # The more reason there is for further stops, the later and the wider.
    assert (np.diff(p50) > 0).all()
    assert (p90 > 2 * predicted_min).all()
    assert (p90 < 3 * predicted_min + 60).all()


def test_experience_narrows_the_interval_step_by_step() -> None:
    random, widths = np.random.default_rng(4), []
    for count in (0, 5, 50, 500):
        spread = Spread()
        actual = 16.0 * np.exp(random.normal(0.0, 0.15, size=count))
        spread.learn(np.full(count, AFTER_PICKUP), np.full(count, 16.0), actual, np.ones(count))
        table = spread.minutes(np.array([AFTER_PICKUP]), np.array([16.0]))
        widths.append(float(quantile(table, 0.9)[0] - quantile(table, 0.1)[0]))
    assert widths == sorted(widths, reverse=True)
    true_width = 17.0 * 2 * 1.28 * 0.15
    assert true_width < widths[-1] < 1.6 * true_width


def at_pickup(dropoff_north_m: float = 3000.0) -> Case:
    made = order()
    made.dropoff.lat = made.pickup.lat + dropoff_north_m / DEGREE_M
    return Case(
        order=known(made),
        driver_id="driver_1",
        phase=Phase.AT_PICKUP,
        as_of_us=NOW_US,
        here=(-23.55, -46.63),
        since_us=NOW_US,
    )


def test_the_pickup_may_take_longer_than_the_delivery_usually_does() -> None:
    [prediction] = answer([at_pickup(dropoff_north_m=100)], Learned())
    assert prediction.pickup.p90_minutes > prediction.delivery.p50_minutes


def test_the_pickup_learns_from_its_own_errors() -> None:
    random, learned = np.random.default_rng(5), Learned()
    [before] = answer([at_pickup()], learned)
    raw = raw_pickup_minutes(before)
    actual = 12.0 * np.exp(random.normal(0, 0.2, size=400))
    learned.spread.learn(np.full(400, PICKUP), np.full(400, raw), actual, np.ones(400))
    [after] = answer([at_pickup()], learned)
    assert after.pickup.p50_minutes == pytest.approx(12, rel=0.1)
    assert after.delivery.p50_minutes == pytest.approx(before.delivery.p50_minutes)
    assert raw_pickup_minutes(after) == pytest.approx(raw)
    assert raw_minutes(after) == pytest.approx(raw_minutes(before))


def test_who_should_be_there_by_now_is_expected_later_and_less_surely() -> None:
    def carried(minutes: int) -> Case:
        return Case(
            order=known(order()),
            driver_id="driver_1",
            phase=Phase.TO_DESTINATION,
            as_of_us=NOW_US,
            here=(-23.54, -46.63),
            picked_up_us=NOW_US - minutes * MINUTE_US,
        )

    on_time, late = answer([carried(5), carried(60)], Learned(), chained=False)
    assert late.delivery_eta_minutes > on_time.delivery_eta_minutes
    assert late.delivery.p90_minutes > on_time.delivery.p90_minutes
    assert late.confidence < on_time.confidence


@given(experience(), st.floats(0, 200), st.floats(0, 400))
def test_chances_are_those_of_the_quantiles(learned: Learned, predicted: float, minutes: float) -> None:
    table = learned.spread.minutes(np.array([AFTER_PICKUP]), np.array([predicted]))
    chance = chance_by(table, np.array([minutes]))[0]
    assert 0 <= chance <= 1
    assert (table[0] <= minutes).sum() / len(LEVELS) == pytest.approx(chance, abs=0.05)
    assert chance_by(table, np.array([minutes + 1]))[0] >= chance


def test_restored_experience_predicts_the_same() -> None:
    learned = Learned()
    learned.spread.learn(np.array([1, 0]), np.array([5.0, 9.0]), np.array([7.0, 4.0]), np.array([1.0, 2.0]))
    restored = Learned.restore(learned.dump())
    minutes = [one.spread.minutes(np.array([1]), np.array([6.0])) for one in (learned, restored)]
    np.testing.assert_allclose(*minutes, rtol=1e-3)


@pytest.mark.parametrize("as_of_s", [-62_135_596_800, 253_402_300_799])
@pytest.mark.parametrize("placed_s", [-62_135_596_800, START_S, 253_402_300_799])
@pytest.mark.parametrize("phase", Phase)
def test_every_time_that_can_be_written_gives_a_time_that_can_be_written(
    as_of_s: int, placed_s: int, phase: Phase
) -> None:
    made = order(placed_at=placed_s, ready_at=253_402_300_799)
    made.promised_window.latest.seconds = 253_402_300_799
    case = Case(order=known(made), driver_id="", phase=phase, as_of_us=as_of_s * 1_000_000)
    [prediction] = answer([case], Learned())
    for stamp in (prediction.pickup_eta, prediction.delivery_eta, prediction.timestamp):
        assert stamp.ToJsonString()
    assert math.isfinite(prediction.delivery_eta_minutes)
    assert math.isfinite(prediction.delivery.p90_minutes)
