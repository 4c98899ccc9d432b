"""Group commit: each caller gets its own results, one commit runs at a time, no caller disturbs another."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.feedback.committer import Committer


class Store:
    """Doubles numbers; a commit ends when the test says so. A negative number breaks its commit."""

    def __init__(self, *, open_: bool = True) -> None:
        self.commits: list[list[int]] = []
        self.running = 0
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        if open_:
            self.gate.set()

    async def commit(self, items: Sequence[int]) -> Sequence[int]:
        self.running += 1
        assert self.running == 1, "one commit at a time"
        self.commits.append(list(items))
        self.began.set()
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if min(items) < 0:
                raise ValueError("broken")
            return [2 * item for item in items]
        finally:
            self.running -= 1


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4), min_size=1, max_size=8))
def test_each_caller_gets_the_results_of_its_own_items_in_their_order(callers: list[list[int]]) -> None:
    async def run() -> None:
        store = Store()
        committer = Committer(store.commit, max_items=6)
        results = await asyncio.gather(*(committer.add(items) for items in callers))
        assert [list(one) for one in results] == [[2 * item for item in items] for items in callers]
        assert [item for one in store.commits for item in one] == [
            item for items in callers for item in items
        ]
        assert all(len(one) <= 6 for one in store.commits)

    asyncio.run(run())


async def test_what_comes_while_a_commit_runs_goes_together_into_the_next() -> None:
    store = Store(open_=False)
    committer = Committer(store.commit)
    first = asyncio.create_task(committer.add([1]))
    await store.began.wait()
    rest = [asyncio.create_task(committer.add([n])) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(first, *rest)
    assert store.commits == [[1], [2, 3, 4]]


async def test_the_items_of_one_caller_are_never_split() -> None:
    store = Store()
    committer = Committer(store.commit, max_items=2)
    assert list(await committer.add([1, 2, 3, 4, 5])) == [2, 4, 6, 8, 10]
    assert store.commits == [[1, 2, 3, 4, 5]]


async def test_all_in_a_broken_commit_are_told_and_the_next_goes_on() -> None:
    store = Store(open_=False)
    committer = Committer(store.commit)
    first = asyncio.create_task(committer.add([0]))
    await store.began.wait()
    broken = [asyncio.create_task(committer.add([n])) for n in (1, -1)]
    await asyncio.sleep(0)
    store.gate.set()
    assert list(await first) == [0]
    found = await asyncio.gather(*broken, return_exceptions=True)
    assert [str(one) for one in found] == ["broken", "broken"]
    assert list(await committer.add([7])) == [14]


async def test_a_caller_that_gave_up_in_the_queue_is_not_written() -> None:
    store = Store(open_=False)
    committer = Committer(store.commit)
    first = asyncio.create_task(committer.add([1]))
    await store.began.wait()
    gone, stays = (asyncio.create_task(committer.add([n])) for n in (2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    store.gate.set()
    assert list(await stays) == [6]
    assert list(await first) == [2]
    assert store.commits == [[1], [3]]


async def test_a_caller_that_gives_up_during_its_commit_disturbs_nobody() -> None:
    store = Store(open_=False)
    committer = Committer(store.commit)
    both = [asyncio.create_task(committer.add([n])) for n in (1, 2)]
    await store.began.wait()
    both[0].cancel()
    store.gate.set()
    assert list(await both[1]) == [4]
    with pytest.raises(asyncio.CancelledError):
        await both[0]
