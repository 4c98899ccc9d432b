"""Runs of processes that die, freeze or lose the store: each has an end, and one that lives loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.task_pb2 import AskResponse

from services.agents.budgets import store as budget_store
from services.agents.budgets.ledger import Budgets
from services.agents.runs import Lease, LiveRuns, RunStore, Sweeper
from services.mesh.errors import Aborted, Unavailable
from services.mesh.store import EmbeddedPostgres, Store
from tests.integration.agent_runs_rig import MIGRATIONS, Held, Replica, at_once, new_run, replica

ROOT = Path(__file__).parents[2]
LEASE_S = 1.0
_GUARD_S = 120.0


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    async with asyncio.timeout(_GUARD_S):
        yield


@pytest.fixture
async def one(database: str) -> AsyncIterator[Replica]:
    """A process that ends the runs of those that have gone."""
    async with replica(database, lease_s=LEASE_S, sweeps=True) as made:
        yield made


@contextlib.asynccontextmanager
async def holder(
    database: str, *names: str, lease_s: float = LEASE_S
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process, with these runs under way."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.run_holder",
        database,
        str(lease_s),
        *names,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"begun\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    while not await holds():
        await asyncio.sleep(0.02)


async def status(where: Replica, run_id: str) -> pb.RunStatus.ValueType:
    run = await where.store.get("acme", run_id)
    assert run is not None
    return run.status


async def test_the_runs_of_a_process_that_was_killed_end_as_interrupted(database: str, one: Replica) -> None:
    budgets = Budgets(one.database, lambda: one.lease.process_id)
    one.start(Sweeper(one.database, one.lease, charge=budgets.charge, every_s=LEASE_S / 5).run)
    async with holder(database, "a", "b") as process:
        assert await status(one, "a") == pb.RUN_STATUS_RUNNING
        process.send_signal(signal.SIGKILL)
        for name in ("a", "b"):
            with pytest.raises(Aborted) as told:
                (await one.runs.wait("acme", name)).answer(AskResponse)
            assert told.value.reason_name == "RUN_INTERRUPTED"
            # The name is taken for good: what to do instead is told.
            assert told.value.message.endswith("ask again under another run_id")
            assert told.value.metadata == {"run_id": name}
            assert await status(one, name) == pb.RUN_STATUS_FAILED

    # What it had set aside may have been spent.
    async def charged() -> bool:
        _, found = await budget_store.spending(one.database, "acme", "0123456789ab")
        return [(spent.nano_usd, spent.reserved_nano_usd) for spent in found] == [(200, 0)]

    await until(charged)
    await budgets.close()


async def test_a_process_that_was_frozen_too_long_has_lost_its_runs_and_goes_on_with_others(
    database: str, one: Replica
) -> None:
    async with holder(database, "a", "b") as process:
        process.send_signal(signal.SIGSTOP)
        assert (await one.runs.wait("acme", "a")).status == pb.RUN_STATUS_FAILED
        assert (await one.runs.wait("acme", "b")).status == pb.RUN_STATUS_FAILED
        before = await one.store.get("acme", "a")
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        assert process.stdout is not None
        # Its runs would have answers now. It tells its callers what everybody has been told.
        process.stdin.write(b"go\n")
        told = json.loads(await process.stdout.readline())
        assert told == {
            "ends": {"a": "RUN_STATUS_FAILED", "b": "RUN_STATUS_FAILED"},
            "afterwards": "RUN_STATUS_SUCCEEDED",
        }
        after = await one.store.get("acme", "a")
        assert before is not None
        assert after is not None
        # How it ended stays; what it did is known now.
        assert not before.steps
        assert [step.name for step in after.steps] == ["m"]
        before.steps.extend(after.steps)
        before.usage.CopyFrom(after.usage)
        assert after == before
        process.stdin.close()
        assert await process.wait() == 0


async def test_a_process_that_was_frozen_for_a_shorter_time_loses_nothing(
    database: str, one: Replica
) -> None:
    async with holder(database, "a", lease_s=10 * LEASE_S) as process:
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE_S)
            process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        assert json.loads(await process.stdout.readline())["ends"] == {"a": "RUN_STATUS_SUCCEEDED"}


async def test_a_process_that_stops_as_it_should_leaves_no_run_under_way(database: str) -> None:
    async with replica(database) as going:
        await going.runs.begin(new_run("x"), Held(), limit_s=100)
    async with replica(database) as later:
        end = await later.runs.wait("acme", "x")
        with pytest.raises(Aborted):
            end.answer(AskResponse)
        assert await later.database.pool.fetchval("SELECT count(*) FROM processes") == 1


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    opened = await Store.open(database, schema="agents", migrations=MIGRATIONS)
    yield opened
    await opened.close()


async def orphan(store: Store) -> None:
    """A run of a process whose lease has run out."""
    runs = RunStore(store)
    process = uuid4()
    await store.pool.execute("INSERT INTO processes VALUES ($1, now() - interval '1 s')", process)
    await runs.accept(new_run("orphan"), process)
    await runs.close()


async def test_nobody_ends_the_runs_of_others_before_it_was_in_touch_for_the_length_of_a_lease(
    store: Store,
) -> None:
    clock = Clock()
    lease = Lease(store, clock=clock)
    await lease.begin()
    sweeper = Sweeper(store, lease)
    await orphan(store)
    for _ in range(4):
        assert await sweeper.sweep() == 0
        clock.now += 2
        await lease._beat()
    # The store was away: those who are alive could not say so either.
    clock.now += 8
    assert await sweeper.sweep() == 0
    await lease._beat()
    for _ in range(5):
        assert await sweeper.sweep() == 0
        clock.now += 2
        await lease._beat()
    assert await sweeper.sweep() == 1
    assert await sweeper.sweep() == 0


async def test_a_leap_of_the_databases_clock_ends_no_runs(store: Store) -> None:
    clock = Clock()
    lease = Lease(store, clock=clock)
    await lease.begin()
    sweeper = Sweeper(store, lease)
    await orphan(store)
    for _ in range(6):
        clock.now += 2
        await lease._beat()
    # Every lease has run out at once, as it seems, the sweeper's own among them.
    await store.pool.execute("UPDATE processes SET expires_at = now() - interval '1 hour'")
    assert await sweeper.sweep() == 0
    await lease._beat()
    assert await sweeper.sweep() == 0
    for _ in range(5):
        clock.now += 2
        await lease._beat()
    assert await sweeper.sweep() == 1


async def test_a_lease_that_ran_out_unnoticed_is_renewed_and_nothing_is_lost(store: Store) -> None:
    lease, lost = Lease(store), []
    lease.on_lost(lost.append)
    await lease.begin()
    before = lease.process_id
    await store.pool.execute("UPDATE processes SET expires_at = now() - interval '1 hour'")
    await lease._beat()
    assert lease.process_id == before
    assert not lost
    assert await store.pool.fetchval("SELECT expires_at > now() FROM processes")


async def test_a_lease_that_others_ended_is_followed_by_a_new_one(store: Store) -> None:
    lease, lost = Lease(store), []
    lease.on_lost(lost.append)
    await lease.begin()
    before = lease.process_id
    await store.pool.execute("DELETE FROM processes")
    await lease._beat()
    assert lost == [before]
    assert await store.pool.fetchval("SELECT process_id FROM processes") == lease.process_id != before


async def test_runs_of_a_process_without_a_lease_end_whenever_they_were_recorded(store: Store) -> None:
    # Taken for dead, and only then its run was recorded.
    runs = RunStore(store)
    await runs.accept(new_run("late"), uuid4())
    clock = Clock()
    sweeper = Sweeper(store, Lease(store, lease_s=0.0, clock=clock))
    assert await sweeper.sweep() == 1
    assert await runs.get("other", "late") is None
    run = await runs.get("acme", "late")
    assert run is not None
    assert run.status == pb.RUN_STATUS_FAILED
    await runs.close()


async def test_many_runs_end_and_two_who_end_them_share_the_work(store: Store) -> None:
    runs = RunStore(store)
    await asyncio.gather(*(runs.accept(new_run(), uuid4()) for _ in range(1_200)))
    sweepers = [Sweeper(store, Lease(store, lease_s=0.0)) for _ in range(2)]
    ended = await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    assert sum(ended) == 1_200
    assert not await store.pool.fetchval("SELECT count(*) FROM runs WHERE status = 1")
    await runs.close()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder outside pytest's own, which let only their owner pass."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-runs-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_store_that_is_away_for_longer_than_a_lease_ends_no_run_of_a_process_that_lives(
    data_dir: Path,
) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    try:
        async with (
            replica(dsn, lease_s=LEASE_S, sweeps=True) as one,
            replica(dsn, lease_s=LEASE_S, sweeps=True) as two,
        ):
            held, begun_away = Held(), Held()
            await one.runs.begin(new_run("through"), held, limit_s=100)
            await held.began.wait()
            await server.stop()
            # What cannot be recorded is not done in secret: the caller may ask again.
            with pytest.raises(Unavailable) as refused:
                await two.runs.answer(new_run("away"), begun_away, limit_s=100)
            assert refused.value.retry_after_s is not None
            held.go.set()
            call = asyncio.ensure_future(one.runs.wait("acme", "through"))
            await asyncio.sleep(2 * LEASE_S)
            assert not call.done()
            await server.start()
            assert (await call).answer(AskResponse).answer == "because"
            assert (await two.runs.wait("acme", "through")).answer(AskResponse).answer == "because"
            # The same again is a run like any other.
            while len(two.runs):
                await asyncio.sleep(0.01)
            again = await two.runs.answer(new_run("away"), at_once, limit_s=100)
            assert again.answer(AskResponse).answer == "because"
            assert not begun_away.began.is_set()
    finally:
        await server.stop()


async def test_a_run_whose_record_failed_is_not_done_further(one: Replica) -> None:
    held = Held()
    await one.database.pool.execute("ALTER TABLE runs RENAME TO away")
    with pytest.raises(asyncpg.UndefinedTableError):
        await one.runs.answer(new_run(), held, limit_s=100)
    assert held.cancelled.is_set() == held.began.is_set()
    await one.database.pool.execute("ALTER TABLE away RENAME TO runs")
    while len(one.runs):
        await asyncio.sleep(0.01)


async def test_an_end_that_was_recorded_though_the_answer_was_lost_counts_once(one: Replica) -> None:
    """The connection breaks after the commit: what is sent again changes nothing and is known as its own."""
    runs, held = one.runs, Held()
    await runs.begin(new_run("x"), held, limit_s=100)
    await held.began.wait()
    real, lost = one.store.end, []

    async def breaks(ended):  # type: ignore[no-untyped-def]
        won = await real(ended)
        if not lost:
            lost.append(won)
            raise Unavailable("the store did not answer")
        return won

    one.store.end = breaks  # type: ignore[method-assign]
    held.go.set()
    assert (await runs.wait("acme", "x")).answer(AskResponse).answer == "because"
    assert lost == [True]
    assert isinstance(runs, LiveRuns)
