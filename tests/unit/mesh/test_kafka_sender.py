"""The relay's producer: reached again and again, shared, and given up for all who use it."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
)

from services.mesh.events import Record, kafka_sender
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_sender import KafkaSender, _never_expire

GUARD_S = 30.0


class Batch:
    """As many events as `room` says."""

    room = 1_000

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def append(self, *, key: bytes, **_: object) -> object:
        if len(self.keys) >= Batch.room:
            return None
        self.keys.append(key)
        return object()

    def close(self) -> None:
        pass

    def size(self) -> int:
        return len(self.keys)


class Client:
    async def close(self) -> None:
        pass


class Producer:
    """A producer whose brokers do as they are told; the newest is last in `made`."""

    made: list["Producer"]
    refusals: int
    partitions: int

    def __init__(self, **_: Any) -> None:
        self.client = Client()
        self.answers: list[asyncio.Future[object]] = []
        self.sent: list[tuple[int, list[bytes]]] = []
        self.full = 0
        Producer.made.append(self)

    async def start(self) -> None:
        if Producer.refusals:
            Producer.refusals -= 1
            raise KafkaConnectionError

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(Producer.partitions))

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, partition: int) -> asyncio.Future[object]:
        if self.full:
            self.full -= 1
            raise KafkaTimeoutError
        self.sent.append((partition, batch.keys))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> KafkaSender:
    Producer.made, Producer.refusals, Producer.partitions = [], 0, 1
    monkeypatch.setattr(kafka_sender, "AIOKafkaProducer", Producer)
    return KafkaSender(KafkaOptions("nowhere:1"))


def record(key: str, position: int = 1) -> Record:
    now = datetime.now(UTC)
    return Record(
        topic="t", key=key, value=b"", event_id=key, type="T", partition=0, position=position, time=now
    )


async def asked(count: int, made: int = 1) -> Producer:
    """The newest of so many producers, once so many of its batches wait for an answer."""
    async with asyncio.timeout(GUARD_S):
        while len(Producer.made) < made or len(Producer.made[-1].answers) < count:
            await asyncio.sleep(0)
    return Producer.made[-1]


async def test_those_who_wait_for_the_cluster_knock_together_until_it_opens(sender: KafkaSender) -> None:
    Producer.refusals = 2
    sends = [asyncio.create_task(sender.send([record(key)], set())) for key in "abc"]
    producer = await asked(3)
    for answer in producer.answers:
        answer.set_result(None)
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(*sends)
    assert len(Producer.made) == 3
    await sender.close()


async def test_who_waits_for_an_answer_of_a_producer_that_is_given_up_is_told_so(
    sender: KafkaSender,
) -> None:
    waiting, failing = (asyncio.create_task(sender.send([record(key)], set())) for key in "ab")
    producer = await asked(2)
    producer.answers[1].set_exception(OutOfOrderSequenceNumber())
    with pytest.raises(OutOfOrderSequenceNumber):
        await failing
    with pytest.raises(ProducerClosed):
        await waiting
    again = asyncio.create_task(sender.send([record("a")], set()))
    (await asked(1, made=2)).answers[0].set_result(None)
    await again
    await sender.close()


async def test_a_producer_that_gets_no_answer_is_kept_and_says_so_each_round(
    sender: KafkaSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KafkaOptions, "round_s", 0.01)
    said = asyncio.Event()
    rounds = 0

    def late() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            said.set()

    sending = asyncio.create_task(sender.send([record("a")], set(), late))
    async with asyncio.timeout(GUARD_S):
        await said.wait()
    (await asked(1)).answers[0].set_result(None)
    await sending
    assert len(Producer.made) == 1
    assert len(Producer.made[0].sent) == 1
    await sender.close()


async def test_what_the_brokers_have_is_not_sent_again_with_the_rest(sender: KafkaSender) -> None:
    Producer.partitions = 8
    records = [record(f"key-{number}", number) for number in range(40)]
    acknowledged: set[int] = set()
    sending = asyncio.create_task(sender.send(records, acknowledged))
    producer = await asked(8)
    producer.answers[3].set_exception(NotLeaderForPartitionError())
    for place in (0, 1, 2, 4, 5, 6, 7):
        producer.answers[place].set_result(None)
    with pytest.raises(NotLeaderForPartitionError):
        await sending
    partition, keys = producer.sent[3]
    assert {f"key-{number}".encode() for number in set(range(40)) - acknowledged} == set(keys)
    again = asyncio.create_task(sender.send(records, acknowledged))
    await asked(9)
    assert producer.sent[8] == (partition, keys)
    producer.answers[8].set_result(None)
    await again
    assert acknowledged == set(range(40))
    assert len(Producer.made) == 1
    await sender.close()


async def test_a_partition_gets_its_next_batch_when_it_has_acknowledged_the_last(
    sender: KafkaSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batch, "room", 2)
    records = [record(f"{number}", number) for number in range(5)]
    acknowledged: set[int] = set()
    sending = asyncio.create_task(sender.send(records, acknowledged))
    for batches, known in ((1, set[int]()), (2, {0, 1}), (3, {0, 1, 2, 3})):
        producer = await asked(batches)
        assert acknowledged == known
        producer.answers[-1].set_result(None)
    await sending
    assert [keys for _, keys in producer.sent] == [[b"0", b"1"], [b"2", b"3"], [b"4"]]
    await sender.close()


async def test_a_batch_that_finds_no_place_is_offered_again(sender: KafkaSender) -> None:
    first = asyncio.create_task(sender.send([record("a")], set()))
    producer = await asked(1)
    producer.full = 3
    second = asyncio.create_task(sender.send([record("b")], set()))
    await asked(2)
    for answer in producer.answers:
        answer.set_result(None)
    await asyncio.gather(first, second)
    await sender.close()


async def test_who_is_cancelled_is_cancelled_and_the_others_are_told(sender: KafkaSender) -> None:
    leaving, staying = (asyncio.create_task(sender.send([record(key)], set())) for key in "ab")
    await asked(2)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(ProducerClosed):
        await staying
    await sender.close()


async def test_a_sender_that_knocks_can_be_closed(sender: KafkaSender) -> None:
    Producer.refusals = 1_000_000
    sending = asyncio.create_task(sender.send([record("a")], set()))
    async with asyncio.timeout(GUARD_S):
        while not Producer.made:
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await sender.close()
    made = len(Producer.made)
    await asyncio.sleep(0)
    assert len(Producer.made) == made


async def test_a_batch_whose_partition_has_no_leader_is_kept_until_it_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given up, it would be sent under other numbers although a broker may have it."""
    producer = AIOKafkaProducer(**KafkaOptions("nowhere:1", compression=None).producer())
    _never_expire(producer)
    place = TopicPartition("t", 0)
    producer._txn_manager.set_pid_and_epoch(1, 0)
    accumulator = producer._message_accumulator
    builder = producer.create_batch()
    builder.append(timestamp=1, key=b"k", value=b"v")
    answer = await accumulator.add_batch(builder, place, 1.0)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert accumulator.drain_by_nodes(ignore_nodes=set()) == ({}, True)
    assert not answer.done()
    assert producer._txn_manager.sequence_number(place) == 0
    monkeypatch.setattr(accumulator._cluster, "leader_for_partition", lambda _: 7)
    [(node, batches)] = accumulator.drain_by_nodes(ignore_nodes=set())[0].items()
    assert (node, list(batches)) == (7, [place])
    batches[place].done(0)
    await answer
    await producer.stop()


async def test_an_event_whose_headers_are_too_large_is_not_given_to_the_brokers(
    sender: KafkaSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sender, "MAX_REQUEST_BYTES", 0)
    with pytest.raises(MessageSizeTooLargeError):
        await sender.send([record("a")], set())
    assert Producer.made[0].sent == []
    await sender.close()
