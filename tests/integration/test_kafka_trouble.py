"""A cluster that is not as it should be: one clear line, nothing lost, and on it goes once it is mended."""

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from services.mesh.events import EventBus, create_bus
from services.mesh.events.kafka import KafkaBus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_probe import ClusterUnusableError, look
from services.mesh.events.kafka_topics import create_topics, differences, existing_topics
from services.mesh.events.postgres import PostgresBus
from services.mesh.settings import MeshSettings, load
from services.mesh.store import connect
from tests.contract.events_rig import TOPICS, Process, Seen, by_key, message, own_topics
from tests.kafka_brokers import Kafka
from tests.processes import until
from tests.unit.cli.test_cli_main import waymesh
from tools.kafka.cluster import KafkaCluster

WATCH = "services.mesh.events.kafka_watch"


@pytest.fixture
def options(kafka: Kafka) -> KafkaOptions:
    """Of topics that nobody has made."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    return KafkaOptions(kafka.bootstrap_servers, names={name: f"{prefix}.{name}" for name in TOPICS})


@pytest.fixture
async def admin(options: KafkaOptions) -> AsyncIterator[AIOKafkaAdminClient]:
    """For a cluster in which the topics of `options` are deleted at the end."""
    client = AIOKafkaAdminClient(**options.connection())
    await client.start()
    yield client
    await client.delete_topics(list(options.names.values()))
    await client.close()


@contextlib.asynccontextmanager
async def running(options: KafkaOptions, dsn: str) -> AsyncIterator[Process]:
    """A started bus, with a group and a broadcast reader of `moves` to come."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=8, connect=connect)
    process = Process(KafkaBus(pool, options, service="tests", topics=TOPICS), pool)
    try:
        await process.bus.start()
        yield process
    finally:
        await process.end()


