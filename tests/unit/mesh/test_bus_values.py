"""The values by which topics are made, and events and outcomes are sent: others rely on each of them."""

from datetime import timedelta
from pathlib import Path

import pytest

from services.mesh.client import ClientFactory
from services.mesh.events import TOPICS, Topic
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import _new
from services.mesh.feedback import FeedbackPipeline
from services.mesh.settings import MeshSettings, load
from services.mesh.telemetry import Telemetry

PARTITIONS = {
    "gps-events": 12,
    "orders": 6,
    "order-commands": 6,
    "eta-predictions": 6,
    "route-optimizations": 6,
    "driver-allocations": 6,
    "agent-outcomes": 6,
    "agent-metrics": 3,
    "agent-alerts": 3,
    "agent-lifecycle": 3,
    "traffic-updates": 6,
    "dead-letters": 3,
}
COMPACTED = {"orders", "traffic-updates"}


def options(**settings: object) -> KafkaOptions:
    return KafkaOptions.from_settings(load(MeshSettings, kafka_bootstrap_servers="broker:9092", **settings))


def test_the_topics_are_these_with_these_partitions() -> None:
    assert {name: topic.partitions for name, topic in TOPICS.items()} == PARTITIONS
    assert all(topic.name == name for name, topic in TOPICS.items())


def test_only_topics_whose_newest_value_counts_are_compacted() -> None:
    assert {name for name, topic in TOPICS.items() if topic.compacted} == COMPACTED


@pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)
def test_with_three_brokers_two_of_three_replicas_have_an_event(topic: Topic) -> None:
    for brokers in (3, 5):
        made = _new(options(), topic, brokers)
        assert (made.name, made.num_partitions, made.replication_factor) == (
            topic.name,
            PARTITIONS[topic.name],
            3,
        )
        assert made.topic_configs["min.insync.replicas"] == "2"
        assert made.topic_configs.get("cleanup.policy", "delete").startswith("compact") == topic.compacted


@pytest.mark.parametrize("brokers", [1, 2])
def test_with_fewer_brokers_each_has_a_replica_and_none_is_waited_for(brokers: int) -> None:
    made = _new(options(), TOPICS["gps-events"], brokers)
    assert made.replication_factor == brokers
    assert "min.insync.replicas" not in made.topic_configs


def test_a_topic_that_is_kept_for_ever_is_only_compacted_and_others_go_with_time() -> None:
    brief = Topic("brief", 1, compacted=True, retention=timedelta(hours=1))
    kept = Topic("kept", 1, compacted=True, retention=None)
    found = [_new(options(), topic, 3).topic_configs for topic in (brief, kept)]
    assert [(one["cleanup.policy"], one["retention.ms"]) for one in found] == [
        ("compact,delete", "3600000"),
        ("compact", "-1"),
    ]


def test_a_producer_waits_for_all_replicas_sends_once_and_lingers_10_ms() -> None:
    made = options().producer()
    assert (made["acks"], made["enable_idempotence"], made["linger_ms"]) == ("all", True, 10)


def test_events_are_compressed_by_gzip_unless_told_otherwise() -> None:
    assert options().producer()["compression_type"] == "gzip"
    assert options(kafka_compression="lz4").producer()["compression_type"] == "lz4"
    assert options(kafka_compression="none").producer()["compression_type"] is None


def test_a_consumer_commits_nothing_by_itself_and_begins_at_the_oldest_event() -> None:
    made = options().consumer("waymesh.eta")
    assert (made["group_id"], made["enable_auto_commit"]) == ("waymesh.eta", False)
    assert made["auto_offset_reset"] == "earliest"


@pytest.mark.parametrize(
    ("told", "batch", "linger_s"),
    [({}, 100, 0.1), ({"kafka_batch_size": 7, "kafka_linger_ms": 250}, 7, 0.25)],
)
async def test_outcomes_leave_by_the_hundred_or_after_100_ms_unless_told_otherwise(
    tmp_path: Path, told: dict[str, int], batch: int, linger_s: float
) -> None:
    telemetry = Telemetry("test")
    clients = ClientFactory("test", telemetry=telemetry)
    settings = load(MeshSettings, data_dir=tmp_path, **told)
    pipeline = FeedbackPipeline.create("test", settings, clients, telemetry)
    assert (pipeline._batch_size, pipeline._linger_s) == (batch, linger_s)
    await clients.close()
