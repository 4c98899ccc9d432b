"""Wiring of agents: settings → store → bus → registry → models, tools → servicers → lifecycle. No logic."""

from pathlib import Path
from typing import Final, NoReturn

from waymesh.agent.v1 import agent_registry_service_pb2, agent_service_pb2
from waymesh.agent.v1.agent_registry_service_pb2_grpc import add_AgentRegistryServiceServicer_to_server
from waymesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server

from services.agents.registry_service import RegistryServicer
from services.agents.service import AgentServicer
from services.agents.settings import AgentsSettings
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
        await self.open_bus(database)
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
            recorded(RegistryServicer(), registry, pipeline, self.telemetry),  # type: ignore[abstract]
        )


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, AgentsSettings, Agents)
