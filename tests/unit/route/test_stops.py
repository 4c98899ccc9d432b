"""The exact solver against an oracle that tries every order of stops."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from services.route.limits import Limits, Vehicle, default_limits, relaxed
from services.route.stops import (
    DEFAULT_WEIGHTS,
    Job,
    Kind,
    Plan,
    Problem,
    Weights,
    first_broken,
    front,
    solve,
    walk,
)
from services.route.travel import Place, Travel, plane
from tests.examples import examples
from tests.unit.route.problems import brute_force, problems


def calls(plan: Plan) -> list[tuple[int, Kind]]:
    return [(visit.job, visit.kind) for visit in plan.visits]


def check_against_oracle(problem: Problem) -> None:
    tried = list(brute_force(problem, DEFAULT_WEIGHTS))
    plan = solve(problem)
    if not tried:
        assert plan is None
        assert front(problem) == []
        assert first_broken(problem) != ""
        return
    assert plan is not None
    assert plan.cost == min(t.cost for t in tried)
    assert first_broken(problem) == ""
    best = {
        (t.end_s, t.length_m)
        for t in tried
        if not any(
            o.end_s <= t.end_s and o.length_m <= t.length_m and (o.end_s, o.length_m) != (t.end_s, t.length_m)
            for o in tried
        )
    }
    assert {(p.duration_s, p.distance_m) for p in front(problem)} == best


@given(problems(max_jobs=3))
@settings(max_examples=examples(300), deadline=None)
def test_up_to_three_orders_are_solved_exactly(problem: Problem) -> None:
    check_against_oracle(problem)


@given(problems(min_jobs=4, max_jobs=4))
@settings(max_examples=examples(8), deadline=None)
def test_four_orders_are_solved_exactly(problem: Problem) -> None:
    check_against_oracle(problem)


@given(problems(max_jobs=4))
@settings(max_examples=examples(200), deadline=None)
def test_the_same_problem_has_the_same_answer(problem: Problem) -> None:
    assert solve(problem) == solve(problem)


@given(problems(max_jobs=4))
@settings(max_examples=examples(200), deadline=None)
def test_looser_limits_never_cost_more(problem: Problem) -> None:
    plan = solve(problem)
    loose = solve(replace(problem, limits=relaxed(problem.limits)))
    if plan is not None:
        assert loose is not None
        assert loose.cost <= plan.cost


def on_a_line(*lons: float) -> Travel:
    """Places along the equator, 0.01 degrees are 1.11 km; 40 km/h."""
    return plane([Place(0.0, lon) for lon in lons], 40.0)


def test_least_cost_so_far_is_not_always_best_in_the_end() -> None:
    # A solver that keeps only the cheapest label per (stops made, last stop) misses this one: the label it
    # drops ends earlier, and only that one still meets the window of order b.
    problem = Problem(
        Travel(
            seconds=(
                (0, 400, 100, 400, 0),
                (100, 0, 400, 0, 300),
                (400, 200, 0, 300, 300),
                (400, 300, 400, 0, 100),
                (0, 200, 300, 100, 0),
            ),
            metres=(
                (0, 0, 1000, 3000, 9000),
                (0, 0, 3000, 9000, 3000),
                (1000, 1000, 0, 0, 9000),
                (1000, 0, 9000, 0, 1000),
                (3000, 0, 9000, 1000, 0),
            ),
        ),
        (Job("a", 1, 2), Job("b", 3, 4, latest_s=300)),
        Limits(pickup_service_s=0, dropoff_service_s=0),
    )
    weights = Weights(100, 1000, 3, 2, 100)
    plan = solve(problem, weights)
    assert plan is not None
    assert plan.cost == min(tried.cost for tried in brute_force(problem, weights)) == 483_000


def test_orders_of_one_merchant_are_fetched_together() -> None:
    travel = on_a_line(0.0, 0.01, 0.03, 0.01, 0.04)
    plan = solve(Problem(travel, (Job("a", 1, 2), Job("b", 3, 4)), Limits()))
    assert plan is not None
    assert calls(plan) == [(0, Kind.PICKUP), (1, Kind.PICKUP), (0, Kind.DROPOFF), (1, Kind.DROPOFF)]
    assert plan.backtrack_m == 0


def test_an_order_on_board_needs_no_pickup() -> None:
    plan = solve(Problem(on_a_line(0.0, 0.01, 0.02), (Job("a", None, 2),), Limits()))
    assert plan is not None
    assert calls(plan) == [(0, Kind.DROPOFF)]


def test_the_courier_waits_for_food_that_is_not_ready() -> None:
    plan = solve(Problem(on_a_line(0.0, 0.0, 0.01), (Job("a", 1, 2, ready_s=600),), Limits()))
    assert plan is not None
    assert plan.visits[0].arrive_s == 0
    assert plan.visits[0].begin_s == 600
    assert plan.food_s == plan.visits[1].begin_s - 600


def test_a_courier_without_room_delivers_first() -> None:
    travel = on_a_line(0.0, 0.01, 0.03, 0.01, 0.04)
    plan = solve(Problem(travel, (Job("a", 1, 2), Job("b", 3, 4)), Limits(max_on_board=1)))
    assert plan is not None
    assert [kind for _, kind in calls(plan)] == [Kind.PICKUP, Kind.DROPOFF, Kind.PICKUP, Kind.DROPOFF]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(max_on_board=0), "max_orders_on_board"),
        (Limits(capacity=0.5), "capacity"),
        (Limits(max_duration_s=60), "max_duration_minutes"),
        (Limits(max_length_m=100), "max_length_km"),
        (Limits(max_food_wait_s=10), "max_food_wait_minutes"),
    ],
)
def test_the_limit_that_cannot_be_kept_is_named(limits: Limits, name: str) -> None:
    problem = Problem(on_a_line(0.0, 0.01, 0.03), (Job("a", 1, 2),), limits)
    assert solve(problem) is None
    assert first_broken(problem) == name


def test_no_orders_make_an_empty_route() -> None:
    plan = solve(Problem(on_a_line(0.0), (), Limits()))
    assert plan is not None
    assert plan.visits == ()
    assert plan.cost == 0


@pytest.mark.parametrize(
    "wrong",
    [
        [(0, Kind.DROPOFF), (0, Kind.PICKUP)],
        [(0, Kind.PICKUP)],
        [(0, Kind.PICKUP), (0, Kind.PICKUP)],
        [(0, Kind.PICKUP), (1, Kind.DROPOFF)],
    ],
)
def test_a_route_that_cannot_be_driven_is_refused(wrong: list[tuple[int, Kind]]) -> None:
    with pytest.raises(ValueError, match=r"once|handed over"):
        walk(Problem(on_a_line(0.0, 0.01, 0.02), (Job("a", 1, 2),), Limits()), wrong)


@pytest.mark.parametrize(
    ("vehicle", "km"),
    [
        (Vehicle.WALKING, 5),
        (Vehicle.BICYCLE, 15),
        (Vehicle.ELECTRIC_SCOOTER, 25),
        (Vehicle.SCOOTER, 25),
        (Vehicle.MOTORCYCLE, 50),
        (Vehicle.CAR, 50),
    ],
)
def test_each_vehicle_has_its_length_of_route(vehicle: Vehicle, km: int) -> None:
    limits = default_limits(vehicle)
    assert limits.max_length_m == km * 1000
    assert limits.max_duration_s == 90 * 60
    assert limits.max_food_wait_s == 30 * 60
    assert limits.max_on_board == 4
