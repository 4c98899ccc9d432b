"""Group commit on real PostgreSQL: each caller its own answer or its own error, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mesh import deadline, logs, trace
from services.mesh.errors import DeadlineExceeded, Unavailable
from services.mesh.store import EmbeddedPostgres, GroupCommit, Store, connect
from tests.examples import examples

# Refused at once are numbers below zero, at the commit numbers that come twice.
_TABLE = """
CREATE TABLE entries (n int NOT NULL CHECK (n >= 0), UNIQUE (n) DEFERRABLE INITIALLY DEFERRED);
"""
_GATE = 7
_GUARD_S = 120.0


class Book:
    """Takes numbers in and answers with their doubles. A transaction begins by passing the gate."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.groups: list[list[int]] = []
        self.contexts: list[tuple[float | None, str, str]] = []
        self.began = asyncio.Event()

    async def write(self, connection: asyncpg.Connection, items: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(items))
        self.contexts.append((deadline.remaining(), logs.request_id.get(), trace.current_trace_id()))
        self.began.set()
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _GATE)
        await connection.execute("INSERT INTO entries SELECT * FROM unnest($1::int[])", items)
        return [2 * item for item in items]

    @contextlib.asynccontextmanager
    async def closed(self) -> AsyncIterator[asyncpg.Connection]:
        """Nothing is written until the block ends."""
        async with self.store.pool.acquire() as connection:
            await connection.execute("SELECT pg_advisory_lock($1)", _GATE)
            try:
                yield connection
            finally:
                await connection.execute("SELECT pg_advisory_unlock_all()")

    async def kept(self) -> list[int]:
        return [row["n"] for row in await self.store.pool.fetch("SELECT n FROM entries ORDER BY n")]


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    async with asyncio.timeout(_GUARD_S):
        yield


def migrations(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "0001_entries.sql").write_text(_TABLE)
    return folder


@pytest.fixture
async def book(database: str, tmp_path: Path) -> AsyncIterator[Book]:
    store = await Store.open(database, schema="book", migrations=migrations(tmp_path / "migrations"))
    yield Book(store)
    await store.close()


async def queued(group: GroupCommit[int, int], *callers: Sequence[int]) -> list[asyncio.Task[Sequence[int]]]:
    """Tasks that have all joined the queue."""
    tasks = [asyncio.create_task(group.add(items)) for items in callers]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture(scope="module")
def migrated(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return module_database, migrations(tmp_path_factory.mktemp("group") / "migrations")


@settings(max_examples=examples(30), deadline=None)
@given(
    callers=st.lists(st.lists(st.integers(-1, 30), min_size=1, max_size=4), min_size=1, max_size=10),
    gone=st.sets(st.integers(0, 9)),
    at_most=st.integers(1, 8),
)
def test_each_caller_has_its_own_answer_and_what_is_kept_is_what_was_answered(
    migrated: tuple[str, Path], callers: list[list[int]], gone: set[int], at_most: int
) -> None:
    async def run() -> None:
        store = await Store.open(migrated[0], schema="book", migrations=migrated[1])
        await store.pool.execute("TRUNCATE entries")
        book = Book(store)
        group = GroupCommit(store.transaction, book.write, max_items=at_most)
        tasks = await queued(group, *callers)
        for place in gone & set(range(len(tasks))):
            tasks[place].cancel()
        async with asyncio.timeout(_GUARD_S):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            await group.close()
        expected: list[int] = []
        for place, (items, answer) in enumerate(zip(callers, answers, strict=True)):
            if place in gone:
                assert isinstance(answer, asyncio.CancelledError)
            elif min(items) < 0:
                assert isinstance(answer, asyncpg.CheckViolationError)
            elif len(set(items)) < len(items) or set(items) & set(expected):
                assert isinstance(answer, asyncpg.UniqueViolationError)
            else:
                assert answer == [2 * item for item in items]
                expected += items
        assert await book.kept() == sorted(expected)
        assert all(len(one) <= at_most or one in callers for one in book.groups)
        await store.close()

    asyncio.run(run())


async def test_what_comes_while_a_transaction_runs_goes_together_into_the_next(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write, max_items=3)
    async with book.closed():
        tasks = await queued(group, [1])
        await book.began.wait()
        tasks += await queued(group, [2], [3], [4], [5])
    assert await asyncio.gather(*tasks) == [[2], [4], [6], [8], [10]]
    assert book.groups == [[1], [2, 3, 4], [5]]


async def test_the_items_of_one_caller_are_never_split(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write, max_items=2)
    assert list(await group.add([1, 2, 3, 4, 5])) == [2, 4, 6, 8, 10]
    assert book.groups == [[1, 2, 3, 4, 5]]
    assert not await group.add([])


async def test_only_the_guilty_fail_and_few_transactions_find_them(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)
    tasks = await queued(group, *([n] for n in range(64)), [-1])
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[:64] == [[2 * n] for n in range(64)]
    assert isinstance(answers[64], asyncpg.CheckViolationError)
    assert await book.kept() == list(range(64))
    assert len(book.groups) <= 15


async def test_who_is_refused_only_at_the_commit_was_told_nothing_before(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)
    first, second = await queued(group, [1, 2], [2, 3])
    assert await first == [2, 4]
    with pytest.raises(asyncpg.UniqueViolationError):
        await second
    assert await book.kept() == [1, 2]


async def test_nobody_is_answered_before_the_commit(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)
    async with book.closed() as connection:
        [task] = await queued(group, [1])
        await book.began.wait()
        # The server itself says that the transaction waits.
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0)
        assert not task.done()
        assert await connection.fetchval("SELECT count(*) FROM entries") == 0
    assert await task == [2]


