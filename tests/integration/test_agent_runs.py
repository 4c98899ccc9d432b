"""Runs on real PostgreSQL: accepted once, ended once, found again."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.task_pb2 import AskResponse
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_ORDER_UNKNOWN

from services.agents.runs import Answer, LiveRun, Retention, RunFilter
from services.mesh import deadline
from services.mesh.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
)
from tests.integration.agent_runs_rig import GUARD_S, Held, Replica, answer, at_once, new_run, replica


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    async with asyncio.timeout(GUARD_S):
        yield


@pytest.fixture
async def one(database: str) -> AsyncIterator[Replica]:
    async with replica(database) as made:
        yield made


@pytest.fixture
async def two(database: str) -> AsyncIterator[Replica]:
    """Another process on the same store."""
    async with replica(database) as made:
        yield made


class Counted:
    """Work that tells how often it was done."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, live: LiveRun) -> Answer:
        self.times += 1
        await asyncio.sleep(0)
        return answer(live, f"answer {self.times}")


async def recorded(where: Replica, run_id: str, tenant: str = "acme") -> pb.Run:
    run = await where.store.get(tenant, run_id)
    assert run is not None
    return run


def step(number: int, kind: pb.StepKind.ValueType = pb.STEP_KIND_TOOL, **said: object) -> pb.RunStep:
    made = pb.RunStep(step=number, kind=kind, name="get_order", duration_ms=1.5)
    for name, value in said.items():
        getattr(made, name).update(value)
    return made


async def test_an_answer_that_was_given_is_found_again(one: Replica) -> None:
    new = new_run()
    end = await one.runs.answer(new, at_once, limit_s=10)
    assert end.answer(AskResponse) == AskResponse(run_id=new.run_id, answer="because")
    run = await recorded(one, new.run_id)
    assert (run.status, run.answer, run.agent_version) == (pb.RUN_STATUS_SUCCEEDED, "because", 3)
    assert run.input["question"] == "why?"
    assert run.ended_at.ToDatetime() >= run.created_at.ToDatetime()


async def test_all_that_a_run_did_is_kept(one: Replica) -> None:
    output = Struct()
    output.update({"minutes": 12})
    steps = [
        pb.RunStep(
            step=1, kind=pb.STEP_KIND_MODEL, name="m", input_tokens=10, output_tokens=2, cost_usd=0.25
        ),
        step(2, arguments={"order_id": "order_1"}, result={"status": "placed"}),
    ]

    async def work(live: LiveRun) -> Answer:
        live.steps.extend(steps)
        live.usage.model, live.usage.model_calls = "m", 1
        degradation = Degradation(source="agents.engine", reason="no model is configured")
        return Answer(AskResponse(answer="x"), "x", output, degradation)

    new = new_run(workflow_id="flow")
    await one.runs.answer(new, work, limit_s=10)
    run = await recorded(one, new.run_id)
    assert list(run.steps) == steps
    assert run.output == output
    assert run.degradation.source == "agents.engine"
    assert (run.usage.model, run.usage.model_calls, run.workflow_id) == ("m", 1, "flow")


async def test_the_same_run_again_is_not_done_again(one: Replica, two: Replica) -> None:
    work = Counted()
    for where in (one, one, two):
        end = await where.runs.answer(new_run("same"), work, limit_s=10)
        assert end.answer(AskResponse).answer == "answer 1"
    assert work.times == 1


async def test_a_run_asked_for_twice_at_once_is_done_once_by_one_process(one: Replica, two: Replica) -> None:
    work = Counted()
    ends = await asyncio.gather(
        *(where.runs.answer(new_run("same"), work, limit_s=10) for where in (one, two, one, two))
    )
    assert {end.answer(AskResponse).answer for end in ends} == {"answer 1"}
    assert work.times == 1


async def test_the_same_run_id_for_something_else_is_refused(one: Replica, two: Replica) -> None:
    held = Held()
    await one.runs.begin(new_run("same"), held, limit_s=10)
    for where in (one, two):
        with pytest.raises(AlreadyExists) as refused:
            await where.runs.answer(new_run("same", "who?"), at_once, limit_s=10)
        assert refused.value.reason_name == "CONFLICTING_CONTENT"
        assert refused.value.metadata == {"id": "same"}
    held.go.set()
    await one.runs.wait("acme", "same")
    with pytest.raises(AlreadyExists):
        await one.runs.answer(new_run("same", "who?"), at_once, limit_s=10)


