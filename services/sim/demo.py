"""The demo: a simulated fleet at work in a running mesh, through the public stubs alone."""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.gps.v1.gps_pb2 import GpsEvent, TrafficDensity, TripStage, ZoneType
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.courier_pb2 import Courier, CourierStatus
from waymesh.order.v1.order_pb2 import Merchant, Order, OrderStatus
from waymesh.route.v1 import route_service_pb2_grpc
from waymesh.route.v1.route_service_pb2 import (
    GetOrderRequest,
    UpsertCouriersRequest,
    UpsertOrdersRequest,
)

from services.sim.accuracy import Accuracy, Forecast
from services.sim.courier import Sighting, SimCourier
from services.sim.demand import Demand
from services.sim.fleet import Fleet
from services.sim.gps_stream import PASSING, GpsSender
from services.sim.latency import Latencies
from services.sim.plane import Point
from services.sim.watch import PredictionWatch

Answer = TypeVar("Answer")

_TICK_S: Final = 0.25
_ASK_S: Final = 0.5
_CALL_S: Final = 5.0
_BATCH: Final = 1000
# What is sent and not yet predicted from is forgotten after so many, since not every fix is worth a
# prediction.
_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Figures:
    """How the demo stands."""

    couriers_free: int
    couriers_busy: int
    waiting: int
    assigned: int
    carried: int
    delivered: int
    accuracy: Accuracy
    allocations: int
    gps: Latencies
    prediction: Latencies
    allocation: Latencies
    trouble: str


@dataclass(slots=True)
class _Open:
    demand: Demand
    asked_at: float
    status: OrderStatus.ValueType = OrderStatus.ORDER_STATUS_PLACED