async def test_nothing_of_a_callers_context_reaches_the_work_of_all(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)

    async def call(item: int) -> Sequence[int]:
        logs.request_id.set(f"request-{item}")
        trace.set_current(trace.new_root())
        with deadline.budget(_GUARD_S):
            return await group.add([item])

    assert await asyncio.gather(*(call(n) for n in range(3))) == [[0], [2], [4]]
    assert set(book.contexts) == {(None, "", "")}


async def test_a_caller_who_goes_before_its_transaction_has_written_nothing(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)
    async with book.closed():
        tasks = await queued(group, [1])
        await book.began.wait()
        gone, stays = await queued(group, [2], [3])
        gone.cancel()
        await asyncio.wait([gone])
    assert await asyncio.gather(*tasks, stays) == [[2], [6]]
    assert await book.kept() == [1, 3]


async def test_a_caller_who_goes_during_its_transaction_takes_nobody_along(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)
    async with book.closed():
        gone, stays = await queued(group, [1], [2])
        await book.began.wait()
        gone.cancel()
        await asyncio.wait([gone])
    assert await stays == [4]
    assert await book.kept() == [1, 2]


async def test_the_deadline_of_a_caller_who_waits_holds_for_it_alone(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)

    async def hurried(seconds: float) -> Sequence[int]:
        with deadline.budget(seconds):
            return await group.add([2])

    async with book.closed():
        first, patient = await queued(group, [1], [3])
        await book.began.wait()
        for seconds in (0.01, 0.0):
            with pytest.raises(DeadlineExceeded) as late:
                await hurried(seconds)
            assert late.value.reason_name == "DEADLINE_PASSED"
    assert await asyncio.gather(first, patient) == [[2], [6]]
    assert await book.kept() == [1, 3]


async def test_a_lost_connection_fails_those_in_it_with_a_time_to_come_back(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write)
    async with book.closed() as connection:
        lost = await queued(group, [1], [2])
        await book.began.wait()
        next_ones = await queued(group, [3])
        while not await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted"
        ):
            await asyncio.sleep(0)
        answers = await asyncio.gather(*lost, return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, Unavailable)
        assert answer.reason_name == "STORE_UNAVAILABLE"
        assert answer.retry_after_s is not None
    assert answers[0] is not answers[1]
    assert await asyncio.gather(*next_ones) == [[6]]
    assert await book.kept() == [3]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder outside pytest's own, which let only their owner pass."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-group-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_server_that_stops_and_comes_back_loses_no_answer(tmp_path: Path, data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = await server.start()
    try:
        store = await Store.open(dsn, schema="book", migrations=migrations(tmp_path / "migrations"))
        book = Book(store)
        group = GroupCommit(store.transaction, book.write)
        assert await group.add([1]) == [2]
        blocker = await connect(dsn)
        await blocker.execute("SELECT pg_advisory_lock($1)", _GATE)
        book.began.clear()
        lost = await queued(group, [2], [3])
        await book.began.wait()
        lost += await queued(group, [4])
        await server.stop()
        answers = await asyncio.gather(*lost, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 3
        await blocker.close()
        await server.start()
        assert await group.add([5]) == [10]
        assert await book.kept() == [1, 5]
        await store.close()
    finally:
        await server.stop()


async def test_who_closes_waits_for_all_that_were_queued(book: Book) -> None:
    group = GroupCommit(book.store.transaction, book.write, max_items=1)
    tasks = await queued(group, [1], [2], [3])
    await group.close()
    assert [task.result() for task in tasks] == [[2], [4], [6]]


async def test_as_many_results_as_items_or_nothing_is_written(book: Book) -> None:
    async def short(connection: asyncpg.Connection, items: Sequence[int]) -> Sequence[int]:
        return (await book.write(connection, items))[1:]

    group = GroupCommit(book.store.transaction, short)
    with pytest.raises(RuntimeError, match="1 results for 2 items"):
        await group.add([1, 2])
    assert await book.kept() == []
