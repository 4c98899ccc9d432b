"""Counts of the bus for Prometheus: `kafka_messages_total{topic,status}`, whichever adapter runs."""

from typing import Protocol

from services.mesh.telemetry import Telemetry


class Meter(Protocol):
    """What is counted."""

    def count(self, topic: str, status: str, events: int) -> None:
        """`status` is one of published, consumed, failed, dead."""
        ...

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Events a reader of this process has still to handle."""
        ...


class SilentMeter:
    """Counts nothing."""

    def count(self, topic: str, status: str, events: int) -> None:
        """Nothing."""

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Nothing."""


class TelemetryMeter:
    """Counts in the process's registry."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._messages = telemetry.kafka_messages
        self._lag = telemetry.kafka_consumer_lag

    def count(self, topic: str, status: str, events: int) -> None:
        """Adds to `kafka_messages_total`."""
        self._messages.labels(topic, status).inc(events)

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Sets `kafka_consumer_lag`."""
        self._lag.labels(topic, str(partition)).set(events)
