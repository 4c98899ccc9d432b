"""Which adapter a process uses."""

import asyncpg

from services.mesh.events.bus import EventBus
from services.mesh.events.metering import Meter, TelemetryMeter
from services.mesh.events.postgres import PostgresBus
from services.mesh.settings import MeshSettings
from services.mesh.telemetry import Telemetry


def create_bus(
    settings: MeshSettings, *, service: str, pool: asyncpg.Pool, telemetry: Telemetry | None = None
) -> EventBus:
    """The bus of a service: Kafka where the settings name a cluster, the embedded one otherwise.

    `service` becomes the CloudEvents source of what it publishes. The pool may have any search_path.
    """
    meter: Meter | None = TelemetryMeter(telemetry) if telemetry is not None else None
    return PostgresBus(pool, service=service, meter=meter)
