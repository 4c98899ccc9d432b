"""The best order of one courier's stops, exactly. Pure.

Every order of stops in which each pickup comes before its dropoff is considered, through dynamic programming
over (set of stops made, last stop). A state keeps all labels that are Pareto-optimal in end time, cost so
far and, where the length limit may bind, length: one label per state would be wrong, since least cost now
can mean a later end and so more lateness after. Waiting never pays unless a window forces it, so each
label leaves at once.

The objective is a sum in which lateness outweighs everything else (see Weights), not a strict ranking: nobody
drives ten kilometres more to be one second less late.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final

from services.route.limits import UNLIMITED, Limits
from services.route.travel import Travel


class Kind(IntEnum):
    """What happens at a stop; the numbers are those of waymesh.route.v1.StopKind."""

    PICKUP = 1
    DROPOFF = 2


@dataclass(frozen=True, slots=True)
class Job:
    """One order as the solver sees it. Times are seconds after the start of the route."""

    order_id: str
    pickup: int | None  # place in the travel tables; None: on board already
    dropoff: int
    ready_s: int = 0  # service at the pickup cannot begin before; negative: ready since then
    earliest_s: int = 0  # service at the dropoff cannot begin before
    latest_s: int = UNLIMITED  # service at the dropoff is late after
    size: float = 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What a route costs, in hundredths of a courier's second.

    A second late counts ten seconds of work, a kilometre 30 s, a kilometre back towards the start 20 s
    more, and a second in which a customer's order is ready and not handed over one: whoever lets two
    customers wait for five minutes more each has to save ten minutes of a courier by it.
    """

    duration_per_s: int = 100
    lateness_per_s: int = 1000
    distance_per_m: int = 3
    backtrack_per_m: int = 2
    food_per_s: int = 100


