"""docs/security.md speaks of what is there: every risk, tests that exist, each RPC that changes something."""

import re
from datetime import timedelta
from pathlib import Path

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool

from services.gateway import rpcs
from services.mesh.events.topics import DEAD_LETTERS, TOPICS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text()
ROWS = {row.split(" ", 1)[0]: row for row in re.findall(r"^\| (API\d+ .*) \|$", DOCUMENT, re.MULTILINE)}


def section(title: str) -> str:
    """The text under a heading."""
    return DOCUMENT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_each_risk_has_a_row_with_a_threat_what_holds_it_and_tests() -> None:
    assert list(ROWS) == [f"API{n}" for n in range(1, 11)]
    for row in ROWS.values():
        assert all(cell.strip() for cell in row.split(" | "))
        assert len(row.split(" | ")) == 4


def test_every_test_that_is_named_is_there_and_has_tests() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", DOCUMENT)
    assert len(set(named)) > 20
    for path in set(named):
        assert re.search(r"^(async )?def test_", (ROOT / path).read_text(), re.MULTILINE), path


def test_every_rpc_that_changes_something_says_where_that_is_told() -> None:
    audit = section("Audit")
    for path in rpcs.load():
        service, _, name = path.lstrip("/").rpartition("/")
        options = descriptor_pool.Default().FindMethodByName(f"{service}.{name}").GetOptions()
        if options.idempotency_level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS:
            assert re.search(rf"\b{name}\b", audit), name


def test_every_scope_that_is_named_is_one() -> None:
    table = section("Keys, scopes, tenants").split("\n| what | scope |", 1)[1].split("\n\n", 1)[0]
    known = rpcs.load().values()
    for rpc in known:
        # What is for operators, and what has no task, is told one by one.
        if rpc.admin or rpc.streams:
            assert f"`{rpc.scope}`" in table


def test_how_long_dead_letters_keep_secrets_and_who_reads_them_is_as_it_says() -> None:
    said = next(text for text in section("Keys, scopes, tenants").split("\n\n") if "`dead-letters`" in text)
    days = (TOPICS[DEAD_LETTERS].retention or timedelta.max).days
    assert f"for {days} days" in " ".join(said.split())
    folder = ROOT / "deploy/k8s/components/strimzi"
    files = [path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml"]
    made = [one for path in files for one in yaml.safe_load_all(path.read_text())]
    [topic] = [one for one in made if one["metadata"]["name"] == DEAD_LETTERS]
    assert topic["spec"]["config"]["retention.ms"] == timedelta(days=days) // timedelta(milliseconds=1)
    readers = [
        one["metadata"]["name"]
        for one in made
        if one["kind"] == "KafkaUser"
        for rule in one["spec"]["authorization"]["acls"]
        if rule["resource"].get("name") in ("*", DEAD_LETTERS) and "Read" in rule["operations"]
    ]
    assert readers == re.findall(r"Kafka user `(\w+)`", " ".join(said.split()))
