"""A thousand different fixes, as bodies of requests."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.gps.v1 import gps_pb2
from waymesh.gps.v1.location_pb2 import Location

from services.mesh import json_codec

_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class Bodies:
    """Files with one body a line, the same fixes in each."""

    task: Path
    """The gateway's `report_gps`, in its dialect."""
    plain: Path
    """The same task, its parameters as google.protobuf.json_format reads them."""
    transcoder: Path
    """Of ReportGps itself, as Envoy's transcoder reads it."""


def write(folder: Path) -> Bodies:
    """Puts the files there."""
    bodies = Bodies(folder / "task", folder / "plain", folder / "transcoder")
    events = _fixes()
    ours = [json_codec.to_dict(event) for event in events]
    theirs = [json_format.MessageToDict(event, preserving_proto_field_name=True) for event in events]
    _write(bodies.task, [{"task": "report_gps", "parameters": each} for each in ours])
    _write(bodies.plain, [{"task": "report_gps", "parameters": each} for each in theirs])
    _write(bodies.transcoder, [{"event": each} for each in theirs])
    return bodies


def _write(path: Path, bodies: Sequence[object]) -> None:
    path.write_text("".join(f"{json.dumps(body)}\n" for body in bodies))


def _fixes() -> list[gps_pb2.GpsEvent]:
    rng = random.Random(1)
    made = []
    for n in range(_COUNT):
        event = gps_pb2.GpsEvent(
            driver_id=f"driver_{rng.randrange(500)}",
            order_id=f"order_{n}",
            location=Location(lat=round(rng.uniform(-80, 80), 6), lon=round(rng.uniform(-170, 170), 6)),
            speed_kph=round(rng.uniform(0, 60), 1),
            trip_stage=rng.choice(gps_pb2.TripStage.values()[1:]),
            traffic_density=rng.choice(gps_pb2.TrafficDensity.values()[1:]),
            zone_type=rng.choice(gps_pb2.ZoneType.values()[1:]),
            timestamp=Timestamp(seconds=1724841000 + n, nanos=rng.randrange(1000) * 1_000_000),
        )
        if rng.random() < 0.3:
            event.heading_degrees = round(rng.uniform(0, 359), 1)
        made.append(event)
    return made
