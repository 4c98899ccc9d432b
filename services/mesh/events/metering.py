"""Counts of the bus for Prometheus: `kafka_messages_total{topic,status}`, whichever adapter runs."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from services.mesh.events.bus import Message
from services.mesh.events.dead_letters import TOPIC as ORIGIN
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.telemetry import Telemetry


class Meter(Protocol):
    """What is counted."""

    def count(self, topic: str, status: str, events: int) -> None:
        """`status` is one of published, relayed, consumed, failed, dead."""
        ...

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Events a reader of this process has still to handle."""
        ...


def count_published(meter: Meter, messages: Sequence[Message]) -> None:
    """Counts what is published; a dead letter also where the record was read that it is about."""
    for topic, events in Counter(message.topic for message in messages).items():
        meter.count(topic, "published", events)
        if topic == DEAD_LETTERS:
            dead = Counter(one.headers.get(ORIGIN, "") for one in messages if one.topic == DEAD_LETTERS)
            for origin, letters in dead.items():
                meter.count(origin, "dead", letters)


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
