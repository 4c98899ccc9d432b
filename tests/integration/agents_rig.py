"""A whole mesh in one loop: eta, route, feedback and agents, on one store and bus, maybe with a model."""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceStub
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.route.v1 import route_service_pb2 as route_pb
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.agents.server import Agents
from services.agents.settings import AgentsSettings
from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.client import ClientFactory
from services.mesh.retry import RetryPolicy
from services.mesh.settings import load
from services.mesh.telemetry import Telemetry
from services.route.server import Route
from services.route.settings import RouteSettings
from tests.integration.route_mesh import courier, eventually, order, stamp, where

MODEL = "first"
FALLBACK = "second"


@dataclass
class AgentsMesh:
    """What a test has in its hands; stubs are typed loosely on purpose, as callers' scripts are."""

    agents: Agents
    eta_service: Eta
    route_service: Route
    clients: ClientFactory
    stub: Any
    registry: Any
    eta: Any
    route: Any
    feedback: Any
    target: str
    database: str
    folder: Path

    async def seed(self, orders: int = 1, **more: Any) -> list[str]:
        """Couriers near a merchant and orders that wait, known to eta as well; the orders' ids."""
        couriers = [courier(f"courier_{n}", where(-1 - n)) for n in range(2)]
        await self.route.UpsertCouriers(route_pb.UpsertCouriersRequest(couriers=couriers))
        names = [f"order_{n}" for n in range(orders)]
        made = [order(name, ready_at=stamp(time.time() + 300), **more) for name in names]
        for one in made:
            await self.route.UpsertOrders(route_pb.UpsertOrdersRequest(orders=[one]))

        async def known() -> bool:
            from waymesh.eta.v1 import eta_pb2, eta_service_pb2

            from services.mesh.errors import MeshError

            try:
                for name in names:
                    query = eta_pb2.EtaQuery(order_id=name)
                    await self.eta.PredictEta(eta_service_pb2.PredictEtaRequest(query=query))
            except MeshError:
                return False
            return True

        await eventually(known)
        return names


@contextlib.asynccontextmanager
async def agents_mesh(
    database: str, folder: Path, *, base_url: str | None = None, **overrides: Any
) -> AsyncIterator[AgentsMesh]:
    """The mesh, ready. With `base_url` there are two models, `first` and its fallback `second`."""
    common: dict[str, Any] = {
        "data_dir": folder,
        "port": 0,
        "admin": 0,
        "drain_s": 0.0,
        "enable_outcome_logging": False,
    }
    async with contextlib.AsyncExitStack() as stack:

        async def started(service: Any) -> Any:
            await service.start()
            stack.push_async_callback(service.stop)
            return service

        nobody = "127.0.0.1:1"
        feedback = await started(Feedback(load(FeedbackSettings, **common), database))
        heard = f"127.0.0.1:{feedback.server.port}"
        eta = await started(Eta(load(EtaSettings, **common, feedback_target=nobody), database))
        seen = f"127.0.0.1:{eta.server.port}"
        rare = {"allocation_tick_s": 3600.0, "allocation_gap_s": 3600.0}
        route = await started(
            Route(load(RouteSettings, **common, **rare, eta_target=seen, feedback_target=nobody), database)
        )
        way = f"127.0.0.1:{route.server.port}"
        models: dict[str, Any] = {"openai_api_key": None}
        if base_url is not None:
            models = {
                "openai_api_key": SecretStr("sk-test"),
                "openai_base_url": base_url,
                "openai_model": MODEL,
                "openai_fallback_models": (FALLBACK,),
                "model_prices": {MODEL: (1.0, 2.0), FALLBACK: (0.5, 1.0)},
            }
        settings = load(
            AgentsSettings,
            **{
                **common,
                **models,
                "eta_target": seen,
                "route_target": way,
                "feedback_target": heard,
                **overrides,
            },
        )
        agents = await started(Agents(settings, database))
        clients = ClientFactory("test", telemetry=Telemetry("test"), retry=RetryPolicy(retries=0))
        stack.push_async_callback(clients.close)
        target = f"127.0.0.1:{agents.server.port}"
        yield AgentsMesh(
            agents=agents,
            eta_service=eta,
            route_service=route,
            clients=clients,
            stub=clients.stub(AgentServiceStub, target),
            registry=clients.stub(AgentRegistryServiceStub, target),
            eta=clients.stub(EtaServiceStub, seen),
            route=clients.stub(RouteServiceStub, way),
            feedback=clients.stub(FeedbackServiceStub, heard),
            target=target,
            database=database,
            folder=folder,
        )