def told(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """Lines of the watch that say so."""
    lines = [record.getMessage() for record in caplog.records if record.name == WATCH]
    return [line for line in lines if words in line]


async def made(admin: AIOKafkaAdminClient, options: KafkaOptions, partitions: int) -> None:
    """All topics, each with so many partitions."""
    await admin.create_topics([NewTopic(name, partitions, 1) for name in options.names.values()])
    async with asyncio.timeout(60):
        while set((await look(options, options.names.values())).partitions) != set(options.names.values()):
            await asyncio.sleep(0.1)


async def test_events_of_a_missing_topic_wait_for_it_and_go_on_by_themselves(
    options: KafkaOptions, admin: AIOKafkaAdminClient, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    group, wide = Seen(), Seen()
    async with running(options, database) as process:
        process.start(process.bus.consume("readers", ["moves"], group))
        reader = process.bus.broadcast(["moves"], wide)
        process.start(reader)
        values = [f"{number}" for number in range(60)]
        await process.publish(*(message(f"key-{int(value) % 7}", value) for value in values[:30]))
        await until(lambda: bool(told(caplog, "lacks topics")), "the missing topics are named")
        assert await process.pool.fetchval("SELECT count(*) FROM bus.log") == 30
        assert not reader.caught_up.is_set()
        await made(admin, options, 4)
        await process.publish(*(message(f"key-{int(value) % 7}", value) for value in values[30:]))

        for seen in (group, wide):
            await seen.enough(60)
            assert sorted(seen.values()) == sorted(values)
            for of_key in by_key(seen.records).values():
                assert of_key == sorted(of_key, key=int)
        await until(lambda: bool(told(caplog, "has all topics now")), "it is said that they are there")
    [line] = told(caplog, "lacks topics")
    assert "`waymesh topics create`" in line
    for name in options.names.values():
        assert name in line


@pytest.mark.parametrize("partitions", [1, 9])
async def test_another_number_of_partitions_loses_nothing_and_keeps_the_order_of_each_key(
    options: KafkaOptions,
    admin: AIOKafkaAdminClient,
    database: str,
    caplog: pytest.LogCaptureFixture,
    partitions: int,
) -> None:
    await made(admin, options, partitions)
    group, wide = Seen(), Seen()
    async with running(options, database) as process:
        process.start(process.bus.consume("readers", ["moves"], group))
        process.start(process.bus.broadcast(["moves"], wide))
        for start in range(0, 300, 100):
            await process.publish(*(message(f"key-{n % 11}", f"{n}") for n in range(start, start + 100)))
        for seen in (group, wide):
            await seen.enough(300)
            assert sorted(seen.values(), key=int) == [f"{number}" for number in range(300)]
            for of_key in by_key(seen.records).values():
                assert of_key == sorted(of_key, key=int)
        if partitions == 1:
            await until(lambda: bool(told(caplog, "fewer partitions")), "it is told")
            [line] = told(caplog, "fewer partitions than intended")
            assert f"{options.names['moves']} has 1 instead of 4" in line
        else:
            assert told(caplog, "partitions") == []


async def test_partitions_that_are_added_while_it_runs_are_read(
    options: KafkaOptions, admin: AIOKafkaAdminClient, database: str
) -> None:
    await made(admin, options, 1)
    group, wide = Seen(), Seen()
    async with running(options, database) as process:
        process.start(process.bus.consume("readers", ["moves"], group))
        process.start(process.bus.broadcast(["moves"], wide))
        await process.publish(*(message(f"key-{n}", f"{n}") for n in range(20)))
        for seen in (group, wide):
            await seen.enough(20)
        await admin.create_partitions({options.names["moves"]: NewPartitions(total_count=6)})
        sent = 20
        async with asyncio.timeout(90):
            while {record.partition for record in group.records} != set(range(6)):
                await process.publish(*(message(f"key-{n}", f"{n}") for n in range(sent, sent + 20)))
                sent += 20
                await group.enough(sent)
        for seen in (group, wide):
            await seen.enough(sent)
            assert sorted(seen.values(), key=int) == [f"{number}" for number in range(sent)]


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ("127.0.0.1:1", "127.0.0.1:1 refuses connections"),
        ("broker.invalid:9092", "broker.invalid:9092 is a name without an address"),
        ("127.0.0.1:1,broker.invalid:9092", "(none of the 2 addresses can be used)"),
    ],
)
async def test_a_service_starts_without_its_cluster_and_keeps_what_is_published(
    database: str, caplog: pytest.LogCaptureFixture, servers: str, words: str
) -> None:
    async with running(KafkaOptions(servers), database) as process:
        await process.publish(message("k", "kept"))
        await until(lambda: bool(told(caplog, "cannot be used")), "it is told")
        assert await process.pool.fetchval("SELECT count(*) FROM bus.log") == 1
    [line] = told(caplog, "")
    assert words in line
    assert "events wait in the store, and it is tried again until they can be sent" in line


async def test_a_port_that_speaks_http_is_called_so() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readline()
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ClusterUnusableError) as wrong:
            await look(KafkaOptions(address), [])
    assert str(wrong.value) == f"{address} speaks HTTP: it is no Kafka broker"
    assert wrong.value.refused


async def test_a_cluster_spoken_to_in_tls_that_speaks_none_is_told_apart(
    kafka: Kafka, tmp_path: Path
) -> None:
    address = kafka.bootstrap_servers.partition(",")[0]
    settings = load(
        MeshSettings, data_dir=tmp_path, kafka_bootstrap_servers=address, kafka_security_protocol="SSL"
    )
    with pytest.raises(ClusterUnusableError) as wrong:
        await look(KafkaOptions.from_settings(settings), [])
    assert str(wrong.value) == f"{address} speaks no TLS, but KAFKA_SECURITY_PROTOCOL is SSL"


@pytest.mark.parametrize(("enabled", "kind"), [(True, KafkaBus), (False, PostgresBus)])
async def test_with_kafka_switched_off_the_embedded_bus_does_everything(
    database: str, tmp_path: Path, enabled: bool, kind: type[EventBus]
) -> None:
    settings = load(
        MeshSettings, data_dir=tmp_path, kafka_bootstrap_servers="127.0.0.1:1", enable_kafka=enabled
    )
    async with asyncpg.create_pool(database, min_size=1, max_size=4, connect=connect) as pool:
        assert isinstance(create_bus(settings, service="tests", pool=pool), kind)


