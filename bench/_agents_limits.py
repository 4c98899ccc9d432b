"""Very many callers of an agent that may ask a model five times at once, and of one that may spend little."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from typing import Any, Final

import asyncpg
import grpc
from waymesh.agent.v1.agent_service_pb2 import GetSpendingRequest
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from waymesh.agent.v1.definition_pb2 import RunLimits
from waymesh.agent.v1.run_pb2 import Usage
from waymesh.agent.v1.task_pb2 import RunOptions, RunTaskRequest

from bench._agents_load import texts
from bench._agents_model import AFTER_20_MS
from bench._agents_stack import Stack, spec, stack

AT_ONCE_LIMIT: Final = 5
_BUDGET_USD: Final = 0.10
_NARROW: Final = "bench-narrow"
_FRUGAL: Final = "bench-frugal"
_TIMEOUT_S: Final = 60.0
# What callers are told where it is our fault; an answer of the engines may say it, too.
_FAILED: Final = "internal error"
_NANO: Final = 1_000_000_000


async def limits(*, callers: int, each: int) -> dict[str, Any]:
    """`callers` who ask `each` times one after the other, first the one agent and then the other."""
    async with stack(gateway=False) as running:
        await running.add(spec(_NARROW, AFTER_20_MS, RunLimits(max_concurrent_runs=AT_ONCE_LIMIT)))
        await running.add(spec(_FRUGAL, AFTER_20_MS, RunLimits(max_cost_usd_per_day=_BUDGET_USD)))
        narrow = await _ask(running, _NARROW, callers, each)
        peak = (await running.model.ask(signal.SIGUSR1))["peak"]
        frugal = await _ask(running, _FRUGAL, callers, each)
        stub: Any = AgentServiceStub(running.channel)
        told = await stub.GetSpending(GetSpendingRequest(), timeout=_TIMEOUT_S)
        [spending] = [one for one in told.spending if one.name == _FRUGAL]
        recorded = await _recorded_nano_usd(running.dsn, _FRUGAL)
    result = {
        "callers": callers,
        "runs": callers * each,
        "concurrency": {"limit": AT_ONCE_LIMIT, "peak": peak, "answers": narrow},
        "budget": {
            "limit_usd": _BUDGET_USD,
            "spent_usd": spending.cost_usd,
            "still_reserved_usd": spending.reserved_usd,
            "recorded_usd": recorded / _NANO,
            "answers": frugal,
        },
    }
    print(
        f"{callers} callers: at most {peak} of {AT_ONCE_LIMIT} at once ({narrow})\n"
        f"${spending.cost_usd:.6f} of ${_BUDGET_USD:.2f} spent, ${recorded / _NANO:.6f} by what the runs say "
        f"({frugal})",
        flush=True,
    )
    told_nano_usd = round(spending.cost_usd * _NANO)
    if any(reason.startswith(_FAILED) for reason in (*narrow, *frugal)):
        sys.exit(f"something failed that had room: {result}")
    if peak > AT_ONCE_LIMIT or spending.cost_usd > _BUDGET_USD or told_nano_usd != recorded:
        sys.exit(f"a limit does not hold: {result}")
    return result


async def _ask(running: Stack, agent: str, callers: int, each: int) -> dict[str, int]:
    """How many answers were a model's, and why the others were not."""
    stub: Any = AgentServiceStub(running.channel)
    asked = texts(callers * each)
    found: Counter[str] = Counter()

    async def caller(first: int) -> None:
        for number in range(first, first + each):
            request = RunTaskRequest(agent=agent, task=asked[number], options=RunOptions(fresh=True))
            try:
                answer = await stub.RunTask(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                found[f"{_FAILED}: {error.code().name} {error.details()}"] += 1
            else:
                found[answer.degradation.reason or "a model's"] += 1

    await asyncio.gather(*(caller(place * each) for place in range(callers)))
    return dict(found)


async def _recorded_nano_usd(dsn: str, agent: str) -> int:
    """What all runs of an agent say they have spent."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT usage FROM agents.runs WHERE agent_name = $1", agent)
    finally:
        await connection.close()
    return sum(round(Usage.FromString(row[0]).cost_usd * _NANO) for row in rows if row[0] is not None)
