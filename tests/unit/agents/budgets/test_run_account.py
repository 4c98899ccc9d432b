"""A run's own limit: one that somebody has set is never exceeded, the usual one is about what is spent."""

from typing import cast

import pytest

from services.agents.budgets.account import Limit
from services.agents.budgets.ledger import Budgets, RunAccount
from services.mesh.errors import ResourceExhausted


def account(limit: Limit, *, likely: bool) -> RunAccount:
    """A run whose key and agent have no limits: no store is asked."""
    return RunAccount(cast(Budgets, None), "acme", "run-1", [], limit, likely)


async def test_a_limit_that_nobody_has_set_counts_what_calls_likely_take() -> None:
    run = account(Limit(None, 50_000), likely=True)
    # 57 KB are about 14,000 tokens: they fit, though they might be 57,000.
    hold = await run.reserve(0, 59_000, 16_250)
    await run.settle(hold, 0, 15_000)
    for _ in range(2):
        await run.settle(await run.reserve(0, 59_000, 16_250), 0, 15_000)
    with pytest.raises(ResourceExhausted) as refused:
        await run.reserve(0, 59_000, 16_250)
    assert refused.value.metadata == {"budget": "run", "name": "run-1", "limit": "max_tokens"}
    await run.reserve(0, 5_000, 5_000)


async def test_a_limit_that_somebody_has_set_counts_the_most() -> None:
    run = account(Limit(None, 50_000), likely=False)
    with pytest.raises(ResourceExhausted):
        await run.reserve(0, 59_000, 16_250)
    await run.reserve(0, 50_000, 14_000)
    with pytest.raises(ResourceExhausted):
        await run.reserve(0, 1, 1)
