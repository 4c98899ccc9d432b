"""What tests of the event bus share: each runs on both adapters."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from tests.contract.events_rig import Rig, kafka_rig, mock_rig, postgres_rig
from tests.kafka_brokers import Brokers, Kafka


@pytest.fixture(params=["postgres", "kafka"])
def kafka_if_any(request: pytest.FixtureRequest, kafka_brokers: Brokers) -> Kafka | None:
    """The broker, unless the bus is the embedded one, or there is only librdkafka's mock cluster."""
    if request.param == "postgres":
        return None
    found = kafka_brokers.shared()
    lacking = request.node.get_closest_marker("mock_cluster_lacks")
    if found is None and (lacking is not None or kafka_brokers.required):
        kafka_brokers.absent()
    return found


@pytest.fixture
async def rig(
    request: pytest.FixtureRequest, database: str, kafka_if_any: Kafka | None
) -> AsyncIterator[Rig]:
    """One broker of the adapter."""
    if request.node.callspec.params["kafka_if_any"] == "postgres":
        made: AbstractAsyncContextManager[Rig] = postgres_rig(database)
    else:
        made = kafka_rig(database, kafka_if_any) if kafka_if_any is not None else mock_rig(database)
    async with made as rig:
        yield rig
