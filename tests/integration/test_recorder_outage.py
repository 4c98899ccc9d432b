"""feedback and recorders killed -9 while outcomes are recorded: what was acknowledged is stored once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from recorder_process import AGENT
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.store import connect
from services.mesh.tenancy import qualify, tenant_of
from tools.ports import free_ports

GUARD_S = 120.0
RECORDER = Path(__file__).with_name("recorder_process.py")


class Feedback:
    """The service as a process of its own, on a port that stays the same."""

    def __init__(self, dsn: str, folder: Path) -> None:
        [port] = free_ports(1)
        self.target = f"127.0.0.1:{port}"
        self._environ = {
            **os.environ,
            "DATABASE_URL": dsn,
            "WAYMESH_DATA_DIR": str(folder),
            "WAYMESH_FEEDBACK_PORT": str(port),
            "WAYMESH_FEEDBACK_ADMIN_PORT": "0",
            "LOG_LEVEL": "ERROR",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.feedback", env=self._environ
        )

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


class Recorder:
    """A process that records, and the ids that it was acknowledged."""

    def __init__(self, target: str, folder: Path, first: int, *tenants: str) -> None:
        self.acknowledged: list[str] = []
        self._arguments = [str(RECORDER), target, str(folder), str(first), *tenants]
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]
        self._more = asyncio.Event()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._arguments, stdout=asyncio.subprocess.PIPE, env=os.environ
        )
        self._reading = asyncio.create_task(self._read())

    async def more(self, count: int) -> None:
        """Until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(GUARD_S):
            while len(self.acknowledged) < wanted:
                self._more.clear()
                await self._more.wait()

    async def kill(self) -> None:
        """All that it has said is in `acknowledged` then."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        async for line in output:
            if line.endswith(b"\n"):
                self.acknowledged.append(line.decode().strip())
                self._more.set()


async def stored(dsn: str) -> Counter[str]:
    """How often each id is in the store."""
    connection = await connect(dsn)
    try:
        rows = await connection.fetch("SELECT id FROM feedback.outcomes WHERE agent_name = $1", AGENT)
    except asyncpg.UndefinedTableError:  # the service has not begun yet
        return Counter()
    finally:
        await connection.close()
    return Counter(row["id"] for row in rows)


async def until_stored(dsn: str, more_than: int) -> int:
    """Until there are more in the store; how many."""
    async with asyncio.timeout(GUARD_S):
        while (count := (await stored(dsn)).total()) <= more_than:
            await asyncio.sleep(0.05)
    return count


@pytest.fixture
async def feedback(database: str, tmp_path: Path) -> AsyncIterator[Feedback]:
    process = Feedback(database, tmp_path / "feedback")
    await process.start()
    yield process
    await process.kill()


@pytest.mark.faults
async def test_every_acknowledged_outcome_is_stored_exactly_once(
    feedback: Feedback, database: str, tmp_path: Path
) -> None:
    """The service is killed three times under load; of two recorders on one folder one is killed, too."""
    first = Recorder(feedback.target, tmp_path, 0)
    second = Recorder(feedback.target, tmp_path, 500_000)
    await first.start()
    await second.start()
    try:
        count = 0
        for round_ in range(3):
            count = await until_stored(database, count)
            await feedback.kill()
            await asyncio.gather(first.more(500), second.more(500))
            if round_ == 1:  # with its files in the spool and the service away
                await first.kill()
                acknowledged = first.acknowledged
                first = Recorder(feedback.target, tmp_path, 250_000)
                await first.start()
            await feedback.start()
        await until_stored(database, count)
    finally:
        await first.kill()
        await second.kill()
    acknowledged = [*acknowledged, *first.acknowledged, *second.acknowledged]
    assert len(set(acknowledged)) == len(acknowledged)

    # What the two left behind is delivered by whoever comes next.
    heir = Recorder(feedback.target, tmp_path, 750_000)
    await heir.start()
    try:
        async with asyncio.timeout(GUARD_S):
            while not set(acknowledged) <= (found := await stored(database)).keys():
                await asyncio.sleep(0.1)
    finally:
        await heir.kill()
    assert set(found.values()) == {1}


@pytest.mark.faults
async def test_tenants_with_the_same_ids_stay_apart_whatever_is_killed(
    feedback: Feedback, database: str, tmp_path: Path
) -> None:
    """One recorder for three tenants at once; the service is killed, and the recorder with its spool full."""

    async def kept() -> dict[str, str]:
        """Whose an id is by what is stored of it, from the service and from the topic alike."""
        connection = await connect(database)
        try:
            async with connection.transaction(isolation="repeatable_read"):
                rows = await connection.fetch(
                    "SELECT id, body FROM feedback.outcomes WHERE agent_name LIKE '%' || $1", AGENT
                )
                events = await connection.fetch(
                    "SELECT l.event_id AS id, l.value AS body, l.key,"
                    " l.headers::json->>'x-waymesh-tenant' AS header FROM bus.log l"
                    " JOIN bus.partitions p USING (part) WHERE p.topic = 'agent-outcomes'"
                )
        finally:
            await connection.close()
        for one in events:
            tenant = tenant_of(one["id"])
            assert one["header"] == (None if tenant == "default" else tenant)
            assert one["key"] == qualify(tenant, "run")
        assert len(rows) == len({row["id"] for row in rows})
        assert {row["id"] for row in rows} == {one["id"] for one in events}
        told = {}
        for row in [*rows, *events]:
            event = OutcomeEvent.FromString(row["body"])
            assert row["id"] == qualify(event.tags[0], event.event_id)
            told[row["id"]] = event.tags[0]
        return told

    tenants = ("acme", "rival", "default")
    recorder = Recorder(feedback.target, tmp_path, 0, *tenants)
    await recorder.start()
    try:
        await until_stored(database, 0)
        await feedback.kill()
        await recorder.more(150)
        await recorder.kill()
        await feedback.start()
        heir = Recorder(feedback.target, tmp_path, 250_000, *tenants)
        await heir.start()
        try:
            async with asyncio.timeout(GUARD_S):
                while not set(recorder.acknowledged) <= (await kept()).keys():
                    await asyncio.sleep(0.1)
        finally:
            await heir.kill()
    finally:
        await recorder.kill()
    assert set((await kept()).values()) == set(tenants)
