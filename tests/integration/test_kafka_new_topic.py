"""A topic made anew under its name, or another cluster behind the same store: nothing is passed over."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from services.mesh.events.kafka_topics import create_topics
from tests.contract.events_rig import GUARD_S, TOPICS, KafkaRig, Seen, kafka_rig, message, settled
from tests.kafka_brokers import Kafka


@pytest.fixture
async def rig(database: str, kafka: Kafka) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(database, kafka) as made:
        yield made


async def test_a_group_reads_a_topic_that_was_made_anew_from_its_start(
    rig: KafkaRig, caplog: pytest.LogCaptureFixture
) -> None:
    process = await rig.bus()
    before = Seen()
    reader = process.bus.consume("g", ["brief"], before)
    reading = process.start(reader)
    await process.publish(*(message("k", f"old {number}", topic="brief") for number in range(50)))
    await before.enough(50)
    await settled(reader)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    name = rig.options.name_in_cluster("brief")
    admin = AIOKafkaAdminClient(**rig.options.connection())
    await admin.start()
    try:
        await admin.delete_topics([name])
        async with asyncio.timeout(GUARD_S):
            while name in await admin.list_topics():
                await asyncio.sleep(0.05)
            while not await create_topics(rig.options, [TOPICS["brief"]]):
                await asyncio.sleep(0.05)
    finally:
        await admin.close()
    await process.publish(*(message("k", f"new {number}", topic="brief") for number in range(30)))
    after = Seen()
    again = process.bus.consume("g", ["brief"], after)
    process.start(again)
    await after.enough(30)
    await settled(again)
    assert after.values() == [f"new {number}" for number in range(30)]
    assert "where group g stands: the topic was made anew, it is read from 0 on" in caplog.text
