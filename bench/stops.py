"""How long the exact solver takes for one courier with 4 orders, against trying every order of stops.

Random problems in a city of 4 × 4 km: motorcycle, windows of 20 to 60 minutes, sizes of 0.5 to 2, default
limits. The peer is the plain oracle of the tests, which tries all 2,520 orders of 8 stops that keep
precedence; both must find the same cost. Pairs are interleaved. Prints microseconds for 2 to 6 orders, of the
best plan and of all its trade-offs, and the median of the pairs' ratios.
"""

import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Final

from bench._command import command
from services.route.limits import Vehicle, default_limits
from services.route.stops import Job, Kind, Plan, Problem, front, solve, walk
from services.route.travel import Place, fallback

PROBLEMS: Final = 2000
# Trying everything takes tens of milliseconds, so it gets fewer of them.
COMPARED: Final = 40


def problem(rng: random.Random, orders: int) -> Problem:
    """One courier's orders, as a city has them."""
    where = [
        Place(60.17 + rng.uniform(-0.018, 0.018), 24.94 + rng.uniform(-0.036, 0.036))
        for _ in range(1 + 2 * orders)
    ]
    jobs = []
    for i in range(orders):
        ready = rng.randint(-600, 1200)
        jobs.append(
            Job(
                f"order_{i}",
                1 + 2 * i,
                2 + 2 * i,
                ready_s=ready,
                latest_s=ready + rng.randint(1200, 3600),
                size=rng.choice((0.5, 1.0, 2.0)),
            )
        )
    return Problem(fallback(where, Vehicle.MOTORCYCLE), tuple(jobs), default_limits(Vehicle.MOTORCYCLE))


def try_everything(given: Problem) -> int | None:
    """Least cost over all orders of stops that keep precedence and limits."""
    limits, jobs = given.limits, given.jobs
    best: int | None = None

    def extend(calls: list[tuple[int, Kind]], aboard: frozenset[int], left: frozenset[int]) -> None:
        nonlocal best
        if not left and not aboard:
            plan = walk(given, calls)
            if _keeps(given, plan) and (best is None or plan.cost < best):
                best = plan.cost
            return
        for job in left:
            room = sum(jobs[i].size for i in aboard) + jobs[job].size <= limits.capacity
            if room and len(aboard) < limits.max_on_board:
                extend([*calls, (job, Kind.PICKUP)], aboard | {job}, left - {job})
        for job in aboard:
            extend([*calls, (job, Kind.DROPOFF)], aboard - {job}, left)

    extend([], frozenset(), frozenset(range(len(jobs))))
    return best


def _keeps(given: Problem, plan: Plan) -> bool:
    limits = given.limits
    waits = (
        visit.begin_s - max(given.jobs[visit.job].ready_s, 0)
        for visit in plan.visits
        if visit.kind is Kind.PICKUP
    )
    return (
        plan.duration_s <= limits.max_duration_s
        and plan.distance_m <= limits.max_length_m
        and all(wait <= limits.max_food_wait_s for wait in waits)
    )


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Microseconds."""
    ranked = sorted(seconds)
    return {
        "p50_us": round(statistics.median(ranked) * 1e6, 1),
        "p99_us": round(ranked[int(0.99 * len(ranked))] * 1e6, 1),
        "max_us": round(ranked[-1] * 1e6, 1),
    }


def main() -> None:
    """Measures and prints."""
    command("stops", __doc__).parse_args()
    rng = random.Random(20)
    result: dict[str, object] = {}
    for orders in (2, 3, 4, 5, 6):
        given = [problem(rng, orders) for _ in range(PROBLEMS if orders <= 4 else PROBLEMS // 20)]
        solving, fronts = [], []
        for one in given:
            began = time.perf_counter()
            solve(one)
            solving.append(time.perf_counter() - began)
            began = time.perf_counter()
            front(one)
            fronts.append(time.perf_counter() - began)
        result[f"orders_{orders}"] = quantiles(solving)
        result[f"orders_{orders}_front"] = quantiles(fronts)
        print(f"{orders} orders: best {quantiles(solving)}, all trade-offs {quantiles(fronts)}")
    ratios = []
    for _ in range(COMPARED):
        one = problem(rng, 4)
        began = time.perf_counter()
        plan = solve(one)
        mine = time.perf_counter() - began
        began = time.perf_counter()
        least = try_everything(one)
        ratios.append((time.perf_counter() - began) / mine)
        assert (plan.cost if plan is not None else None) == least
    result["pairs"] = COMPARED
    result["times_faster_than_brute_force"] = round(statistics.median(ratios), 1)
    print(f"brute force takes {statistics.median(ratios):.0f} times as long, same costs")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
