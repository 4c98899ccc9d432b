"""What the tests share: one real PostgreSQL for the whole run, and a fresh database for each test."""

import asyncio
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from services.mesh.store import EmbeddedPostgres, connect
from tests.examples import examples

pytest_plugins = ["tests.kafka_brokers", "tests.mock_openai.fixture"]

_numbers = itertools.count(1)

# What is imported and collected stays: the collector need not look through it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


# How long an example takes to make or to judge tells of the machine, and of what else runs on it.
settings.register_profile(
    "waymesh", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("waymesh")


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """DSN of the run's server. Its folder lies under /tmp: pytest's own folders let only root pass."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-test-", dir="/tmp"))
    loop = asyncio.new_event_loop()
    server = EmbeddedPostgres(folder)
    try:
        yield loop.run_until_complete(server.start())
    finally:
        loop.run_until_complete(server.stop())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    """DSN of an empty database, dropped after the test with whatever is still connected."""
    name = _name()
    await _execute(postgres_dsn, f"CREATE DATABASE {name}")
    yield postgres_dsn.replace("/waymesh?", f"/{name}?")
    await _execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def module_database(postgres_dsn: str) -> Iterator[str]:
    """The same for all tests of a module that share one mesh."""
    name = _name()
    asyncio.run(_execute(postgres_dsn, f"CREATE DATABASE {name}"))
    yield postgres_dsn.replace("/waymesh?", f"/{name}?")
    asyncio.run(_execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


def _name() -> str:
    return f"test_{os.getpid()}_{next(_numbers)}"


async def _execute(dsn: str, statement: str) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
