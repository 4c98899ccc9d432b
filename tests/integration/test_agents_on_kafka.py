"""Changes of agents on real Kafka brokers: each version one event, in order per agent, whoever is away."""

import asyncio
import contextlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceStub
from waymesh.agent.v1.definition_pb2 import AgentLifecycleEvent, AgentSpec

from services.agents.server import Agents
from services.agents.settings import AgentsSettings
from services.mesh import json_codec, principal
from services.mesh.client import ClientFactory
from services.mesh.principal import Principal
from services.mesh.settings import load
from services.mesh.store import connect
from services.mesh.telemetry import Telemetry
from tests.kafka_brokers import Kafka
from tests.unit.cli.test_cli_main import waymesh
from tools.kafka.cluster import KafkaCluster
from tools.kafka.look import Look, Lying

GUARD_S = 120.0
TOPIC = "agent-lifecycle"
HEADERS = {
    "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "x-request-id",
    "x-waymesh-tenant",
}  # fmt: skip
LIFE = ["agent.created", "agent.updated", "agent.capability_added", "agent.deleted", "agent.updated"]
"""Of one agent in `live_through`; going back to a version is an update."""


@dataclass
class Registry:
    """What one tenant of the cluster, which outlives the test, asks of its agents."""

    stub: Any
    tenant: str

    async def ask(self, method: str, request: Any) -> Any:
        """Raises MeshErrors."""
        token = principal.set_current(Principal(self.tenant, name="tester"))
        try:
            return await getattr(self.stub, method)(request, timeout=GUARD_S)
        finally:
            principal.reset_current(token)

    async def create(self, name: str) -> str:
        made = await self.ask("CreateAgent", pb.CreateAgentRequest(spec=AgentSpec(name=name)))
        agent_id: str = made.agent_id
        return agent_id

    async def update(self, agent_id: str, name: str, version: int) -> None:
        """To what says which version it makes."""
        spec = AgentSpec(name=name, description=f"version {version + 1}")
        request = pb.UpdateAgentRequest(agent_id=agent_id, expected_version=version, spec=spec)
        await self.ask("UpdateAgent", request)

    async def live_through(self, name: str) -> str:
        """All that can happen to an agent, in the order of `LIFE`; each change twice, as retries come."""
        agent_id = await self.create(name)
        assert await self.create(name) == agent_id
        for _ in range(2):
            await self.update(agent_id, name, 1)
        for _ in range(2):
            add = pb.AddCapabilityRequest(agent_id=agent_id, capability_id="weather", expected_version=2)
            await self.ask("AddCapability", add)
        for _ in range(2):
            await self.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=agent_id, expected_version=3))
        for _ in range(2):
            back = pb.RevertAgentRequest(agent_id=agent_id, version=1, expected_version=4)
            await self.ask("RevertAgent", back)
        return agent_id


@contextlib.asynccontextmanager
async def serving(database: str, folder: Path, servers: str, tenant: str) -> AsyncIterator[Registry]:
    """One process of agents on the cluster, without peers and models."""
    settings = load(
        AgentsSettings,
        data_dir=folder,
        port=0,
        admin=0,
        drain_s=0.0,
        enable_outcome_logging=False,
        eta_target="127.0.0.1:1",
        route_target="127.0.0.1:1",
        feedback_target="127.0.0.1:1",
        openai_api_key=None,
        kafka_bootstrap_servers=servers,
    )
    agents = Agents(settings, database)
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    try:
        await agents.start()
        yield Registry(clients.stub(AgentRegistryServiceStub, f"127.0.0.1:{agents.server.port}"), tenant)
    finally:
        await clients.close()
        await agents.stop()


def create_topics(servers: str, folder: Path) -> None:
    done = waymesh("topics", "create", folder=folder, variables={"KAFKA_BOOTSTRAP_SERVERS": servers})
    assert done.returncode == 0, done.stderr


def read(record: Lying) -> AgentLifecycleEvent:
    return json_codec.decode(AgentLifecycleEvent, record.value or b"")


async def lying(look: Look, tenant: str) -> list[Lying]:
    """The tenant's events, partition by partition, as they lie there."""
    return [record for record in await look.records(TOPIC) if read(record).tenant == tenant]


async def told(look: Look, tenant: str, count: int) -> dict[str, list[AgentLifecycleEvent]]:
    """The tenant's events by agent, in their order, once there are `count`; none of them is there twice."""
    found: list[Lying] = []
    try:
        async with asyncio.timeout(GUARD_S):
            while len(found) < count:
                await asyncio.sleep(0.05)
                found = await lying(look, tenant)
    except TimeoutError:
        raise AssertionError(f"{len(found)} events of {count}") from None
    twice = [one for one, times in Counter(record.headers["ce_id"] for record in found).items() if times > 1]
    assert (len(found), twice) == (count, [])
    by_agent = defaultdict(list)
    for record in found:
        by_agent[read(record).agent_id].append(read(record))
    return by_agent


