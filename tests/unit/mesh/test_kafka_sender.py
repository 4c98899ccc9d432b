"""The relay's producer: reached again and again, shared, and given up for all who use it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, ProducerClosed

from services.mesh.events import Record, kafka_sender
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_sender import KafkaSender

GUARD_S = 30.0


class Batch:
    def append(self, **_: object) -> object:
        return object()

    def close(self) -> None:
        pass


class Client:
    async def close(self) -> None:
        pass


class Producer:
    """A producer whose brokers do as they are told; the newest is last in `made`."""

    made: list["Producer"]
    refusals: int

    def __init__(self, **_: Any) -> None:
        self.client = Client()
        self.answers: list[asyncio.Future[object]] = []
        self.full = False
        Producer.made.append(self)

    async def start(self) -> None:
        if Producer.refusals:
            Producer.refusals -= 1
            raise KafkaConnectionError

    async def partitions_for(self, topic: str) -> set[int]:
        return {0}

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, partition: int) -> asyncio.Future[object]:
        if self.full:
            raise KafkaTimeoutError
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> KafkaSender:
    Producer.made, Producer.refusals = [], 0
    monkeypatch.setattr(kafka_sender, "AIOKafkaProducer", Producer)
    return KafkaSender(KafkaOptions("nowhere:1"))


def record(key: str) -> Record:
    return Record(
        topic="t", key=key, value=b"", event_id=key, type="T", partition=0, position=1, time=datetime.now(UTC)
    )


async def asked(count: int, made: int = 1) -> Producer:
    """The newest of so many producers, once so many of its batches wait for an answer."""
    async with asyncio.timeout(GUARD_S):
        while len(Producer.made) < made or len(Producer.made[-1].answers) < count:
            await asyncio.sleep(0)
    return Producer.made[-1]


async def test_those_who_wait_for_the_cluster_knock_together_until_it_opens(sender: KafkaSender) -> None:
    Producer.refusals = 2
    sends = [asyncio.create_task(sender.send([record(key)])) for key in "abc"]
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
    waiting = asyncio.create_task(sender.send([record("a")]))
    producer = await asked(1)
    producer.full = True
    with pytest.raises(KafkaTimeoutError):
        await sender.send([record("b")])
    with pytest.raises(ProducerClosed):
        await waiting
    again = asyncio.create_task(sender.send([record("a")]))
    (await asked(1, made=2)).answers[0].set_result(None)
    await again
    await sender.close()


async def test_who_is_cancelled_is_cancelled_and_the_others_are_told(sender: KafkaSender) -> None:
    leaving, staying = (asyncio.create_task(sender.send([record(key)])) for key in "ab")
    await asked(2)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(ProducerClosed):
        await staying
    await sender.close()


async def test_a_sender_that_knocks_can_be_closed(sender: KafkaSender) -> None:
    Producer.refusals = 1_000_000
    sending = asyncio.create_task(sender.send([record("a")]))
    async with asyncio.timeout(GUARD_S):
        while not Producer.made:
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await sender.close()
    made = len(Producer.made)
    await asyncio.sleep(0)
    assert len(Producer.made) == made