DEFAULT_WEIGHTS: Final = Weights()
_SHORTEST: Final = Weights(0, 0, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """Jobs of one courier who starts at place 0 at second 0."""

    travel: Travel
    jobs: tuple[Job, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Visit:
    """A stop as planned. Times are seconds after the start."""

    job: int
    kind: Kind
    place: int
    arrive_s: int
    begin_s: int
    end_s: int
    lateness_s: int
    leg_m: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A route with what it takes."""

    visits: tuple[Visit, ...]
    duration_s: int
    distance_m: int
    lateness_s: int
    food_s: int  # from ready (or the start, if later) to handover, summed over all orders
    backtrack_m: int
    cost: int


Call = tuple[int, Kind]
# A label: end time, cost without duration, length, the label before, the stop. The first three are compared.
_Label = tuple[int, int, int, "tuple[object, ...] | None", int]


@dataclass(frozen=True, slots=True)
class _Stop:
    job: int
    kind: Kind
    place: int
    earliest_s: int
    latest_s: int  # late after
    forbidden_s: int  # service may not begin after
    service_s: int
    needs: int  # bits that must be set before
    food_from_s: int  # where food time counts from, dropoffs only


def _stops(problem: Problem) -> list[_Stop]:
    limits = problem.limits
    stops: list[_Stop] = []
    for index, job in enumerate(problem.jobs):
        needs = 0
        counter_from = max(job.ready_s, 0)
        if job.pickup is not None:
            needs = 1 << len(stops)
            stops.append(
                _Stop(
                    index,
                    Kind.PICKUP,
                    job.pickup,
                    counter_from,
                    UNLIMITED,
                    counter_from + limits.max_food_wait_s,
                    limits.pickup_service_s,
                    0,
                    0,
                )
            )
        stops.append(
            _Stop(
                index,
                Kind.DROPOFF,
                job.dropoff,
                job.earliest_s,
                job.latest_s,
                UNLIMITED,
                limits.dropoff_service_s,
                needs,
                counter_from if needs else 0,
            )
        )
    return stops


@lru_cache(maxsize=1024)
def _choices(
    waiting: tuple[bool, ...], sizes: tuple[float, ...], max_on_board: int, capacity: float
) -> dict[int, tuple[int, ...]]:
    """Which stops may follow each reachable set: pickup first, and room on board for what the set has loaded.

    It depends on the orders' sizes alone, not on places or times, so couriers with ordinary orders share it.
    """
    stops: list[tuple[int, bool, int]] = []  # job, whether it is a pickup, bits needed before
    for job, at_merchant in enumerate(waiting):
        needs = 0
        if at_merchant:
            needs = 1 << len(stops)
            stops.append((job, True, 0))
        stops.append((job, False, needs))
    # What is on board at the start is there even if it is too much, so only pickups are checked for room.
    aboard = waiting.count(False)
    load = sum(size for size, at_merchant in zip(sizes, waiting, strict=True) if not at_merchant)
    choices: dict[int, tuple[int, ...]] = {}
    frontier: dict[int, tuple[int, float]] = {0: (aboard, load)}
    while frontier:
        following: dict[int, tuple[int, float]] = {}
        for done, (count, weight) in frontier.items():
            allowed: list[int] = []
            for index, (job, is_pickup, needs) in enumerate(stops):
                bit = 1 << index
                if done & bit or needs & ~done:
                    continue
                if not is_pickup:
                    following[done | bit] = (count - 1, weight - sizes[job])
                elif count < max_on_board and weight + sizes[job] <= capacity + 1e-9:
                    following[done | bit] = (count + 1, weight + sizes[job])
                else:
                    continue
                allowed.append(index)
            choices[done] = tuple(allowed)
        frontier = following
    return choices


def _search(problem: Problem, stops: Sequence[_Stop], weights: Weights) -> list[_Label]:
    """Labels of complete routes, Pareto-optimal for each last stop. Empty: the limits leave no route."""
    choices = _choices(
        tuple(job.pickup is not None for job in problem.jobs),
        tuple(job.size for job in problem.jobs),
        problem.limits.max_on_board,
        problem.limits.capacity,
    )
    seconds, metres = problem.travel.seconds, problem.travel.metres
    limits = problem.limits
    max_end, max_length = limits.max_duration_s, limits.max_length_m
    home = metres[0]
    # Length is compared only if the limit can bind at all.
    bound = sum(max(row[stop.place] for row in metres) for stop in stops)
    by_length = bound > max_length
    w_late, w_dist, w_back = weights.lateness_per_s, weights.distance_per_m, weights.backtrack_per_m
    w_food = weights.food_per_s
    # What a leg costs whatever the time: distance, and metres by which it comes back towards the start.
    ends = [0, *(stop.place for stop in stops)]
    leg_cost = [
        [w_dist * metres[a][stop.place] + w_back * max(0, home[a] - home[stop.place]) for stop in stops]
        for a in ends
    ]
    leg_s = [[seconds[a][stop.place] for stop in stops] for a in ends]
    leg_m = [[metres[a][stop.place] for stop in stops] for a in ends]
    facts = [
        (
            stop.earliest_s,
            stop.latest_s,
            stop.forbidden_s,
            stop.service_s,
            w_food if stop.kind is Kind.DROPOFF else 0,
            stop.food_from_s,
        )
        for stop in stops
    ]
    layer: dict[tuple[int, int], list[_Label]] = {(0, -1): [(0, 0, 0, None, -1)]}
    for _ in stops:
        grown: dict[tuple[int, int], list[_Label]] = {}
        for (done, last), labels in layer.items():
            row_s, row_m, row_cost = leg_s[last + 1], leg_m[last + 1], leg_cost[last + 1]
            for index in choices[done]:
                earliest, latest, forbidden, service, food, food_from = facts[index]
                go_s, go_m, go_cost = row_s[index], row_m[index], row_cost[index]
                key = (done | 1 << index, index)
                kept = grown.get(key)
                for label in labels:
                    begin = label[0] + go_s
                    if begin < earliest:
                        begin = earliest
                    end = begin + service
                    if begin > forbidden or end > max_end:
                        continue
                    length = label[2] + go_m
                    if length > max_length:
                        continue
                    cost = label[1] + go_cost
                    if begin > latest:
                        cost += w_late * (begin - latest)
                    if food:
                        cost += food * (begin - food_from)
                    new: _Label = (end, cost, length, label, index)
                    if kept is None:
                        grown[key] = kept = [new]
                        continue
                    if by_length:
                        for other in kept:
                            if other[0] <= end and other[1] <= cost and other[2] <= length:
                                break
                        else:
                            kept[:] = [o for o in kept if o[0] < end or o[1] < cost or o[2] < length]
                            kept.append(new)
                    else:
                        for other in kept:
                            if other[0] <= end and other[1] <= cost:
                                break
                        else:
                            kept[:] = [o for o in kept if o[0] < end or o[1] < cost]
                            kept.append(new)
        layer = grown
    return [label for labels in layer.values() for label in labels]


def _sequence(stops: Sequence[_Stop], label: _Label) -> tuple[Call, ...]:
    calls: list[Call] = []
    step: tuple[object, ...] | None = label
    while step is not None and isinstance(step[4], int) and step[4] >= 0:
        stop = stops[step[4]]
        calls.append((stop.job, stop.kind))
        step = step[3] if isinstance(step[3], tuple) else None
    return tuple(reversed(calls))


def walk(problem: Problem, calls: Sequence[Call], weights: Weights = DEFAULT_WEIGHTS) -> Plan:
    """The plan that follows from a given order of stops, whether or not it keeps the limits.

    Raises ValueError if a stop is missing, comes twice, or a dropoff comes before its pickup.
    """
    by_call = {(stop.job, stop.kind): stop for stop in _stops(problem)}
    if len(calls) != len(by_call) or set(calls) != set(by_call):
        raise ValueError("every stop has to come exactly once")
    seconds, metres = problem.travel.seconds, problem.travel.metres
    visits: list[Visit] = []
    fetched: set[int] = set()
    now = last = distance = lateness = food = backtrack = 0
    for call in calls:
        stop = by_call[call]
        if stop.kind is Kind.PICKUP:
            fetched.add(stop.job)
        elif stop.needs and stop.job not in fetched:
            raise ValueError(f"{problem.jobs[stop.job].order_id} is handed over before it is fetched")
        arrive = now + seconds[last][stop.place]
        begin = max(arrive, stop.earliest_s)
        late = max(0, begin - stop.latest_s)
        leg = metres[last][stop.place]
        now, distance, lateness = begin + stop.service_s, distance + leg, lateness + late
        backtrack += max(0, metres[0][last] - metres[0][stop.place])
        if stop.kind is Kind.DROPOFF:
            food += begin - stop.food_from_s
        visits.append(Visit(stop.job, stop.kind, stop.place, arrive, begin, now, late, leg))
        last = stop.place
    cost = (
        weights.duration_per_s * now
        + weights.lateness_per_s * lateness
        + weights.distance_per_m * distance
        + weights.backtrack_per_m * backtrack
        + weights.food_per_s * food
    )
    return Plan(tuple(visits), now, distance, lateness, food, backtrack, cost)


def solve(problem: Problem, weights: Weights = DEFAULT_WEIGHTS) -> Plan | None:
    """The cheapest route that keeps all limits, always the same one; None if there is none."""
    stops = _stops(problem)
    labels = _search(problem, stops, weights)
    if not labels:
        return None
    best = min(labels, key=lambda label: weights.duration_per_s * label[0] + label[1])
    return walk(problem, _sequence(stops, best), weights)


def front(problem: Problem, weights: Weights = DEFAULT_WEIGHTS) -> list[Plan]:
    """All trade-offs of time against distance: no route within the limits is both shorter and quicker.

    Quickest first. Where several routes take the same time and way, one stands for them; `weights` price it.
    """
    stops = _stops(problem)
    labels = sorted(_search(problem, stops, _SHORTEST), key=lambda label: (label[0], label[1]))
    plans: list[Plan] = []
    for label in labels:
        if not plans or label[1] < plans[-1].distance_m:
            plans.append(walk(problem, _sequence(stops, label), weights))
    return plans


# In the order in which a broken one is named.
_LIMITS: Final = (
    "max_orders_on_board",
    "capacity",
    "max_duration_minutes",
    "max_length_km",
    "max_food_wait_minutes",
)


def first_broken(problem: Problem) -> str:
    """The first limit that no route can keep together with those before it; empty if all can be kept."""
    limits = problem.limits
    kept = Limits(
        max_on_board=UNLIMITED,
        capacity=float(UNLIMITED),
        max_duration_s=UNLIMITED,
        max_length_m=UNLIMITED,
        max_food_wait_s=UNLIMITED,
        pickup_service_s=limits.pickup_service_s,
        dropoff_service_s=limits.dropoff_service_s,
    )
    for name, fields in zip(
        _LIMITS,
        ("max_on_board", "capacity", "max_duration_s", "max_length_m", "max_food_wait_s"),
        strict=True,
    ):
        kept = replace(kept, **{fields: getattr(limits, fields)})
        looser = replace(problem, limits=kept)
        if not _search(looser, _stops(looser), _SHORTEST):
            return name
    return ""
