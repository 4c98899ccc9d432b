"""kill -9 of a process that changes agents: no update is lost, each version has its one event, in order."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceStub

from tests.integration.agents_registry_rig import opened, spec_of
from tools.ports import free_ports

WRITERS = 4
UPDATES = 25


async def start(dsn: str, folder: Path, port: int) -> asyncio.subprocess.Process:
    environment = {
        "DATABASE_URL": dsn,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_AGENTS_PORT": str(port),
        "WAYMESH_AGENTS_ADMIN_PORT": "0",
        "WAYMESH_FEEDBACK_TARGET": "127.0.0.1:1",
        "ENABLE_OUTCOME_LOGGING": "false",
        "LOG_LEVEL": "ERROR",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.agents", env={**os.environ, **environment}
    )


class Writer:
    """Adds a word of its own to one agent's description, again and again, as often as it is told to."""

    def __init__(self, stub: Any, name: int) -> None:
        self.stub = stub
        self.name = name
        self.acknowledged = 0

    async def run(self) -> None:
        for number in range(UPDATES):
            await self.add(f"w{self.name}n{number}")

    async def add(self, word: str) -> None:
        """Until it is acknowledged: the same request while nobody answers, a new one once it is stale."""
        while True:
            found = await answered(self.stub.GetAgent, pb.GetAgentRequest(agent_id="shared"))
            spec = spec_of("shared", description=f"{found.agent.spec.description} {word}".strip())
            request = pb.UpdateAgentRequest(
                agent_id="shared", expected_version=found.agent.version, spec=spec
            )
            try:
                await answered(self.stub.UpdateAgent, request)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise
            else:
                self.acknowledged += 1
                return


async def answered(call: Any, request: Any) -> Any:
    """Asks until somebody answers."""
    while True:
        try:
            return await call(request, timeout=60, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        await asyncio.sleep(0.01)


@pytest.mark.faults
async def test_kill_9_while_several_write(database: str, tmp_path: Path) -> None:
    ports = free_ports(2)
    processes = [await start(database, tmp_path / str(port), port) for port in ports]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
    try:
        stubs: list[Any] = [AgentRegistryServiceStub(channel) for channel in channels]
        created = pb.CreateAgentRequest(agent_id="shared", spec=spec_of("shared"))
        await answered(stubs[0].CreateAgent, created)
        writers = [Writer(stubs[number % 2], number) for number in range(WRITERS)]
        writing = [asyncio.create_task(writer.run()) for writer in writers]
        async with asyncio.timeout(300):
            for share in (0.2, 0.5, 0.7):
                while sum(writer.acknowledged for writer in writers) < share * WRITERS * UPDATES:
                    await asyncio.sleep(0.001)
                for place in (0, 1) if share == 0.5 else (0,):
                    processes[place].send_signal(signal.SIGKILL)
                    await processes[place].wait()
                    processes[place] = await start(database, tmp_path / str(ports[place]), ports[place])
            await asyncio.gather(*writing)
        found = await answered(stubs[1].GetAgent, pb.GetAgentRequest(agent_id="shared"))
    finally:
        for channel in channels:
            await channel.close()
        for process in processes:
            process.kill()
            await process.wait()

    words = found.agent.spec.description.split()
    assert sorted(words) == sorted(
        f"w{writer}n{number}" for writer in range(WRITERS) for number in range(UPDATES)
    )
    assert found.agent.version == 1 + WRITERS * UPDATES
    async with opened(database, tmp_path) as (store, _):
        events = await store.pool.fetch(
            "SELECT event_id FROM bus.log WHERE key = 'shared' ORDER BY part, position"
        )
    assert [row["event_id"] for row in events] == [
        f"default/shared@{number}" for number in range(1, found.agent.version + 1)
    ]
