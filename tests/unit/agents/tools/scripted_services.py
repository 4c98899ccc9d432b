"""Stubs of eta, route and feedback whose answers a test decides; what they are asked is kept."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.agent.v1.definition_pb2 import Capability
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Leg, Quantiles
from waymesh.eta.v1.eta_service_pb2 import (
    BatchPredictEtaResponse,
    BatchPredictEtaResult,
    PredictEtaResponse,
)
from waymesh.eta.v1.travel_time_pb2 import GetTravelTimesResponse
from waymesh.feedback.v1.feedback_service_pb2 import ListDeliveryOutcomesResponse, ListOutcomesResponse
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.context_pb2 import DeliveryContext, Weather
from waymesh.order.v1.order_pb2 import Merchant, Order, OrderItem
from waymesh.route.v1.allocation_pb2 import Allocation, AlternativeDriver
from waymesh.route.v1.route_pb2 import RouteOptimization, RoutePlan, Stop
from waymesh.route.v1.route_service_pb2 import (
    AllocateDriversResponse,
    GetOrderResponse,
    OptimizeRouteResponse,
)

from services.agents.tools import Scope, Toolbox, ToolOutcome
from services.agents.tools.weather_api import WeatherSource

NOW = datetime(2026, 11, 21, 19, 30, tzinfo=UTC)

Answer = Any  # a message, an error to raise, or a function of the request that gives or raises one


class Service:
    """A stub: every method answers what stands under its name."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []
        self.hangs = False

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        async def call(request: Any, **_: Any) -> Any:
            self.asked.append((method, request))
            if self.hangs:
                await asyncio.Event().wait()
            found = self.answers[method]
            found = found(request) if callable(found) else found
            if isinstance(found, BaseException):
                raise found
            return found

        return call

    def requests(self, method: str) -> list[Any]:
        """What one method was asked."""
        return [request for name, request in self.asked if name == method]


def stamp(minutes: float = 0.0) -> Timestamp:
    """A time so many minutes from now."""
    return Timestamp(seconds=int(NOW.timestamp() + minutes * 60))


def an_order(order_id: str = "order_1", **fields: Any) -> Order:
    """An order that waits."""
    return Order(
        **{
            "order_id": order_id,
            "revision": 1,
            "status": 1,
            "pickup": Location(lat=60.17, lon=24.94),
            "dropoff": Location(lat=60.18, lon=24.95),
            "merchant": Merchant(merchant_id="m-1", name="Noodle Bar"),
            "placed_at": stamp(-10),
            "items": [OrderItem(name="noodles", quantity=2)],
            "context": DeliveryContext(weather=Weather.WEATHER_RAIN, area="centre"),
        }
        | fields
    )


def a_prediction(order_id: str = "order_1", **fields: Any) -> EtaPrediction:
    """A prediction of some minutes."""
    return EtaPrediction(
        **{
            "order_id": order_id,
            "driver_id": "driver_1",
            "delivery_eta": stamp(23.4),
            "delivery_eta_minutes": 23.4,
            "delivery": Quantiles(p10_minutes=18.0, p50_minutes=23.4, p90_minutes=31.0),
            "confidence": 0.81,
            "legs": [Leg(kind=4, minutes=12.0, distance_m=3100.0)],
            "base_minutes": 20.0,
        }
        | fields
    )


def a_route(
    driver_id: str = "driver_1", order_ids: tuple[str, ...] = ("order_1", "order_2")
) -> OptimizeRouteResponse:
    """A way with two stops for each order."""
    stops = [
        Stop(order_id=each, kind=kind, time=stamp(5.0 * place), distance_m=900.0)
        for kind in (1, 2)
        for place, each in enumerate(order_ids, start=1)
    ]
    return OptimizeRouteResponse(
        optimization=RouteOptimization(
            driver_id=driver_id, optimized_route=stops, time_savings=3.2, reason="3.2 min shorter"
        ),
        plan=RoutePlan(stops=stops, duration_minutes=21.5, distance_m=3600.0),
    )


def an_allocation(order_id: str = "order_1", driver_id: str = "driver_1") -> Allocation:
    """A courier for an order."""
    return Allocation(
        order_id=order_id,
        assigned_driver_id=driver_id,
        allocation_score=88.5,
        estimated_pickup_time=stamp(6),
        reasoning=[
            "at the pickup in 6.0 min",
            "goes with order_77, order_78: 3.5 min more for the courier",
            "2.5 min of work cheaper than driver_9, the next best",
        ],
        alternative_drivers=[AlternativeDriver(driver_id="driver_9", score=70.0)],
    )


class Mesh:
    """The three services and a toolbox over them."""

    def __init__(self, weather: WeatherSource | None = None) -> None:
        self.eta = Service(
            PredictEta=lambda request: PredictEtaResponse(prediction=a_prediction(request.query.order_id)),
            BatchPredictEta=lambda request: BatchPredictEtaResponse(
                results=[BatchPredictEtaResult(prediction=a_prediction("x")) for _ in request.queries]
            ),
            GetTravelTimes=lambda request: GetTravelTimesResponse(
                durations_s=[600] * len(request.destinations), distances_m=[5000] * len(request.destinations)
            ),
        )
        self.route = Service(
            GetOrder=lambda request: GetOrderResponse(
                order=an_order(request.order_id, driver_id="driver_1", status=2),
                allocation=an_allocation(request.order_id),
            ),
            OptimizeRoute=lambda request: a_route(request.driver_id),
            AllocateDrivers=lambda request: AllocateDriversResponse(
                allocations=[an_allocation(each) for each in request.order_ids]
            ),
        )
        self.feedback = Service(
            ListOutcomes=ListOutcomesResponse(), ListDeliveryOutcomes=ListDeliveryOutcomesResponse()
        )
        self.toolbox = Toolbox(self.eta, self.route, self.feedback, weather, NOW.timestamp)

    async def use(
        self, tool: str, arguments: str, scope: Scope, config: dict[str, Any] | None = None
    ) -> ToolOutcome:
        """One call, as an agent's loop makes it."""
        capability = Capability(capability_id=tool)
        capability.config.update(config or {})
        return await self.toolbox.call(tool, arguments, scope, capability)

    @property
    def asked(self) -> int:
        """Calls that reached a service."""
        return len(self.eta.asked) + len(self.route.asked) + len(self.feedback.asked)
