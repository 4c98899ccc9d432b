"""A process with runs under way that never end by themselves, one of them with money set aside.

Arguments: the DSN, the length of the lease in seconds, the names of the runs. Prints `begun` when all are
recorded; then, for each line on stdin, lets all of its runs go and prints how each ended, as one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys

from waymesh.agent.v1 import run_pb2 as pb

from services.agents.budgets.account import BudgetKind, Limit
from services.agents.budgets.ledger import Budgets, Spender
from services.agents.runs import Answer, LiveRun
from tests.integration.agent_runs_rig import Held, Replica, new_run, replica


async def hold(dsn: str, lease_s: float, names: list[str]) -> None:
    async with replica(dsn, lease_s=lease_s) as one:
        budgets = Budgets(one.database, lambda: one.lease.process_id)
        works = [Held() for _ in names]
        for name, work in zip(names, works, strict=True):
            await one.runs.begin(new_run(name), _spending(budgets, work), limit_s=600)
            await work.began.wait()
        print("begun", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            for work in works:
                work.go.set()
            print(json.dumps(await _ends(one, names)), flush=True)
        await budgets.close()


def _spending(budgets: Budgets, held: Held):  # type: ignore[no-untyped-def]
    async def work(live: LiveRun) -> Answer:
        limit = Spender(BudgetKind.KEY, "0123456789ab", "shop", Limit(1_000, None))
        account = budgets.account("acme", live.run_id, [limit], Limit())
        await account.reserve(100, 10)
        live.steps.append(pb.RunStep(step=1, kind=pb.STEP_KIND_MODEL, name="m"))
        return await held(live)

    return work


async def _ends(one: Replica, names: list[str]) -> dict[str, object]:
    ends = {}
    for name in names:
        end = await one.runs.wait("acme", name)
        ends[name] = pb.RunStatus.Name(end.status)
    again = await one.runs.answer(new_run("afterwards"), Held().at_once, limit_s=10)
    return {"ends": ends, "afterwards": pb.RunStatus.Name(again.status)}


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
