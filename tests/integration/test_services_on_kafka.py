"""Services name their groups and topics as configured, in the cluster and on the embedded bus."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import StreamGpsRequest
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesRequest, RecordOutcomesRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh import json_codec
from services.mesh.client import ClientFactory
from services.mesh.events import EventBus, Message, create_bus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.topics import TOPICS
from services.mesh.principal import TENANT_KEY, Principal, acting
from services.mesh.settings import MeshSettings, load
from services.mesh.store import Store, connect
from services.mesh.telemetry import Telemetry
from services.route.server import Route
from services.route.settings import RouteSettings
from tests.integration.eta_rig import GUARD_S, way
from tests.kafka_brokers import Brokers, Kafka
from tests.mock_cluster import MockCluster

OUTCOME = (Path(__file__).parents[1] / "wire" / "outcome_success.json").read_bytes()


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Of any service; nobody listens where its peers should be."""
    return {
        "data_dir": tmp_path,
        "port": 0,
        "admin": 0,
        "drain_s": 0.0,
        "enable_outcome_logging": False,
        "eta_target": "127.0.0.1:1",
        "feedback_target": "127.0.0.1:1",
    }


@pytest.fixture
def cluster(kafka_brokers: Brokers) -> Kafka | MockCluster:
    """A real one, where there is one."""
    found = kafka_brokers.shared()
    if found is None and kafka_brokers.required:
        kafka_brokers.absent()
    return found or MockCluster()


async def prepare(cluster: Kafka | MockCluster, settings: MeshSettings) -> None:
    """Makes the topics, unless the cluster does so by itself."""
    if isinstance(cluster, Kafka):
        await create_topics(KafkaOptions.from_settings(settings), list(TOPICS.values()))


def unique(word: str) -> str:
    """A name that nobody has had in the cluster, which outlives the test."""
    return f"{word}-{uuid.uuid4().hex[:8]}"


@contextlib.asynccontextmanager
async def serving(service: Any) -> AsyncIterator[Any]:
    """Until the end of the block."""
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


@dataclass(frozen=True)
class Elsewhere:
    """A bus that is no service's, and the store of its outbox."""

    bus: EventBus
    pool: Any


@contextlib.asynccontextmanager
async def another_bus(settings: MeshSettings, database: str) -> AsyncIterator[Elsewhere]:
    """Somebody else on the same cluster."""
    store = await Store.open(database, schema="test", migrations=settings.data_dir)
    bus = create_bus(settings, service="test", pool=store.pool)
    await bus.start()
    try:
        yield Elsewhere(bus, store.pool)
    finally:
        await bus.close()
        await store.close()


@contextlib.asynccontextmanager
async def calling(stub_class: Any, service: Any) -> AsyncIterator[Any]:
    """A stub of a service that serves."""
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    try:
        yield clients.stub(stub_class, f"127.0.0.1:{service.server.port}")
    finally:
        await clients.close()


async def comes(look: Any, wanted: object, what: str) -> None:
    """Looks again and again; the guard only ends a broken test."""
    found: object = None
    try:
        async with asyncio.timeout(GUARD_S):
            while (found := await look()) != wanted:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{what}: {found!r}, never {wanted!r}") from None


async def groups(dsn: str) -> set[str]:
    """Those on the embedded bus."""
    connection = await connect(dsn)
    try:
        return {row["name"] for row in await connection.fetch("SELECT name FROM bus.groups")}
    finally:
        await connection.close()


async def test_a_group_on_the_embedded_bus_is_the_configured_id_and_the_service(
    database: str, options: dict[str, Any]
) -> None:
    async with (
        serving(Eta(load(EtaSettings, **options), database)),
        serving(Route(load(RouteSettings, **options, kafka_group_id="city"), database)),
    ):
        await comes(lambda: groups(database), {"waymesh.eta", "city.route"}, "groups")


async def test_a_group_in_the_cluster_is_the_configured_id_and_the_service(
    database: str, options: dict[str, Any], cluster: Kafka | MockCluster
) -> None:
    city = unique("city")
    settings = load(
        EtaSettings, **options, kafka_bootstrap_servers=cluster.bootstrap_servers, kafka_group_id=city
    )
    await prepare(cluster, settings)
    before = sum((await cluster.look.ends("gps-events")).values())
    async with serving(Eta(settings, database)) as eta, calling(EtaServiceStub, eta) as stub:

        async def fixes() -> AsyncIterator[StreamGpsRequest]:
            yield StreamGpsRequest(events=way(1, fixes=7))

        async for response in stub.StreamGps(fixes()):
            assert not response.rejected

        async def committed() -> int:
            return sum((await cluster.look.committed(f"{city}.eta", "gps-events")).values())

        await comes(committed, before + 7, f"fixes that the group {city}.eta has handled")


