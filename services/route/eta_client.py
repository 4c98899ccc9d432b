"""What route asks eta, with a fallback of its own: an answer always comes, and says when it is second
best."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from waymesh.eta.v1 import eta_pb2, eta_service_pb2, travel_time_pb2
from waymesh.feedback.v1.delivery_pb2 import LEG_KIND_TO_DESTINATION, LEG_KIND_TO_PICKUP, LEG_KIND_WAIT
from waymesh.gps.v1.location_pb2 import Location
from waymesh.gps.v1.vehicle_pb2 import VehicleType
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.order.v1.context_pb2 import DeliveryContext
from waymesh.order.v1.order_pb2 import Order

from services.mesh import deadline
from services.mesh.errors import MeshError
from services.mesh.principal import MESH, acting
from services.route.fleet import CourierState
from services.route.forecast import Forecast
from services.route.limits import Vehicle
from services.route.translate import stamp
from services.route.travel import MatrixSizeError, Place, Travel, fallback, table

if TYPE_CHECKING:  # a type only; the module does not have it when it runs
    from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceAsyncStub

_log = logging.getLogger(__name__)

# Of a caller's remaining time eta gets at most this share; the rest is for the solver, the store and the
# answer.
_SHARE: Final = 0.5
FALLBACK_TRAVEL_TIMES: Final = "route.fallback_travel_times"
FALLBACK_PREDICTIONS: Final = "route.fallback_predictions"


@dataclass(frozen=True, slots=True)
class Pair:
    """An order and a courier who might carry it."""

    order: Order
    courier: CourierState


class EtaClient:
    """eta's travel times and predictions. `timeout_s` bounds each call, as does the budget at hand.

    They are asked for the mesh: eta knows orders and couriers by the same qualified ids as route.
    """

    def __init__(self, stub: "EtaServiceAsyncStub", timeout_s: float) -> None:
        self._stub = stub
        self._timeout_s = timeout_s

    async def travel(
        self, places: Sequence[Place], vehicle: Vehicle, departure: float
    ) -> tuple[Travel, Degradation | None]:
        """Tables between all places for a departure at `departure`, epoch seconds."""
        locations = [Location(lat=place.lat, lon=place.lon) for place in places]
        request = travel_time_pb2.GetTravelTimesRequest(
            origins=locations,
            destinations=locations,
            vehicle_type=VehicleType.ValueType(int(vehicle)),
            departure_time=stamp(departure),
        )
        try:
            with deadline.budget(self._granted()), acting(MESH):
                response = await self._stub.GetTravelTimes(request, timeout=self._timeout_s)
            n = len(places)
            made = Travel(table(response.durations_s, n), table(response.distances_m, n))
        except MeshError as error:
            return fallback(places, vehicle), _degradation(FALLBACK_TRAVEL_TIMES, error.code.name)
        except MatrixSizeError as error:
            _log.warning("eta's travel times do not fit: %s", error)
            return fallback(places, vehicle), _degradation(FALLBACK_TRAVEL_TIMES, "answer does not fit")
        return made, response.degradation if response.HasField("degradation") else None

    async def forecasts(
        self, pairs: Sequence[Pair], now: float
    ) -> tuple[Mapping[tuple[str, str], Forecast], Degradation | None]:
        """Forecasts by (order_id, driver_id) for those pairs that eta can predict, at most 1,000 pairs."""
        if not pairs:
            return {}, None
        request = eta_service_pb2.BatchPredictEtaRequest(queries=[_query(pair, now) for pair in pairs])
        try:
            with deadline.budget(self._granted()), acting(MESH):
                response = await self._stub.BatchPredictEta(request, timeout=self._timeout_s)
        except MeshError as error:
            return {}, _degradation(FALLBACK_PREDICTIONS, error.code.name)
        found = {
            (pair.order.order_id, pair.courier.driver_id): _forecast(result.prediction)
            for pair, result in zip(pairs, response.results, strict=False)
            if result.HasField("prediction")
        }
        if not found:
            return {}, _degradation(FALLBACK_PREDICTIONS, "no prediction for any order")
        return found, response.degradation if response.HasField("degradation") else None

    def _granted(self) -> float | None:
        left = deadline.remaining()
        return None if left is None else left * _SHARE


def _query(pair: Pair, now: float) -> eta_pb2.EtaQuery:
    courier = pair.courier
    context = DeliveryContext(batch_size=len(courier.orders) + 1)
    if courier.vehicle is not Vehicle.UNKNOWN:
        context.vehicle_type = VehicleType.ValueType(int(courier.vehicle))
    if courier.rating is not None:
        context.courier_rating = courier.rating
    return eta_pb2.EtaQuery(
        order=pair.order,
        driver_id=courier.driver_id,
        courier_location=Location(lat=courier.position.lat, lon=courier.position.lon),
        context=context,
        as_of=stamp(now),
    )


def _forecast(prediction: eta_pb2.EtaPrediction) -> Forecast:
    legs = {leg.kind: leg.minutes * 60 for leg in prediction.legs}
    return Forecast(
        pickup_s=prediction.pickup_eta_minutes * 60,
        delivery_s=prediction.delivery_eta_minutes * 60,
        to_pickup_s=legs.get(LEG_KIND_TO_PICKUP, 0.0),
        wait_s=legs.get(LEG_KIND_WAIT, 0.0),
        to_destination_s=legs.get(LEG_KIND_TO_DESTINATION, 0.0),
    )


def _degradation(source: str, why: str) -> Degradation:
    return Degradation(source=source, reason=f"eta: {why}")
