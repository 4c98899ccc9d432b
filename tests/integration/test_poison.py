"""Poison on every topic that a service reads, on both adapters, met by the services' own handlers.

What cannot be read lies on dead-letters with reason and origin, its good neighbours before, between and after
are handled, and the partition moves on.
"""

import asyncio
import contextlib
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from google.protobuf.message import Message as Proto
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.order.v1.events_pb2 import OrderCommand, OrderEvent

from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh import json_codec
from services.mesh.events import JSON, PROTOBUF, TOPICS, Message
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.letter_box import find, in_kafka, in_postgres
from services.mesh.events.letters import Letter, Wanted
from services.mesh.events.postgres import PostgresBus
from services.mesh.settings import MeshSettings, load
from services.mesh.store import connect
from services.route.server import Route
from services.route.settings import RouteSettings
from tests.contract.events_rig import own_topics
from tests.integration.bad_input_rig import GPS, ORDER, OUTCOME
from tests.kafka_brokers import Brokers

GUARD_S = 120.0
SERVICES: Mapping[str, tuple[Any, Any]] = {
    "eta": (Eta, EtaSettings),
    "route": (Route, RouteSettings),
    "feedback": (Feedback, FeedbackSettings),
}


@dataclass(frozen=True)
class Raw:
    """A record as anybody may put it on a topic."""

    value: bytes
    reason: str | None
    """What the reason has to say; None: it is handled."""
    content_type: str | None = JSON
    type: str | None = None
    specversion: str | None = None
    kafka_only: bool = False
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes = b"one-key"
    event_id: str = field(default_factory=lambda: f"event-{uuid.uuid4()}")


@dataclass(frozen=True)
class Subject:
    """A topic, who reads it, and what a good value is."""

    topic: str
    service: str
    kind: type[Proto]
    good: Mapping[str, Any]
    word: str
    """Path of a field that is an enum."""
    number: str
    """Path of one that is a number; empty if there is none that is no integer."""
    handled: str
    """SQL that counts the good ones of an id that begins with $1."""

    def value(self, name: str, **changes: object) -> dict[str, Any]:
        """A good one, with other fields by their path."""
        made: dict[str, Any] = json.loads(json.dumps(self.good).replace("NAME", name))
        for path, value in changes.items():
            holder = made
            *outer, last = path.split(".")
            for each in outer:
                holder = holder[each]
            holder[last] = value
        return made


SUBJECTS = [
    Subject(
        "gps-events", "eta", GpsEvent, {**GPS, "driver_id": "NAME", "event_id": "NAME"},
        "trip_stage", "speed_kph", "SELECT count(*) FROM eta.couriers WHERE driver_id LIKE $1 || '%'",
    ),
    Subject(
        "order-commands", "route", OrderCommand, {"upsert": {**ORDER, "order_id": "NAME"}},
        "upsert.status", "upsert.pickup.lat",
        "SELECT count(*) FROM route.orders WHERE order_id LIKE $1 || '%'",
    ),
    Subject(
        "agent-outcomes", "feedback", OutcomeEvent, {**OUTCOME, "event_id": "NAME"},
        "status", "duration_ms", "SELECT count(*) FROM feedback.outcomes WHERE id LIKE $1 || '%'",
    ),
    # Route's own news: reading them changes nothing that a row would tell.
    Subject(
        "orders", "route", OrderEvent, {"order": {**ORDER, "order_id": "NAME"}},
        "order.status", "order.pickup.lat", "",
    ),
]  # fmt: skip


