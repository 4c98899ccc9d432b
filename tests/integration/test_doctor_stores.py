"""`waymesh doctor` about the database and the topics: every trouble it knows is made."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_rig import one

from services.cli.doctor import database as checks
from services.cli.doctor import events
from services.cli.doctor.finding import Finding, State
from services.cli.doctor.scene import Scene
from services.cli.environment import SERVICE_NAMES
from services.cli.event_place import bus_pool
from services.mesh.events.postgres import MIGRATIONS, PostgresBus
from services.mesh.store import Migrations, connect, migrate
from tests.kafka_brokers import Kafka
from tests.running_mesh import ROOT
from tests.tcp_postgres import PASSWORD, TcpPostgres, tcp_postgres
from tools.ports import free_ports


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WAYMESH_DATA_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def careless() -> Iterator[TcpPostgres]:
    """A server for few, which does not wait for its disk."""
    with tcp_postgres(max_connections="12", fsync="off") as server:
        yield server


async def looked(monkeypatch: pytest.MonkeyPatch, dsn: str) -> list[Finding]:
    monkeypatch.setenv("DATABASE_URL", dsn)
    return await checks.look(Scene.of())


async def test_a_server_that_may_forget_is_told(
    monkeypatch: pytest.MonkeyPatch, careless: TcpPostgres
) -> None:
    row = one(await looked(monkeypatch, careless.dsn()), "durability", State.FAIL)
    assert row.words.startswith("fsync off: what was acknowledged can be lost")
    assert "ALTER SYSTEM RESET fsync" in row.remedy


async def test_a_server_for_too_few_connections_is_told(
    monkeypatch: pytest.MonkeyPatch, careless: TcpPostgres
) -> None:
    row = one(await looked(monkeypatch, careless.dsn()), "connections", State.FAIL)
    assert "of 9 in use" in row.words
    assert "raise max_connections" in row.remedy


@pytest.mark.parametrize(
    ("dsn", "words", "remedy"),
    [
        ({"password": "wrong"}, "password authentication failed", "correct user and password"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist', "create that database"),
        ({"user": "nobody_here"}, "password authentication failed", "correct user and password"),
    ],
)
async def test_a_server_that_refuses_is_told_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, careless: TcpPostgres, dsn: dict[str, str], words: str, remedy: str
) -> None:
    row = one(await looked(monkeypatch, careless.dsn(**dsn)), "database", State.FAIL)
    assert words in row.words
    assert PASSWORD not in row.words
    assert row.remedy.startswith(remedy)


async def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await looked(monkeypatch, f"postgresql://waymesh@127.0.0.1:{free_ports(1)[0]}/waymesh")
    assert "cannot be reached (connection refused)" in one(found, "database", State.FAIL).words


async def test_a_transaction_that_is_open_for_long_is_told(
    monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setattr(checks, "_LONG_S", -1)
    other = await connect(database)
    try:
        async with other.transaction():
            await other.execute("SELECT 1")
            row = one(await looked(monkeypatch, database), "connections", State.WARN)
    finally:
        await other.close()
    assert "a transaction is open for" in row.words
    assert "pg_terminate_backend" in row.remedy


async def test_no_database_at_all_is_told() -> None:
    assert "DATABASE_URL is not set" in one(await checks.look(Scene.of()), "database", State.FAIL).words


async def test_a_database_without_anything_lacks_its_schemas(
    monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    found = await checks.look(Scene.of())
    assert "eta lacks 0001_eta.sql" in one(found, "schemas", State.FAIL).words
    assert one(found, "schemas", State.FAIL).remedy == "run `waymesh migrate`"
    one(found, "keys", State.SKIP)
    assert "no schema yet" in one(await events.look(Scene.of()), "topics", State.SKIP).words


async def test_a_database_of_a_later_version_is_told(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    connection = await connect(database)
    await connection.execute(
        "CREATE SCHEMA eta; CREATE TABLE eta.migrations (set text, number int, name text, checksum text);"
        "INSERT INTO eta.migrations VALUES ('service', 999, '0999_later.sql', '')"
    )
    await connection.close()
    monkeypatch.setenv("DATABASE_URL", database)
    assert "0999_later.sql" in one(await checks.look(Scene.of()), "schemas", State.FAIL).words


async def test_clocks_that_differ_are_told(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    class Ahead:
        """Nobody's clock can be set here."""

        @staticmethod
        def time() -> float:
            return time.time() + 60

    monkeypatch.setattr(checks, "time", Ahead)
    monkeypatch.setenv("DATABASE_URL", database)
    assert "from the database's" in one(await checks.look(Scene.of()), "clock", State.FAIL).words


async def test_keys_are_missed_until_one_is_valid_and_again_once_it_is_not(
    monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    connection = await connect(database)
    try:
        for name in SERVICE_NAMES:
            await migrate(connection, name, [Migrations("service", ROOT / "services" / name / "migrations")])
        await migrate(connection, "bus", [Migrations("bus", MIGRATIONS)])
        row = one(await checks.look(Scene.of()), "keys", State.WARN)
        assert (row.words, row.remedy) == ("there is none", "make one: `waymesh keys add NAME`")
        await connection.execute("SET search_path = gateway")
        insert = "INSERT INTO api_keys (key_id, name, digest) VALUES ('0123456789ab', 'n', $1)"
        await connection.execute(insert, bytes(32))
        assert one(await checks.look(Scene.of()), "keys", State.OK).words == "1 valid, 0 revoked or over"
        await connection.execute("UPDATE api_keys SET revoked_at = now()")
        assert one(await checks.look(Scene.of()), "keys", State.WARN).words == "none of 1 is valid"
    finally:
        await connection.close()


async def test_a_group_that_does_not_keep_up_is_named(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    async with bus_pool(database) as pool:
        await PostgresBus(pool, service="test").create_topics()
        part = await pool.fetchval("SELECT min(part) FROM bus.partitions WHERE topic = 'gps-events'")
        await pool.execute("UPDATE bus.heads SET last = 20000 WHERE part = $1", part)
        await pool.execute(
            "INSERT INTO bus.log (position, time, part, kind, key, event_id, value)"
            " VALUES (1, now(), $1, 1, 'k', 'e', '')",
            part,
        )
        await pool.execute("INSERT INTO bus.groups (name) VALUES ('waymesh.eta')")
        await pool.execute(
            "INSERT INTO bus.offsets (group_name, part, position) VALUES ('waymesh.eta', $1, 0)", part
        )
    row = one(await events.look(Scene.of()), "lag", State.WARN)
    assert row.words == "waymesh.eta has 20000 events of gps-events still to read"


async def test_topics_that_a_cluster_lacks_are_named(monkeypatch: pytest.MonkeyPatch, kafka: Kafka) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    # Of the shared cluster's topics, some are there and some are not.
    monkeypatch.setenv("KAFKA_METRICS_TOPIC", f"metrics-{time.time_ns()}")
    found = await events.look(Scene.of())
    assert one(found, "topics", State.FAIL).remedy == "run `waymesh topics create`"


async def test_a_cluster_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_ports(1)[0]}")
    row = one(await events.look(Scene.of()), "events", State.FAIL)
    assert "cannot be used" in row.words
    assert "KAFKA_" in row.remedy
