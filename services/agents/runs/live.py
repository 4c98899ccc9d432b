"""Runs of this process: begun, waited for, cancelled, each with an end that is recorded.

A run goes on whoever goes away; CancelRun ends it, or its time. What is durable when: a run_id of the
caller's is recorded before anything is done for it, one that was made here while the work has begun already;
an answer is recorded before anybody is told it. While the store is away, a run that has ended waits for it:
those who wait are told in time by their own deadlines, and find the end later.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID

from waymesh.agent.v1 import run_pb2 as pb

from services.agents.runs import endings, replay
from services.agents.runs.endings import Answer
from services.agents.runs.lease import Lease
from services.agents.runs.live_run import LiveRun
from services.agents.runs.record import (
    RUNNING,
    Accepted,
    NewRun,
    RunEnd,
    cancelled,
    conflict,
    interrupted,
    key_of,
    unknown,
)
from services.agents.runs.store import RunStore
from services.mesh import deadline
from services.mesh.errors import MeshError, Unavailable

_log = logging.getLogger(__name__)

T = TypeVar("T")

Work = Callable[[LiveRun], Awaitable[Answer]]

# How soon a run hears that it was cancelled in another process, in seconds.
_POLL_S: Final = 0.25
# Looks of those who wait for a run of another process: soon at first.
_LOOKS_S: Final = (0.02, 0.25)
_BACKOFF_S: Final = (0.05, 1.0)
# How long what a run told stays in memory for readers that come back, and of how many runs.
_KEEP_S: Final = 15.0
_MOST_KEPT: Final = 256
_MOST_WITHDRAWN: Final = 1_000
_MOST_KEPT_BYTES: Final = 32 << 20
# Runs that are under way when the process stops get this long to end by themselves, in seconds.
_GRACE_S: Final = 3.0
# And this long to record their end after that, in seconds.
_LAST_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a run that has ended told, until a time of time.monotonic."""

    live: LiveRun
    until: float
    size_bytes: int


