"""Budgets on real PostgreSQL: never exceeded, whoever spends at the same time, and nothing forgotten."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.agents.budgets.account import NANO, Booking, BudgetKind, Limit
from services.agents.budgets.ledger import Budgets, Spender
from services.agents.budgets.spending import told
from services.agents.budgets.store import spending
from services.agents.runs import Answer, LiveRun
from services.mesh.errors import ResourceExhausted, Unavailable
from services.mesh.store import Store, connect
from tests.examples import examples
from tests.integration.agent_runs_rig import GUARD_S, MIGRATIONS, Held, answer, new_run, replica

KEY = "0123456789ab"
ROOT = Path(__file__).parents[2]
# In the place of a table: whoever asks it loses the connection.
AWAY = "CREATE VIEW spending AS SELECT * FROM away WHERE pg_terminate_backend(pg_backend_pid())"


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    async with asyncio.timeout(GUARD_S):
        yield


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    opened = await Store.open(database, schema="agents", migrations=MIGRATIONS)
    yield opened
    await opened.close()


@pytest.fixture
async def budgets(store: Store) -> AsyncIterator[Budgets]:
    made = Budgets(store, uuid4)
    yield made
    await made.close()


def of_key(limit: Limit) -> Spender:
    return Spender(BudgetKind.KEY, KEY, "shop", limit)


def of_agent(limit: Limit, name: str = "agent-1") -> Spender:
    return Spender(BudgetKind.AGENT, name, "dispatcher", limit)


async def spent(store: Store, day: date | None = None) -> dict[str, tuple[int, int, int, int]]:
    """By name: money and tokens spent, money and tokens set aside."""
    _, found = await spending(store, "acme", KEY, day)
    return {one.name: (one.nano_usd, one.tokens, one.reserved_nano_usd, one.reserved_tokens) for one in found}


async def never_above(store: Store, kind: BudgetKind, limit: int) -> None:
    """From now on a statement that exceeds the limit fails: it is asked at every moment, not when we look."""
    held = "spent_nano_usd + reserved_nano_usd"
    await store.pool.execute(f"ALTER TABLE spending ADD CHECK (kind <> {int(kind)} OR {held} <= {limit})")


async def test_two_processes_with_two_hundred_callers_let_in_as_many_as_the_limit_holds(
    database: str, store: Store
) -> None:
    amount, limit = 70, 5_000
    await never_above(store, BudgetKind.KEY, limit)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.budget_spender",
            database,
            "100",
            str(amount),
            str(limit),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    granted = 0
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
    for process in processes:
        out, _ = await process.communicate()
        assert process.returncode == 0
        granted += json.loads(out)["granted"]
    assert granted == limit // amount
    assert await spent(store) == {
        KEY: (granted * amount, granted, 0, 0),
        "agent-1": (granted * amount, granted, 0, 0),
    }


async def test_callers_who_give_back_make_room_and_no_moment_is_above_the_limit(
    database: str, store: Store
) -> None:
    limit = 1_000
    await never_above(store, BudgetKind.AGENT, limit)
    second = await Store.open(database, schema="agents", migrations=MIGRATIONS)
    both = [Budgets(one, uuid4) for one in (store, second)]
    took = 0

    async def call(n: int) -> None:
        nonlocal took
        account = both[n % 2].account("acme", f"run-{n}", [of_agent(Limit(limit, None))], Limit())
        for _ in range(3):
            try:
                hold = await account.reserve(100, 10)
            except ResourceExhausted:
                await asyncio.sleep(0)
                continue
            await asyncio.sleep(0)
            actual = random.Random(n).randrange(0, 20)
            took += actual
            await account.settle(hold, actual, 1)

    await asyncio.gather(*(call(n) for n in range(200)))
    for one in both:
        await one.settled()
    money, _, reserved, _ = (await spent(store))["agent-1"]
    assert (money, reserved) == (took, 0)
    assert 0 < took <= limit
    for one in both:
        await one.close()
    await second.close()


async def test_processes_that_spend_from_many_budgets_never_wait_in_a_circle(
    database: str, store: Store
) -> None:
    second = await Store.open(database, schema="agents", migrations=MIGRATIONS)
    both = [Budgets(one, uuid4) for one in (store, second)]
    agents = [f"agent-{n}" for n in range(12)]
    took = dict.fromkeys(agents, 0)

    async def call(n: int) -> None:
        chance, budgets = random.Random(n), both[n % 2]
        for _ in range(6):
            agent = chance.choice(agents)
            # No key: its row would be locked first, and whoever waits there waits for all.
            account = budgets.account("acme", "run", [of_agent(Limit(10**9), agent)], Limit())
            hold = await account.reserve(10, 1)
            await asyncio.sleep(0)
            await account.settle(hold, 5, 1)
            took[agent] += 5
            # And as runs do at their end, where there is no limit.
            few = chance.sample(agents, 3)
            budgets.book([Booking(BudgetKind.AGENT, "acme", name, "x", 1, 0) for name in few])
            for name in few:
                took[name] += 1

    await asyncio.gather(*(call(n) for n in range(60)))
    for one in both:
        await one.settled()
        await one.close()
    assert {name: one[0] for name, one in (await spent(store)).items()} == took
    assert not await store.pool.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    await second.close()


async def test_all_budgets_or_none(store: Store, budgets: Budgets) -> None:
    account = budgets.account("acme", "run", [of_key(Limit(1_000, None)), of_agent(Limit(50, None))], Limit())
    with pytest.raises(ResourceExhausted) as refused:
        await account.reserve(51, 1)
    assert refused.value.reason_name == "BUDGET_EXHAUSTED"
    assert refused.value.metadata == {
        "budget": "agent",
        "name": "dispatcher",
        "limit": "max_cost_usd_per_day",
    }
    assert await spent(store) == {KEY: (0, 0, 0, 0), "agent-1": (0, 0, 0, 0)}
    hold = await account.reserve(50, 1)
    assert await spent(store) == {KEY: (0, 0, 50, 1), "agent-1": (0, 0, 50, 1)}
    await account.settle(hold, 20, 1)
    await budgets.settled()
    assert await spent(store) == {KEY: (20, 1, 0, 0), "agent-1": (20, 1, 0, 0)}


@pytest.mark.parametrize(
    ("limit", "name"), [(Limit(None, 9), "max_tokens_per_day"), (Limit(9, None), "max_cost_usd_per_day")]
)
async def test_money_and_tokens_are_limits_of_their_own(budgets: Budgets, limit: Limit, name: str) -> None:
    account = budgets.account("acme", "run", [of_key(limit)], Limit())
    with pytest.raises(ResourceExhausted) as refused:
        await account.reserve(10, 10)
    assert refused.value.metadata == {"budget": "key", "name": "shop", "limit": name}


async def test_another_tenants_agent_of_the_same_identity_has_a_budget_of_its_own(budgets: Budgets) -> None:
    for tenant in ("acme", "other"):
        await budgets.account(tenant, "run", [of_agent(Limit(10, None))], Limit()).reserve(10, 0)


async def test_a_run_stays_within_its_own_limit(budgets: Budgets) -> None:
    account = budgets.account("acme", "run-7", [], Limit(100, 10))
    hold = await account.reserve(60, 5)
    with pytest.raises(ResourceExhausted) as refused:
        await account.reserve(60, 5)
    assert refused.value.metadata == {"budget": "run", "name": "run-7", "limit": "max_cost_usd"}
    await account.settle(hold, 10, 5)
    await account.reserve(60, 5)
    with pytest.raises(ResourceExhausted, match="run"):
        await account.reserve(0, 1)


async def test_where_no_limit_holds_nothing_is_asked_of_the_store(store: Store, budgets: Budgets) -> None:
    await store.close()
    account = budgets.account("acme", "run", [of_key(Limit()), of_agent(Limit())], Limit(None, 100))
    await account.settle(await account.reserve(60, 5), 12, 3)
    assert not account.limits_money
    assert list(account.close()) == [
        Booking(BudgetKind.KEY, "acme", KEY, "shop", 12, 3),
        Booking(BudgetKind.AGENT, "acme", "agent-1", "dispatcher", 12, 3),
    ]


async def test_what_is_spent_without_a_limit_is_booked_once_with_the_end_of_the_run(database: str) -> None:
    async with replica(database) as one:
        budgets = Budgets(one.database, lambda: one.lease.process_id)

        async def work(live: LiveRun) -> Answer:
            account = budgets.account(
                "acme", live.run_id, [of_key(Limit()), of_agent(Limit(900, None))], Limit()
            )
            live.account = account
            await account.settle(await account.reserve(60, 5), 12, 3)
            return answer(live)

        for _ in range(2):
            await one.runs.answer(new_run("same"), work, limit_s=10)
        await budgets.settled()
        assert await spent(one.database) == {KEY: (12, 3, 0, 0), "agent-1": (12, 3, 0, 0)}
        await budgets.close()


async def test_what_a_cancelled_run_had_spent_is_booked(database: str) -> None:
    async with replica(database) as one:
        budgets = Budgets(one.database, lambda: one.lease.process_id)
        held = Held()

        async def work(live: LiveRun) -> Answer:
            live.account = account = budgets.account(
                "acme", live.run_id, [of_key(Limit()), of_agent(Limit(900, None))], Limit()
            )
            await account.settle(await account.reserve(60, 5), 12, 3)
            late = await account.reserve(60, 5)
            try:
                return await held(live)
            finally:  # a call that is settled only after the run has closed its account
                asyncio.get_running_loop().call_soon(
                    lambda: asyncio.ensure_future(account.settle(late, 7, 1))
                )

        new = new_run("gone")
        await one.runs.begin(new, work, limit_s=10)
        await held.began.wait()
        await one.runs.cancel("acme", "gone")
        await asyncio.sleep(0)
        await budgets.settled()
        assert await spent(one.database) == {KEY: (19, 4, 0, 0), "agent-1": (19, 4, 0, 0)}
        await budgets.close()


async def test_a_caller_who_gives_up_while_it_is_set_aside_holds_nothing(
    store: Store, budgets: Budgets
) -> None:
    account = budgets.account("acme", "run", [of_key(Limit(1_000, None))], Limit())
    for turns in range(6):
        task = asyncio.ensure_future(account.reserve(10, 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await account.settle(task.result(), 0, 0)
    await budgets.settled()
    assert (await spent(store)).get(KEY, (0, 0, 0, 0)) == (0, 0, 0, 0)
    assert not await store.pool.fetchval("SELECT count(*) FROM holds")


async def test_a_call_over_midnight_is_booked_on_the_day_on_which_it_was_set_aside(store: Store) -> None:
    days = [date(2026, 3, 1), date(2026, 3, 2)]
    today = days[0]
    budgets = Budgets(store, uuid4, today=lambda: today)
    account = budgets.account("acme", "run", [of_key(Limit(100, None))], Limit())
    hold = await account.reserve(100, 1)
    today = days[1]
    # A new day, a new budget, though the call of the day before still goes on.
    await account.settle(await account.reserve(100, 1), 90, 1)
    await account.settle(hold, 40, 1)
    await budgets.settled()
    assert await spent(store, days[0]) == {KEY: (40, 1, 0, 0)}
    assert await spent(store, days[1]) == {KEY: (90, 1, 0, 0)}
    await budgets.close()


async def test_a_day_is_that_of_the_database_in_utc(database: str, store: Store) -> None:
    connection = await connect(database)
    await connection.execute("SET timezone = 'Pacific/Kiritimati'")
    here = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    await connection.close()
    budgets = Budgets(store, uuid4)
    await budgets.account("acme", "run", [of_key(Limit(100, None))], Limit()).reserve(1, 1)
    assert here <= await store.pool.fetchval("SELECT day FROM spending") <= datetime.now(UTC).date()
    await budgets.close()


async def test_what_a_process_that_has_gone_had_set_aside_is_charged_in_full(
    database: str, store: Store
) -> None:
    async with replica(database, lease_s=0.5) as one:
        gone = Budgets(store, uuid4)
        alive = Budgets(store, lambda: one.lease.process_id)
        both = [of_key(Limit(1_000, None)), of_agent(Limit(1_000, None))]
        lost = await gone.account("acme", "run-1", both, Limit()).reserve(100, 10)
        kept = await alive.account("acme", "run-2", both, Limit()).reserve(10, 1)
        assert await alive.charge(500) == 1
        assert await alive.charge(500) == 0
        assert await spent(store) == {KEY: (100, 10, 10, 1), "agent-1": (100, 10, 10, 1)}
        # Whoever was taken for dead and comes back to settle changes nothing any more.
        assert lost.hold_id is not None
        assert kept.hold_id is not None
        gone.settle(lost.hold_id, 1, 1)
        alive.settle(kept.hold_id, 1, 1)
        await gone.settled()
        await alive.settled()
        assert await spent(store) == {KEY: (101, 11, 0, 0), "agent-1": (101, 11, 0, 0)}
        await gone.close()
        await alive.close()


async def test_a_call_is_settled_though_the_store_was_away(store: Store, budgets: Budgets) -> None:
    account = budgets.account("acme", "run", [of_key(Limit(100, None))], Limit())
    hold = await account.reserve(60, 5)
    await store.pool.execute("ALTER TABLE spending RENAME TO away")
    await store.pool.execute(AWAY)
    await account.settle(hold, 12, 3)
    with pytest.raises(Unavailable):
        await account.reserve(1, 1)
    await store.pool.execute("DROP VIEW spending")
    await store.pool.execute("ALTER TABLE away RENAME TO spending")
    await budgets.settled()
    assert await spent(store) == {KEY: (12, 3, 0, 0)}


async def test_what_cannot_be_booked_keeps_nothing_else_from_it(
    store: Store, budgets: Budgets, caplog: pytest.LogCaptureFixture
) -> None:
    account = budgets.account("acme", "run", [of_key(Limit(10_000, None))], Limit())
    holds = [await account.reserve(10, 1) for _ in range(5)]
    for n, hold in enumerate(holds):
        await account.settle(hold, 2**80 if n == 2 else 10, 1)
    await budgets.settled()
    assert await spent(store) == {KEY: (40, 4, 10, 1)}
    assert caplog.text.count("cannot be booked") == 1
    await account.reserve(10, 1)


async def test_a_long_time_without_the_store_is_one_task_and_no_more(store: Store, budgets: Budgets) -> None:
    account = budgets.account("acme", "run", [of_key(Limit(10_000, None))], Limit())
    before = len(asyncio.all_tasks())
    await store.pool.execute("ALTER TABLE spending RENAME TO away")
    await store.pool.execute(AWAY)
    for _ in range(50):
        with pytest.raises(Unavailable):
            await account.reserve(10, 1)
    async with asyncio.timeout(60):
        while len(asyncio.all_tasks()) > before + 2:  # some end with their statement
            await asyncio.sleep(0.01)
    await store.pool.execute("DROP VIEW spending")
    await store.pool.execute("ALTER TABLE away RENAME TO spending")
    await budgets.settled()
    assert KEY not in await spent(store) or (await spent(store))[KEY] == (0, 0, 0, 0)


@settings(max_examples=examples(25), deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(0, 40)), max_size=30),
    key_limit=st.integers(0, 200),
    agent_limit=st.integers(0, 120),
)
def test_the_store_agrees_with_a_model_that_adds_up(
    module_database: str, calls: list[tuple[str, int, int]], key_limit: int, agent_limit: int
) -> None:
    async def run() -> None:
        store = await Store.open(module_database, schema="agents", migrations=MIGRATIONS)
        await store.pool.execute("TRUNCATE spending, holds")
        budgets = Budgets(store, uuid4)
        used: dict[str, int] = {KEY: 0, "a": 0, "b": 0}
        for agent, most, took in calls:
            account = budgets.account(
                "acme",
                "run",
                [of_key(Limit(key_limit, None)), of_agent(Limit(agent_limit, None), agent)],
                Limit(),
            )
            fits = used[KEY] + most <= key_limit and used[agent] + most <= agent_limit
            try:
                hold = await account.reserve(most, 0)
            except ResourceExhausted:
                assert not fits
                continue
            assert fits
            took = min(took, most)
            await account.settle(hold, took, 0)
            used[KEY] += took
            used[agent] += took
            await budgets.settled()
        found = await spent(store)
        assert {name: found.get(name, (0, 0, 0, 0))[0] for name in used} == used
        assert all(one[2:] == (0, 0) for one in found.values())
        await budgets.close()
        await store.close()

    asyncio.run(run())


async def test_spending_is_told_for_the_key_first_and_then_by_the_names_of_agents(
    store: Store, budgets: Budgets
) -> None:
    a_dollar = Limit(NANO, None)
    account = budgets.account("acme", "run", [of_key(a_dollar), of_agent(Limit(None, 500))], Limit())
    await account.settle(await account.reserve(NANO // 2, 100), NANO // 4, 40)
    await account.reserve(NANO // 2, 100)
    await budgets.settled()
    day, found = await spending(store, "acme", KEY)
    agents = {
        "agent-1": ("dispatcher", Limit(None, 500)),
        "agent-2": ("all-new", a_dollar),
        "x": ("x", Limit()),
    }
    response = told(day, found, KEY, "shop", a_dollar, agents)
    assert response.day.ToDatetime().date() == day
    key, new, dispatcher = response.spending
    assert (key.kind, key.name, key.cost_usd, key.reserved_usd, key.limit_usd) == (
        "key",
        "shop",
        0.25,
        0.5,
        1.0,
    )
    assert not key.HasField("limit_tokens")
    assert (new.kind, new.name, new.cost_usd, new.limit_usd) == ("agent", "all-new", 0.0, 1.0)
    assert (dispatcher.name, dispatcher.tokens, dispatcher.reserved_tokens) == ("dispatcher", 40, 100)
    assert dispatcher.limit_tokens == 500


async def test_no_budget_has_less_than_nothing_set_aside(store: Store) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await store.pool.execute(
            "INSERT INTO spending (day, tenant, kind, name, label, reserved_tokens) "
            "VALUES (now(), 'acme', 1, 'k', 'k', -1)"
        )
