"""With events through Kafka, too: no secret in a record, its key or its headers."""

import asyncio
from pathlib import Path

from canary_rig import Aviary, aviary
from canary_streams import streams
from test_canary import GUARD_S, plain_words, tasks_that_succeed

from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.topics import TOPICS
from services.mesh.settings import MeshSettings, load
from services.mesh.store import connect
from tests.kafka_brokers import Kafka


async def relayed(mesh: Aviary) -> None:
    """Returns once all that was published lies in the cluster: with Kafka the log is an outbox."""
    connection = await connect(mesh.mesh.dsn)
    try:
        async with asyncio.timeout(GUARD_S):
            while await connection.fetchval("SELECT count(*) FROM bus.log"):
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def test_no_secret_is_in_a_record_of_a_topic_nor_anywhere_else(
    database: str, tmp_path: Path, kafka: Kafka
) -> None:
    settings = load(MeshSettings, data_dir=tmp_path, kafka_bootstrap_servers=kafka.bootstrap_servers)
    await create_topics(KafkaOptions.from_settings(settings), list(TOPICS.values()))
    async with aviary(database, tmp_path, kafka) as mesh:
        await tasks_that_succeed(mesh, "kafka")
        await streams(mesh)
        await plain_words(mesh)
        await mesh.settled()
        await relayed(mesh)
        leaks, seen = await mesh.findings()

    assert leaks == [], "\n".join(leaks)
    # A search that did not find what is no secret would prove nothing.
    places = {where.partition(" → ")[2] for where in seen}
    assert places >= {"topic orders", "topic agent-outcomes"}
