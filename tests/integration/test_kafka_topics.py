"""The topics in a real cluster: made as the table says, and left alone once they are there."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.topics import TOPICS, Topic
from tests.contract.events_rig import GUARD_S, own_topics
from tests.kafka_brokers import Kafka


@pytest.fixture
async def options(kafka: Kafka) -> AsyncIterator[KafkaOptions]:
    """All topics of the mesh, newly made under names of their own."""
    async with own_topics(kafka.bootstrap_servers, TOPICS) as made:
        yield made


@pytest.fixture
async def admin(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await client.start()
    yield client
    await client.close()


async def settings_of(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """A topic's configuration, defaults included."""
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    [(_, _, _, _, entries)] = answer.resources
    return {entry[0]: entry[1] for entry in entries}


async def replicas(admin: AIOKafkaAdminClient, topic: str, partitions: int) -> list[int]:
    """Of each partition, once there are so many: brokers hear a moment later what the controller made."""
    async with asyncio.timeout(GUARD_S):
        while True:
            found = {one["topic"]: one["partitions"] for one in await admin.describe_topics()}
            if len(found.get(topic, ())) == partitions:
                return [len(one["replicas"]) for one in found[topic]]
            await asyncio.sleep(0.05)


async def test_each_topic_has_its_partitions_three_replicas_and_its_retention(
    options: KafkaOptions, admin: AIOKafkaAdminClient
) -> None:
    brokers = len((await admin.describe_cluster())["brokers"])
    for topic in TOPICS.values():
        name = options.name_in_cluster(topic.name)
        assert await replicas(admin, name, topic.partitions) == [min(3, brokers)] * topic.partitions
        settings = await settings_of(admin, name)
        if brokers >= 3:
            assert settings["min.insync.replicas"] == "2"
        assert ("compact" in settings["cleanup.policy"]) == topic.compacted
        kept_ms = -1 if topic.retention is None else topic.retention.total_seconds() * 1000
        assert int(settings["retention.ms"]) == kept_ms


async def test_made_again_they_stay_as_they_are_and_only_what_is_missing_comes(
    options: KafkaOptions, admin: AIOKafkaAdminClient
) -> None:
    assert await create_topics(options, list(TOPICS.values())) == []
    grown, further = options.name_in_cluster("agent-alerts"), f"{options.name_in_cluster('orders')}-more"
    await admin.create_partitions({grown: NewPartitions(total_count=5)})
    assert await create_topics(options, [*TOPICS.values(), Topic(further, 1)]) == [further]
    assert len(await replicas(admin, grown, 5)) == 5
    await admin.delete_topics([further])
