"""Very many runs, every tenth of them cancelled: what the process of agents holds on to."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import asyncpg
import grpc
from waymesh.agent.v1.agent_service_pb2 import CancelRunRequest, StreamRunRequest
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from waymesh.agent.v1.run_pb2 import RunStatus
from waymesh.agent.v1.task_pb2 import RunOptions, RunTaskRequest

from bench._agents_load import texts
from bench._agents_model import ANSWER, AT_ONCE, NEVER
from bench._agents_stack import Stack, spec, stack
from bench._mesh import say

# After so many runs of the whole, whatever is kept on purpose has come to its size.
WARM_SHARE: Final = 0.1
LIMIT_PERCENT: Final = 2.0
_TIMEOUT_S: Final = 30.0
# A stream's events are kept this long for readers that come back.
_SETTLE_S: Final = 17.0
_ENDED_S: Final = 30.0
_PLAIN: Final = "bench-at-once"
_HANGS: Final = "bench-never"
# Every so many runs one is cancelled, by hanging up and by CancelRun in turns.
_TENTH: Final = 10
# Every so many of those that come to an answer are streamed.
_STREAMED: Final = 9
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds when nothing is under way."""

    runs: int
    rss_mib: float
    tasks: int
    sockets: int
    files: int
    threads: int


@dataclass(slots=True)
class Asked:
    """What became of the runs for those who asked, by run_id."""

    answered: set[str] = field(default_factory=set)
    streamed: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    hung_up: set[str] = field(default_factory=set)
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return len(self.answered) + len(self.streamed) + len(self.cancelled) + len(self.hung_up)