async def test_tenants_may_use_the_same_run_id_and_see_only_their_own(one: Replica) -> None:
    for tenant in ("acme", "other"):
        await one.runs.answer(
            new_run("same", tenant, tenant),
            lambda live: _words(live, live.new.tenant),
            limit_s=10,
        )
    for tenant in ("acme", "other"):
        assert (await recorded(one, "same", tenant)).answer == tenant
    assert await one.store.get("third", "same") is None
    for ask in (one.runs.wait("third", "same"), one.runs.cancel("third", "same")):
        with pytest.raises(NotFound) as unknown:
            await ask
        told = (unknown.value.reason_name, unknown.value.message)
        assert told == ("RUN_UNKNOWN", "run same is not known")


async def _words(live: LiveRun, text: str) -> Answer:
    return answer(live, text)


async def test_an_error_is_the_runs_end_for_everybody_who_asks(one: Replica, two: Replica) -> None:
    async def work(live: LiveRun) -> Answer:
        live.steps.append(step(1))
        raise NotFound("no such order", reason=ERROR_REASON_ORDER_UNKNOWN, metadata={"order_id": "o"})

    for where in (one, two):
        end = await where.runs.answer(new_run("same"), work, limit_s=10)
        with pytest.raises(NotFound) as told:
            end.answer(AskResponse)
        assert told.value.reason_name == "ORDER_UNKNOWN"
    run = await recorded(one, "same")
    assert run.status == pb.RUN_STATUS_FAILED
    assert run.error.message == "no such order"
    assert len(run.steps) == 1


