"""Planning one courier's stops: gathers what a request leaves out, asks for travel times, solves,
explains."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_MATRIX_SIZE,
    ERROR_REASON_NO_FEASIBLE_PLAN,
    ERROR_REASON_POSITION_UNKNOWN,
)
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1 import route_pb2
from waymesh.route.v1.route_service_pb2 import OptimizeRouteRequest, OptimizeRouteResponse

from services.mesh.errors import FailedPrecondition, FieldViolation, InvalidArgument
from services.mesh.store import Store
from services.route import explain, refusals, store, store_plans
from services.route.bodies import from_body
from services.route.eta_client import EtaClient
from services.route.fleet import OrderWork, jobs, places
from services.route.identity import OPEN, Status
from services.route.limits import MAX_ORDERS, MAX_PLANNED, Limits, Vehicle, default_limits
from services.route.stops import Call, Plan, Problem, first_broken, front, solve, walk
from services.route.translate import (
    calls_of,
    limits,
    order_work,
    place,
    position_of,
    route_plan,
    seconds,
    stamp,
)
from services.route.travel import MatrixSizeError, Place, Travel, matrix, plane
from services.route.workers import Workers

Clock = Callable[[], float]

# Start times past this make no sense, and clock times of a long plan could leave what RFC 3339 can say.
_LAST_START_S: Final = 32_503_680_000.0  # the year 3000


@dataclass(frozen=True, slots=True)
class Task:
    """One courier's stops to plan, with everything that is needed but the travel times."""

    driver_id: str
    start: Place
    start_at: float
    vehicle: Vehicle
    orders: tuple[OrderWork, ...]
    limits: Limits
    original: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """The best plan and the one that was; `alternatives` as pairs of a plan and what speaks for it."""

    best: Plan
    original: Plan
    alternatives: tuple[tuple[Plan, str], ...]


class Planner:
    """Answers OptimizeRoute."""

    def __init__(self, database: Store, eta: EtaClient, workers: Workers, clock: Clock = time.time) -> None:
        self._database = database
        self._eta = eta
        self._workers = workers
        self._clock = clock

    async def optimize(self, request: OptimizeRouteRequest) -> OptimizeRouteResponse:
        """The best order of stops for a request.

        Raises InvalidArgument for orders and matrices that do not fit, NotFound for an unknown courier,
        FailedPrecondition where no position is known or no route keeps the limits.
        """
        task = await self._task(request)
        travel, degradation = await self._travel(request, task)
        heavy = len(task.orders) > MAX_ORDERS
        if heavy:
            solution = await self._workers.run(False, solution_of, task, travel, request.max_alternatives)
        else:
            solution = solution_of(task, travel, request.max_alternatives)
        return _response(task, solution, degradation, self._clock())

    async def _task(self, request: OptimizeRouteRequest) -> Task:
        _check(request)
        now = self._clock()
        start_at = seconds(request.start_time) if request.HasField("start_time") else now
        courier = request.courier if request.HasField("courier") else None
        body, fix = None, None
        known: list[Order] = []
        plan: route_pb2.RoutePlan | None = None
        complete = request.HasField("start") and request.orders and courier is not None
        if request.driver_id and not complete:
            async with self._database.pool.acquire() as conn:
                body, fix = await store.courier(conn, request.driver_id)
                if not request.orders:
                    rows = await store.carried(conn, [request.driver_id])
                    known = [from_body(Order, row.body, row.order_id) for row in rows]
                    stored = await store_plans.plan(conn, request.driver_id)
                    if stored is not None:
                        plan = from_body(route_pb2.RoutePlan, stored.body, request.driver_id)
            if courier is None and body is not None:
                courier = from_body(Courier, body, request.driver_id)
            if courier is None and not request.orders and not known:
                raise refusals.unknown_courier(request.driver_id)
        if courier is None:
            courier = Courier(driver_id=request.driver_id)
        orders = tuple(order_work(order) for order in request.orders or known)
        if len(orders) > MAX_PLANNED:
            raise FailedPrecondition(
                f"{request.driver_id} has {len(orders)} orders, at most {MAX_PLANNED} can be planned",
                reason=ERROR_REASON_NO_FEASIBLE_PLAN,
                metadata={"limit": "orders"},
            )
        vehicle = Vehicle(courier.vehicle_type)
        base = limits(default_limits(vehicle, courier.capacity), request.limits)
        if request.HasField("start"):
            start = place(request.start)
        else:
            where = position_of(courier, fix)
            if where is None:
                raise FailedPrecondition(
                    f"no position of courier {request.driver_id} is known yet",
                    reason=ERROR_REASON_POSITION_UNKNOWN,
                    metadata={"driver_id": request.driver_id},
                )
            start = where[0]
        original = calls_of(plan if plan is not None else route_pb2.RoutePlan(), orders)
        return Task(request.driver_id, start, start_at, vehicle, orders, base, tuple(original))

    async def _travel(self, request: OptimizeRouteRequest, task: Task) -> tuple[Travel, Degradation | None]:
        where = places(task.start, task.orders)
        match request.WhichOneof("travel_times"):
            case "matrix":
                try:
                    return matrix(request.matrix.durations_s, request.matrix.distances_m, where), None
                except MatrixSizeError as error:
                    raise InvalidArgument(
                        f"matrix: {error}",
                        reason=ERROR_REASON_MATRIX_SIZE,
                        metadata={"expected": str(error.expected), "found": str(error.found)},
                        violations=[FieldViolation("matrix", f"{error} (n × n, n = 1 + 2 × orders)")],
                    ) from error
            case "plane":
                return plane(where, request.plane.speed_kph), None
            case _:
                if not task.orders:
                    return Travel(((0,),), ((0,),)), None
                return await self._eta.travel(where, task.vehicle, task.start_at)


