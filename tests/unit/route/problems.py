"""Random routing problems and an oracle that tries every order of stops, written apart from the solver."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from hypothesis import strategies as st

from services.route.limits import UNLIMITED, Limits
from services.route.stops import Job, Kind, Problem, Weights
from services.route.travel import Travel


@dataclass(frozen=True)
class Tried:
    """One order of stops that keeps the limits, with what it takes."""

    end_s: int
    length_m: int
    cost: int


@st.composite
def problems(draw: st.DrawFn, max_jobs: int = 3, min_jobs: int = 1) -> Problem:
    """Small numbers, so that ties, tight limits and equal places come up often."""
    count = draw(st.integers(min_jobs, max_jobs))
    n = 1 + 2 * count
    seconds = st.integers(0, 900)
    times = draw(st.lists(seconds, min_size=n * n, max_size=n * n))
    ways = draw(st.lists(st.integers(0, 6000), min_size=n * n, max_size=n * n))
    jobs = []
    for index in range(count):
        earliest = draw(st.sampled_from([0, 0, 600, 1800]))
        jobs.append(
            Job(
                f"order_{index}",
                draw(st.sampled_from([1 + 2 * index, 1 + 2 * index, None])),
                2 + 2 * index,
                ready_s=draw(st.integers(-900, 1800)),
                earliest_s=earliest,
                latest_s=draw(st.one_of(st.just(UNLIMITED), st.integers(earliest, 3600))),
                size=draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])),
            )
        )
    limits = Limits(
        max_on_board=draw(st.sampled_from([1, 2, 4])),
        capacity=draw(st.sampled_from([1.0, 3.0, 4.0])),
        max_duration_s=draw(st.sampled_from([1800, 5400, UNLIMITED])),
        max_length_m=draw(st.sampled_from([5000, 15_000, UNLIMITED])),
        max_food_wait_s=draw(st.sampled_from([0, 600, 1800, UNLIMITED])),
        pickup_service_s=draw(st.sampled_from([0, 120])),
        dropoff_service_s=draw(st.sampled_from([0, 120])),
    )
    square = [tuple(times[i * n : (i + 1) * n]) for i in range(n)]
    lengths = [tuple(ways[i * n : (i + 1) * n]) for i in range(n)]
    return Problem(Travel(tuple(square), tuple(lengths)), tuple(jobs), limits)


def brute_force(problem: Problem, weights: Weights) -> Iterator[Tried]:
    """Every order of stops that keeps the limits."""
    calls = [
        (index, kind)
        for index, job in enumerate(problem.jobs)
        for kind in (Kind.PICKUP, Kind.DROPOFF)
        if kind is Kind.DROPOFF or job.pickup is not None
    ]
    for order in permutations(calls):
        tried = _try(problem, order, weights)
        if tried is not None:
            yield tried


def _try(problem: Problem, order: tuple[tuple[int, Kind], ...], weights: Weights) -> Tried | None:
    limits, travel = problem.limits, problem.travel
    on_board = [index for index, job in enumerate(problem.jobs) if job.pickup is None]
    now = place = length = cost = 0
    for index, kind in order:
        job = problem.jobs[index]
        food_from = max(job.ready_s, 0)
        if kind is Kind.PICKUP:
            assert job.pickup is not None
            there = job.pickup
        else:
            if index not in on_board:
                return None
            there = job.dropoff
        leg = travel.metres[place][there]
        length += leg
        cost += weights.distance_per_m * leg
        cost += weights.backtrack_per_m * max(0, travel.metres[0][place] - travel.metres[0][there])
        now += travel.seconds[place][there]
        place = there
        if kind is Kind.PICKUP:
            now = max(now, food_from)
            if now - food_from > limits.max_food_wait_s:
                return None
            on_board.append(index)
            if len(on_board) > limits.max_on_board:
                return None
            if sum(problem.jobs[i].size for i in on_board) > limits.capacity:
                return None
            now += limits.pickup_service_s
        else:
            now = max(now, job.earliest_s)
            cost += weights.lateness_per_s * max(0, now - job.latest_s)
            cost += weights.food_per_s * (now - (0 if job.pickup is None else food_from))
            on_board.remove(index)
            now += limits.dropoff_service_s
    if now > limits.max_duration_s or length > limits.max_length_m:
        return None
    return Tried(now, length, cost + weights.duration_per_s * now)
