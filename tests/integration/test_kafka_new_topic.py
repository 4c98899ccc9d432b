"""A topic made anew under its name, or another cluster behind the same store: nothing is passed over."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from services.mesh.events.kafka_topics import create_topics
from tests.contract.events_rig import GUARD_S, TOPICS, KafkaRig, Process, Seen, kafka_rig, message, settled
from tests.kafka_brokers import Kafka


@pytest.fixture
async def rig(database: str, kafka: Kafka) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(database, kafka) as made:
        yield made


async def delete(rig: KafkaRig, topic: str) -> None:
    """Until the cluster has it no more."""
    name = rig.options.name_in_cluster(topic)
    admin = AIOKafkaAdminClient(**rig.options.connection())
    await admin.start()
    try:
        await admin.delete_topics([name])
        async with asyncio.timeout(GUARD_S):
            while name in await admin.list_topics():
                await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def create(rig: KafkaRig, topic: str) -> None:
    async with asyncio.timeout(GUARD_S):
        while not await create_topics(rig.options, [TOPICS[topic]]):
            await asyncio.sleep(0.05)


async def handled_and_made_anew(rig: KafkaRig, process: Process, old: int, new: int) -> None:
    """Group g has handled all old events and is gone; the topic of that name has other events now."""
    before = Seen()
    reader = process.bus.consume("g", ["lone"], before)
    reading = process.start(reader)
    await process.publish(*(message("k", f"old {n}", topic="lone") for n in range(old)))
    await before.enough(old)
    await settled(reader)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await delete(rig, "lone")
    await create(rig, "lone")
    await process.publish(*(message("k", f"new {n}", topic="lone") for n in range(new)))
    await process.relayed()


# Fewer than there were, as many, and more: then no offset tells the one log from the other.
@pytest.mark.parametrize("number", [30, 50, 80])
async def test_a_group_reads_a_topic_that_was_made_anew_from_its_start(
    rig: KafkaRig, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    process = await rig.bus()
    await handled_and_made_anew(rig, process, 50, number)
    after = Seen()
    again = process.bus.consume("g", ["lone"], after)
    process.start(again)
    await after.enough(number)
    await settled(again)
    assert after.values() == [f"new {n}" for n in range(number)]
    assert "where group g stands: the topic was made anew, it is read from 0 on" in caplog.text


async def test_a_group_whose_place_kafka_still_has_reads_a_topic_that_was_made_anew_from_its_start(
    rig: KafkaRig,
) -> None:
    """As many events as before, and Kafka says that the group stands at their end: so it is with a cluster
    restored from a copy, and for a moment with one that is slow to forget.
    """
    process = await rig.bus()
    await handled_and_made_anew(rig, process, 20, 20)
    place = TopicPartition(rig.options.name_in_cluster("lone"), 0)
    client = AIOKafkaConsumer(**rig.options.consumer("g"))
    await client.start()
    client.assign([place])
    await client.commit({place: 20})
    await client.stop()

    after = Seen()
    again = process.bus.consume("g", ["lone"], after)
    process.start(again)
    await after.enough(20)
    await settled(again)
    assert after.values() == [f"new {n}" for n in range(20)]


async def test_readers_that_stay_miss_nothing_of_a_topic_that_is_made_anew_under_them(
    rig: KafkaRig,
) -> None:
    process = await rig.bus()
    group, wide = Seen(), Seen()
    process.start(process.bus.consume("g", ["lone"], group))
    process.start(process.bus.broadcast(["lone"], wide))
    await process.publish(*(message("k", f"old {n}", topic="lone") for n in range(20)))
    await group.enough(20)
    await wide.enough(20)
    await delete(rig, "lone")
    await process.publish(*(message("k", f"new {n}", topic="lone") for n in range(100)))
    await create(rig, "lone")
    for seen in (group, wide):
        await seen.enough(120)
        assert seen.values() == [f"old {n}" for n in range(20)] + [f"new {n}" for n in range(100)]


async def test_a_broadcast_reader_that_comes_back_reads_a_topic_that_was_made_anew_from_its_start(
    rig: KafkaRig,
) -> None:
    process = await rig.bus()
    seen = Seen()
    reader = process.bus.broadcast(["lone"], seen)
    reading = process.start(reader)
    await process.publish(*(message("k", f"old {n}", topic="lone") for n in range(20)))
    await seen.enough(20)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await delete(rig, "lone")
    await create(rig, "lone")
    await process.publish(*(message("k", f"new {n}", topic="lone") for n in range(30)))
    await process.relayed()
    process.start(reader)
    await seen.enough(50)
    assert seen.values() == [f"old {n}" for n in range(20)] + [f"new {n}" for n in range(30)]
