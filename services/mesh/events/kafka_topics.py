"""Makes the topics of Waymesh in a Kafka cluster, and says how those that are there differ from ours."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from services.mesh.events.kafka_client import MAX_EVENT_BYTES, KafkaOptions
from services.mesh.events.topics import Topic

REPLICATION: Final = 3
_MIN_INSYNC: Final = 2
_POLICY: Final = "cleanup.policy"
_RETENTION: Final = "retention.ms"
_INSYNC: Final = "min.insync.replicas"
_LARGEST: Final = "max.message.bytes"
# A cluster that answers does so at once, but one that is busy may take long to make topics.
_ADMIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ExistingTopic:
    """What a cluster has under the name of one of our topics."""

    name: str
    partitions: int
    replicas: int
    """The fewest that a partition has."""
    brokers: int
    """How many the cluster has."""
    configs: Mapping[str, str]


async def create_topics(options: KafkaOptions, topics: Sequence[Topic]) -> list[str]:
    """Creates what is missing; names (ours) of what is new. Existing topics are left as they are.

    Three replicas of which two must have an event before it is acknowledged, where the cluster has three
    brokers. Raises KafkaError, TimeoutError.
    """
    async with _admin(options) as admin:
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


async def existing_topics(options: KafkaOptions, topics: Sequence[Topic]) -> dict[str, ExistingTopic]:
    """What the cluster has of them, by our names. Raises KafkaError, TimeoutError."""
    names = {options.name_in_cluster(topic.name): topic.name for topic in topics}
    async with _admin(options) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        described = [one for one in await admin.describe_topics() if one["topic"] in names]
        configs = await _configs(admin, [one["topic"] for one in described])
    return {
        names[one["topic"]]: ExistingTopic(
            name=one["topic"],
            partitions=len(one["partitions"]),
            replicas=min((len(each["replicas"]) for each in one["partitions"]), default=0),
            brokers=brokers,
            configs=configs.get(one["topic"], {}),
        )
        for one in described
    }


def differences(topic: Topic, existing: ExistingTopic) -> list[str]:
    """How a topic in the cluster differs from what is intended: lines with the effect and a remedy."""
    name, found = existing.name, existing.configs
    lines = []
    if existing.partitions < topic.partitions:
        lines.append(
            f"{name} has {existing.partitions} partitions, {topic.partitions} are intended: nothing is lost, "
            "but fewer readers share the work; "
            f"add them with `kafka-topics.sh --alter --topic {name} --partitions {topic.partitions}`"
        )
    elif existing.partitions > topic.partitions:
        lines.append(
            f"{name} has {existing.partitions} partitions, {topic.partitions} are intended: "
            "more readers can share the work; nothing needs to be done"
        )
    replicas = min(REPLICATION, existing.brokers)
    if existing.replicas < replicas:
        lines.append(
            f"{name} has partitions on {existing.replicas} brokers only, {replicas} are intended: events can "
            "be lost with a disk; add replicas with `kafka-reassign-partitions.sh`"
        )
    intended = _intended(topic, existing.replicas)
    for key, value in intended.items():
        held = found.get(key)
        if held is None or (key == _RETENTION and "delete" not in found.get(_POLICY, "delete")):
            continue
        if set(held.split(",")) != set(value.split(",")):
            lines.append(
                f"{name} has {key}={held}, {value} is intended: {_EFFECT[key]}; {_set(name, key, value)}"
            )
    largest = found.get(_LARGEST)
    if largest is not None and int(largest) < MAX_EVENT_BYTES:
        lines.append(
            f"{name} has {_LARGEST}={largest}, at least {MAX_EVENT_BYTES} is intended: larger events go to "
            f"dead-letters without their value; {_set(name, _LARGEST, str(1 << 20))}"
        )
    return lines


_EFFECT: Final = {
    _POLICY: "what readers that start later have to find may be gone, or old news kept for ever",
    _RETENTION: "events are kept for another time",
    _INSYNC: "an event that only one broker has may be lost with it, or all three must be there to take one",
}


def _set(name: str, key: str, value: str) -> str:
    value = f"[{value}]" if "," in value else value
    return f"set it with `kafka-configs.sh --alter --topic {name} --add-config {key}={value}`"


def _intended(topic: Topic, replicas: int) -> dict[str, str]:
    configs = {_INSYNC: str(_MIN_INSYNC)} if replicas >= REPLICATION else {}
    keep_ms = -1 if topic.retention is None else int(topic.retention.total_seconds() * 1000)
    configs[_RETENTION] = str(keep_ms)
    configs[_POLICY] = "delete"
    if topic.compacted:
        configs[_POLICY] = "compact" if topic.retention is None else "compact,delete"
    return configs


def _new(options: KafkaOptions, topic: Topic, brokers: int) -> NewTopic:
    replicas = min(REPLICATION, max(1, brokers))
    name = options.name_in_cluster(topic.name)
    return NewTopic(name, topic.partitions, replicas, topic_configs=_intended(topic, replicas))


@asynccontextmanager
async def _admin(options: KafkaOptions) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**options.connection())
    try:
        async with asyncio.timeout(_ADMIN_S):
            await admin.start()
            yield admin
    finally:
        await admin.close()


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(wanted) if wanted else ():
        for _, _, _, name, entries in answer.resources:
            held: dict[str, Any] = {entry[0]: entry[1] for entry in entries}
            found[name] = {key: value for key, value in held.items() if value is not None}
    return found
