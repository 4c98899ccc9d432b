"""What bench/agents.py measures: PostgreSQL (fsync on), feedback, agents, the gateway; and their model.

Processes as `waymesh up` starts them, without eta and route, whom an agent without tools never asks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from waymesh.agent.v1.agent_registry_service_pb2 import CreateAgentRequest
from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceStub
from waymesh.agent.v1.definition_pb2 import (
    AgentConfig,
    AgentInstructions,
    AgentSpec,
    ModelConfig,
    RunLimits,
)

from bench import _agents_model
from bench._mesh import a_folder
from bench._servers import Servers
from services.mesh.store import EmbeddedPostgres
from tools.ports import free_ports

KEY: Final = "wm_bench_0123456789abcdefghijklmn"
INSTRUCTIONS: Final = AgentInstructions(
    system="You are {{agent}}. Answer questions of customers about their parcels, in one short sentence.",
    style="Plain words. No greeting.",
)
# US dollars for a million tokens, in and out, so that runs cost something.
_PRICE: Final = (1.0, 2.0)
_MODELS: Final = (_agents_model.AT_ONCE, _agents_model.AFTER_20_MS, _agents_model.NEVER)
_READY_S: Final = 30.0
_TOLD_S: Final = 10.0


def spec(name: str, model: str, limits: RunLimits | None = None) -> AgentSpec:
    """An agent without tools."""
    config = AgentConfig(model=ModelConfig(model=model, temperature=0.3, max_output_tokens=2000))
    if limits is not None:
        config.limits.CopyFrom(limits)
    return AgentSpec(name=name, config=config, instructions=INSTRUCTIONS)


@dataclass(slots=True)
class Counted:
    """A process that writes a line of JSON at SIGUSR1."""

    process: psutil.Process
    log: Path

    async def ask(self, signal_number: int) -> dict[str, Any]:
        """What it says of itself now."""
        before = self.log.stat().st_size
        self.process.send_signal(signal_number)
        async with asyncio.timeout(_TOLD_S):
            while True:
                await asyncio.sleep(0.02)
                with self.log.open("rb") as log:
                    log.seek(before)
                    for line in log.read().splitlines(keepends=True):
                        if line.startswith(b'{"bench":') and line.endswith(b"\n"):
                            told: dict[str, Any] = json.loads(line)["bench"]
                            return told


@dataclass(slots=True)
class Stack:
    """All of it, ready. `others` are the processes that a run goes through besides agents, by name."""

    servers: Servers
    folder: Path
    dsn: str
    model: Counted
    agents: Counted
    others: dict[str, psutil.Process]
    model_port: int
    agents_target: str
    gateway_port: int
    channel: grpc.aio.Channel

    async def add(self, agent: AgentSpec) -> str:
        """Creates an agent; its identity."""
        stub: Any = AgentRegistryServiceStub(self.channel)
        created = await stub.CreateAgent(CreateAgentRequest(spec=agent), timeout=_READY_S)
        return str(created.agent_id)


@asynccontextmanager
async def stack(*, gateway: bool) -> AsyncIterator[Stack]:
    """Everything started and ready; nothing left of it at the end."""
    with a_folder() as folder:
        postgres = EmbeddedPostgres(folder)
        logs = folder / "logs"
        logs.mkdir()
        dsn = await postgres.start()
        try:
            with Servers(logs) as servers:
                running = _start(servers, folder, logs, dsn, gateway=gateway)
                assert postgres.pid is not None
                running.others["postgres"] = psutil.Process(postgres.pid)
                try:
                    await _ready(running)
                    yield running
                finally:
                    await running.channel.close()
        finally:
            await postgres.stop()


def _start(servers: Servers, folder: Path, logs: Path, dsn: str, *, gateway: bool) -> Stack:
    model, feedback, agents, public, demo, custom, *admin = free_ports(9)
    environ = {
        "WAYMESH_DATA_DIR": str(folder),
        "DATABASE_URL": dsn,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        "KAFKA_BOOTSTRAP_SERVERS": "",
        "LANGFUSE_PUBLIC_KEY": "",
        "LANGFUSE_SECRET_KEY": "",
        "WAYMESH_FEEDBACK_PORT": str(feedback),
        "WAYMESH_FEEDBACK_ADMIN_PORT": str(admin[0]),
        "WAYMESH_FEEDBACK_TARGET": f"127.0.0.1:{feedback}",
        "WAYMESH_AGENTS_PORT": str(agents),
        "WAYMESH_AGENTS_ADMIN_PORT": str(admin[1]),
        "WAYMESH_AGENTS_TARGET": f"127.0.0.1:{agents}",
        "OPENAI_API_KEY": "sk-bench",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{model}/v1",
        "OPENAI_MODEL": _agents_model.AT_ONCE,
        "WAYMESH_MODEL_PRICES": json.dumps(dict.fromkeys(_MODELS, _PRICE)),
    }
    asked = servers.start("model", sys.executable, "-m", "bench._agents_model", str(model))
    others = {"feedback": servers.start("feedback", sys.executable, "-m", "services.feedback", **environ)}
    process = servers.start("agents", sys.executable, "-m", "bench._agents_counted", **environ)
    if gateway:
        outside = {
            "PORT": str(public),
            "WAYMESH_AGENT_DEMO_PORT": str(demo),
            "WAYMESH_AGENT_CUSTOM_PORT": str(custom),
            "FASTAPI_API_KEY": KEY,
            "DATABASE_URL": "",
            # The bucket is counted as always; it only must not run dry.
            "WAYMESH_RATE_PER_S": "1000000",
            "WAYMESH_RATE_BURST": "1000000",
        }
        command = (sys.executable, "-m", "services.gateway")
        others["gateway"] = servers.start("gateway", *command, **{**environ, **outside})
    target = f"127.0.0.1:{agents}"
    return Stack(
        servers=servers,
        folder=folder,
        dsn=dsn,
        model=Counted(asked, logs / "model.log"),
        agents=Counted(process, logs / "agents.log"),
        others=others,
        model_port=model,
        agents_target=target,
        gateway_port=public,
        channel=grpc.aio.insecure_channel(target),
    )


async def _ready(running: Stack) -> None:
    """Until agents answers. Ends the bench if it does not."""
    try:
        async with asyncio.timeout(_READY_S):
            await running.channel.channel_ready()
    except TimeoutError:
        sys.exit("agents does not answer")


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and its children, those that have ended too."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