async def nothing_waits(database: str) -> None:
    """The brokers have all that was published."""
    connection = await connect(database)
    try:
        async with asyncio.timeout(GUARD_S):
            while await connection.fetchval("SELECT count(*) FROM bus.log"):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


@pytest.fixture
def tenant() -> str:
    """One that nobody has had in the cluster."""
    return f"tenant-{uuid.uuid4().hex[:8]}"


async def test_a_life_of_an_agent_is_one_event_for_each_version_in_order(
    kafka: Kafka, database: str, tmp_path: Path, tenant: str
) -> None:
    create_topics(kafka.bootstrap_servers, tmp_path)
    async with serving(database, tmp_path, kafka.bootstrap_servers, tenant) as registry:
        names = [f"agent-{number}" for number in range(12)]
        ids = await asyncio.gather(*(registry.live_through(name) for name in names))
        await nothing_waits(database)
        by_agent = await told(kafka.look, tenant, len(ids) * len(LIFE))
    for name, agent_id in zip(names, ids, strict=True):
        events = by_agent[agent_id]
        assert [event.type for event in events] == LIFE
        assert [event.version for event in events] == [1, 2, 3, 4, 5]
        assert [event.event_id for event in events] == [f"{tenant}/{agent_id}@{n}" for n in range(1, 6)]
        assert {(event.name, event.changed_by) for event in events} == {(name, "tester")}
        assert [event.capability_id for event in events] == ["", "", "weather", "", ""]
        assert [event.reverted_to for event in events] == [0, 0, 0, 0, 1]
        times = [event.timestamp.ToDatetime() for event in events]
        assert times == sorted(times)


async def test_an_event_is_a_cloud_event_in_json_with_the_agents_key(
    kafka: Kafka, database: str, tmp_path: Path, tenant: str
) -> None:
    create_topics(kafka.bootstrap_servers, tmp_path)
    async with serving(database, tmp_path, kafka.bootstrap_servers, tenant) as registry:
        ids = [await registry.create(f"agent-{number}") for number in range(6)]
        await told(kafka.look, tenant, len(ids))
    for record in await lying(kafka.look, tenant):
        value = json.loads(record.value or b"")
        headers = {name: text.decode() for name, text in record.headers.items()}
        assert (record.key or b"").decode() == f"{tenant}/{value['agent_id']}"
        assert value["agent_id"] in ids
        assert set(headers) <= HEADERS
        assert datetime.fromisoformat(headers.pop("ce_time")).tzinfo is not None
        assert headers.pop("x-request-id")
        assert headers == {
            "ce_specversion": "1.0",
            "ce_id": f"{tenant}/{value['agent_id']}@1",
            "ce_source": headers["ce_source"],
            "ce_type": "waymesh.agent.v1.AgentLifecycleEvent",
            "content-type": "application/json",
            "x-waymesh-tenant": tenant,
        }
        assert headers["ce_source"]


async def test_agents_change_while_all_brokers_are_away_and_each_event_comes_once_when_they_are_back(
    kafka_cluster: KafkaCluster, database: str, tmp_path: Path, tenant: str
) -> None:
    servers = kafka_cluster.bootstrap_servers
    create_topics(servers, tmp_path)
    async with serving(database, tmp_path, servers, tenant) as registry:
        ids = [await registry.create(f"agent-{number}") for number in range(4)]
        await told(kafka_cluster.look, tenant, len(ids))
        changing = asyncio.gather(
            *(
                _updates(registry, agent_id, f"agent-{number}", range(1, 21))
                for number, agent_id in enumerate(ids)
            )
        )
        await kafka_cluster.kill()  # in the middle of it
        await changing
        await kafka_cluster.start()
        by_agent = await told(kafka_cluster.look, tenant, 4 * 21)
        await nothing_waits(database)
        again = await told(kafka_cluster.look, tenant, 4 * 21)
    for events in (*by_agent.values(), *again.values()):
        assert [event.version for event in events] == list(range(1, 22))


async def test_events_outlive_the_process_that_made_them_while_the_brokers_were_away(
    kafka_cluster: KafkaCluster, database: str, tmp_path: Path, tenant: str
) -> None:
    servers = kafka_cluster.bootstrap_servers
    create_topics(servers, tmp_path)
    await kafka_cluster.stop()
    async with serving(database, tmp_path, servers, tenant) as registry:
        ids = [await registry.live_through(f"agent-{number}") for number in range(3)]
    await kafka_cluster.start()
    async with serving(database, tmp_path, servers, tenant):
        by_agent = await told(kafka_cluster.look, tenant, len(ids) * len(LIFE))
        await nothing_waits(database)
        await told(kafka_cluster.look, tenant, len(ids) * len(LIFE))
    for agent_id in ids:
        assert [event.type for event in by_agent[agent_id]] == LIFE


async def _updates(registry: Registry, agent_id: str, name: str, versions: range) -> None:
    for version in versions:
        await registry.update(agent_id, name, version)
