"""What all clients of the Kafka adapter share: connection options, names, the form of a record."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaConnectionError

from services.mesh import kafka_security
from services.mesh.events.bus import Record
from services.mesh.events.cloud_events import from_headers
from services.mesh.events.kafka_connections import end_if_reset
from services.mesh.events.kafka_metadata import ask_calmly
from services.mesh.events.topics import AGENT_METRICS, AGENT_OUTCOMES
from services.mesh.settings import MeshSettings

REQUEST_TIMEOUT_MS: Final = 10_000
# A broker takes a member for dead after this long; brokers refuse less than 6 s unless told otherwise.
_SESSION_TIMEOUT_MS: Final = 6_000
_HEARTBEAT_MS: Final = 2_000
_LINGER_MS: Final = 10
# After this long a reader sees a topic, or partitions of one, that did not exist when it began.
_METADATA_MAX_AGE_MS: Final = 10_000
# A consumer that learned nothing of the cluster for so long, many times that age, starts anew.
_CUT_OFF_S: Final = 60.0
# Of events for one partition that go in one request: some 200 of them. The library says 16 KiB.
_BATCH_BYTES: Final = 128 << 10
MAX_REQUEST_BYTES: Final = 1 << 20
"""Brokers take no larger ones unless told otherwise."""
MAX_EVENT_BYTES: Final = MAX_REQUEST_BYTES - (16 << 10)
"""Of key and value together: there have to be headers besides."""


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How to reach a cluster, and how its topics are named there."""

    bootstrap_servers: str
    compression: str | None = "gzip"
    max_retries: int = 3
    """Further tries within one round of the relay; the rounds themselves go on until it succeeds."""
    security_protocol: str = "PLAINTEXT"
    ssl_context: ssl.SSLContext | None = None
    login: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Arguments of every client that has to log in."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Topics that have another name in the cluster."""

    @classmethod
    def from_settings(cls, settings: MeshSettings) -> Self:
        """From KAFKA_*. ValueError without KAFKA_BOOTSTRAP_SERVERS, or if a file is no longer right."""
        if settings.kafka_bootstrap_servers is None:
            raise ValueError("KAFKA_BOOTSTRAP_SERVERS is not set")
        return cls(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            compression=None if settings.kafka_compression == "none" else settings.kafka_compression,
            max_retries=settings.kafka_max_retries,
            security_protocol=settings.kafka_security_protocol,
            ssl_context=kafka_security.ssl_context(settings),
            login=kafka_security.login(settings),
            names={
                AGENT_OUTCOMES: settings.kafka_outcome_topic,
                AGENT_METRICS: settings.kafka_metrics_topic,
            },
        )

    @property
    def round_s(self) -> float:
        """Length of one round of the relay."""
        return (self.max_retries + 1) * REQUEST_TIMEOUT_MS / 1000

    def name_in_cluster(self, topic: str) -> str:
        """The cluster's name of a topic."""
        return self.names.get(topic, topic)

    def name_here(self, topic: str) -> str:
        """Our name of a cluster's topic."""
        return next((ours for ours, theirs in self.names.items() if theirs == topic), topic)

    def connection(self) -> dict[str, Any]:
        """Arguments of every client."""
        end_if_reset()
        ask_calmly()
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context,
            **self.login,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "metadata_max_age_ms": _METADATA_MAX_AGE_MS,
        }

    def producer(self) -> dict[str, Any]:
        """Arguments of the relay's producer: acknowledged by all replicas, no duplicate of one producer."""
        return {
            **self.connection(),
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": _LINGER_MS,
            "max_batch_size": _BATCH_BYTES,
            "compression_type": self.compression,
        }

    def consumer(self, group: str | None, *, from_start: bool = True) -> dict[str, Any]:
        """Arguments of a consumer; without a group it reads all partitions."""
        return {
            **self.connection(),
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest" if from_start else "latest",
            "session_timeout_ms": _SESSION_TIMEOUT_MS,
            "heartbeat_interval_ms": _HEARTBEAT_MS,
        }

    def to_record(self, raw: "ConsumerRecord[bytes, bytes]") -> Record:
        """A record as every adapter gives it. One without `ce_id` gets an id from where and when it came to
        lie: a topic that is made anew has the same places again.
        """
        known = from_headers(raw.headers)
        topic = self.name_here(raw.topic)
        return Record(
            topic=topic,
            key=(raw.key or b"").decode("utf-8", errors="replace"),
            value=raw.value or b"",
            event_id=known.event_id or f"{topic}/{raw.partition}/{raw.offset}@{raw.timestamp}",
            type=known.type,
            content_type=known.content_type,
            headers=known.headers,
            partition=raw.partition,
            position=raw.offset,
            time=_time(raw.timestamp),
            source=known.source,
        )


def unless_cut_off(consumer: AIOKafkaConsumer) -> None:
    """KafkaConnectionError if no broker that a consumer knows has told it anything for a minute.

    The library asks only those it was told of; where all have moved meanwhile, only a new consumer finds them
    by the addresses of the settings. There is no public way to learn of it.
    """
    cluster = getattr(getattr(consumer, "_client", None), "cluster", None)
    heard_ms = getattr(cluster, "_last_successful_refresh_ms", 0)
    if heard_ms and time.time() * 1000 - heard_ms > _CUT_OFF_S * 1000:
        raise KafkaConnectionError("no broker has answered for long")


def _time(stamp_ms: int) -> datetime:
    """Any number a producer may have given: 1970 for one that is no time, and the event is read even so."""
    try:
        return datetime.fromtimestamp(stamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
