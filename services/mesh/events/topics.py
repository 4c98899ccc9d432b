"""The topics of Waymesh: partitions, compaction, and how long events are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Topic:
    """How a topic is made. `retention` None: kept for ever (of a compacted topic: the newest per key)."""

    name: str
    partitions: int
    compacted: bool = False
    retention: timedelta | None = timedelta(days=7)


GPS_EVENTS: Final = "gps-events"
ORDERS: Final = "orders"
ORDER_COMMANDS: Final = "order-commands"
ETA_PREDICTIONS: Final = "eta-predictions"
ROUTE_OPTIMIZATIONS: Final = "route-optimizations"
DRIVER_ALLOCATIONS: Final = "driver-allocations"
AGENT_OUTCOMES: Final = "agent-outcomes"
AGENT_METRICS: Final = "agent-metrics"
AGENT_ALERTS: Final = "agent-alerts"
AGENT_LIFECYCLE: Final = "agent-lifecycle"
TRAFFIC_UPDATES: Final = "traffic-updates"
DEAD_LETTERS: Final = "dead-letters"

# What a fleet fills: a thousand couriers with a fix every 3 s make 29 million a day.
_FLEET: Final = timedelta(days=1)
_ALL: Final = (
    Topic(GPS_EVENTS, 12, retention=_FLEET),
    # A courier may go unchanged for months and must still be known to a reader that starts.
    Topic(ORDERS, 6, compacted=True, retention=None),
    Topic(ORDER_COMMANDS, 6),
    Topic(ETA_PREDICTIONS, 6, retention=_FLEET),
    Topic(ROUTE_OPTIMIZATIONS, 6),
    Topic(DRIVER_ALLOCATIONS, 6),
    Topic(AGENT_OUTCOMES, 6),
    Topic(AGENT_METRICS, 3),
    Topic(AGENT_ALERTS, 3),
    Topic(AGENT_LIFECYCLE, 3, retention=timedelta(days=30)),
    # Yesterday's speeds say nothing of now; what is learned from them lives in eta's store.
    Topic(TRAFFIC_UPDATES, 6, compacted=True, retention=timedelta(days=1)),
    Topic(DEAD_LETTERS, 3, retention=timedelta(days=30)),
)

TOPICS: Final[Mapping[str, Topic]] = MappingProxyType({topic.name: topic for topic in _ALL})
