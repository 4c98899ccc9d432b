"""The same bad values behind the gateway: straight to the services by gRPC, and on topics."""

import asyncio
import itertools
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bad_input_rig import COURIER, GPS, HERE, ORDER, OUTCOME, SECRETS, SEEDS, Caller, rows, seeded_mesh
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from waymesh.eta.v1 import eta_service_pb2, eta_service_pb2_grpc, gps_stream_pb2
from waymesh.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.order.v1.events_pb2 import OrderCommand

from services.gateway import tasks
from services.mesh import errors, json_codec
from services.mesh.errors import MeshError
from services.mesh.events import JSON, PROTOBUF, Message, Record, create_bus
from services.mesh.events.dead_letters import EVENT_ID, REASON, TOPIC
from services.mesh.settings import MeshSettings, load
from services.mesh.store import Store, connect
from tests.running_mesh import RunningMesh

TASKS = tasks.load()
by_task = pytest.mark.parametrize("name", list(TASKS))
# Around which bad values are put, where the task is no write of what is there already.
REQUESTS: dict[str, dict[str, Any]] = {
    **SEEDS,
    "predict_eta": {"order_id": "order_1"},
    "batch_predict_eta": {"queries": [{"order_id": "order_1"}]},
    "get_travel_times": {"origins": [HERE], "destinations": [HERE]},
    "get_order": {"order_id": "order_1"},
    "cancel_order": {"order_id": "nobody"},
    "optimize_route": {"driver_id": "nobody"},
}
# What bad input may be told; whatever else a service says is a fault of its own.
TOLD = {"INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND", "ALREADY_EXISTS"}