def matrix(subject: Subject, name: str) -> list[Raw]:
    """All that may go wrong with a value, and what looks so but is taken."""
    ours = subject.kind.DESCRIPTOR.full_name
    domain, _, short = ours.rpartition(".v1.")

    def good(number: int, **changes: object) -> bytes:
        return json.dumps(subject.value(f"{name}-{number}", **changes)).encode()

    def proto(number: int) -> bytes:
        return json_codec.from_dict(subject.kind, subject.value(f"{name}-{number}")).SerializeToString()

    def binary(value: bytes, reason: str | None, **more: Any) -> Raw:
        return Raw(value, reason, content_type=PROTOBUF, **more)

    # An enum's value that nobody knows, and a number that is none, as protobuf carries them.
    strange = json_codec.from_dict(subject.kind, subject.value(f"{name}-x"))
    _set(strange, subject.word, 99)
    nan = json_codec.from_dict(subject.kind, subject.value(f"{name}-x"))
    _set(nan, subject.number, float("nan"))
    unknown = proto(0) + bytes([0xFA, 0x7F, 3]) + b"new"  # field 2047, of a later version
    fields = [
        Raw(good(1, **{subject.number: "fast"}), subject.number.rpartition(".")[2]),
        Raw(good(1, **{subject.word: "teleport"}), subject.word.rpartition(".")[2]),
        Raw(good(1, **{subject.number: 0}).replace(b": 0", b": NaN", 1), "NaN"),
        Raw(good(1, **{subject.number: 0}).replace(b": 0", b": -Infinity", 1), "Infinity"),
    ]
    if subject.handled:  # judged by the contract's rules, which route leaves out for what it wrote itself
        fields += [
            binary(strange.SerializeToString(), subject.word.rpartition(".")[2]),
            binary(nan.SerializeToString(), subject.number.rpartition(".")[2]),
        ]
    else:
        fields += [Raw(b"{}", "neither an order nor a courier"), Raw(b'{"of_later": 1}', "neither an order")]
    return [
        Raw(good(1), None),
        Raw(b"{", "not JSON"),
        Raw(b"\xff\xfe\xfd", "UTF-8"),
        Raw(b"[]", "object"),
        Raw(b"[" * 100_000, "nested"),
        Raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested"),
        *fields,
        Raw(good(2), None, content_type=None),
        binary(proto(3)[:-1], f"not a {ours} in protobuf"),
        binary(b"\xff" * 40, f"not a {ours} in protobuf"),
        Raw(b"x" * 1_000_000, "not JSON"),
        Raw(
            good(4),
            "content type 'application/xml' is neither JSON nor protobuf",
            content_type="application/xml",
        ),
        Raw(good(4), "neither JSON nor protobuf", content_type="application/cloudevents+json"),
        binary(unknown, None),
        Raw(json.dumps({**subject.value(f"{name}-5"), "of_a_later_version": {"a": 1}}).encode(), None),
        Raw(good(6), f"its type is {domain}.v2.{short}, not {ours}", type=f"{domain}.v2.{short}"),
        binary(proto(6), f"its type is {domain}.v2.{short}, not {ours}", type=f"{domain}.v2.{short}"),
        Raw(good(7), None, type="com.partner.event"),
        Raw(good(8), "by CloudEvents 2.0: only 1.x is known", specversion="2.0", kafka_only=True),
        binary(
            proto(8), "by CloudEvents 2.0: only 1.x is known", type=ours, specversion="2.0", kafka_only=True
        ),
        Raw(good(9), None, specversion="1.1", kafka_only=True),
        Raw(b"", "no value"),
        binary(b"", "no value" if subject.topic != "gps-events" else ""),
        binary(b"", "", type=ours),
        Raw(good(10), None, kafka_only=True, headers=[("bad", b"\xff\xfe"), ("x-request-id", b"\xff")]),
        Raw(b"{", "not JSON", kafka_only=True, headers=[("nul", b"a\0b")], key=b"\xff\0\xfe"),
        binary(proto(11), None, type=ours),
        Raw(good(12), None),
    ]


def _set(message: Proto, path: str, value: object) -> None:
    *outer, last = path.split(".")
    holder: Any = message
    for each in outer:
        holder = getattr(holder, each)
    setattr(holder, last, value)


