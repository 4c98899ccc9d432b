"""Between the contract's messages and plain values. No decisions here."""

import hashlib
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1 import allocation_pb2, route_pb2

from services.route.allocation import Assignment
from services.route.bodies import to_body
from services.route.fleet import CourierState, OrderWork
from services.route.identity import Status
from services.route.limits import DEFAULT_CAPACITY, DEFAULT_ORDER_SIZE, Limits, Vehicle, default_limits
from services.route.stops import Kind, Plan
from services.route.store import CourierWrite, OrderWrite, Position
from services.route.travel import Place


def seconds(stamp: Timestamp) -> float:
    """A timestamp as seconds since the epoch."""
    return stamp.seconds + stamp.nanos / 1e9


def stamp(at: float) -> Timestamp:
    """Seconds since the epoch as a timestamp of whole microseconds."""
    made = Timestamp()
    made.FromMicroseconds(round(at * 1e6))
    return made


def moment(stamp: Timestamp) -> datetime:
    """A timestamp as an aware datetime."""
    return stamp.ToDatetime(tzinfo=UTC)


def place(location: Location) -> Place:
    """A location as a place."""
    return Place(location.lat, location.lon)


def digest(body: bytes) -> bytes:
    """What tells a message's content apart from another's, of its bytes as they are kept."""
    return hashlib.sha256(body).digest()


def order_write(order: Order) -> OrderWrite:
    """An order as it is stored."""
    body = to_body(order, order.order_id)
    return OrderWrite(
        order.order_id,
        order.revision,
        Status(order.status),
        order.driver_id,
        order.priority,
        moment(order.placed_at),
        body,
        digest(body),
    )


def courier_write(courier: Courier) -> CourierWrite:
    """A courier as it is stored."""
    body = to_body(courier, courier.driver_id)
    return CourierWrite(
        courier.driver_id,
        courier.revision,
        courier.status,
        body,
        digest(body),
    )


def order_work(order: Order) -> OrderWork:
    """An order as planning sees it."""
    window = order.promised_window
    return OrderWork(
        order.order_id,
        order.revision,
        place(order.pickup),
        place(order.dropoff),
        seconds(order.placed_at),
        seconds(order.ready_at) if order.HasField("ready_at") else None,
        seconds(window.earliest) if window.HasField("earliest") else None,
        seconds(window.latest) if window.HasField("latest") else None,
        order.size or DEFAULT_ORDER_SIZE,
        order.priority,
        frozenset(order.required_skills),
        order.merchant.merchant_id,
        Status(order.status) is Status.PICKED_UP,
    )


def position_of(courier: Courier, fix: Position | None) -> tuple[Place, float | None] | None:
    """Where a courier is and since when (epoch seconds): the newest fix, else what the courier's own
    record says."""
    said = seconds(courier.position_at) if courier.HasField("position_at") else None
    if fix is not None and (said is None or fix.fixed_at.timestamp() >= said):
        return Place(fix.lat, fix.lon), fix.fixed_at.timestamp()
    if courier.HasField("position"):
        return place(courier.position), said
    return None


def on_shift(courier: Courier, now: float) -> bool:
    """Whether `now`, in epoch seconds, is within the courier's shift."""
    shift = courier.shift
    if shift.HasField("earliest") and now < seconds(shift.earliest):
        return False
    return not (shift.HasField("latest") and now > seconds(shift.latest))


def courier_state(courier: Courier, where: Place, asked: route_pb2.RouteLimits, unread: int) -> CourierState:
    """A courier with so many orders as planning sees one, with the default limits but for what `asked`
    holds."""
    vehicle, capacity = Vehicle(courier.vehicle_type), courier.capacity or DEFAULT_CAPACITY
    return CourierState(
        courier.driver_id,
        vehicle,
        where,
        capacity,
        frozenset(courier.skills),
        courier.rating if courier.HasField("rating") else None,
        asked=limits(default_limits(vehicle, capacity), asked),
        unread=unread,
    )


def limits(base: Limits, override: route_pb2.RouteLimits) -> Limits:
    """`base` with what a request says otherwise."""
    said = {field.name: value for field, value in override.ListFields()}
    if not said:
        return base

    def pick(name: str, factor: float, default: int) -> int:
        return round(said[name] * factor) if name in said else default

    return Limits(
        pick("max_orders_on_board", 1, base.max_on_board),
        base.capacity,
        pick("max_duration_minutes", 60, base.max_duration_s),
        pick("max_length_km", 1000, base.max_length_m),
        pick("max_food_wait_minutes", 60, base.max_food_wait_s),
        pick("pickup_service_minutes", 60, base.pickup_service_s),
        pick("dropoff_service_minutes", 60, base.dropoff_service_s),
    )


def route_plan(plan: Plan, orders: tuple[OrderWork, ...], start_at: float) -> route_pb2.RoutePlan:
    """A plan whose jobs are `orders`, with clock times."""
    made = route_pb2.RoutePlan(
        duration_minutes=plan.duration_s / 60,
        distance_m=plan.distance_m,
        lateness_minutes=plan.lateness_s / 60,
        food_wait_minutes=plan.food_s / 60,
    )
    for visit in plan.visits:
        order = orders[visit.job]
        where = order.pickup if visit.kind is Kind.PICKUP else order.dropoff
        made.stops.append(
            route_pb2.Stop(
                order_id=order.order_id,
                kind=route_pb2.StopKind.ValueType(int(visit.kind)),
                location=Location(lat=where.lat, lon=where.lon),
                time=stamp(start_at + visit.arrive_s),
                wait_minutes=(visit.begin_s - visit.arrive_s) / 60,
                lateness_minutes=visit.lateness_s / 60,
                distance_m=visit.leg_m,
            )
        )
    return made


def calls_of(plan: route_pb2.RoutePlan, orders: tuple[OrderWork, ...]) -> list[tuple[int, Kind]]:
    """The order of stops of a plan as far as it still concerns `orders`; what it does not know comes last."""
    index = {order.order_id: i for i, order in enumerate(orders)}
    left = [
        (i, kind)
        for i, order in enumerate(orders)
        for kind in (Kind.PICKUP, Kind.DROPOFF)
        if kind is Kind.DROPOFF or not order.on_board
    ]
    planned: list[tuple[int, Kind]] = []
    for stop in plan.stops:
        call = (index.get(stop.order_id, -1), Kind(stop.kind))
        if call in left:
            planned.append(call)
            left.remove(call)
    return planned + left


def allocation(assignment: Assignment, now: float) -> allocation_pb2.Allocation:
    """An assignment made at `now`, epoch seconds, as it is told."""
    return allocation_pb2.Allocation(
        order_id=assignment.order_id,
        assigned_driver_id=assignment.driver_id,
        allocation_score=assignment.score,
        estimated_pickup_time=stamp(now + assignment.pickup_s),
        reasoning=assignment.reasoning,
        alternative_drivers=[
            allocation_pb2.AlternativeDriver(driver_id=driver_id, score=score)
            for driver_id, score in assignment.alternatives
        ],
        timestamp=stamp(now),
    )
