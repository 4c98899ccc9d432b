"""Makes the topics of Waymesh in a Kafka cluster."""

from collections.abc import Sequence
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.topics import Topic

REPLICATION: Final = 3
_MIN_INSYNC: Final = 2


async def create_topics(options: KafkaOptions, topics: Sequence[Topic]) -> list[str]:
    """Creates what is missing; names (ours) of what is new. Existing topics are left as they are.

    Three replicas of which two must have an event before it is acknowledged, where the cluster has three
    brokers. Raises KafkaError.
    """
    admin = AIOKafkaAdminClient(**options.connection())
    try:
        await admin.start()
        brokers = len((await admin.describe_cluster())["brokers"])
        existing = set(await admin.list_topics())
        missing = [topic for topic in topics if options.name_in_cluster(topic.name) not in existing]
        if not missing:
            return []
        answer = await admin.create_topics([_new(options, topic, brokers) for topic in missing])
        created = []
        for topic, result in zip(missing, answer.topic_errors, strict=True):
            error = for_code(result[1])
            if result[1] == 0:
                created.append(topic.name)
            elif error is not TopicAlreadyExistsError:
                raise error(f"{topic.name}: {result[2] if len(result) > 2 else ''}")
        return created
    finally:
        await admin.close()


def _new(options: KafkaOptions, topic: Topic, brokers: int) -> NewTopic:
    replication = min(REPLICATION, max(1, brokers))
    configs = {"min.insync.replicas": str(_MIN_INSYNC)} if replication >= REPLICATION else {}
    keep_ms = -1 if topic.retention is None else int(topic.retention.total_seconds() * 1000)
    configs["retention.ms"] = str(keep_ms)
    if topic.compacted:
        configs["cleanup.policy"] = "compact" if topic.retention is None else "compact,delete"
    return NewTopic(options.name_in_cluster(topic.name), topic.partitions, replication, topic_configs=configs)
