"""Recorded traces in the words of the contract: couriers, orders and fixes."""

from collections.abc import Sequence

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.gps.v1.gps_pb2 import GpsEvent, TrafficDensity, TripStage, ZoneType
from waymesh.gps.v1.location_pb2 import Location
from waymesh.gps.v1.vehicle_pb2 import VehicleType
from waymesh.order.v1.courier_pb2 import Courier, CourierStatus
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.sim.schedule import Schedule
from services.sim.traces import Trace


class Recording:
    """The messages of some traces. `run_id` is part of every id, so that two runs are two fleets."""

    def __init__(self, traces: Sequence[Trace], run_id: str) -> None:
        self.traces = traces
        self._run_id = run_id
        sizes = [len(trace) for trace in traces]
        self._first = np.cumsum([0, *sizes[:-1]])
        self._at_us = np.concatenate([trace.at_us for trace in traces])
        self._lat = np.concatenate([trace.lat for trace in traces])
        self._lon = np.concatenate([trace.lon for trace in traces])
        self._speed_kph = np.concatenate([trace.speed_kph for trace in traces])
        self._line = np.concatenate([trace.line for trace in traces])
        self._stage = np.concatenate([_stages(trace) for trace in traces])
        self._driver_ids = [self._id("courier", trace) for trace in traces]
        self._order_ids = [self._id("order", trace) if trace.scored else "" for trace in traces]

    @property
    def delivered_us(self) -> dict[str, int]:
        """order_id → time of its handover, µs since 1970."""
        return {
            order_id: int(trace.at_us[-1])
            for order_id, trace in zip(self._order_ids, self.traces, strict=True)
            if order_id
        }

    def couriers(self) -> list[Courier]:
        """Those who carry an order, at the start of their way, busy: nobody is to give them another."""
        return [
            Courier(
                driver_id=self._driver_ids[number],
                revision=1,
                # The recordings do not say; a car is believed to go as fast as an unknown vehicle.
                vehicle_type=VehicleType.VEHICLE_TYPE_CAR,
                status=CourierStatus.COURIER_STATUS_BUSY,
                position=_location(trace, 0),
                position_at=_timestamp(int(trace.at_us[0])),
            )
            for number, trace in enumerate(self.traces)
            if trace.scored
        ]

    def orders(self) -> list[Order]:
        """One for each trace that is a delivery, assigned to its courier."""
        return [
            Order(
                order_id=self._order_ids[number],
                revision=1,
                status=OrderStatus.ORDER_STATUS_ASSIGNED,
                pickup=_location(trace, 0),
                dropoff=_location(trace, -1),
                placed_at=_timestamp(int(trace.at_us[0])),
                ready_at=_timestamp(int(trace.at_us[0])),
                driver_id=self._driver_ids[number],
            )
            for number, trace in enumerate(self.traces)
            if trace.scored
        ]

    def events(self, schedule: Schedule, start: int, end: int) -> list[GpsEvent]:
        """The fixes of these places of the schedule. A repeat is equal to its original in every byte."""
        traces = schedule.trace[start:end]
        rows = self._first[traces] + schedule.row[start:end]
        drivers, orders, run_id = self._driver_ids, self._order_ids, self._run_id
        return [
            GpsEvent(
                driver_id=drivers[trace],
                order_id=orders[trace],
                location=Location(lat=lat, lon=lon),
                speed_kph=speed_kph,
                trip_stage=stage,
                traffic_density=TrafficDensity.TRAFFIC_DENSITY_MODERATE,
                zone_type=ZoneType.ZONE_TYPE_MIXED,
                timestamp=Timestamp(seconds=at_us // 1_000_000, nanos=at_us % 1_000_000 * 1000),
                event_id=f"{run_id}-{row}",
            )
            for trace, row, at_us, lat, lon, speed_kph, stage in zip(
                traces.tolist(),
                rows.tolist(),
                self._at_us[rows].tolist(),
                self._lat[rows].tolist(),
                self._lon[rows].tolist(),
                self._speed_kph[rows].tolist(),
                self._stage[rows].tolist(),
                strict=True,
            )
        ]

    def line(self, event: GpsEvent) -> int:
        """Where in its file the fix stands that was made into this event."""
        return int(self._line[int(event.event_id.rpartition("-")[2])])

    def _id(self, kind: str, trace: Trace) -> str:
        return f"{kind}-{self._run_id}-{trace.uid}-{trace.number}"


def _stages(trace: Trace) -> list[TripStage.ValueType]:
    if not trace.scored:
        return [TripStage.TRIP_STAGE_IDLE] * len(trace)
    between = [TripStage.TRIP_STAGE_TO_DESTINATION] * (len(trace) - 2)
    return [TripStage.TRIP_STAGE_AT_PICKUP, *between, TripStage.TRIP_STAGE_DELIVERED]


def _location(trace: Trace, row: int) -> Location:
    return Location(lat=float(trace.lat[row]), lon=float(trace.lon[row]))


def _timestamp(at_us: int) -> Timestamp:
    return Timestamp(seconds=at_us // 1_000_000, nanos=at_us % 1_000_000 * 1000)