@pytest.fixture(scope="module")
def mesh(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    folder: Path = tmp_path_factory.mktemp("bad-input-inside")
    with seeded_mesh(postgres_dsn, folder) as running:
        yield running


@pytest.fixture
async def unchanged(mesh: RunningMesh) -> AsyncIterator[None]:
    """Every row of every service stays as it was."""
    before = await rows(mesh.dsn, recorded=True)
    yield
    assert await rows(mesh.dsn, recorded=True) == before


class Doors:
    """Channels without anything of ours, so that what is sent is what arrives."""

    def __init__(self, mesh: RunningMesh) -> None:
        self.channels = {name: grpc.aio.insecure_channel(target) for name, target in mesh.targets.items()}

    async def answer(self, name: str, request: Any) -> Any:
        """Of a task's RPC to a message or to bytes: a message or a MeshError."""
        task = TASKS[name]
        rpc: Any = self.channels[task.owner].unary_unary(
            task.path,
            request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
            response_deserializer=task.response.FromString,
        )
        try:
            return await rpc(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            return errors.from_rpc_error(error)


@pytest.fixture
async def doors(mesh: RunningMesh) -> AsyncIterator[Doors]:
    found = Doors(mesh)
    yield found
    for channel in found.channels.values():
        await channel.close()


def request_of(name: str) -> Any:
    return TASKS[name].read(REQUESTS.get(name, {}))


# --- by gRPC --------------------------------------------------------------------------------------

Change = Callable[[Any], None]
TIMES = [(10**13, 0), (-(10**13), 0), (2**62, 0), (0, -1), (0, 2 * 10**9)]


def bad_values(descriptor: Descriptor) -> Iterator[tuple[str, Change]]:
    """A path and what puts a value there that the wire can carry and nobody should take."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.full_name == "google.protobuf.Timestamp":
            for seconds, nanos in TIMES:
                yield field.name, time_setter(field.name, seconds, nanos)
        elif inner is not None and inner.GetOptions().map_entry:
            continue
        elif inner is not None and inner.full_name.startswith("waymesh."):
            for below, change in bad_values(inner):
                place = "[0]" if field.is_repeated else ""
                yield f"{field.name}{place}.{below}", within(field, change)
        elif inner is None:
            for value in {
                FieldDescriptor.TYPE_DOUBLE: [math.nan, math.inf, -math.inf],
                FieldDescriptor.TYPE_ENUM: [99],
                FieldDescriptor.TYPE_STRING: ["a\0b"],
            }.get(field.type, []):
                yield f"{field.name}{'[0]' if field.is_repeated else ''}", setter(field, value)


def time_setter(name: str, seconds: int, nanos: int) -> Change:
    def change(message: Any) -> None:
        stamp = getattr(message, name)
        stamp.seconds, stamp.nanos = seconds, nanos

    return change


def setter(field: FieldDescriptor, value: object) -> Change:
    def change(message: Any) -> None:
        if field.is_repeated:
            del getattr(message, field.name)[:]
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)

    return change


def within(field: FieldDescriptor, change: Change) -> Change:
    def inner(message: Any) -> None:
        found = getattr(message, field.name)
        if field.is_repeated:
            found = found[0] if found else found.add()
        change(found)

    return inner


@by_task
async def test_what_the_wire_carries_and_nobody_should_take_is_refused_by_field(
    doors: Doors, unchanged: None, name: str
) -> None:
    unexpected = []
    for path, change in bad_values(TASKS[name].request.DESCRIPTOR):
        request = request_of(name)
        change(request)
        answer = await doors.answer(name, request)
        if not isinstance(answer, MeshError):
            unexpected.append((path, "taken"))
        elif answer.code.name not in TOLD:
            unexpected.append((path, str(answer)))
        elif answer.code.name == "INVALID_ARGUMENT":
            fields = [each.field for each in answer.violations]
            beside = path.rpartition(".")[0]
            # A part that the request had not before may lack more than the bad value.
            if not [each for each in fields if each == path or (beside and each.startswith(beside))]:
                unexpected.append((path, str(fields)))
    assert unexpected == []


@by_task
@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x05abc", b"{}"], ids=repr)
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    doors: Doors, unchanged: None, name: str, garbage: bytes
) -> None:
    answer = await doors.answer(name, garbage)
    assert isinstance(answer, errors.InvalidArgument)
    assert answer.reason_name == "MALFORMED_BODY"
    assert "Error" not in answer.message


async def test_batches_that_are_empty_or_too_large_are_refused_by_field(
    doors: Doors, unchanged: None
) -> None:
    batches = {
        "upsert_orders": "orders", "upsert_couriers": "couriers", "record_outcomes": "events",
        "record_delivery_outcomes": "outcomes", "record_signals": "signals", "batch_predict_eta": "queries",
        "get_travel_times": "origins",
    }  # fmt: skip
    for name, field in batches.items():
        for count in (0, 1001):
            request = request_of(name)
            items = getattr(request, field)
            one = items[0]
            del items[:]
            items.extend([one] * count)
            answer = await doors.answer(name, request)
            assert isinstance(answer, errors.InvalidArgument)
            assert [each.field for each in answer.violations] == [field]


async def test_a_message_beyond_the_limit_is_refused(doors: Doors, unchanged: None) -> None:
    too_large = await doors.answer("get_order", b"\x0a" + b"x" * (65 << 20))
    assert isinstance(too_large, errors.ResourceExhausted)
    assert (await doors.answer("get_order", request_of("get_order"))).order.order_id == "order_1"


async def test_a_stream_of_fixes_takes_the_good_and_names_the_bad(doors: Doors, mesh: RunningMesh) -> None:
    good = json_codec.from_dict(GpsEvent, GPS)
    bad = [GpsEvent.FromString(good.SerializeToString()) for _ in range(4)]
    bad[0].location.lat = math.nan
    bad[1].order_id = "order_1"
    bad[1].trip_stage = 99  # type: ignore[assignment]
    bad[2].driver_id = "a\0b"
    bad[3].timestamp.seconds = 10**13
    stub: Any = eta_service_pb2_grpc.EtaServiceStub(doors.channels["eta"])
    stream = stub.StreamGps(timeout=30)
    await stream.write(gps_stream_pb2.StreamGpsRequest(events=[*bad, good], cursor="1"))
    answer = await stream.read()
    assert (answer.cursor, answer.accepted) == ("1", 1)
    assert [each.field for each in answer.rejected] == [
        "location.lat", "trip_stage", "driver_id", "timestamp",
    ]  # fmt: skip
    await stream.write(gps_stream_pb2.StreamGpsRequest(events=[good] * 1001))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("cursor", ["nonsense", "eta.1.2", "9" * 19])
async def test_a_watch_from_a_cursor_that_is_not_ours_is_refused(
    doors: Doors, unchanged: None, cursor: str
) -> None:
    watches: list[tuple[Any, Any]] = [
        (
            eta_service_pb2_grpc.EtaServiceStub(doors.channels["eta"]).WatchEta,
            eta_service_pb2.WatchEtaRequest(cursor=cursor),
        ),
        (
            feedback_service_pb2_grpc.FeedbackServiceStub(doors.channels["feedback"]).WatchOutcomes,
            feedback_service_pb2.WatchOutcomesRequest(cursor=cursor),
        ),
    ]
    for watch, request in watches:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(watch(request, timeout=30)))
        error = errors.from_rpc_error(refused.value)
        assert error.reason_name == "CURSOR_INVALID", error
        assert [each.field for each in error.violations] == ["cursor"]


# --- on topics ------------------------------------------------------------------------------------

_names = itertools.count(1)


def changed(good: dict[str, Any], **changes: object) -> bytes:
    return json.dumps({**good, **changes}).encode()


def bad_messages(kind: type[Any], good: dict[str, Any], identity: str) -> list[tuple[bytes, str, str]]:
    """Value, content type, and what the reason has to say."""
    message = json_codec.from_dict(kind, good)
    null = kind.FromString(message.SerializeToString())
    holder, _, field = identity.rpartition(".")
    setattr(getattr(null, holder) if holder else null, field, "a\0b")
    return [
        (b"", JSON, "no value"),
        (b"{", JSON, "not JSON"),
        (b"\xff\xfe", JSON, "UTF-8"),
        (b"[" * 10_000, JSON, "nested"),
        (b"[]", JSON, "object"),
        (b"{}", JSON, ""),
        (b'{"a":NaN}', JSON, "NaN"),
        (b"\xff\xff\xff", PROTOBUF, ""),
        (b"", PROTOBUF, ""),
        (null.SerializeToString(), PROTOBUF, identity.rpartition(".")[2]),
        (message.SerializeToString(), "application/xml", "content type"),
    ]


FIX = {**GPS, "driver_id": "driver_topic", "event_id": "fix_topic"}
COMMAND = {"upsert": {**ORDER, "order_id": "order_topic"}}
TOPICS: dict[str, tuple[type[Any], dict[str, Any], str, list[tuple[bytes, str, str]]]] = {
    "gps-events": (GpsEvent, FIX, "driver_id", [
        (changed(FIX, speed_kph=True), JSON, "speed_kph"),
        (changed(FIX, anomaly_flags="stale"), JSON, "anomaly_flags"),
        (changed(FIX, trip_stage="flying"), JSON, "trip_stage"),
        (changed(FIX, location={"lat": 91, "lon": 0}), JSON, "location.lat"),
        (changed(FIX, speed_kph="1e9").replace(b'"1e9"', b"1e999"), JSON, "speed_kph"),
        (changed(FIX, timestamp="10000-01-01T00:00:00Z"), JSON, "timestamp"),
        (changed(FIX, driver_id="\0"), JSON, "U+0000"),
    ]),
    "order-commands": (OrderCommand, COMMAND, "upsert.order_id", [
        (changed(COMMAND, upsert=[1]), JSON, "upsert"),
        (changed(COMMAND, upsert={**ORDER, "revision": 2**32}), JSON, "revision"),
        (changed(COMMAND, cancel={"order_id": "order_topic"}), JSON, ""),
        (changed({}, cancel={"order_id": "nobody"}), JSON, "not known"),
        (changed({}, upsert={**ORDER, "priority": 9}), JSON, "other content"),
    ]),
    "agent-outcomes": (OutcomeEvent, {**OUTCOME, "event_id": "event_topic"}, "event_id", [
        (changed(OUTCOME, status="fine"), JSON, "status"),
        (changed(OUTCOME, duration_ms=-1), JSON, "duration_ms"),
        (changed(OUTCOME, tags="a"), JSON, "tags"),
        (changed(OUTCOME, severity="error"), JSON, "other content"),
    ]),
}  # fmt: skip
ARRIVED = {
    "gps-events": "SELECT count(*) FROM eta.couriers WHERE driver_id = 'driver_topic'",
    "order-commands": "SELECT count(*) FROM route.orders WHERE order_id = 'order_topic'",
    "agent-outcomes": "SELECT count(*) FROM feedback.outcomes WHERE id = 'event_topic'",
}


@pytest.mark.parametrize("topic", list(TOPICS))
async def test_bad_messages_die_with_a_reason_and_the_partition_goes_on(
    mesh: RunningMesh, tmp_path: Path, topic: str
) -> None:
    kind, good, identity, more = TOPICS[topic]
    bad = [*bad_messages(kind, good, identity), *more]
    store = await Store.open(mesh.dsn, schema="test", migrations=tmp_path)
    bus = create_bus(load(MeshSettings, data_dir=tmp_path), service="test", pool=store.pool)
    await bus.start()
    wanted = {f"bad-{next(_names)}": reason for _, _, reason in bad}
    # One key, so one partition, and what is good comes last.
    messages = [
        Message(topic, "one-key", value, event_id, "test", content_type)
        for (value, content_type, _), event_id in zip(bad, wanted, strict=True)
    ]
    value = json_codec.encode(json_codec.from_dict(kind, good))
    messages.append(Message(topic, "one-key", value, f"good-{next(_names)}", "test", JSON))
    before = await rows(mesh.dsn, recorded=True)
    letters: dict[tuple[str, str], Record] = {}
    news = asyncio.Condition()

    async def note(records: list[Record]) -> None:
        async with news:
            for record in records:
                letters[record.headers[EVENT_ID], record.headers["dead-group"]] = record
            news.notify_all()

    reading = asyncio.create_task(bus.broadcast(["dead-letters"], note).run())
    try:
        async with store.transaction() as connection:
            await bus.publish(connection, messages)
        async with asyncio.timeout(60):
            async with news:
                await news.wait_for(lambda: {event_id for event_id, _ in letters} >= set(wanted))
            connection = await connect(mesh.dsn)
            while not await connection.fetchval(ARRIVED[topic]):
                await asyncio.sleep(0.02)
            await connection.close()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await bus.close()
        await store.close()
    for (event_id, _), letter in letters.items():
        if event_id in wanted:
            assert letter.headers[TOPIC] == topic
            assert letter.headers[REASON]
            assert wanted[event_id] in letter.headers[REASON]
            assert "handler failed" not in letter.headers[REASON]
    assert not [event_id for event_id, _ in letters if event_id.startswith("good-")]
    after = await rows(mesh.dsn, recorded=True)
    own = {"gps-events": "eta.", "order-commands": "route.", "agent-outcomes": "feedback."}[topic]
    grown = {table for table in after if after[table] != before[table]}
    assert not {table for table in grown if not table.startswith((own, "eta.", "route."))}
    assert all(after[table][0] - before[table][0] <= 1 for table in grown)


# --- what is recorded -----------------------------------------------------------------------------


async def test_secrets_in_fields_that_are_taken_are_in_no_log_and_no_record_of_the_work(
    mesh: RunningMesh,
) -> None:
    labels = {name: value for name, value in SECRETS.items() if name != "key"}
    placed = {**ORDER, "order_id": "order_secret", "context": {"labels": labels}}
    worked = {**OUTCOME, "event_id": "event_secret", "input": labels, "metadata": {"deep": [labels]}}
    caller = Caller(mesh.gateway)
    for name, parameters in (
        ("upsert_orders", {"orders": [placed]}),
        ("record_outcomes", {"events": [worked]}),
        ("predict_eta", {"order_id": "nobody", "context": {"labels": labels}}),
        ("upsert_couriers", {"couriers": [COURIER]}),
    ):
        assert caller.task(name, parameters).status in (200, 404)
    caller.close()
    connection = await connect(mesh.dsn)
    try:
        async with asyncio.timeout(60):
            while not await connection.fetchval(
                "SELECT count(*) FROM feedback.outcomes"
                " WHERE agent_name = 'eta' AND position($1::bytea IN body) > 0",
                b"nobody",
            ):
                await asyncio.sleep(0.05)
        bodies = [row["body"] for row in await connection.fetch("SELECT body FROM feedback.outcomes")]
        events = [row["value"] for row in await connection.fetch(
            "SELECT value FROM bus.log JOIN bus.partitions USING (part) WHERE topic = 'agent-outcomes'"
        )]  # fmt: skip
    finally:
        await connection.close()
    assert events
    written = b"".join([*bodies, *events]) + "\n".join(line for _, line in mesh.logs()).encode()
    assert b"[redacted]" in written
    assert not [value for value in SECRETS.values() if value.encode() in written]
    assert b"nobody" in written
