"""Runs of one or several processes on a real store, each process with a lease of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1.task_pb2 import AskResponse

from services.agents.runs import Answer, Lease, LiveRun, LiveRuns, NewRun, RunStore, RunStreams, Sweeper
from services.mesh.store import Store

MIGRATIONS = Path(__file__).parents[2] / "services" / "agents" / "migrations"
GUARD_S = 60.0


def new_run(run_id: str = "", question: str = "why?", tenant: str = "acme", **fields: Any) -> NewRun:
    """A run of task `ask`; without a run_id one of its own."""
    asked = Struct()
    asked.update({"question": question})
    return NewRun(
        **{
            "run_id": run_id or uuid4().hex,
            "tenant": tenant,
            "key": "0123456789ab",
            "agent_id": "agent-1",
            "agent_name": "dispatcher",
            "agent_version": 3,
            "task": "ask",
            "input": asked.SerializeToString(),
            "request_hash": blake2b(question.encode(), digest_size=16).digest(),
            "workflow_id": "",
            "created_at": datetime.now(UTC),
            "own_id": not run_id,
        }
        | fields
    )


def answer(live: LiveRun, text: str = "because") -> Answer:
    return Answer(AskResponse(run_id=live.run_id, answer=text), text)


async def at_once(live: LiveRun) -> Answer:
    """Work that is done as soon as it begins."""
    return answer(live)


class Held:
    """Work that goes on until it is let go, or cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, live: LiveRun) -> Answer:
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return answer(live)

    async def at_once(self, live: LiveRun) -> Answer:
        """Does not wait to be let go."""
        self.go.set()
        return await self(live)


class Replica:
    """What one process has of runs."""

    def __init__(self, database: Store, *, lease_s: float, heartbeat_s: float) -> None:
        self.database = database
        self.store = RunStore(database)
        self.lease = Lease(database, lease_s=lease_s, every_s=lease_s / 5)
        self.runs = LiveRuns(self.store, self.lease, grace_s=0.05)
        self.streams = RunStreams(self.runs, heartbeat_s=heartbeat_s)
        self.sweeper = Sweeper(database, self.lease, every_s=lease_s / 5)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, *works: Callable[[], Awaitable[None]]) -> None:
        for work in works:
            self.tasks.append(asyncio.ensure_future(work()))  # type: ignore[arg-type]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()


@contextlib.asynccontextmanager
async def replica(
    dsn: str, *, lease_s: float = 10.0, heartbeat_s: float = 10.0, sweeps: bool = False
) -> AsyncIterator[Replica]:
    """A process's runs, wired as its server does; `sweeps`: it ends the runs of others that have gone."""
    database = await Store.open(dsn, schema="agents", migrations=MIGRATIONS)
    one = Replica(database, lease_s=lease_s, heartbeat_s=heartbeat_s)
    await one.lease.begin()
    one.start(one.lease.run, one.runs.run)
    if sweeps:
        one.start(one.sweeper.run)
    try:
        yield one
    finally:
        await one.runs.close()
        await one.stop()
        await one.lease.end()
        await one.store.close()
        await database.close()