class Embedded:
    """The bus in PostgreSQL."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.options: dict[str, Any] = {}

    async def send(self, topic: str, records: Sequence[Raw]) -> list[Raw]:
        """Those that it can carry, in one transaction."""
        sent = [one for one in records if not one.kafka_only]
        async with asyncpg.create_pool(self.dsn, min_size=1, max_size=2, connect=connect) as pool:
            bus = PostgresBus(pool, service="partner")
            await bus.create_topics()
            async with pool.acquire() as connection, connection.transaction():
                await bus.publish(
                    connection,
                    [
                        Message(
                            topic, one.key.decode(), one.value, one.event_id, one.type or "",
                            one.content_type or "",
                        )
                        for one in sent
                    ],
                )  # fmt: skip
        return sent

    async def letters(self, group: str) -> list[Letter]:
        async with asyncpg.create_pool(self.dsn, min_size=1, max_size=1, connect=connect) as pool:
            return await find(in_postgres(pool), Wanted(group=group), None)


class Kafka:
    """A real cluster, with topics of this test alone."""

    def __init__(self, options: KafkaOptions) -> None:
        self.kafka = options
        self.options = {"kafka_bootstrap_servers": options.bootstrap_servers}

    async def send(self, topic: str, records: Sequence[Raw]) -> list[Raw]:
        """All, as a foreign producer would, to one partition."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap_servers, max_request_size=2 << 20, linger_ms=50
        )
        await producer.start()
        try:
            waiting = [
                await producer.send(
                    self.kafka.name_in_cluster(topic), one.value, key=one.key, partition=0,
                    headers=[
                        (name, text.encode())
                        for name, text in (
                            ("ce_id", one.event_id), ("content-type", one.content_type),
                            ("ce_type", one.type), ("ce_specversion", one.specversion),
                            ("ce_source", "partner"),
                        )
                        if text is not None
                    ] + list(one.headers),
                )
                for one in records
            ]  # fmt: skip
            await asyncio.gather(*waiting)
        finally:
            await producer.stop()
        return list(records)

    async def letters(self, group: str) -> list[Letter]:
        return await find(in_kafka(self.kafka), Wanted(group=group), None)


@pytest.fixture(params=["embedded", "kafka"])
def servers(request: pytest.FixtureRequest, kafka_brokers: Brokers) -> str | None:
    """Those of a real cluster; None for the bus in PostgreSQL."""
    if request.param == "embedded":
        return None
    return (kafka_brokers.shared() or kafka_brokers.absent()).bootstrap_servers


@pytest.fixture
async def adapter(
    servers: str | None, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Embedded | Kafka]:
    if servers is None:
        yield Embedded(database)
        return
    async with own_topics(servers, TOPICS) as options:
        made = KafkaOptions.from_settings

        def renamed(settings: MeshSettings) -> KafkaOptions:
            return dataclasses.replace(made(settings), names=options.names)

        monkeypatch.setattr(KafkaOptions, "from_settings", renamed)
        yield Kafka(options)


@contextlib.asynccontextmanager
async def serving(name: str, database: str, folder: Path, **more: Any) -> AsyncIterator[Any]:
    """A service alone; nobody listens where its peers should be."""
    cls, settings = SERVICES[name]
    made = load(
        settings, data_dir=folder, port=0, admin=0, drain_s=0.0, enable_outcome_logging=False,
        eta_target="127.0.0.1:1", feedback_target="127.0.0.1:1", **more,
    )  # fmt: skip
    service = cls(made, database)
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


