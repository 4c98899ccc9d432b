"""One mesh and one Prometheus for all that is tested of them."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.kafka_brokers import Brokers
from tests.observability.promtool import program
from tests.observability.story import Story, tell


@pytest.fixture(scope="session")
def story(kafka_brokers: Brokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """What was seen."""
    program("prometheus")
    cluster = kafka_brokers.own() or kafka_brokers.absent()
    yield asyncio.run(tell(tmp_path_factory.mktemp("alerts"), cluster))
    kafka_brokers.mend()
