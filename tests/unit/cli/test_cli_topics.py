"""`waymesh topics` on the embedded bus, and against a cluster that does not answer."""

import asyncio
import json
import socket
from pathlib import Path

import asyncpg

from services.mesh.events import TOPICS
from tests.unit.cli.test_cli_main import waymesh


def test_topics_are_listed_in_one_order_and_those_that_are_missing_named(
    database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": database}
    empty = waymesh("topics", "list", "--json", folder=tmp_path, variables=variables)
    assert empty.returncode == 1
    assert [json.loads(line) for line in empty.stdout.splitlines()] == [
        {"topic": name, "missing": True} for name in TOPICS
    ]
    assert empty.stderr == (
        f"waymesh: the embedded event bus lacks {', '.join(TOPICS)}: run `waymesh topics create`\n"
    )
    assert waymesh("topics", "create", folder=tmp_path, variables=variables).returncode == 0
    listed = waymesh("topics", "list", folder=tmp_path, variables=variables)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["TOPIC", *TOPICS]
    full = waymesh("topics", "list", "--json", folder=tmp_path, variables=variables)
    found = {entry["topic"]: entry for entry in map(json.loads, full.stdout.splitlines())}
    assert found["orders"] == {
        "topic": "orders",
        "missing": False,
        "partitions": 6,
        "replicas": None,
        "compacted": True,
        "retention_s": None,
        "events": 0,
        "still_to_read": {},
    }
    assert found["gps-events"]["retention_s"] == 86_400


_READ_ONE_OF_NINE = """
WITH part AS (SELECT part FROM bus.partitions WHERE topic = 'agent-outcomes' ORDER BY part LIMIT 1),
  head AS (UPDATE bus.heads SET last = 9 WHERE part = (SELECT part FROM part)),
  reader AS (INSERT INTO bus.groups (name) VALUES ('a-group'))
INSERT INTO bus.offsets (group_name, part, position) SELECT 'a-group', part, 1 FROM part
"""


def test_events_that_are_there_no_more_are_not_still_to_read(database: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": database}
    assert waymesh("topics", "create", folder=tmp_path, variables=variables).returncode == 0

    async def send_all_on() -> None:
        """As a relay leaves it that has had a cluster for a while."""
        connection = await asyncpg.connect(database)
        try:
            await connection.execute(_READ_ONE_OF_NINE)
        finally:
            await connection.close()

    asyncio.run(send_all_on())
    full = waymesh("topics", "list", "--json", folder=tmp_path, variables=variables)
    found = {entry["topic"]: entry for entry in map(json.loads, full.stdout.splitlines())}
    assert found["agent-outcomes"]["events"] == 0
    assert found["agent-outcomes"]["still_to_read"] == {"a-group": 0}


def test_who_waits_for_silent_brokers_is_told_for_what(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and says nothing
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        done = waymesh("topics", "list", folder=tmp_path, variables={"KAFKA_BOOTSTRAP_SERVERS": servers})
    waiting, last = done.stderr.splitlines()
    assert waiting == f"waiting for the Kafka cluster at {servers} to answer"
    assert last.startswith(f"waymesh: the Kafka cluster at {servers} cannot be used: {servers} takes conn")
    assert done.returncode == 1
