"""How often a client of Kafka asks who leads which partition."""

import asyncio
import itertools
import time

import pytest
from aiokafka.client import AIOKafkaClient

from services.mesh.events.kafka_metadata import ask_calmly

PAUSE_S = 0.1
# The clock of the loop may be a little ahead of the other.
EARLY_S = 0.01


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When brokers were asked, whose answer comes at once."""
    times: list[float] = []

    async def answered(*_: object) -> bool:
        times.append(time.monotonic())
        return True

    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", answered)
    return times


async def test_who_asks_again_at_once_waits_a_moment(asked: list[float]) -> None:
    ask_calmly()
    ask_calmly()  # as each client says it
    client = AIOKafkaClient(bootstrap_servers="nowhere:1")
    asking = asyncio.create_task(client._md_synchronizer())
    began = time.monotonic()
    for _ in range(4):  # as a producer whose partition has no leader
        assert await client.force_metadata_update()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await client.close()
    assert asked[0] - began < PAUSE_S
    assert [b - a >= PAUSE_S - EARLY_S for a, b in itertools.pairwise(asked)] == [True] * 3