class Demo:
    """Runs until it is cancelled. `speed`: simulated seconds per second; `started`: when the day begins, s
    since 1970.
    """

    def __init__(self, *, couriers: int, speed: float, seed: int, started: float) -> None:
        self._fleet = Fleet(couriers, seed)
        self._speed = speed
        self._started = started
        self._run_id = uuid.uuid4().hex[:6]
        self._orders: dict[str, _Open] = {}
        self._accuracy = Accuracy()
        self._allocations = 0
        self._allocation = Latencies()
        self._prediction = Latencies()
        self._gps = Latencies()
        self._sent_at: dict[tuple[str, int], float] = {}
        self._delivered = 0
        self._trouble = ""

    async def run(
        self, eta_target: str, route_target: str, every_s: float, show: Callable[[Figures], None]
    ) -> None:
        """Plays the day and shows the figures every so often. Raises grpc.aio.AioRpcError if it is
        refused.
        """
        async with (
            grpc.aio.insecure_channel(eta_target) as eta_channel,
            grpc.aio.insecure_channel(route_target) as route_channel,
        ):
            eta = eta_service_pb2_grpc.EtaServiceStub(eta_channel)
            route = route_service_pb2_grpc.RouteServiceStub(route_channel)
            await self._introduce(route)
            watch = PredictionWatch(eta, self._predicted)
            await watch.start()
            sender = GpsSender(eta)
            self._gps = sender.latencies
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._live(route, sender))
                    tasks.create_task(self._follow(route))
                    tasks.create_task(self._show(every_s, show))
            except* grpc.aio.AioRpcError as group:
                raise group.exceptions[0] from None
            finally:
                await sender.close()
                await watch.close()

    async def _introduce(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        couriers = [
            Courier(
                driver_id=self._named(courier.driver_id),
                revision=1,
                vehicle_type=courier.vehicle,
                status=CourierStatus.COURIER_STATUS_IDLE,
                position=_location(courier.place),
                position_at=self._timestamp(0.0),
            )
            for courier in self._fleet.couriers.values()
        ]
        await route.UpsertCouriers(
            UpsertCouriersRequest(couriers=couriers), timeout=_CALL_S, wait_for_ready=True
        )

    async def _live(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", sender: GpsSender) -> None:
        began = time.monotonic()
        unplaced: list[Demand] = []
        while True:
            step = self._fleet.advance((time.monotonic() - began) * self._speed)
            unplaced += step.placed
            if unplaced and await self._place(route, unplaced):
                unplaced = []
            events = [self._event(courier, sighting) for courier, sighting in step.sightings]
            for start in range(0, len(events), _BATCH):
                await sender.send(events[start : start + _BATCH])
            for courier, sighting in step.sightings:
                self._note(courier, sighting)
            await asyncio.sleep(_TICK_S)

    async def _place(
        self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", placed: Sequence[Demand]
    ) -> bool:
        now = time.monotonic()
        request = UpsertOrdersRequest(orders=[self._order(one) for one in placed])
        if await self._try(route.UpsertOrders(request, timeout=_CALL_S)) is None:
            return False
        for one in placed:
            self._orders[self._order_id(one)] = _Open(one, now)
        return True

    async def _follow(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        """Learns whom waiting orders were given to."""
        while True:
            waiting = [
                order_id
                for order_id, one in self._orders.items()
                if one.status == OrderStatus.ORDER_STATUS_PLACED
            ]
            await asyncio.gather(*(self._ask(route, order_id) for order_id in waiting))
            await asyncio.sleep(_ASK_S)

    async def _ask(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub", order_id: str) -> None:
        answer = await self._try(route.GetOrder(GetOrderRequest(order_id=order_id), timeout=_CALL_S))
        driver_id = answer.order.driver_id if answer is not None else ""
        if not driver_id:
            return
        one = self._orders[order_id]
        one.status = OrderStatus.ORDER_STATUS_ASSIGNED
        self._allocations += 1
        self._allocation.add(time.monotonic() - one.asked_at)
        self._fleet.assign(driver_id.removeprefix(self._named("")), order_id, one.demand)

    async def _show(self, every_s: float, show: Callable[[Figures], None]) -> None:
        while True:
            await asyncio.sleep(every_s)
            show(self._figures())

    async def _try(self, call: "Awaitable[Answer]") -> "Answer | None":
        """The answer, or None while the service is away: the demo goes on through restarts."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            if error.code() not in (*PASSING, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            self._trouble = f"{error.code().name}: {error.details()}"
            return None
        return answer

    def _note(self, courier: SimCourier, sighting: Sighting) -> None:
        """Follows orders by what the couriers do."""
        one = self._orders.get(sighting.order_id)
        if one is None:
            return
        if sighting.stage == TripStage.TRIP_STAGE_TO_DESTINATION:
            one.status = OrderStatus.ORDER_STATUS_PICKED_UP
        elif sighting.stage == TripStage.TRIP_STAGE_DELIVERED:
            del self._orders[sighting.order_id]
            self._delivered += 1
            self._accuracy.delivered(sighting.order_id, self._at_us(sighting.at_s))

    def _predicted(self, prediction: EtaPrediction) -> None:
        if not prediction.order_id.startswith(self._run_id):
            return
        at_us = prediction.timestamp.ToMicroseconds()
        sent_at = self._sent_at.pop((prediction.driver_id, at_us), None)
        if sent_at is not None:
            self._prediction.add(time.monotonic() - sent_at)
        minutes = prediction.delivery
        self._accuracy.predicted(
            prediction.order_id,
            Forecast(at_us, minutes.p10_minutes, minutes.p50_minutes, minutes.p90_minutes),
        )

    def _figures(self) -> Figures:
        stages = self._fleet.stages()
        free = stages[TripStage.TRIP_STAGE_IDLE]
        statuses = Counter(one.status for one in self._orders.values())
        trouble, self._trouble = self._trouble, ""
        return Figures(
            couriers_free=free,
            couriers_busy=len(self._fleet.couriers) - free,
            waiting=statuses[OrderStatus.ORDER_STATUS_PLACED],
            assigned=statuses[OrderStatus.ORDER_STATUS_ASSIGNED],
            carried=statuses[OrderStatus.ORDER_STATUS_PICKED_UP],
            delivered=self._delivered,
            accuracy=self._accuracy,
            allocations=self._allocations,
            gps=self._gps,
            prediction=self._prediction,
            allocation=self._allocation,
            trouble=trouble,
        )

    def _event(self, courier: SimCourier, sighting: Sighting) -> GpsEvent:
        driver_id = self._named(courier.driver_id)
        self._sent_at[driver_id, self._at_us(sighting.at_s)] = time.monotonic()
        while len(self._sent_at) > _REMEMBERED:
            with contextlib.suppress(StopIteration):
                del self._sent_at[next(iter(self._sent_at))]
        return GpsEvent(
            driver_id=driver_id,
            order_id=sighting.order_id,
            location=_location(sighting.reading.place),
            speed_kph=sighting.speed_kph,
            trip_stage=sighting.stage,
            traffic_density=TrafficDensity.TRAFFIC_DENSITY_MODERATE,
            zone_type=ZoneType.ZONE_TYPE_CITY_CENTER,
            timestamp=self._timestamp(sighting.at_s),
            accuracy_meters=sighting.reading.accuracy_m,
            vehicle_type=courier.vehicle,
        )

    def _order(self, one: Demand) -> Order:
        order = Order(
            order_id=self._order_id(one),
            revision=1,
            status=OrderStatus.ORDER_STATUS_PLACED,
            pickup=_location(one.pickup),
            dropoff=_location(one.dropoff),
            merchant=Merchant(merchant_id=self._named(f"merchant-{one.merchant:02}")),
            placed_at=self._timestamp(one.placed_s),
            size=1,
        )
        if self._speed == 1:
            # A day that runs faster than the clock is ahead of it, and "ready in an hour" would be held back.
            order.ready_at.CopyFrom(self._timestamp(one.promised_ready_s))
        return order

    def _order_id(self, one: Demand) -> str:
        return self._named(f"order-{one.number:05}")

    def _named(self, name: str) -> str:
        return f"{self._run_id}-{name}"

    def _at_us(self, at_s: float) -> int:
        return round((self._started + at_s) * 1e6)

    def _timestamp(self, at_s: float) -> Timestamp:
        stamp = Timestamp()
        stamp.FromMicroseconds(self._at_us(at_s))
        return stamp


def _location(place: Point) -> Location:
    return Location(lat=place.lat, lon=place.lon)