def solution_of(task: Task, travel: Travel, alternatives: int) -> Solution:
    """The best plan of a task, what the plan so far would take, and other good plans. Pure.

    Raises FailedPrecondition if no route keeps the limits.
    """
    problem = Problem(travel, jobs(task.orders, task.start_at), task.limits)
    best = solve(problem)
    if best is None:
        limit = first_broken(problem)
        raise FailedPrecondition(
            f"no route keeps {limit}", reason=ERROR_REASON_NO_FEASIBLE_PLAN, metadata={"limit": limit}
        )
    others: list[Plan] = []
    if alternatives:
        calls = _calls(best)
        others = sorted((p for p in front(problem) if _calls(p) != calls), key=lambda p: p.cost)
    return Solution(
        best,
        walk(problem, task.original),
        tuple((other, explain.trade_off(best, other)) for other in others[:alternatives]),
    )


def _calls(plan: Plan) -> tuple[Call, ...]:
    return tuple((visit.job, visit.kind) for visit in plan.visits)


def recommendation(
    task: Task, best: Plan, original: Plan, reason: str, now: float
) -> route_pb2.RouteOptimization:
    """What changes, and why."""
    return route_pb2.RouteOptimization(
        driver_id=task.driver_id,
        original_route=route_plan(original, task.orders, task.start_at).stops,
        optimized_route=route_plan(best, task.orders, task.start_at).stops,
        time_savings=(original.duration_s - best.duration_s) / 60 if changes(best, original) else 0.0,
        reason=reason,
        timestamp=stamp(now),
        original_distance_m=original.distance_m,
        optimized_distance_m=best.distance_m,
    )


def changes(best: Plan, original: Plan) -> bool:
    """Whether the order of stops changes."""
    return _calls(best) != _calls(original)


def _response(
    task: Task, solution: Solution, degradation: Degradation | None, now: float
) -> OptimizeRouteResponse:
    best, original = solution.best, solution.original
    if not task.orders:
        reason = "there are no orders to plan"
    elif not changes(best, original):
        reason = "the order of stops is the best already"
    else:
        reason = explain.better_route(original, best) or "as good in time and way, within the limits"
    response = OptimizeRouteResponse(
        optimization=recommendation(task, best, original, reason, now),
        plan=route_plan(best, task.orders, task.start_at),
        alternatives=[
            route_pb2.RouteAlternative(
                plan=route_plan(plan, task.orders, task.start_at),
                extra_minutes=(plan.duration_s - best.duration_s) / 60,
                extra_distance_m=plan.distance_m - best.distance_m,
                reason=why,
            )
            for plan, why in solution.alternatives
        ],
    )
    if degradation is not None:
        response.degradation.CopyFrom(degradation)
    return response


def _check(request: OptimizeRouteRequest) -> None:
    """What the contract's rules cannot say."""
    if request.HasField("start_time") and not 0 <= seconds(request.start_time) < _LAST_START_S:
        raise refusals.invalid("start_time", "must be within the years 1970 to 2999")
    if request.WhichOneof("travel_times") == "matrix" and not request.orders:
        raise refusals.invalid("matrix", "needs the orders it is about in the request")
    _check_orders(request.orders)


def _check_orders(orders: Sequence[Order]) -> None:
    seen: set[str] = set()
    for index, order in enumerate(orders):
        if order.order_id in seen:
            raise refusals.invalid(f"orders[{index}].order_id", "must not come twice")
        seen.add(order.order_id)
        status = Status(order.status)
        if status not in OPEN:
            raise refusals.invalid(f"orders[{index}].status", f"{status.name.lower()} needs no route")
