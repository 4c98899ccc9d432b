"""Counts of the bus for Prometheus: `kafka_messages_total{topic,status}`, whichever adapter runs."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from services.mesh.events.bus import Message
from services.mesh.events.dead_letters import TOPIC as ORIGIN
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.telemetry import Telemetry

_LAG_EVERY_S: Final = 1.0


class Meter(Protocol):
    """What is counted."""

    def count(self, topic: str, status: str, events: int) -> None:
        """`status` is one of published, relayed, consumed, failed, dead."""
        ...

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Events a reader of this process has still to handle."""
        ...

    def gone(self, topic: str, partition: int) -> None:
        """The partition is another process's now, and so is what is left of it."""
        ...

    def age(self, topic: str, seconds: float) -> None:
        """How long the oldest event of a batch had been on the bus when the batch was handled."""
        ...


def count_published(meter: Meter, messages: Sequence[Message]) -> None:
    """Counts what is published; a dead letter also where the record was read that it is about."""
    for topic, events in Counter(message.topic for message in messages).items():
        meter.count(topic, "published", events)
        if topic == DEAD_LETTERS:
            dead = Counter(one.headers.get(ORIGIN, "") for one in messages if one.topic == DEAD_LETTERS)
            for origin, letters in dead.items():
                meter.count(origin, "dead", letters)


def begin_at_zero(meter: Meter, topics: Sequence[str]) -> None:
    """Shows that nothing of these went wrong so far: an increase is seen only of what was there."""
    for topic in topics:
        for status in ("dead", "failed"):
            meter.count(topic, status, 0)


class SilentMeter:
    """Counts nothing."""

    def count(self, topic: str, status: str, events: int) -> None:
        """Nothing."""

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Nothing."""

    def gone(self, topic: str, partition: int) -> None:
        """Nothing."""

    def age(self, topic: str, seconds: float) -> None:
        """Nothing."""


class TelemetryMeter:
    """Counts in the process's registry."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._messages = telemetry.kafka_messages
        self._lag = telemetry.kafka_consumer_lag
        self._age = telemetry.event_age

    def count(self, topic: str, status: str, events: int) -> None:
        """Adds to `kafka_messages_total`."""
        self._messages.labels(topic, status).inc(events)

    def lag(self, topic: str, partition: int, events: int) -> None:
        """Sets `kafka_consumer_lag`."""
        self._lag.labels(topic, str(partition)).set(events)

    def gone(self, topic: str, partition: int) -> None:
        """Takes the partition out of `kafka_consumer_lag`."""
        with contextlib.suppress(KeyError):
            self._lag.remove(topic, str(partition))

    def age(self, topic: str, seconds: float) -> None:
        """Observes `waymesh_event_age_seconds`."""
        self._age.labels(topic).observe(seconds)


class LagTeller:
    """Tells a reader's lag at most once a second, and which partitions it no longer has."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._told: set[tuple[str, int]] = set()
        self._at = -math.inf

    def tell(self, lag: Callable[[], Mapping[tuple[str, int], int]]) -> None:
        """`lag` is asked only if it is time."""
        now = time.monotonic()
        if now < self._at + _LAG_EVERY_S:
            return
        self._at = now
        standing = lag()
        for topic, partition in self._told - standing.keys():
            self._meter.gone(topic, partition)
        for (topic, partition), events in standing.items():
            self._meter.lag(topic, partition, events)
        self._told = set(standing)

    def end(self) -> None:
        """The reader reads no more."""
        for topic, partition in self._told:
            self._meter.gone(topic, partition)
        self._told.clear()
