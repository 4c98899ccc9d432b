"""Wiring of agents: settings → store → bus → registry → models, tools → servicers → lifecycle. No logic."""

from pathlib import Path
from typing import Final, NoReturn

from pydantic import SecretStr
from waymesh.agent.v1 import agent_registry_service_pb2, agent_service_pb2
from waymesh.agent.v1.agent_registry_service_pb2_grpc import add_AgentRegistryServiceServicer_to_server
from waymesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.agents import langfuse, outcomes
from services.agents.accounts import Accounts
from services.agents.budgets.concurrency import ConcurrencyLimits
from services.agents.budgets.ledger import Budgets
from services.agents.builtin import BUILT_IN
from services.agents.catalogue import Catalogue
from services.agents.changes import Changes
from services.agents.ladder import Ladder
from services.agents.llm import OPENAI_URL, LanguageModels, ModelsConfig, Prices
from services.agents.loop import Loop
from services.agents.registry_service import RegistryServicer, tell_at_once
from services.agents.runner import Means, Runner
from services.agents.runs.lease import Lease
from services.agents.runs.live import LiveRuns
from services.agents.runs.retention import Retention
from services.agents.runs.store import RunStore
from services.agents.runs.streams import RunStreams
from services.agents.runs.sweeper import Sweeper
from services.agents.seeding import seed
from services.agents.service import AgentServicer
from services.agents.settings import AgentsSettings
from services.agents.spans import GenAi
from services.agents.tasks.context import Peers
from services.agents.tasks.kinds import KINDS
from services.agents.tools import OpenWeatherMap, Toolbox
from services.mesh.feedback import FeedbackPipeline, create_dispatcher, recorded
from services.mesh.lifecycle import settle
from services.mesh.process import run_service
from services.mesh.retry import RetryPolicy
from services.mesh.service import GrpcService
from services.mesh.store import Store

NAME: Final = "agents"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
_STREAM: Final = "/waymesh.agent.v1.AgentService/StreamRun"
# No setting and no agent lets a run take longer. In seconds.
_LONGEST_RUN_S: Final = 60.0
# Of what a model says at once, tool calls and JSON included. A longer text is no answer anyway.
_MAX_ANSWER_BYTES: Final = 128 << 10
# Of the cache of models' answers; how many bytes they may take is a setting.
_CACHE_ENTRIES: Final = 10_000


class Agents(GrpcService[AgentsSettings]):
    """One process's agents."""

    def __init__(self, settings: AgentsSettings, dsn: str) -> None:
        super().__init__(
            NAME,
            settings,
            dsn,
            span_processors=langfuse.processors(settings),
            # A run that has begun goes on to its answer, here, while a successor takes new ones.
            grace_s=_LONGEST_RUN_S,
            finite_streams=[_STREAM],
        )

    async def wire(self) -> None:
        settings, lifecycle = self.settings, self.lifecycle
        database = await self.open_store(MIGRATIONS)
        bus = await self.open_bus(database)
        pipeline = FeedbackPipeline.create(NAME, settings, self.clients(), self.telemetry)
        lifecycle.on_stop(pipeline.close)
        lifecycle.background("recorder", pipeline.run)
        dispatcher = create_dispatcher(pipeline, telemetry=self.telemetry)
        dispatcher.add_post_hook(outcomes.note_usage, numbers=True)

        # A fallback is there at once; it should not come after a back-off.
        peers = self.clients(RetryPolicy(retries=0))
        eta = peers.stub(EtaServiceStub, settings.eta_target)
        route = peers.stub(RouteServiceStub, settings.route_target)
        feedback = peers.stub(FeedbackServiceStub, settings.feedback_target)
        toolbox = Toolbox(eta, route, feedback, self._weather())

        await seed(database, bus, BUILT_IN)
        catalogue = Catalogue(database)
        await catalogue.load()
        lifecycle.background("agents in step with the store", catalogue.run)

        models = LanguageModels(_models(settings), on_breaker=self.signals.breaker_changed)
        lifecycle.on_stop(models.close)
        spans = GenAi(self.telemetry, capture=settings.capture_prompts, named=models.named)
        live, accounts = await self._runs(database)
        runner = Runner(
            Means(
                settings=settings,
                catalogue=catalogue,
                live=live,
                ladder=Ladder(Loop(models, toolbox, spans)),
                toolbox=toolbox,
                peers=Peers(eta, route),
                dispatcher=dispatcher,
                spans=spans,
                accounts=accounts,
            )
        )

        servicer = AgentServicer(runner, live, RunStreams(live, heartbeat_s=settings.heartbeat_s))
        runs = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
        self.server.add(
            add_AgentServiceServicer_to_server,
            # Each run leaves an outcome of its own agent. What was asked and answered stands with the run.
            recorded(servicer, runs, pipeline, self.telemetry, capture=False, untouched=KINDS),
        )
        changes = Changes(database, bus, catalogue, toolbox, max_agents=settings.max_agents)
        book = RegistryServicer(database, changes, toolbox)
        registry = agent_registry_service_pb2.DESCRIPTOR.services_by_name["AgentRegistryService"]
        self.server.add(
            add_AgentRegistryServiceServicer_to_server,
            recorded(book, registry, pipeline, self.telemetry, capture=False),
        )
        tell_at_once(self.server, toolbox)

    async def _runs(self, database: Store) -> tuple[LiveRuns, Accounts]:
        """Runs of this process and what they spend, and an end for those of processes that died."""
        lifecycle = self.lifecycle
        store = RunStore(database)
        lifecycle.on_stop(store.close)
        lease = Lease(database)
        await lease.begin()
        lifecycle.on_stop(lease.end)
        budgets = Budgets(database, lambda: lease.process_id)
        lifecycle.on_stop(budgets.close)
        live = LiveRuns(store, lease)
        lifecycle.on_stop(live.close)
        sweeper = Sweeper(database, lease, charge=budgets.charge)
        lifecycle.background("lease", lease.run)
        lifecycle.background("runs", live.run)
        lifecycle.background("runs of processes that died", sweeper.run)
        lifecycle.background("old runs", Retention(store, self.settings.run_retention_days).run)
        return live, Accounts(self.settings, budgets, ConcurrencyLimits(), database)

    def _weather(self) -> OpenWeatherMap | None:
        key = self.settings.weather_api_key
        if key is None:
            return None
        weather = OpenWeatherMap(key.get_secret_value(), self.settings.weather_base_url)
        self.lifecycle.on_stop(weather.close)
        return weather


def _models(settings: AgentsSettings) -> ModelsConfig:
    return ModelsConfig(
        api_key=settings.openai_api_key or SecretStr(""),
        base_url=settings.openai_base_url or OPENAI_URL,
        model=settings.openai_model,
        fallback_models=settings.openai_fallback_models,
        prices=Prices.built_in(settings.model_prices),
        max_concurrent_calls=settings.model_concurrency,
        cache_entries=_CACHE_ENTRIES if settings.cache_mib and settings.cache_ttl_s else 0,
        cache_bytes=settings.cache_mib << 20,
        cache_ttl_s=settings.cache_ttl_s,
        max_answer_bytes=_MAX_ANSWER_BYTES,
    )


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, AgentsSettings, _alone)


def _alone(settings: AgentsSettings, dsn: str) -> Agents:
    service = Agents(settings, dsn)
    service.lifecycle.on_ready(settle)
    return service
