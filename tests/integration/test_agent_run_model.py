"""Runs against a model that is a dictionary: whatever two processes do, each run has one end, for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.agent.v1 import run_pb2 as pb

from services.agents.budgets.account import Booking, BudgetKind
from services.agents.budgets.store import spending
from services.agents.runs import Ended, Lease, RunStore, Sweeper, key_of
from services.mesh.errors import AlreadyExists
from services.mesh.store import Store
from tests.examples import examples
from tests.integration.agent_runs_rig import MIGRATIONS, new_run

NAMES = st.sampled_from(["a", "b", "c"])
PROCESSES = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("accept"), NAMES, PROCESSES, st.sampled_from(["why?", "who?"])),
    st.tuples(st.just("end"), NAMES, PROCESSES, st.sampled_from(["because", "therefore"])),
    st.tuples(st.just("cancel"), NAMES, PROCESSES, st.just("")),
    st.tuples(st.just("withdraw"), NAMES, PROCESSES, st.just("")),
    st.tuples(st.just("die"), st.just(""), PROCESSES, st.just("")),
)


@dataclass
class Known:
    """What the model knows of a run."""

    question: str
    process: UUID
    status: pb.RunStatus.ValueType = pb.RUN_STATUS_RUNNING
    answer: str = ""
    won: bool = False
    detailed: bool = False


@dataclass
class Model:
    runs: dict[str, Known] = field(default_factory=dict)
    booked: int = 0

    def end(self, name: str, process: UUID, answer: str) -> bool:
        run = self.runs.get(name)
        if run is None or run.process != process:
            return False
        if run.status == pb.RUN_STATUS_RUNNING:
            run.status, run.answer, run.won = pb.RUN_STATUS_SUCCEEDED, answer, True
        if not run.detailed:
            run.detailed = True
            self.booked += 1
        return run.won

    def stop(self, name: str, status: pb.RunStatus.ValueType) -> bool:
        run = self.runs.get(name)
        if run is None or run.status != pb.RUN_STATUS_RUNNING:
            return False
        run.status = status
        return True


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_the_store_does_what_the_model_does(
    module_database: str, steps: list[tuple[str, str, int, str]]
) -> None:
    async def run() -> None:
        database = await Store.open(module_database, schema="agents", migrations=MIGRATIONS)
        store = RunStore(database)
        try:
            await compared(database, store, steps)
        finally:
            await store.close()
            await database.close()

    asyncio.run(run())


async def compared(database: Store, store: RunStore, steps: list[tuple[str, str, int, str]]) -> None:
    await database.pool.execute("TRUNCATE runs, processes, spending, holds")
    model, processes = Model(), [uuid4(), uuid4()]
    sweeper = Sweeper(database, Lease(database, lease_s=0.0))
    for process in processes:
        await database.pool.execute("INSERT INTO processes VALUES ($1, now() + interval '1 h')", process)
    for what, name, place, text in steps:
        process = processes[place]
        if what == "accept":
            await _accept(store, model, name, process, text)
        elif what == "end":
            ended = Ended(
                name,
                "acme",
                process,
                pb.RUN_STATUS_SUCCEEDED,
                datetime.now(UTC),
                answer=text,
                bookings=[Booking(BudgetKind.AGENT, "acme", "agent-1", "dispatcher", 1, 1)],
            )
            assert await store.end(ended) == model.end(name, process, text)
        elif what == "cancel":
            assert await store.cancel("acme", name, uuid4()) == model.stop(name, pb.RUN_STATUS_CANCELLED)
        elif what == "withdraw":
            one = key_of("acme", name)
            since = await database.pool.fetchval("SELECT created_at FROM runs WHERE id = $1", one)
            await store.withdraw({one: (process, since or datetime.now(UTC))})
            known = model.runs.get(name)
            if known and known.process == process and known.status == pb.RUN_STATUS_RUNNING:
                del model.runs[name]
        else:
            await database.pool.execute("DELETE FROM processes WHERE process_id = $1", process)
            processes[place] = uuid4()
            gone = [n for n, known in model.runs.items() if known.process == process]
            interrupted = sum(model.stop(n, pb.RUN_STATUS_FAILED) for n in gone)
            assert await sweeper.sweep() == interrupted
            await database.pool.execute(
                "INSERT INTO processes VALUES ($1, now() + interval '1 h')", processes[place]
            )
    for name in "abc":
        kept, known = await store.get("acme", name), model.runs.get(name)
        assert (kept is None) == (known is None)
        if kept is not None and known is not None:
            assert (kept.status, kept.answer) == (known.status, known.answer)
            assert kept.HasField("ended_at") == (known.status != pb.RUN_STATUS_RUNNING)
    _, spent = await spending(database, "acme", "")
    assert sum(one.nano_usd for one in spent) == model.booked


async def _accept(store: RunStore, model: Model, name: str, process: UUID, question: str) -> None:
    known = model.runs.get(name)
    try:
        accepted = await store.accept(new_run(name, question), process)
    except AlreadyExists:
        assert known is not None
        assert known.question != question
        return
    assert known is None or known.question == question
    assert accepted.fresh == (known is None)
    if known is None:
        model.runs[name] = Known(question, process)
    else:
        assert accepted.status == known.status
