"""How much lies in the topics of a Kafka cluster, and how much of it each group has still to read."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from services.mesh.events.kafka_client import KafkaOptions

# Events that lie in a topic, and (group, events still to read) of those that read it.
Amounts: TypeAlias = tuple[int, list[tuple[str, int]]]

_UNKNOWN: Final = -1


async def events_and_lag(
    options: KafkaOptions, topics: Mapping[str, int], group_prefix: str
) -> Mapping[str, Amounts]:
    """By the cluster's names of topics, given with their partitions; of groups whose names begin so.

    Where a topic is compacted, or a producer's transactions lie in it, there are fewer events than told.
    Raises KafkaError.
    """
    partitions = [TopicPartition(name, number) for name, count in topics.items() for number in range(count)]
    consumer = AIOKafkaConsumer(**options.consumer(None))
    admin = AIOKafkaAdminClient(**options.connection())
    try:
        await consumer.start()
        consumer.assign(partitions)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        await admin.start()
        lags: dict[str, dict[str, int]] = {name: {} for name in topics}
        for group, _ in await admin.list_consumer_groups():
            if not group.startswith(group_prefix):
                continue
            for place, told in (await admin.list_consumer_group_offsets(group)).items():
                if place in ends and told.offset != _UNKNOWN:
                    of_topic = lags[place.topic]
                    of_topic[group] = of_topic.get(group, 0) + max(0, ends[place] - told.offset)
    finally:
        await admin.close()
        await consumer.stop()
    events = dict.fromkeys(topics, 0)
    for place in partitions:
        events[place.topic] += ends[place] - begins[place]
    return {name: (events[name], list(lags[name].items())) for name in topics}
