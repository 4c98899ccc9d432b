"""The simulated fleet in the words of the contract."""

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.gps.v1.gps_pb2 import GpsEvent, TrafficDensity, ZoneType
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.courier_pb2 import Courier, CourierStatus
from waymesh.order.v1.order_pb2 import Merchant, Order, OrderStatus, TimeWindow

from services.sim.courier import Sighting, SimCourier
from services.sim.demand import Demand
from services.sim.plane import Point


class Wording:
    """Names and times of one run. `prefix` begins every id, `started` is second 0 of the simulation, epoch
    seconds.

    `ready_is_told`: whether merchants say when an order will be ready. Whoever plans by the clock cannot make
    sense of that on a day that runs at another speed; then they had better not.
    """

    def __init__(self, prefix: str, started: float, *, ready_is_told: bool) -> None:
        self._prefix = prefix
        self._started = started
        self._ready_is_told = ready_is_told

    def named(self, name: str) -> str:
        """The id that the mesh knows it by."""
        return f"{self._prefix}-{name}"

    def unnamed(self, known_as: str) -> str:
        """The name of what the mesh knows by this id; as it is if it is not of this run."""
        return known_as.removeprefix(f"{self._prefix}-")

    def is_ours(self, known_as: str) -> bool:
        """Whether an id is of this run."""
        return known_as.startswith(f"{self._prefix}-")

    def order_id(self, one: Demand) -> str:
        """The order's id."""
        return self.named(f"order-{one.number:05}")

    def at_us(self, at_s: float) -> int:
        """Simulated seconds as µs since 1970."""
        return round((self._started + at_s) * 1e6)

    def courier(self, one: SimCourier, revision: int, now_s: float, shift_until: float | None) -> Courier:
        """A courier on shift until an epoch second of the real clock; off shift with None."""
        working = CourierStatus.COURIER_STATUS_BUSY if one.orders else CourierStatus.COURIER_STATUS_IDLE
        courier = Courier(
            driver_id=self.named(one.driver_id),
            revision=revision,
            vehicle_type=one.vehicle,
            status=working if shift_until is not None else CourierStatus.COURIER_STATUS_OFF_SHIFT,
            position=_location(one.place),
            position_at=self._timestamp(now_s),
        )
        if shift_until is not None:
            until = Timestamp()
            until.FromMicroseconds(round(shift_until * 1e6))
            courier.shift.CopyFrom(TimeWindow(latest=until))
        return courier

    def order(self, one: Demand) -> Order:
        """An order as it is placed."""
        order = Order(
            order_id=self.order_id(one),
            revision=1,
            status=OrderStatus.ORDER_STATUS_PLACED,
            pickup=_location(one.pickup),
            dropoff=_location(one.dropoff),
            merchant=Merchant(merchant_id=f"merchant-{one.merchant:02}"),
            placed_at=self._timestamp(one.placed_s),
            size=1,
        )
        if self._ready_is_told:
            order.ready_at.CopyFrom(self._timestamp(one.promised_ready_s))
        return order

    def fix(self, courier: SimCourier, sighting: Sighting) -> GpsEvent:
        """A fix; who takes it in derives its identity."""
        return GpsEvent(
            driver_id=self.named(courier.driver_id),
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

    def _timestamp(self, at_s: float) -> Timestamp:
        stamp = Timestamp()
        stamp.FromMicroseconds(self.at_us(at_s))
        return stamp


def _location(place: Point) -> Location:
    return Location(lat=place.lat, lon=place.lon)
