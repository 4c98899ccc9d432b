"""The bus on clusters that want encryption, a certificate or a login; and what waits while they refuse."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.mesh.events import EventBus, create_bus
from services.mesh.events.topics import DRIVER_ALLOCATIONS
from services.mesh.settings import MeshSettings, load
from services.mesh.store import connect
from tests.contract.events_rig import GUARD_S, Seen, message
from tests.kafka_brokers import Brokers
from tests.processes import until
from tools.kafka.cluster import KafkaCluster
from tools.kafka.jars import KafkaUnavailableError
from tools.kafka.security import Certificates, Security


@pytest.fixture
def starting(kafka_brokers: Brokers) -> Any:
    """Starts a node that lets in who the argument says; skips where there is no Kafka of our own."""

    @contextlib.asynccontextmanager
    async def start(security: Security) -> AsyncIterator[KafkaCluster]:
        cluster = KafkaCluster(nodes=1, security=security)
        try:
            try:
                await cluster.start()
            except KafkaUnavailableError as error:
                kafka_brokers.absent(str(error))
            yield cluster
        finally:
            await cluster.close()

    return start


def settings(cluster: KafkaCluster, data_dir: Path, **more: object) -> MeshSettings:
    """Of a service that knows what the cluster wants; `more` goes over it."""
    security = cluster.security
    given: dict[str, object] = {
        "data_dir": data_dir,
        "kafka_bootstrap_servers": cluster.bootstrap_servers,
        "kafka_security_protocol": security.protocol,
    }
    if security.encrypted:
        given["kafka_ssl_cafile"] = certificates(cluster).authority
    if security.client_certificate:
        given["kafka_ssl_certfile"] = certificates(cluster).client
    if security.protocol.startswith("SASL_"):
        given["kafka_sasl_mechanism"] = "SCRAM-SHA-256"
        given["kafka_sasl_username"] = security.user
        given["kafka_sasl_password"] = security.password
    return load(MeshSettings, **{**given, **more})


def certificates(cluster: KafkaCluster) -> Certificates:
    """Those of an encrypted one."""
    assert cluster.certificates is not None
    return cluster.certificates


@contextlib.asynccontextmanager
async def serving(told: MeshSettings, dsn: str) -> AsyncIterator[tuple[EventBus, asyncpg.Pool]]:
    """A started bus."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=8, connect=connect)
    bus = create_bus(told, service="tests", pool=pool)
    try:
        await bus.start()
        yield bus, pool
    finally:
        await bus.close()
        await pool.close()


async def publish(bus: EventBus, pool: asyncpg.Pool, *values: str) -> None:
    """In a transaction of their own."""
    async with pool.acquire() as connection, connection.transaction():
        await bus.publish(connection, [message("k", value, topic=DRIVER_ALLOCATIONS) for value in values])


async def goes_through(told: MeshSettings, dsn: str) -> None:
    """There and back: topics made, events relayed, and read by a group and by a broadcast reader."""
    async with serving(told, dsn) as (bus, pool):
        await bus.create_topics()
        grouped, wide = Seen(), Seen()
        readers = [
            asyncio.create_task(bus.consume("g", [DRIVER_ALLOCATIONS], grouped).run()),
            asyncio.create_task(bus.broadcast([DRIVER_ALLOCATIONS], wide).run()),
        ]
        await publish(bus, pool, "there", "and back")
        for seen in (grouped, wide):
            await seen.enough(2)
            assert seen.values() == ["there", "and back"]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def test_a_cluster_that_asks_for_a_certificate_is_shown_ours(
    starting: Any, database: str, tmp_path: Path
) -> None:
    async with starting(Security("SSL", client_certificate=True)) as cluster:
        await goes_through(settings(cluster, tmp_path), database)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_cluster_that_asks_for_a_login_in_the_clear_gets_it(
    mechanism: str, starting: Any, database: str, tmp_path: Path
) -> None:
    async with starting(Security("SASL_PLAINTEXT")) as cluster:
        await goes_through(settings(cluster, tmp_path, kafka_sasl_mechanism=mechanism), database)


async def test_what_a_cluster_refuses_waits_until_it_is_asked_rightly(
    starting: Any, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with starting(Security("SASL_SSL")) as cluster:
        wrong: list[dict[str, Any]] = [
            {"kafka_sasl_password": "another"},
            {"kafka_ssl_cafile": certificates(cluster).stranger},
        ]
        for number, told in enumerate(wrong):
            caplog.clear()
            async with serving(settings(cluster, tmp_path, **told), database) as (bus, pool):
                await publish(bus, pool, f"{number}")
                await until(lambda: "cannot be used" in caplog.text, "it is said that nothing goes")
                assert await pool.fetchval("SELECT count(*) FROM bus.log") == number + 1
        async with serving(settings(cluster, tmp_path), database) as (bus, pool):
            await bus.create_topics()
            async with asyncio.timeout(GUARD_S):
                while await pool.fetchval("SELECT count(*) FROM bus.log"):
                    await asyncio.sleep(0.05)
        found = await cluster.look.records(DRIVER_ALLOCATIONS)
        assert [one.value for one in found] == [b"0", b"1"]
