"""A process that spends from a budget with many callers at once, and says what became of it.

Arguments: the DSN, how many callers, what each sets aside. It begins when it is told so by a line on stdin.
Prints how many were let in, as one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys

from services.agents.budgets.account import BudgetKind, Limit
from services.agents.budgets.ledger import Budgets, Spender
from services.agents.runs import Lease
from services.mesh.errors import ResourceExhausted
from services.mesh.store import Store
from tests.integration.agent_runs_rig import MIGRATIONS


async def spend(dsn: str, callers: int, amount: int, limit: int) -> None:
    database = await Store.open(dsn, schema="agents", migrations=MIGRATIONS)
    lease = Lease(database)
    await lease.begin()
    budgets = Budgets(database, lambda: lease.process_id)
    spenders = [
        Spender(BudgetKind.KEY, "0123456789ab", "shop", Limit(limit, None)),
        Spender(BudgetKind.AGENT, "agent-1", "dispatcher", Limit(2 * limit, None)),
    ]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def call(n: int) -> bool:
        account = budgets.account("acme", f"run-{n}", spenders, Limit())
        try:
            hold = await account.reserve(amount, 1)
        except ResourceExhausted:
            return False
        await account.settle(hold, amount, 1)
        return True

    granted = await asyncio.gather(*(call(n) for n in range(callers)))
    await budgets.close()
    await lease.end()
    await database.close()
    print(json.dumps({"granted": sum(granted)}), flush=True)


if __name__ == "__main__":
    asyncio.run(spend(sys.argv[1], *(int(one) for one in sys.argv[2:5])))
