"""The rights that the manifests give the mesh at a Kafka cluster, at a broker that judges by them."""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.protocol.admin import CreateAclsRequest

from services.mesh.events import create_bus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_lag import events_and_lag
from services.mesh.events.kafka_topics import create_topics, existing_topics
from services.mesh.events.topics import DRIVER_ALLOCATIONS, TOPICS, Topic
from services.mesh.settings import MeshSettings, load
from services.mesh.store import connect
from tests.contract.events_rig import Seen, message
from tests.kafka_brokers import Brokers
from tools.kafka.cluster import KafkaCluster
from tools.kafka.jars import KafkaUnavailableError
from tools.kafka.security import Security

USER: Final = Path(__file__).resolve().parents[2] / "deploy/k8s/components/strimzi/user.yaml"
# As numbers of Kafka's protocol; by Strimzi's names of them.
KINDS: Final = {"topic": 2, "group": 3, "cluster": 4, "transactionalId": 5}
PATTERNS: Final = {"literal": 3, "prefix": 4}
OPERATIONS: Final = {
    "Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10, "IdempotentWrite": 12,
}  # fmt: skip
ALLOW: Final = 3
# Nobody logs in where the nodes speak among themselves: that is the operator of the cluster.
JUDGED: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}


async def grant(cluster: KafkaCluster) -> None:
    """What Strimzi does with a KafkaUser."""
    acls: list[dict[str, Any]] = yaml.safe_load(USER.read_text())["spec"]["authorization"]["acls"]
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.plain_servers)
    await admin.start()
    try:
        for resource, operation in ((each["resource"], one) for each in acls for one in each["operations"]):
            answer = await admin._send_to_controller(
                CreateAclsRequest(
                    KINDS[resource["type"]],
                    resource["name"],
                    PATTERNS[resource["patternType"]],
                    f"User:{cluster.security.user}",
                    "*",
                    OPERATIONS[operation],
                    ALLOW,
                )
            )
            assert [result[0] for result in answer.creation_responses] == [0]
    finally:
        await admin.close()


async def test_they_are_enough_for_all_that_it_does_and_for_nothing_else(
    kafka_brokers: Brokers, database: str, tmp_path: Path
) -> None:
    cluster = KafkaCluster(nodes=1, security=Security("SASL_PLAINTEXT"), settings=JUDGED)
    try:
        try:
            await cluster.start()
        except KafkaUnavailableError as error:
            kafka_brokers.absent(str(error))
        await grant(cluster)
        told = load(
            MeshSettings,
            data_dir=tmp_path,
            kafka_bootstrap_servers=cluster.bootstrap_servers,
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username=cluster.security.user,
            kafka_sasl_password=cluster.security.password,
        )
        options, all_topics = KafkaOptions.from_settings(told), list(TOPICS.values())

        # `waymesh topics create`, twice, and what it and the doctor say of them.
        assert set(await create_topics(options, all_topics)) == set(TOPICS)
        assert await create_topics(options, all_topics) == []
        there = await existing_topics(options, all_topics)
        assert set(there) == set(TOPICS)
        assert all(each.configs for each in there.values())

        # Services: the relay's producer, a group, and a reader of all partitions.
        group = f"{told.kafka_group_id}.tests"
        grouped, wide = Seen(), Seen()
        async with asyncpg.create_pool(database, min_size=1, max_size=8, connect=connect) as pool:
            bus = create_bus(told, service="tests", pool=pool)
            await bus.start()
            reading = [
                asyncio.create_task(bus.consume(group, [DRIVER_ALLOCATIONS], grouped).run()),
                asyncio.create_task(bus.broadcast([DRIVER_ALLOCATIONS], wide).run()),
            ]
            async with pool.acquire() as connection, connection.transaction():
                await bus.publish(connection, [message("k", "there", topic=DRIVER_ALLOCATIONS)])
            await grouped.enough(1)
            await wide.enough(1)
            for each in reading:
                each.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            await bus.close()
        partitions = {each.name: each.partitions for each in there.values()}
        amounts = await events_and_lag(options, partitions, f"{told.kafka_group_id}.")
        assert amounts[DRIVER_ALLOCATIONS][0] == 1

        # And nothing of others.
        with pytest.raises(TopicAuthorizationFailedError):
            await create_topics(options, [Topic("payroll", 1)])
        admin = AIOKafkaAdminClient(**options.connection())
        await admin.start()
        try:
            with pytest.raises(GroupAuthorizationFailedError):
                await admin.list_consumer_group_offsets("payroll")
        finally:
            await admin.close()
    finally:
        await cluster.close()