def dead(service: Any, topic: str) -> float:
    """What the service's metric says."""
    for metric in service.telemetry.registry.collect():
        for sample in metric.samples:
            if sample.name == "kafka_messages_total" and sample.labels == {"topic": topic, "status": "dead"}:
                return float(sample.value)
    return 0.0


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.topic)
async def test_poison_lies_on_dead_letters_and_the_partition_moves_on(
    adapter: Embedded | Kafka, subject: Subject, database: str, tmp_path: Path
) -> None:
    name = f"n{uuid.uuid4().hex[:8]}"
    async with serving(subject.service, database, tmp_path, **adapter.options) as service:
        sent = await adapter.send(subject.topic, matrix(subject, name))
        expected = {one.event_id: one for one in sent if one.reason is not None}
        goods = sum(one.reason is None for one in sent)
        # What comes last shows that all before it has been passed.
        last = Raw(b"{", "not JSON")
        await adapter.send(subject.topic, [last])
        letters: dict[str, Letter] = {}
        async with asyncio.timeout(GUARD_S):
            while last.event_id not in letters:
                await asyncio.sleep(0.2)
                letters = {one.event_id: one for one in await adapter.letters(f"waymesh.{subject.service}")}

        assert {one for one in letters if one != last.event_id} == set(expected)
        for event_id, raw in expected.items():
            letter = letters[event_id]
            assert raw.reason in letter.reason, letter.reason
            assert "handler failed" not in letter.reason
            assert (letter.topic, letter.group) == (subject.topic, f"waymesh.{subject.service}")
            assert (letter.event_id, letter.source) == (event_id, "partner")
            assert letter.partition >= 0
            assert letter.position >= 0
            assert letter.happened is not None
            assert letter.content_type == (raw.content_type or "")
            assert letter.value == raw.value
        positions = [letters[event_id].position for event_id in expected]
        assert positions == sorted(positions)
        assert dead(service, subject.topic) >= len(expected)
        if subject.handled:
            connection = await connect(database)
            try:
                assert await connection.fetchval(subject.handled, name) == goods
            finally:
                await connection.close()


async def test_an_event_of_ours_that_no_broker_takes_dies_without_its_value_and_the_rest_goes_on(
    adapter: Embedded | Kafka, database: str, tmp_path: Path
) -> None:
    if isinstance(adapter, Embedded):
        pytest.skip("the embedded bus takes events of any size")
    name = f"n{uuid.uuid4().hex[:8]}"
    subject = SUBJECTS[2]
    async with serving("feedback", database, tmp_path, **adapter.options) as service:
        bus_pool = await asyncpg.create_pool(database, min_size=1, max_size=2, connect=connect)
        huge = json.dumps({**subject.value(f"{name}-0"), "error_message": "x" * (2 << 20)}).encode()
        values = [json.dumps(subject.value(f"{name}-1")).encode(), huge]
        values.append(json.dumps(subject.value(f"{name}-2")).encode())
        outbox = PostgresBus(bus_pool, service="partner")
        await outbox.create_topics()
        async with bus_pool.acquire() as connection, connection.transaction():
            await outbox.publish(
                connection,
                [
                    Message("agent-outcomes", "run_1", value, f"{name}-{number}", "", JSON)
                    for number, value in enumerate(values)
                ],
            )
        async with asyncio.timeout(GUARD_S):
            while await bus_pool.fetchval(subject.handled, name) < 2:
                await asyncio.sleep(0.1)
            while not (letters := await adapter.letters("kafka-relay")):
                await asyncio.sleep(0.2)
        await bus_pool.close()
        [letter] = letters
        assert (letter.topic, letter.event_id) == ("agent-outcomes", f"{name}-1")
        assert letter.reason == f"too large for Kafka: {len(huge)} bytes"
        assert (letter.value, letter.omitted_bytes) == (b"", len(huge))
        assert dead(service, "agent-outcomes") == 1


async def test_a_letter_that_is_itself_too_large_keeps_reason_and_origin_without_the_value(
    adapter: Embedded | Kafka, database: str, tmp_path: Path
) -> None:
    """Read from a topic that takes more than we send: what died is as large as can be."""
    if isinstance(adapter, Embedded):
        pytest.skip("the embedded bus takes events of any size")
    async with serving("feedback", database, tmp_path, **adapter.options):
        raw = Raw(b"x" * ((1 << 20) - 1000), "not JSON")
        await adapter.send("agent-outcomes", [raw])
        async with asyncio.timeout(GUARD_S):
            while not (letters := await adapter.letters("waymesh.feedback")):
                await asyncio.sleep(0.2)
    [letter] = letters
    assert (letter.topic, letter.event_id, letter.source) == ("agent-outcomes", raw.event_id, "partner")
    assert "not JSON" in letter.reason
    assert "too large for Kafka" in letter.reason
    assert (letter.value, letter.omitted_bytes) == (b"", len(raw.value))