class LiveRuns:
    """One per process. `run` in the background, `close` before the store closes."""

    def __init__(
        self,
        store: RunStore,
        lease: Lease,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        keep_s: float = _KEEP_S,
        grace_s: float = _GRACE_S,
    ) -> None:
        self.store = store
        self._lease = lease
        self._clock = clock
        self._keep_s = keep_s
        self._grace_s = grace_s
        self._live: dict[UUID, LiveRun] = {}
        self._kept: OrderedDict[UUID, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        # Runs that may be recorded though nobody was told of them: under which process, and since when.
        self._doubtful: dict[UUID, tuple[UUID, datetime]] = {}
        self._taking_back = asyncio.Lock()
        self._begun = asyncio.Event()
        lease.on_lost(self._lose)

    def __len__(self) -> int:
        """Runs under way here."""
        return len(self._live)

    @property
    def remembered(self) -> int:
        """Runs that have ended and are still in memory."""
        return len(self._kept)

    async def begin(self, new: NewRun, work: Work, *, limit_s: float) -> bool:
        """Begins a run, or finds it: False if it was there with the same request, under way or ended.

        `work` gets at most `limit_s` seconds, as its deadline budget. Its MeshErrors are the run's error.
        Raises AlreadyExists for a run_id that came with another request, and Unavailable.
        """
        while (live := self._live.get(new.id)) is None and new.id in self._doubtful:
            # Others may do the same at the same time: whoever is first begins it.
            await self._withdraw([new.id])
        if live is not None:
            if live.new.request_hash != new.request_hash:
                raise conflict(new.run_id)
            with live.waited_for():
                await asyncio.shield(live.accepted)
            return False
        live = LiveRun(new, self._lease.process_id)
        self._live[live.id] = live
        self._begun.set()
        live.start(self._spawn(self._run(live, work, time.monotonic() + limit_s), f"run {new.run_id}"))
        if new.own_id:
            return True
        return (await asyncio.shield(live.accepted)).fresh

    async def answer(self, new: NewRun, work: Work, *, limit_s: float) -> RunEnd:
        """Begins a run, or finds it, and waits for its end. A caller that goes away ends the run it began.

        Raises as `begin` and `wait` do.
        """
        one = new.id
        try:
            await self.begin(new, work, limit_s=limit_s)
            return await self.wait(new.tenant, new.run_id)
        except asyncio.CancelledError:
            self.hang_up(one)
            raise

    async def wait(self, tenant: str, run_id: str) -> RunEnd:
        """How a run ended, once it has, wherever it runs.

        Raises NotFound (RUN_UNKNOWN), DeadlineExceeded when the caller's budget is used up, Unavailable.
        """
        left_s = deadline.remaining()
        try:
            async with asyncio.timeout(left_s) as limit:
                live = self._live.get(key_of(tenant, run_id))
                if live is not None:
                    with live.waited_for():
                        if (await asyncio.shield(live.accepted)).fresh:
                            return await asyncio.shield(live.done)
                return await self._end_elsewhere(tenant, run_id)
        except TimeoutError:
            if limit.expired():
                raise deadline.passed() from None
            raise

    def _spawn(self, doing: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(doing, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def hang_up(self, one: UUID) -> None:
        """Somebody who waited for a run has gone: it ends, unless others wait for it or follow it."""
        live = self._live.get(one)
        if live is not None and not live.waiting and not live.log.read:
            live.stop(cancelled(live.run_id))

    async def cancel(self, tenant: str, run_id: str) -> tuple[pb.Run, bool]:
        """Ends a run wherever it is; the run as it is then, and whether it had ended before.

        Raises NotFound (RUN_UNKNOWN), Unavailable.
        """
        one = key_of(tenant, run_id)
        live = self._live.get(one)
        if live is not None and (await asyncio.shield(live.accepted)).fresh:
            live.stop(cancelled(run_id))
            asked_first = live.stopped_by is not None
            end = await asyncio.shield(live.done)
            ended_by_us = asked_first and end.status == pb.RUN_STATUS_CANCELLED
        else:
            ended_by_us = await self.store.cancel(tenant, run_id, self._lease.process_id)
        stored = await self.store.read(one, tenant)
        if stored is None:
            raise unknown(run_id)
        return stored.run, not ended_by_us

    def find(self, one: UUID) -> LiveRun | None:
        """A run that is under way here, or ended a short while ago."""
        self._forget()
        live = self._live.get(one)
        if live is None and one in self._kept:
            live = self._kept[one].live
        return live

    async def run(self) -> None:
        """Hears of cancels from other processes while there are runs, until cancelled itself."""
        while True:
            if not self._live and not self._doubtful:
                self._begun.clear()
                if self._kept:
                    await asyncio.sleep(_POLL_S)
                    self._forget()
                else:
                    await self._begun.wait()
                continue
            await asyncio.sleep(_POLL_S)
            self._forget()
            # While the store is away: runs hear of a cancel when they write their end.
            with contextlib.suppress(Unavailable):
                for one in await self.store.cancelled_elsewhere(self._lease.process_id):
                    if (live := self._live.get(one)) is not None:
                        live.stop(cancelled(live.run_id))
                if self._doubtful:
                    await self._withdraw(list(islice(self._doubtful, _MOST_WITHDRAWN)))

    async def close(self) -> None:
        """Ends what is under way: runs get a short while, then they count as interrupted."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace_s)
        for live in list(self._live.values()):
            live.stop(interrupted(live.run_id))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_LAST_S)
            for task in late:
                _log.error("%s has not ended", task.get_name())
                task.cancel()
        self._kept.clear()

    async def _run(self, live: LiveRun, work: Work, until: float) -> None:
        """All of a run. `LiveRun.stop` cancels its task, while the work goes on and then no more."""
        accepting = self._spawn(self._accept(live), f"accept {live.run_id}")
        try:
            await self._worked(live, work, until, accepting)
        finally:
            if self._live.get(live.id) is live:
                del self._live[live.id]
            live.give_up(interrupted(live.run_id))

    async def _worked(
        self, live: LiveRun, work: Work, until: float, accepting: "asyncio.Task[Accepted | None]"
    ) -> None:
        answer: Answer | None = None
        failure: BaseException | None = None
        try:
            with live.at_work():
                if not live.new.own_id:
                    # Somebody may have asked for it before: nothing is done twice.
                    accepted = await asyncio.shield(accepting)
                    if accepted is None or not accepted.fresh:
                        return
                deadline.begin(until)
                now = asyncio.get_running_loop().time()
                async with asyncio.timeout_at(now + until - time.monotonic()) as limit:
                    answer = await work(live)
        except asyncio.CancelledError:
            failure = interrupted(live.run_id)
        except TimeoutError as error:
            failure = deadline.passed() if limit.expired() else error
        except Exception as error:
            failure = error
            if not isinstance(error, MeshError):
                _log.exception("run %s failed", live.run_id)
        # Its end is written whatever the time.
        deadline.begin(None)
        accepted = await asyncio.shield(accepting)
        if accepted is None or not accepted.fresh:
            return
        if live.stopped_by is not None:
            answer, failure = None, live.stopped_by
        await self._end(live, answer, failure)

    async def _accept(self, live: LiveRun) -> Accepted | None:
        """Records the run; None if that failed and it is as if it had never been."""
        deadline.begin(None)
        try:
            accepted = await self.store.accept(live.new, live.process_id)
        except Exception as error:
            # Whether it is recorded is not known. Nobody has been told of it, so it is taken back, and who
            # asks again under the same run_id gets a run.
            live.stop(interrupted(live.run_id))
            live.give_up(error)
            if isinstance(error, Unavailable):
                self._doubtful[live.id] = live.process_id, live.new.created_at
                self._begun.set()
            return None
        if accepted.fresh:
            live.log.open()
        live.accepted.set_result(accepted)
        return accepted

    async def _end(self, live: LiveRun, answer: Answer | None, failure: BaseException | None) -> None:
        bookings = endings.bookings(live)
        try:
            ended = endings.ended(live, answer, failure, self._clock(), bookings)
            won = await self._surely(lambda: self.store.end(ended))
        except Exception as error:
            # It cannot be kept as it is; it must not look as if it were under way for ever.
            _log.exception("the end of run %s cannot be recorded", live.run_id)
            ended = endings.without_content(live, error, self._clock(), bookings)
            won = await self._surely(lambda: self.store.end(ended))
        end = RunEnd(ended.status, ended.response, ended.error)
        if not won:
            stored = await self._surely(lambda: self.store.read(live.id, live.new.tenant))
            known = None if stored is None else stored.end
            end = endings.of_error(interrupted(live.run_id)) if known is None else known
        streamed = answer is not None and answer.streamed and live.log.whole and won
        live.log.end(replay.last(live.new.task, end, streamed=streamed))
        live.done.set_result(end)
        if live.log.read and self._keep_s > 0:
            live.forget()
            kept = _Kept(live, time.monotonic() + self._keep_s, live.log.size_bytes)
            self._kept[live.id] = kept
            self._kept_bytes += kept.size_bytes
            self._forget()

    async def _withdraw(self, ids: Sequence[UUID]) -> None:
        async with self._taking_back:
            # One of them may be at work again, recorded anew: that is not to be taken back.
            wanted = {one: self._doubtful[one] for one in ids if one in self._doubtful}
            if wanted:
                await self.store.withdraw(wanted)
            for one in wanted:
                self._doubtful.pop(one, None)

    async def _end_elsewhere(self, tenant: str, run_id: str) -> RunEnd:
        """How a run ended that is not this process's; looks again until it has."""
        one = key_of(tenant, run_id)
        pause_s, longest_s = _LOOKS_S
        stored = await self.store.read(one, tenant)
        while True:
            if stored is None:
                raise unknown(run_id)
            if stored.end is not None:
                return stored.end
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
            if await self._surely(lambda: self.store.status(one)) != RUNNING:
                stored = await self._surely(lambda: self.store.read(one, tenant))

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks the store until it answers."""
        pause_s, longest_s = _BACKOFF_S
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, longest_s)

    def _lose(self, process_id: UUID) -> None:
        """This process was taken for dead: what it had under way then has ended for everybody else."""
        for live in list(self._live.values()):
            if live.process_id == process_id:
                live.stop(interrupted(live.run_id))

    def _forget(self) -> None:
        """Drops what was kept for readers long enough, and the oldest of too many."""
        now = time.monotonic()
        while self._kept:
            oldest = next(iter(self._kept.values()))
            few = len(self._kept) <= _MOST_KEPT and self._kept_bytes <= _MOST_KEPT_BYTES
            if few and oldest.until > now:
                break
            del self._kept[oldest.live.id]
            self._kept_bytes -= oldest.size_bytes
