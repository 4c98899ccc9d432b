"""What services publish, read by others' code: the CloudEvents SDK and kcat; and the examples of the wire."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from google.protobuf.message import Message as Proto
from waymesh.agent.v1.definition_pb2 import AgentLifecycleEvent
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1.alert_pb2 import Alert
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.order.v1.events_pb2 import OrderCommand, OrderEvent
from waymesh.route.v1.allocation_pb2 import Allocation
from waymesh.route.v1.route_pb2 import RouteOptimization

from services.mesh import json_codec
from services.mesh.events import JSON, PROTOBUF, TOPICS, Message, encode_value
from services.mesh.events.kafka import KafkaBus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.store import connect
from tests.contract.events_rig import own_topics
from tests.integration.bad_input_rig import COURIER, GPS, ORDER, Caller
from tests.kafka_brokers import Brokers, Kafka
from tests.running_mesh import RunningMesh, running_mesh
from tools.kafka.look import Look, Lying

GUARD_S = 180.0
WIRE = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "wire").glob("outcome_*.json"))]
KINDS: Mapping[str, type[Proto]] = {
    "gps-events": GpsEvent,
    "orders": OrderEvent,
    "eta-predictions": EtaPrediction,
    "driver-allocations": Allocation,
    "agent-outcomes": OutcomeEvent,
    "agent-metrics": AgentMetrics,
    "agent-alerts": Alert,
    "agent-lifecycle": AgentLifecycleEvent,
}
# Published as JSON, for whoever has no stubs.
AS_JSON = {"agent-lifecycle"}
TYPES: Mapping[str, type[Proto]] = {
    **KINDS,
    "order-commands": OrderCommand,
    "route-optimizations": RouteOptimization,
    "traffic-updates": GpsEvent,
    "dead-letters": GpsEvent,
}
# RFC 3986: what a URI-reference may be made of.
URI_REFERENCE = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


@pytest.fixture(scope="module")
def shared(kafka_brokers: Brokers) -> Kafka:
    """A cluster with all topics."""
    kafka = kafka_brokers.shared() or kafka_brokers.absent()
    asyncio.run(create_topics(KafkaOptions(kafka.bootstrap_servers), list(TOPICS.values())))
    return kafka


@pytest.fixture(scope="module")
def mesh(
    shared: Kafka, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMesh]:
    """On that cluster, with windows that close at once."""
    with running_mesh(
        module_database,
        tmp_path_factory.mktemp("cloud-events"),
        KAFKA_BOOTSTRAP_SERVERS=shared.bootstrap_servers,
        KAFKA_GROUP_ID=f"test-{uuid.uuid4().hex[:8]}",
        WAYMESH_METRIC_WINDOWS="1s,60s,300s/60s",
        WAYMESH_METRIC_LATENESS_S="0",
    ) as running:
        yield running


def ask(mesh: RunningMesh, task: str, parameters: object) -> dict[str, Any]:
    """The result of a task over HTTP."""
    caller = Caller(mesh.gateway)
    try:
        answer = caller.send(json.dumps({"task": task, "parameters": parameters}).encode())
        assert answer.status == 200, answer.body
        result: dict[str, Any] = answer.json["result"]
        return result
    finally:
        caller.close()


def stamp(ago_s: float = 0) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=ago_s)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def a_day_of_work(mesh: RunningMesh, name: str) -> None:
    """Events on the topics on which services publish; ids begin with the name."""
    driver, order = f"{name}-driver", f"{name}-order"
    here = {"driver_id": driver, "event_id": f"{name}-fix", "timestamp": stamp(5)}
    ask(mesh, "upsert_couriers", {"couriers": [{**COURIER, "driver_id": driver, "status": "idle"}]})
    ask(mesh, "report_gps", {**GPS, **here})
    waiting = {"order_id": order, "placed_at": stamp(4), "ready_at": stamp(1)}
    ask(mesh, "upsert_orders", {"orders": [{**ORDER, **waiting}]})
    for _ in range(300):  # until route has heard where the courier is
        if ask(mesh, "allocate_drivers", {"order_ids": [order]})["allocations"]:
            break
        time.sleep(0.2)
    moving = {"event_id": f"{name}-moving", "order_id": order, "trip_stage": "to_pickup", "speed_kph": 20}
    ask(mesh, "report_gps", {**GPS, **here, **moving, "timestamp": stamp(3)})
    for status in ("success", "failure", "failure"):
        work(mesh, name, status)
    signal = {
        "signal_id": name, "kind": "gps_anomaly", "source": "tests", "subject": driver,
        "severity": "critical", "active": True, "timestamp": stamp(),
    }  # fmt: skip
    ask(mesh, "record_signals", {"signals": [signal]})


def work(mesh: RunningMesh, name: str, status: str = "success") -> None:
    """An outcome of now."""
    outcome = {
        "event_id": str(uuid.uuid4()), "run_id": name, "agent_name": name, "action_type": "work",
        "timestamp": stamp(), "status": status, "severity": "info", "latency_ms": 9000.0,
    }  # fmt: skip
    ask(mesh, "record_outcomes", {"events": [outcome]})


async def records(kafka: Kafka, topic: str) -> list[Lying]:
    look: Look = kafka.look
    return await look.records(topic)


def read(record: Lying) -> tuple[dict[str, Any], Any]:
    """Attributes and data, as the SDK has them."""
    event = from_binary(KafkaMessage(record.headers, record.key, record.value or b""), JSONFormat())
    return event.get_attributes(), event.get_data()


def by_services(found: list[Lying]) -> list[Lying]:
    """Those that our services published; the cluster is shared with tests that play others."""
    ours = {b"eta", b"route", b"feedback", b"agents"}
    return [one for one in found if one.headers.get("ce_source") in ours]


async def test_all_that_services_publish_are_cloud_events_to_the_sdk(
    mesh: RunningMesh, shared: Kafka
) -> None:
    name = f"n{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(a_day_of_work, mesh, name)
    for topic, kind in KINDS.items():
        found: list[Lying] = []
        async with asyncio.timeout(GUARD_S):
            while not found:
                # A new outcome closes the windows before it.
                await asyncio.to_thread(work, mesh, name)
                found = by_services(await records(shared, topic))
                if not found:
                    await asyncio.sleep(0.5)
        for record in found:
            attributes, data = read(record)
            assert attributes["specversion"] == "1.0"
            assert attributes["id"]
            assert URI_REFERENCE.fullmatch(attributes["source"])
            value = record.value or b""
            if topic in AS_JSON:
                assert data == json.loads(value)
            else:
                assert data is None or data in (value, value.decode(errors="replace"))
            assert attributes["type"] == kind.DESCRIPTOR.full_name
            assert attributes["datacontenttype"] == (JSON if topic in AS_JSON else PROTOBUF)
            assert record.key or topic == "agent-metrics"  # those of all agents together have no name
            if topic in AS_JSON:
                json_codec.decode(kind, value)
            else:
                kind.FromString(value)
            assert attributes["time"].timestamp() * 1000 == pytest.approx(record.timestamp_ms, abs=1.0)
        # With their times: each database has the same built-in agents, and tests before had their own.
        once = {(one.headers["ce_source"], one.headers["ce_id"], one.timestamp_ms) for one in found}
        assert len(once) == len(found)


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_an_event_on_any_topic_is_a_cloud_event_to_the_sdk(
    shared: Kafka, database: str, content_type: str
) -> None:
    assert set(TYPES) == set(TOPICS)
    async with own_topics(shared.bootstrap_servers, TOPICS) as options:
        async with asyncpg.create_pool(database, min_size=1, max_size=4, connect=connect) as pool:
            bus = KafkaBus(pool, options, service="route")
            await bus.start()
            messages = [
                Message(
                    topic, "grün", encode_value(kind(), content_type) or b"\x00", f"id of {topic}",
                    kind.DESCRIPTOR.full_name, content_type, {"x-request-id": "request-1"},
                )
                for topic, kind in TYPES.items()
            ]  # fmt: skip
            async with pool.acquire() as connection, connection.transaction():
                await bus.publish(connection, messages)
            async with asyncio.timeout(GUARD_S):
                while await pool.fetchval("SELECT count(*) FROM bus.log"):
                    await asyncio.sleep(0.05)
            await bus.close()
        for message in messages:
            [record] = await records(shared, options.name_in_cluster(message.topic))
            attributes, data = read(record)
            moment = attributes.pop("time")
            assert moment.timestamp() * 1000 == pytest.approx(record.timestamp_ms, abs=1.0)
            assert attributes == {
                "specversion": "1.0",
                "id": message.event_id,
                "type": message.type,
                "source": "route",
                "datacontenttype": content_type,
                "partitionkey": "grün",
            }
            assert record.headers["x-request-id"] == b"request-1"
            assert record.value == message.value
            assert data == (json.loads(message.value) if content_type == JSON else message.value.decode())


def kcat() -> str:
    """Skips where it is not installed, unless it has to be."""
    found = shutil.which("kcat") or shutil.which("kafkacat")
    if found is None:
        if os.environ.get("WAYMESH_REQUIRE_KAFKA"):
            pytest.fail("kcat is not installed, and WAYMESH_REQUIRE_KAFKA is set", pytrace=False)
        pytest.skip("kcat is not installed")
    return found


async def test_a_dead_letter_is_a_cloud_event_to_the_sdk(mesh: RunningMesh, shared: Kafka) -> None:
    poison = f"no fix {uuid.uuid4().hex}".encode()
    async with AIOKafkaProducer(bootstrap_servers=shared.bootstrap_servers) as producer:
        await producer.send_and_wait("gps-events", poison, key=b"driver")
    async with asyncio.timeout(GUARD_S):
        while not (found := [one for one in await records(shared, "dead-letters") if one.value == poison]):
            await asyncio.sleep(0.2)
    [record] = found  # route leaves it to eta to tell
    attributes, data = read(record)
    assert (attributes["specversion"], attributes["source"]) == ("1.0", "eta")
    assert attributes["id"]
    assert attributes["type"]
    assert data in (poison, poison.decode())
    assert record.headers["dead-topic"] == b"gps-events"


async def test_kcat_shows_the_same_as_the_sdk(mesh: RunningMesh, shared: Kafka) -> None:
    program = kcat()
    await asyncio.to_thread(a_day_of_work, mesh, f"n{uuid.uuid4().hex[:8]}")
    async with asyncio.timeout(GUARD_S):
        while not (found := by_services(await records(shared, "gps-events"))):
            await asyncio.sleep(0.2)
    done = await asyncio.to_thread(
        subprocess.run,
        [program, "-C", "-q", "-e", "-b", shared.bootstrap_servers, "-t", "gps-events", "-o", "beginning",
         "-f", r"%p\t%o\t%k\t%S\t%h\n"],
        check=True, capture_output=True, text=True, errors="replace", timeout=60,
    )  # fmt: skip
    lines = {tuple(line.split("\t")[:2]): line.split("\t") for line in done.stdout.splitlines()}
    for record in found:
        _, _, key, size, headers = lines[str(record.partition), str(record.offset)]
        assert key == (record.key or b"").decode()
        assert int(size) == len(record.value or b"")
        shown = dict(pair.partition("=")[::2] for pair in headers.split(","))
        assert shown == {header: value.decode() for header, value in record.headers.items()}


def same(found: Mapping[str, Any], example: Mapping[str, Any]) -> None:
    """Field by field, times as moments; what the example does not name is at its default."""
    for field, value in example.items():
        if field == "timestamp" or field.endswith("_time"):
            assert datetime.fromisoformat(found[field]) == datetime.fromisoformat(value), field
        else:
            assert found[field] == value, field
    for field in found.keys() - example.keys():
        assert found[field] in (0, "", [], {}, None, False), field


def renamed(example: bytes, name: str) -> dict[str, Any]:
    """The example under an id of this test."""
    made: dict[str, Any] = json.loads(example)
    made["event_id"] = f"{name}-{made['event_id']}"
    return made


async def outcome_of(mesh: RunningMesh, event_id: str) -> dict[str, Any]:
    """As ListOutcomes gives it, once it is there."""
    async with asyncio.timeout(GUARD_S):
        while True:
            answer = await asyncio.to_thread(ask, mesh, "list_outcomes", {"page_size": 1000})
            for event in answer["events"]:
                if event["event_id"] == event_id:
                    assert isinstance(event, dict)
                    return event
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("example", WIRE, ids=["failure", "success"])
async def test_a_wire_example_over_http_is_the_same_in_the_list_and_on_the_topic(
    mesh: RunningMesh, shared: Kafka, example: bytes
) -> None:
    sent = renamed(example, f"http-{uuid.uuid4().hex[:8]}")
    caller = Caller(mesh.gateway)
    body = b'{"task":"record_outcomes","parameters":{"events":[' + json.dumps(sent).encode() + b"]}}"
    answer = await asyncio.to_thread(caller.send, body)
    caller.close()
    assert answer.status == 200, answer.body
    same(await outcome_of(mesh, sent["event_id"]), sent)
    async with asyncio.timeout(GUARD_S):
        while True:
            found = [
                record
                for record in await records(shared, "agent-outcomes")
                if record.headers.get("ce_source") == b"feedback"
                and OutcomeEvent.FromString(record.value or b"").event_id == sent["event_id"]
            ]
            if found:
                break
            await asyncio.sleep(0.2)
    [record] = found
    assert (record.key or b"").decode() == sent["run_id"]
    same(json_codec.to_dict(OutcomeEvent.FromString(record.value or b"")), sent)


@pytest.mark.parametrize("example", WIRE, ids=["failure", "success"])
async def test_a_wire_example_on_the_topic_without_any_header_is_the_same_in_the_list(
    mesh: RunningMesh, shared: Kafka, example: bytes
) -> None:
    sent = renamed(example, f"topic-{uuid.uuid4().hex[:8]}")
    async with AIOKafkaProducer(bootstrap_servers=shared.bootstrap_servers) as producer:
        value = json.dumps(sent).encode()
        await producer.send_and_wait("agent-outcomes", value, key=sent["run_id"].encode())
    same(await outcome_of(mesh, sent["event_id"]), sent)


async def test_the_wire_examples_are_taken_as_they_stand(mesh: RunningMesh) -> None:
    caller = Caller(mesh.gateway)
    body = b'{"task":"record_outcomes","parameters":{"events":[' + b",".join(WIRE) + b"]}}"
    answer = await asyncio.to_thread(caller.send, body)
    caller.close()
    assert answer.status == 200, answer.body
    for example in WIRE:
        sent = json.loads(example)
        same(await outcome_of(mesh, sent["event_id"]), sent)
