"""The inbox on Kafka: what a producer sent twice is handled once by each group."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from confluent_kafka import Producer

from services.mesh.events import Message, Record
from services.mesh.events.cloud_events import to_headers
from services.mesh.events.handling import Admitted
from services.mesh.events.inbox import CONFLICT, admit_once, forget
from services.mesh.events.topics import DEAD_LETTERS
from tests.contract.events_rig import KafkaRig, Seen, kafka_rig, message, settled
from tests.kafka_brokers import Kafka


@pytest.fixture
async def rig(database: str, kafka: Kafka) -> AsyncIterator[KafkaRig]:
    async with kafka_rig(database, kafka) as made:
        yield made


@pytest.fixture
async def pool(rig: KafkaRig) -> asyncpg.Pool:
    return (await rig.bus()).pool


def record(event_id: str, *, topic: str = "moves", source: str = "app", value: bytes = b"") -> Record:
    return Record(
        topic=topic,
        key="k",
        value=value,
        event_id=event_id,
        type="waymesh.test.v1.Move",
        partition=0,
        position=0,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        source=source,
    )


async def admitted(pool: asyncpg.Pool, records: list[Record], group: str = "g") -> list[Record]:
    """Those that are let in; none is refused."""
    async with pool.acquire() as connection, connection.transaction():
        fresh, refused = await admit_once(group)(connection, records)
    assert refused == []
    return fresh


async def test_what_lies_twice_in_the_cluster_is_handled_once_by_each_group(rig: KafkaRig) -> None:
    one = await rig.bus()
    first, second = Seen(), Seen()
    producer = Producer({"bootstrap.servers": rig.options.bootstrap_servers, "log_level": 2})

    def produce(sent: Message, partition: int, source: str = "app") -> None:
        producer.produce(
            rig.options.name_in_cluster(sent.topic),
            sent.value,
            sent.key,
            partition,
            headers={name: value.encode() for name, value in to_headers(sent, source).items()},
        )

    twice, once = message("k", "twice", event_id="a"), message("k", "once", event_id="b")
    for partition in (0, 0, 1):
        produce(twice, partition)
    produce(once, 0)
    produce(replace(twice, value=b"of another source"), 0, "other-app")
    await asyncio.to_thread(producer.flush, 10)
    consumers = [one.bus.consume(group, ["moves"], seen) for group, seen in (("g1", first), ("g2", second))]
    for consumer in consumers:
        one.start(consumer)
    for seen, consumer in zip((first, second), consumers, strict=True):
        await seen.enough(3)
        await settled(consumer)
        assert sorted(seen.values()) == ["of another source", "once", "twice"]


async def test_an_event_is_admitted_once_by_topic_source_and_id(pool: asyncpg.Pool) -> None:
    a, b = record("a"), record("b")
    assert await admitted(pool, [a, b, a]) == [a, b]
    others = [record("c"), record("a", topic="state"), record("a", source="other-app")]
    assert await admitted(pool, [b, *others, a]) == others
    assert await admitted(pool, [a], "another") == [a]


async def test_an_admission_that_is_rolled_back_did_not_happen(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await admit_once("g")(connection, [record("a")])
        await transaction.rollback()
    assert await admitted(pool, [record("a")]) == [record("a")]


async def test_of_two_that_admit_the_same_at_once_one_does(pool: asyncpg.Pool) -> None:
    there = [record(str(number)) for number in range(50)]
    back = list(reversed(there))
    taken = await asyncio.gather(*(admitted(pool, records) for records in (there, back, there)))
    assert sorted(map(len, taken)) == [0, 0, 50]


async def test_events_are_forgotten_after_their_time(pool: asyncpg.Pool) -> None:
    await admitted(pool, [record("a")])
    await forget(pool, timedelta(hours=1))
    assert await admitted(pool, [record("a")]) == []
    await forget(pool, timedelta(0))
    assert await admitted(pool, [record("a")]) == [record("a")]


async def test_another_event_under_a_known_id_is_no_repetition(pool: asyncpg.Pool) -> None:
    one, again, other = record("a"), record("a"), record("a", value=b"other")

    async def admit(*records: Record) -> Admitted:
        async with pool.acquire() as connection, connection.transaction():
            return await admit_once("g")(connection, list(records))

    assert await admit(one, other, again) == ([one], [(other, CONFLICT)])
    assert await admit(again, other) == ([], [(other, CONFLICT)])
    await pool.execute("UPDATE bus.inbox SET content = NULL")  # let in by an earlier version
    assert await admit(other) == ([], [])


async def test_another_event_under_a_known_id_ends_among_the_dead_letters(rig: KafkaRig) -> None:
    one = await rig.bus()
    seen, dead = Seen(), Seen()
    reader = one.bus.consume("g", ["moves"], seen)
    one.start(reader)
    one.start(one.bus.consume("undertaker", [DEAD_LETTERS], dead))
    first = message("k", "first", event_id="a")
    await one.publish(first, first, replace(first, value=b"other"), message("k", "last"))
    [letter] = await dead.enough(1)
    await settled(reader)
    assert seen.values() == ["first", "last"]
    assert (letter.key, letter.value) == ("k", b"other")
    told = letter.headers
    assert (told["dead-reason"], told["dead-event-id"], told["dead-group"]) == (CONFLICT, "a", "g")
    assert int(told["dead-position"]) == seen.records[0].position + 2
    # And again in a batch of its own.
    await one.publish(replace(first, value=b"yet another"), first)
    assert (await dead.enough(2))[-1].value == b"yet another"
    await settled(reader)
    assert seen.values() == ["first", "last"]
