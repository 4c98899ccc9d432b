"""Wiring of agents: settings → store → bus → registry → models, tools → servicers → lifecycle. No logic."""

from pathlib import Path
from typing import Final, NoReturn

from waymesh.agent.v1 import agent_registry_service_pb2, agent_service_pb2
from waymesh.agent.v1.agent_registry_service_pb2_grpc import add_AgentRegistryServiceServicer_to_server
from waymesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.agents.builtin import BUILT_IN
from services.agents.catalogue import Catalogue
from services.agents.changes import Changes
from services.agents.registry_service import RegistryServicer
from services.agents.seeding import seed
from services.agents.service import AgentServicer
from services.agents.settings import AgentsSettings
from services.agents.tools.toolbox import Toolbox
from services.mesh.feedback import FeedbackPipeline, recorded
from services.mesh.process import run_service
from services.mesh.service import GrpcService

NAME: Final = "agents"
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Agents(GrpcService[AgentsSettings]):
    """One process's agents."""

    def __init__(self, settings: AgentsSettings, dsn: str) -> None:
        super().__init__(NAME, settings, dsn)

    async def wire(self) -> None:
        database = await self.open_store(MIGRATIONS)
        bus = await self.open_bus(database)

        clients = self.clients()
        toolbox = Toolbox(
            clients.stub(EtaServiceStub, self.settings.eta_target),
            clients.stub(RouteServiceStub, self.settings.route_target),
            clients.stub(FeedbackServiceStub, self.settings.feedback_target),
        )
        await seed(database, bus, BUILT_IN)
        catalogue = Catalogue(database)
        await catalogue.load()
        self.lifecycle.background("agents in step with the store", catalogue.run)
        changes = Changes(database, bus, catalogue, toolbox)

        pipeline = FeedbackPipeline.create(NAME, self.settings, self.clients(), self.telemetry)
        self.lifecycle.on_stop(pipeline.close)
        self.lifecycle.background("recorder", pipeline.run)

        runs = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
        registry = agent_registry_service_pb2.DESCRIPTOR.services_by_name["AgentRegistryService"]
        self.server.add(
            add_AgentServiceServicer_to_server,
            recorded(AgentServicer(), runs, pipeline, self.telemetry),  # type: ignore[abstract]
        )
        self.server.add(
            add_AgentRegistryServiceServicer_to_server,
            recorded(RegistryServicer(database, changes, toolbox), registry, pipeline, self.telemetry),
        )


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, AgentsSettings, Agents)
