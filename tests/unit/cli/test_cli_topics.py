"""`waymesh topics` on the embedded bus, and against a cluster that does not answer."""

import json
import socket
from pathlib import Path

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
