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
    if settings.kafka_enabled:
        # aiokafka is imported where it is used: a mesh on the embedded bus saves its memory.
        from services.mesh.events.kafka import KafkaBus
        from services.mesh.events.kafka_client import KafkaOptions

        return KafkaBus(pool, KafkaOptions.from_settings(settings), service=service, meter=meter)
    return PostgresBus(pool, service=service, meter=meter)