class Callers:
    """Asks for runs, by number."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = AgentServiceStub(channel)
        self._random = random.Random(1)
        self._texts = texts(1000)
        self.asked = Asked()

    async def run(self, number: int) -> None:
        """One run, of the kind that its number says."""
        try:
            if number % _TENTH:
                if number % _STREAMED:
                    await self._answered(number)
                else:
                    await self._streamed(number)
            elif number // _TENTH % 2:
                await self._hung_up(number)
            else:
                await self._cancelled(number)
        except grpc.aio.AioRpcError as error:
            self.asked.wrong[f"{error.code().name}: {error.details()}"] += 1

    def _request(self, number: int, agent: str) -> RunTaskRequest:
        return RunTaskRequest(
            agent=agent,
            task=self._texts[number % len(self._texts)],
            run_id=f"bench-{number:07d}",
            options=RunOptions(fresh=True),
        )

    async def _answered(self, number: int) -> None:
        request = self._request(number, _PLAIN)
        request.run_id = ""  # as most who call; the run is recorded while its work has begun
        answer = await self._stub.RunTask(request, timeout=_TIMEOUT_S)
        self._check(answer.answer, answer.HasField("degradation"))
        self.asked.answered.add(answer.run_id)

    async def _streamed(self, number: int) -> None:
        request = self._request(number, _PLAIN)
        text = ""
        async for event in self._stub.StreamRun(StreamRunRequest(run_task=request), timeout=_TIMEOUT_S):
            text += event.token.text
            if event.HasField("result"):
                self._check(event.result.run_task.answer, event.result.run_task.HasField("degradation"))
                if event.result.streamed and text != event.result.run_task.answer:
                    self.asked.wrong["tokens that are not the answer"] += 1
        self.asked.streamed.add(request.run_id)

    async def _hung_up(self, number: int) -> None:
        request = self._request(number, _HANGS)
        call = self._stub.RunTask(request, timeout=_TIMEOUT_S)
        # Before the run has begun, while it is recorded, while the model is asked: whatever it meets.
        await asyncio.sleep(self._random.uniform(0.0, 0.1))
        call.cancel()
        try:
            await call
            self.asked.wrong["an answer after hanging up"] += 1
        except asyncio.CancelledError:
            self.asked.hung_up.add(request.run_id)

    async def _cancelled(self, number: int) -> None:
        request = self._request(number, _HANGS)
        end = ""
        async for event in self._stub.StreamRun(StreamRunRequest(run_task=request), timeout=_TIMEOUT_S):
            kind = event.WhichOneof("event")
            if kind == "accepted":
                await asyncio.sleep(self._random.uniform(0.0, 0.05))
                await self._stub.CancelRun(CancelRunRequest(run_id=request.run_id), timeout=_TIMEOUT_S)
            end = kind
        if end != "error":
            self.asked.wrong[f"a cancelled stream ended with {end}"] += 1
        self.asked.cancelled.add(request.run_id)

    def _check(self, answer: str, degraded: bool) -> None:
        if answer != ANSWER or degraded:
            self.asked.wrong["another answer"] += 1


async def memory(*, runs: int, at_once: int, every: int) -> dict[str, Any]:
    """`runs` runs, `at_once` of them under way; looks at the process after each `every`."""
    async with stack(gateway=False) as running:
        await running.add(spec(_PLAIN, AT_ONCE))
        await running.add(spec(_HANGS, NEVER))
        callers = Callers(running.channel)
        began = time.perf_counter()
        print("    runs  RSS MiB  tasks  sockets  files  threads  runs/s", flush=True)
        held: list[Held] = []
        for done in range(0, runs, every):
            started = time.perf_counter()
            await _some(callers, range(done, min(done + every, runs)), at_once)
            rate = every / (time.perf_counter() - started)
            one = await _held(running, min(done + every, runs))
            held.append(one)
            print(
                f"{one.runs:8} {one.rss_mib:8.1f} {one.tasks:6} {one.sockets:8} {one.files:6} "
                f"{one.threads:8} {rate:7.0f}",
                flush=True,
            )
        took_s = time.perf_counter() - began
        say(f"{runs} runs in {took_s:.0f} s; waiting {_SETTLE_S:g} s for what is kept for readers")
        await asyncio.sleep(_SETTLE_S)
        end = await _held(running, runs)
        stored = await _stored(running.dsn)
        model = await running.model.ask(signal.SIGUSR1)
    asked = callers.asked
    warm = held[max(0, round(len(held) * WARM_SHARE) - 1)]
    growth = (held[-1].rss_mib / warm.rss_mib - 1) * 100
    lost, unended, otherwise = _judge(asked, stored)
    result = {
        "runs": runs,
        "seconds": round(took_s, 1),
        "at_once": at_once,
        "asked": {
            "answered": len(asked.answered),
            "streamed": len(asked.streamed),
            "cancelled": len(asked.cancelled),
            "hung_up": len(asked.hung_up),
        },
        "recorded": {_name(status): count for status, count in Counter(stored.values()).items()},
        "hung_up_before_it_began": len(asked.hung_up - stored.keys()),
        "wrong": dict(asked.wrong),
        "lost": lost,
        "without_an_end": unended,
        "ended_otherwise": otherwise,
        "model_requests_abandoned": model["abandoned"],
        "after_warm": asdict(warm),
        "at_the_end": asdict(held[-1]),
        "settled": asdict(end),
        "rss_growth_percent": round(growth, 2),
        "limit_percent": LIMIT_PERCENT,
        "within_limit": growth <= LIMIT_PERCENT,
    }
    if asked.wrong or lost or unended or otherwise or asked.total != runs:
        sys.exit(f"not every run came to its end: {result}")
    return result


def _name(status: int) -> str:
    """Such as `succeeded`."""
    return RunStatus.DESCRIPTOR.values_by_number[status].name.removeprefix("RUN_STATUS_").lower()


async def _some(callers: Callers, numbers: range, at_once: int) -> None:
    """These runs, so many at a time."""
    waiting = iter(numbers)

    async def ask() -> None:
        for number in waiting:
            await callers.run(number)

    await asyncio.gather(*(ask() for _ in range(at_once)))


async def _held(running: Stack, runs: int) -> Held:
    """After a moment in which the last calls end."""
    await asyncio.sleep(0.3)
    process = running.agents.process
    told = await running.agents.ask(signal.SIGUSR1)
    return Held(
        runs,
        process.memory_info().rss / _MIB,
        int(told["tasks"]),
        len(process.net_connections(kind="all")),
        process.num_fds(),
        process.num_threads(),
    )


async def _stored(dsn: str) -> dict[str, int]:
    """Statuses by run_id, once none is under way any more."""
    connection = await asyncpg.connect(dsn)
    try:
        until = time.monotonic() + _ENDED_S
        while time.monotonic() < until:
            under_way = await connection.fetchval("SELECT count(*) FROM agents.runs WHERE status = 1")
            if not under_way:
                break
            await asyncio.sleep(0.5)
        return {row[0]: row[1] for row in await connection.fetch("SELECT run_id, status FROM agents.runs")}
    finally:
        await connection.close()


def _judge(asked: Asked, stored: dict[str, int]) -> tuple[int, int, int]:
    """Runs that are lost, that have no end, and that have another than those who asked know of."""
    succeeded, cancelled = RunStatus.RUN_STATUS_SUCCEEDED, RunStatus.RUN_STATUS_CANCELLED
    wanted = dict.fromkeys(asked.answered | asked.streamed, succeeded)
    wanted |= dict.fromkeys(asked.cancelled, cancelled)
    lost = sum(one not in stored for one in wanted)
    unended = sum(status == RunStatus.RUN_STATUS_RUNNING for status in stored.values())
    # Who hung up may have done so before there was a run.
    wanted |= dict.fromkeys(asked.hung_up & stored.keys(), cancelled)
    otherwise = sum(stored.get(one, status) != status for one, status in wanted.items())
    return lost, unended, otherwise
