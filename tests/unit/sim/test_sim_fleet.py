"""The simulated fleet: moves as its vehicles can, goes through every stage once, is the same for the same
seed.
"""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.gps.v1.gps_pb2 import TripStage
from waymesh.gps.v1.vehicle_pb2 import VehicleType

from services.sim.courier import Call, Sighting, SimCourier
from services.sim.demand import Demand, demand
from services.sim.fleet import CENTRE, Fleet
from services.sim.plane import Point
from services.sim.receiver import Receiver
from services.sim.vehicles import PACES
from tests.examples import examples

STAGES = (
    TripStage.TRIP_STAGE_TO_PICKUP,
    TripStage.TRIP_STAGE_AT_PICKUP,
    TripStage.TRIP_STAGE_TO_DESTINATION,
    TripStage.TRIP_STAGE_AT_DESTINATION,
    TripStage.TRIP_STAGE_DELIVERED,
)


def an_order(placed_s: float = 0.0, preparation_s: float = 300.0) -> Demand:
    return Demand(0, placed_s, 0, CENTRE.moved(800, 300), CENTRE.moved(-600, 900), preparation_s)


def lived(courier: SimCourier, hours: float, step_s: float) -> list[Sighting]:
    seen: list[Sighting] = []
    for number in range(round(hours * 3600 / step_s)):
        seen += courier.advance((number + 1) * step_s)
    return seen


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from(list(PACES)), st.integers(0, 10_000), st.sampled_from([0.7, 2.5, 60.0]))
def test_a_delivery_goes_through_each_stage_once_and_in_order(
    vehicle: VehicleType.ValueType, seed: int, step_s: float
) -> None:
    courier = SimCourier("c", vehicle, CENTRE, 0.0, random.Random(seed))
    order = an_order()
    courier.assign("o", order)
    seen = lived(courier, 2.0, step_s)
    stages = [stage for stage, _ in itertools.groupby(one.stage for one in seen if one.order_id)]
    assert tuple(stages) == STAGES
    assert courier.orders == 0
    times = [one.at_s for one in seen]
    assert times == sorted(times)
    left = next(one.at_s for one in seen if one.stage == TripStage.TRIP_STAGE_TO_DESTINATION)
    assert left >= order.ready_s


@pytest.mark.parametrize("vehicle", list(PACES))
def test_no_courier_is_faster_than_its_vehicle(vehicle: VehicleType.ValueType) -> None:
    pace = PACES[vehicle]
    courier = SimCourier("c", vehicle, CENTRE, 0.0, random.Random(5))
    courier.assign("o", an_order())
    before, fastest = courier.place, 0.0
    for second in range(1, 7200):
        courier.advance(second)
        fastest = max(fastest, before.distance_m(courier.place) * 3.6)
        before = courier.place
    assert 0 < fastest <= pace.mean_kph + 5 * pace.spread_kph


def test_the_way_is_the_same_however_time_is_cut() -> None:
    def places(step_s: float) -> list[tuple[float, str, float]]:
        courier = SimCourier("c", VehicleType.VEHICLE_TYPE_SCOOTER, CENTRE, 0.0, random.Random(9))
        courier.assign("o", an_order())
        return [
            (round(one.at_s, 4), one.order_id, round(one.reading.place.lat, 6))
            for one in lived(courier, 1.0, step_s)
        ]

    assert places(1.0) == places(40.0)


def test_stops_are_made_in_the_order_of_the_plan_and_each_order_goes_through_its_stages() -> None:
    courier = SimCourier("c", VehicleType.VEHICLE_TYPE_CAR, CENTRE, 0.0, random.Random(3))
    for order_id in ("a", "b"):
        courier.assign(order_id, an_order())
    courier.follow(
        [Call("b", True), Call("a", True), Call("a", False), Call("gone", False), Call("b", False)]
    )
    seen = lived(courier, 2.0, 3.0)
    ends = [
        (one.order_id, one.stage)
        for one in seen
        if one.stage in (TripStage.TRIP_STAGE_DELIVERED, TripStage.TRIP_STAGE_IDLE)
    ]
    assert list(dict.fromkeys(ends))[:2] == [
        ("a", TripStage.TRIP_STAGE_DELIVERED),
        ("b", TripStage.TRIP_STAGE_DELIVERED),
    ]
    for order_id in ("a", "b"):
        stages = dict.fromkeys(one.stage for one in seen if one.order_id == order_id)
        assert tuple(stages) == STAGES


def test_a_new_plan_does_not_turn_a_courier_round_or_drop_a_stop() -> None:
    courier = SimCourier("c", VehicleType.VEHICLE_TYPE_CAR, CENTRE, 0.0, random.Random(3))
    for order_id in ("a", "b"):
        courier.assign(order_id, an_order())
    courier.advance(1.0)
    courier.follow([Call("b", True), Call("b", False)])
    seen = lived(courier, 2.0, 3.0)
    delivered = [one.order_id for one in seen if one.stage == TripStage.TRIP_STAGE_DELIVERED]
    assert delivered == ["b", "a"]
    assert seen[0].order_id == "a"


def test_an_idle_courier_says_where_it_is_without_an_order() -> None:
    courier = SimCourier("c", VehicleType.VEHICLE_TYPE_CAR, CENTRE, 0.0, random.Random(1))
    seen = lived(courier, 0.1, 5.0)
    assert len(seen) > 50
    assert {(one.stage, one.order_id) for one in seen} == {(TripStage.TRIP_STAGE_IDLE, "")}


def test_the_receiver_is_noisy_has_gaps_and_outliers() -> None:
    receiver = Receiver(random.Random(1))
    readings = [receiver.read(CENTRE, 5.0 * number) for number in range(20_000)]
    errors = sorted(CENTRE.distance_m(one.place) for one in readings if one is not None)
    assert 5 < errors[len(errors) // 2] < 10
    assert 0.001 < sum(error > 200 for error in errors) / len(errors) < 0.01
    assert 0.02 < sum(one is None for one in readings) / len(readings) < 0.15


def test_demand_is_in_order_and_about_as_much_as_asked_for() -> None:
    orders = list(
        itertools.takewhile(lambda one: one.placed_s < 3600 * 50, demand(CENTRE, 20, random.Random(4)))
    )
    assert [one.number for one in orders] == list(range(len(orders)))
    assert all(one.placed_s <= other.placed_s for one, other in itertools.pairwise(orders))
    assert 850 < len(orders) < 1150
    assert orders[0].placed_s == 0


def test_the_same_seed_gives_the_same_day() -> None:
    def day(seed: int) -> list[tuple[float, float]]:
        fleet = Fleet(3, seed)
        step = fleet.advance(600)
        return [(one.at_s, one.reading.place.lat) for _, one in step.sightings]

    assert day(1) == day(1) != day(2)


def test_an_order_for_an_unknown_courier_is_not_taken() -> None:
    assert not Fleet(1, 1).assign("nobody", "o", an_order())


@given(st.floats(-3000, 3000), st.floats(-3000, 3000), st.floats(0, 5000))
def test_a_step_toward_a_place_is_as_long_as_asked_and_ends_there(
    north_m: float, east_m: float, way_m: float
) -> None:
    goal = CENTRE.moved(north_m, east_m)
    there = CENTRE.toward(goal, way_m)
    whole = CENTRE.distance_m(goal)
    assert CENTRE.distance_m(there) == pytest.approx(min(way_m, whole), abs=0.5)
    assert isinstance(there, Point)