async def test_nothing_of_a_fault_of_ours_is_told_or_kept(
    one: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(live: LiveRun) -> Answer:
        raise ZeroDivisionError("postgresql://user:secret@host")

    end = await one.runs.answer(new_run("same"), work, limit_s=10)
    with pytest.raises(Internal):
        end.answer(AskResponse)
    assert "secret" not in str(await recorded(one, "same"))
    assert "run same failed" in caplog.text


async def test_a_run_ends_when_its_time_is_over(one: Replica) -> None:
    end = await one.runs.answer(new_run("slow"), Held(), limit_s=0.01)
    with pytest.raises(DeadlineExceeded):
        end.answer(AskResponse)
    run = await recorded(one, "slow")
    assert run.status == pb.RUN_STATUS_FAILED
    assert run.HasField("ended_at")


async def test_work_has_the_runs_time_and_not_the_callers(one: Replica) -> None:
    left: list[float | None] = []

    async def work(live: LiveRun) -> Answer:
        left.append(deadline.remaining())
        return answer(live)

    with deadline.budget(5):
        await one.runs.answer(new_run(), work, limit_s=1_000)
    assert left[0] is not None
    assert 900 < left[0] <= 1_000


async def test_a_caller_waits_no_longer_than_its_own_time_and_finds_the_answer_later(
    one: Replica, two: Replica
) -> None:
    held = Held()
    await one.runs.begin(new_run("slow"), held, limit_s=100)
    for where in (one, two):
        with pytest.raises(DeadlineExceeded), deadline.budget(0.02):
            await where.runs.wait("acme", "slow")
    held.go.set()
    for where in (one, two):
        assert (await where.runs.wait("acme", "slow")).answer(AskResponse).answer == "because"


async def test_a_caller_that_goes_away_ends_its_run(one: Replica) -> None:
    held = Held()
    call = asyncio.ensure_future(one.runs.answer(new_run("gone"), held, limit_s=100))
    await held.began.wait()
    call.cancel()
    await held.cancelled.wait()
    with pytest.raises(Cancelled) as told:
        (await one.runs.wait("acme", "gone")).answer(AskResponse)
    assert told.value.reason_name == "RUN_CANCELLED"
    assert (await recorded(one, "gone")).status == pb.RUN_STATUS_CANCELLED


async def test_a_run_for_which_another_waits_goes_on(one: Replica) -> None:
    held = Held()
    first = asyncio.ensure_future(one.runs.answer(new_run("both"), held, limit_s=100))
    await held.began.wait()
    second = asyncio.ensure_future(one.runs.answer(new_run("both"), at_once, limit_s=100))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    held.go.set()
    assert (await second).answer(AskResponse).answer == "because"
    assert not held.cancelled.is_set()


@pytest.mark.parametrize("turns", range(8))
async def test_a_caller_may_go_at_any_moment(one: Replica, turns: int) -> None:
    for run_id in (f"chosen-{turns}", ""):
        new = new_run(run_id)
        call = asyncio.ensure_future(one.runs.answer(new, at_once, limit_s=100))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        while len(one.runs):
            await asyncio.sleep(0.001)
        run = await one.store.get("acme", new.run_id)
        assert run is None or run.status in (pb.RUN_STATUS_CANCELLED, pb.RUN_STATUS_SUCCEEDED)


async def test_a_run_is_cancelled_once_and_what_it_did_is_kept(one: Replica) -> None:
    held = Held()

    async def work(live: LiveRun) -> Answer:
        live.steps.append(step(1))
        live.usage.tool_calls = 1
        return await held(live)

    await one.runs.begin(new_run("x"), work, limit_s=100)
    await held.began.wait()
    run, duplicate = await one.runs.cancel("acme", "x")
    assert (run.status, duplicate) == (pb.RUN_STATUS_CANCELLED, False)
    assert (len(run.steps), run.usage.tool_calls) == (1, 1)
    assert held.cancelled.is_set()
    again, duplicate = await one.runs.cancel("acme", "x")
    assert (again, duplicate) == (run, True)


async def test_a_run_that_has_ended_stays_as_it_is(one: Replica, two: Replica) -> None:
    await one.runs.answer(new_run("x"), at_once, limit_s=10)
    for where in (one, two):
        run, duplicate = await where.runs.cancel("acme", "x")
        assert (run.status, run.answer, duplicate) == (pb.RUN_STATUS_SUCCEEDED, "because", True)


async def test_a_run_is_cancelled_from_another_process(one: Replica, two: Replica) -> None:
    held = Held()

    async def work(live: LiveRun) -> Answer:
        live.steps.append(step(1))
        return await held(live)

    await one.runs.begin(new_run("x"), work, limit_s=100)
    await held.began.wait()
    run, duplicate = await two.runs.cancel("acme", "x")
    assert (run.status, duplicate) == (pb.RUN_STATUS_CANCELLED, False)
    # It has ended for everybody; its own process hears of it, stops the work and adds what was done.
    await held.cancelled.wait()
    while len(one.runs):
        await asyncio.sleep(0.001)
    run, duplicate = await two.runs.cancel("acme", "x")
    assert (run.status, len(run.steps), duplicate) == (pb.RUN_STATUS_CANCELLED, 1, True)
    assert not await one.store.cancelled_elsewhere(one.lease.process_id)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_of_an_end_and_a_cancel_exactly_one_wins(one: Replica, two: Replica, elsewhere: bool) -> None:
    canceller = two if elsewhere else one
    for n in range(60):
        held = Held()
        new = new_run(f"race-{n}")
        await one.runs.begin(new, held, limit_s=100)
        await held.began.wait()

        async def let_go(held: Held = held, n: int = n) -> None:
            for _ in range(n % 12):
                await asyncio.sleep(0)
            held.go.set()

        _, (run, duplicate), end = await asyncio.gather(
            let_go(), canceller.runs.cancel("acme", new.run_id), one.runs.wait("acme", new.run_id)
        )
        kept = await recorded(two, new.run_id)
        assert kept.status == run.status == end.status
        assert duplicate == (kept.status == pb.RUN_STATUS_SUCCEEDED)
        if kept.status == pb.RUN_STATUS_SUCCEEDED:
            assert end.answer(AskResponse).answer == "because"
        else:
            assert kept.status == pb.RUN_STATUS_CANCELLED
            assert not kept.answer


async def test_work_that_does_not_heed_a_cancel_gives_no_answer(one: Replica) -> None:
    began = asyncio.Event()

    async def stubborn(live: LiveRun) -> Answer:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert live.cancelled
        return answer(live)

    await one.runs.begin(new_run("x"), stubborn, limit_s=100)
    await began.wait()
    run, duplicate = await one.runs.cancel("acme", "x")
    assert (run.status, run.answer, duplicate) == (pb.RUN_STATUS_CANCELLED, "", False)


async def test_what_cannot_be_kept_ends_the_run_all_the_same(
    one: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    await one.database.pool.execute("ALTER TABLE runs ADD CHECK (answer NOT LIKE '%poison%')")
    end = await one.runs.answer(new_run("x"), lambda live: _words(live, "poison"), limit_s=10)
    with pytest.raises(Internal):
        end.answer(AskResponse)
    assert (await recorded(one, "x")).status == pb.RUN_STATUS_FAILED
    assert "cannot be recorded" in caplog.text


async def test_text_that_postgresql_does_not_take_is_kept_without_it(one: Replica) -> None:
    end = await one.runs.answer(new_run("x"), lambda live: _words(live, "a\0b"), limit_s=10)
    assert end.answer(AskResponse).answer == "a\0b"
    assert (await recorded(one, "x")).answer == "ab"


async def test_a_run_id_that_cannot_be_kept_is_refused(one: Replica) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await one.runs.answer(new_run("a\0b"), at_once, limit_s=10)
    assert [each.field for each in refused.value.violations] == ["run_id"]
    assert len(one.runs) == 0


async def test_runs_are_listed_newest_first_by_page_and_filter(one: Replica) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    for n in range(9):
        agent = {"agent_id": f"agent-{n % 2}", "agent_name": f"name-{n % 2}"}
        # Several were accepted at the same moment.
        new = new_run(f"run-{n}", created_at=start + timedelta(hours=n // 2), **agent)
        if n % 3:
            await one.runs.answer(new, at_once, limit_s=10)
        else:
            await one.runs.answer(new, Held(), limit_s=0)
    await one.runs.answer(new_run("not-ours", tenant="other"), at_once, limit_s=10)

    async def listed(wanted: RunFilter, size: int = 4) -> list[str]:
        found: list[str] = []
        place = None
        while page := await one.store.page("acme", wanted, size, place):
            found += [run.run_id for _, run in page]
            assert all(not run.steps for _, run in page)
            place = page[-1][0]
        return found

    everything = await listed(RunFilter())
    assert sorted(everything) == [f"run-{n}" for n in range(9)]
    hours = [int(name[4:]) // 2 for name in everything]
    assert hours == sorted(hours, reverse=True)
    assert everything == await listed(RunFilter(), size=1)
    odd = {"run-1", "run-3", "run-5", "run-7"}
    assert set(await listed(RunFilter(agent="agent-1"))) == odd
    assert set(await listed(RunFilter(agent="name-1"))) == odd
    assert set(await listed(RunFilter(statuses=[pb.RUN_STATUS_FAILED]))) == {"run-0", "run-3", "run-6"}
    span = RunFilter(start=start + timedelta(hours=1), end=start + timedelta(hours=2))
    assert set(await listed(span)) == {"run-2", "run-3"}


async def test_runs_that_were_kept_long_enough_go_unless_they_are_under_way(one: Replica) -> None:
    old, young = datetime.now(UTC) - timedelta(days=31), datetime.now(UTC) - timedelta(days=29)
    held = Held()
    await one.runs.begin(new_run("old-under-way", created_at=old), held, limit_s=100)
    await one.runs.answer(new_run("old", created_at=old), at_once, limit_s=10)
    await one.runs.answer(new_run("young", created_at=young), at_once, limit_s=10)
    assert await Retention(one.store, 30).discard() == 1
    assert [run.run_id for _, run in await one.store.page("acme", RunFilter(), 10)] == [
        "young",
        "old-under-way",
    ]
    held.go.set()
    await one.runs.wait("acme", "old-under-way")


async def test_nothing_of_a_run_is_left_in_the_process(one: Replica) -> None:
    before = len(asyncio.all_tasks())

    async def call(n: int) -> None:
        held = Held()
        new = new_run(f"run-{n}" if n % 2 else "")
        if n % 10:
            held.go.set()
            await one.runs.answer(new, held, limit_s=100)
            return
        await one.runs.begin(new, held, limit_s=100)
        await held.began.wait()
        run, _ = await one.runs.cancel("acme", new.run_id)
        assert run.status == pb.RUN_STATUS_CANCELLED

    for first in range(0, 2_000, 100):
        await asyncio.gather(*(call(n) for n in range(first, first + 100)))
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    assert (len(one.runs), one.runs.remembered) == (0, 0)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, LiveRun)]
    counts = await one.database.pool.fetch("SELECT status, count(*) FROM runs GROUP BY status")
    assert dict(map(tuple, counts)) == {pb.RUN_STATUS_SUCCEEDED: 1_800, pb.RUN_STATUS_CANCELLED: 200}


async def test_every_error_has_a_status_of_its_own_code(one: Replica) -> None:
    async def work(live: LiveRun) -> Answer:
        raise AlreadyExists("twice")

    end = await one.runs.answer(new_run(), work, limit_s=10)
    with pytest.raises(MeshError) as told:
        end.answer(AskResponse)
    assert type(told.value) is AlreadyExists