async def test_an_outcome_topic_of_another_name_is_that_of_the_cluster(
    database: str, options: dict[str, Any], cluster: Kafka | MockCluster
) -> None:
    outcomes, group = unique("outcomes"), unique("group")
    settings = load(
        FeedbackSettings,
        **options,
        kafka_outcome_topic=outcomes,
        kafka_bootstrap_servers=cluster.bootstrap_servers,
        kafka_group_id=group,
    )
    await prepare(cluster, settings)
    sent = json_codec.decode(OutcomeEvent, OUTCOME)
    sent.run_id = unique("run")
    async with (
        serving(Feedback(settings, database)) as feedback,
        calling(FeedbackServiceStub, feedback) as stub,
    ):
        await stub.RecordOutcomes(RecordOutcomesRequest(events=[sent]), timeout=30)

        async def keys() -> list[str]:
            return await cluster.look.keys(outcomes)

        async def committed() -> int:
            return sum((await cluster.look.committed(f"{group}.feedback", outcomes)).values())

        await comes(keys, [sent.run_id], f"outcomes by run on {outcomes}")
        await comes(committed, 1, f"outcomes that the group {group}.feedback has handled")
        assert sent.run_id not in await cluster.look.keys("agent-outcomes")


async def test_outcomes_of_tenants_with_the_same_ids_stay_apart_in_the_cluster(
    database: str, options: dict[str, Any], cluster: Kafka | MockCluster
) -> None:
    outcomes, run = unique("outcomes"), unique("run")
    settings = load(
        FeedbackSettings,
        **options,
        kafka_outcome_topic=outcomes,
        kafka_bootstrap_servers=cluster.bootstrap_servers,
        kafka_group_id=unique("group"),
    )
    await prepare(cluster, settings)
    tenants, sent = ("acme", "rival", "default"), json_codec.decode(OutcomeEvent, OUTCOME)
    sent.run_id = run
    async with (
        serving(Feedback(settings, database)) as feedback,
        calling(FeedbackServiceStub, feedback) as stub,
        another_bus(settings, database) as bus,
    ):

        async def listed(tenant: str) -> list[tuple[str, str]]:
            with acting(Principal(tenant)):
                events = (await stub.ListOutcomes(ListOutcomesRequest(), timeout=30)).events
            return sorted((one.event_id, one.tags[0]) for one in events)

        # One comes by RPC and one by the topic, from somebody else.
        for tenant in tenants:
            sent.tags[:] = [tenant]
            sent.event_id = "by-rpc"
            with acting(Principal(tenant)):
                await stub.RecordOutcomes(RecordOutcomesRequest(events=[sent]), timeout=30)
            sent.event_id = "by-topic"
            headers = {} if tenant == "default" else {TENANT_KEY: tenant}
            value, kind = sent.SerializeToString(), OutcomeEvent.DESCRIPTOR.full_name
            async with bus.pool.acquire() as connection, connection.transaction():
                message = Message("agent-outcomes", run, value, sent.event_id, kind, headers=headers)
                await bus.bus.publish(connection, [message])
        for tenant in tenants:
            wanted = [("by-rpc", tenant), ("by-topic", tenant)]
            await comes(partial(listed, tenant), wanted, f"outcomes of {tenant}")

        async def keys() -> set[str]:
            return set(await cluster.look.keys(outcomes))

        await comes(keys, {run, f"acme/{run}", f"rival/{run}"}, f"keys on {outcomes}")


async def test_the_embedded_bus_keeps_its_own_name_of_the_outcome_topic(
    database: str, options: dict[str, Any]
) -> None:
    settings = load(FeedbackSettings, **options, kafka_outcome_topic="my-outcomes")
    sent = json_codec.decode(OutcomeEvent, OUTCOME)
    async with (
        serving(Feedback(settings, database)) as feedback,
        calling(FeedbackServiceStub, feedback) as stub,
    ):
        await stub.RecordOutcomes(RecordOutcomesRequest(events=[sent]), timeout=30)
        connection = await connect(database)
        try:
            topics = await connection.fetch(
                "SELECT p.topic FROM bus.log l JOIN bus.partitions p USING (part)"
            )
        finally:
            await connection.close()
    assert [row["topic"] for row in topics] == ["agent-outcomes"]