# --- topics create and list -----------------------------------------------------------------------


async def test_what_differs_from_the_intended_is_told_with_a_remedy(
    options: KafkaOptions, admin: AIOKafkaAdminClient
) -> None:
    names = options.names
    wanted = {name: dataclasses.replace(TOPICS[name], partitions=4) for name in names}
    await admin.create_topics(
        [
            NewTopic(
                names["moves"], 2, 1, topic_configs={"retention.ms": "1000", "max.message.bytes": "5000"}
            ),
            NewTopic(names["state"], 6, 1, topic_configs={"cleanup.policy": "delete"}),
        ]
    )
    await create_topics(options, list(wanted.values()))
    async with asyncio.timeout(60):
        while len(there := await existing_topics(options, list(wanted.values()))) < len(names):
            await asyncio.sleep(0.1)
    lines = {name: differences(wanted[name], there[name]) for name in names}
    assert lines["brief"] == lines["dead-letters"] == []
    moves, state = "\n".join(lines["moves"]), "\n".join(lines["state"])
    assert f"kafka-topics.sh --alter --topic {names['moves']} --partitions 4" in moves
    assert "retention.ms=1000, 604800000 is intended" in moves
    assert "max.message.bytes=5000" in moves
    assert "has 6 partitions, 4 are intended: more readers can share the work" in state
    assert f"--topic {names['state']} --add-config cleanup.policy=compact" in state
    replicas = min(3, there["moves"].brokers)
    assert (f"on 1 brokers only, {replicas} are intended" in moves) == (replicas > 1)


def test_topics_are_created_again_and_again_and_listed(kafka: Kafka, tmp_path: Path) -> None:
    variables = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    for _ in range(2):
        done = waymesh("topics", "create", folder=tmp_path, variables=variables)
        assert done.returncode == 0, done.stderr
    assert done.stdout == f"all topics are in the Kafka cluster at {kafka.bootstrap_servers}\n"
    listed = waymesh("topics", "list", folder=tmp_path, variables=variables)
    assert listed.returncode == 0, listed.stderr
    rows = {line.split()[0]: line.split() for line in listed.stdout.splitlines()}
    assert rows["gps-events"][1] == "12"
    assert rows["dead-letters"][1] == "3"
    assert "newest per key" in listed.stdout


@pytest.mark.parametrize("command", [["topics", "create"], ["topics", "list"], ["dead-letters", "list"]])
def test_a_cluster_that_cannot_be_used_is_one_line(tmp_path: Path, command: list[str]) -> None:
    done = waymesh(*command, folder=tmp_path, variables={"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "waymesh: the Kafka cluster at 127.0.0.1:1 cannot be used: 127.0.0.1:1 refuses connections\n"
    )


async def test_an_outage_is_a_handful_of_lines_however_many_readers_there_are(
    kafka_cluster: KafkaCluster, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with own_topics(kafka_cluster.bootstrap_servers) as options, running(options, database) as process:
        group, wide = Seen(), Seen()
        for number in range(3):
            process.start(process.bus.consume(f"readers-{number}", ["moves", "state"], group))
            process.start(process.bus.broadcast(["moves", "state"], wide))
        await process.publish(*(message(f"key-{n}", f"{n}") for n in range(50)))
        await group.enough(150)
        await wide.enough(150)
        caplog.clear()
        await kafka_cluster.kill()
        await process.publish(*(message(f"key-{n}", f"{n}") for n in range(50, 100)))
        await until(lambda: bool(told(caplog, "cannot be used")), "the outage is told")
        # As long as it takes all of them to have failed several times.
        await asyncio.sleep(15)
        await kafka_cluster.start()
        await kafka_cluster.in_sync()
        await group.enough(300)
        await wide.enough(300)
        await until(lambda: bool(told(caplog, "can be used again")), "its end is told")
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    print("\n".join(lines))
    assert len(told(caplog, "can be used again")) == 1
    assert len(lines) <= 10, lines
