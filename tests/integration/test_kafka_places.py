"""Where readers on Kafka stand when it changes under them: nothing is left lying, nothing is read again."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.consumer.group_coordinator import GroupCoordinator

from services.mesh.events import Consumer, Record, kafka_broadcast, kafka_client, kafka_group
from services.mesh.events.kafka_client import KafkaOptions
from tests.contract.events_rig import GUARD_S, KafkaRig, Seen, kafka_rig, message, settled
from tests.kafka_brokers import Kafka
from tests.processes import until


@pytest.fixture
async def rig(database: str, kafka: Kafka) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(database, kafka) as made:
        yield made


async def test_a_member_that_another_has_overtaken_goes_on_without_a_further_event(rig: KafkaRig) -> None:
    process = await rig.bus()
    seen = Seen()
    overtaking = asyncio.Event()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        if overtaking.is_set():
            overtaking.clear()
            # As an earlier owner's last commit does, of a version that keeps no proof of its place.
            await process.pool.execute("UPDATE bus.kafka_offsets SET next = next + 5")
        await seen(connection, records)

    reader = process.bus.consume("g", ["lone"], handle)
    process.start(reader)
    await process.publish(message("k", "first", topic="lone"))
    await settled(reader)
    overtaking.set()
    await process.publish(*(message("k", f"{n}", topic="lone") for n in range(20)))
    async with asyncio.timeout(GUARD_S):
        while await process.pool.fetchval("SELECT next FROM bus.kafka_offsets") < 21:
            await asyncio.sleep(0.01)
    await settled(reader)
    assert seen.batches[-1][-1].value == b"19"
    handled = [batch for batch in seen.batches if batch[0].position >= 6]
    assert [record.value.decode() for batch in handled for record in batch] == [str(n) for n in range(5, 20)]


async def test_members_that_come_while_others_are_slow_to_join_again_end_nobodys_session(
    rig: KafkaRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    join = GroupCoordinator._do_rejoin_group

    async def slowly(self: GroupCoordinator, subscription: object) -> object:
        await asyncio.sleep(0.5)  # longer than a turn of the reader, which has nothing to do meanwhile
        return await join(self, subscription)

    monkeypatch.setattr(GroupCoordinator, "_do_rejoin_group", slowly)
    process = await rig.bus()
    seen = Seen()
    members: list[Consumer] = []
    for number in range(3):
        members.append(process.bus.consume("g", ["moves"], seen))
        process.start(members[-1])
        await process.publish(*(message(f"k{n}", f"{number} {n}") for n in range(40)))
        await seen.enough(40 * (number + 1))

        def shared() -> bool:
            held = [set(member.lag()) for member in members]
            return all(held) and sum(map(len, held)) == 4 and sum(sum(m.lag().values()) for m in members) == 0

        await until(shared, "each has partitions of its own and has handled them")
    assert sorted(seen.values()) == sorted(f"{number} {n}" for number in range(3) for n in range(40))
    assert not [record for record in caplog.records if "joins again" in record.getMessage()]


async def test_partitions_that_are_added_are_read_and_the_others_not_again(rig: KafkaRig) -> None:
    process = await rig.bus()
    group, wide, late = Seen(), Seen(), Seen()
    await process.publish(*(message("k", f"{n}", topic="lone") for n in range(30)))
    await process.relayed()
    process.start(process.bus.consume("g", ["lone"], group))
    process.start(process.bus.broadcast(["lone"], wide))
    without_past = process.bus.broadcast(["lone"], late, from_start=False)
    process.start(without_past)
    await group.enough(30)
    await wide.enough(30)
    async with asyncio.timeout(GUARD_S):
        await without_past.caught_up.wait()
    admin = AIOKafkaAdminClient(**rig.options.connection())
    await admin.start()
    try:
        await admin.create_partitions({rig.options.name_in_cluster("lone"): NewPartitions(4)})
    finally:
        await admin.close()
    sent = 30
    places: set[int] = set()
    while len(places) < 4:  # until the relay knows the new ones
        await process.publish(*(message(f"k{n}", f"{n}", topic="lone") for n in range(sent, sent + 20)))
        sent += 20
        await wide.enough(sent)
        places = {record.partition for record in wide.records}
    for what, seen, first in (("group", group, 0), ("wide", wide, 0), ("late", late, 30)):
        await until(lambda s=seen, f=first: len(s.records) >= sent - f, f"{what} has read all")  # type: ignore[misc]
        assert sorted(map(int, seen.values())) == list(range(first, sent))


async def test_a_reader_that_leaves_the_past_out_misses_nothing_between_two_runs(rig: KafkaRig) -> None:
    process = await rig.bus()
    await process.publish(message("k", "old", topic="lone"))
    await process.relayed()
    seen = Seen()
    reader = process.bus.broadcast(["lone"], seen, from_start=False)
    reading = process.start(reader)
    async with asyncio.timeout(GUARD_S):
        await reader.caught_up.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await process.publish(message("k", "between", topic="lone"))
    await process.relayed()
    process.start(reader)
    await seen.enough(1)
    assert seen.values() == ["between"]


@pytest.mark.parametrize("stamp_ms", [-(1 << 62), 1 << 62])
def test_a_producers_time_that_is_none_keeps_nobody_from_reading(stamp_ms: int) -> None:
    raw = ConsumerRecord("t", 0, 7, stamp_ms, 0, b"k", b"v", None, 1, 1, ())
    record = KafkaOptions("nowhere:1").to_record(raw)
    assert (record.time, record.position) == (datetime(1970, 1, 1, tzinfo=UTC), 7)


async def test_a_reader_that_no_broker_it_knows_has_answered_for_a_minute_looks_for_others(
    rig: KafkaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have other addresses by now, of which it would never hear."""
    process = await rig.bus()
    group, wide = Seen(), Seen()
    process.start(process.bus.consume("g", ["lone"], group))
    process.start(process.bus.broadcast(["lone"], wide))
    await process.publish(message("k", "1", topic="lone"))
    await group.enough(1)
    await wide.enough(1)
    made: list[AIOKafkaConsumer] = []
    now = time.time

    class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    for module in (kafka_group, kafka_broadcast):
        monkeypatch.setattr(module, "AIOKafkaConsumer", Consumer)
    monkeypatch.setattr(kafka_client.time, "time", lambda: now() + (0 if len(made) > 1 else 61))
    await until(lambda: len(made) > 1, "both have begun anew")
    await process.publish(message("k", "2", topic="lone"))
    for seen in (group, wide):
        await seen.enough(2)
        assert seen.values() == ["1", "2"]
