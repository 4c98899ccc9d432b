"""Budgets of keys and agents over all processes, and of a run within its own.

Before a call to a model the most that it can take is set aside from every budget that has a limit, in one
statement, or from none of them; after it, what it took is booked and the rest given back. Spent and set aside
together never exceed a limit. Settling is not waited for: until it is done, too much is set aside, never too
little. What is spent where there is no limit is booked with the end of the run, which costs nothing more.

A call that began before midnight is booked on the day on which it was set aside. What a process that has gone
had set aside is charged in full by whoever ends its runs, since the provider may have billed it; what it had
spent without a limit and not booked yet is not known to anybody.
"""

import asyncio
import contextvars
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import Final
from uuid import UUID, uuid4

import asyncpg
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_BUDGET_EXHAUSTED

from services.agents.budgets import store
from services.agents.budgets.account import Booking, BudgetKind, Limit
from services.agents.budgets.store import Reserve, Settle, Share
from services.agents.runs.line import Line
from services.mesh.errors import ResourceExhausted, Unavailable
from services.mesh.store import GroupCommit, Store

_log = logging.getLogger(__name__)

_BACKOFF_S: Final = (0.05, 1.0)
_MOST_AT_ONCE: Final = 200
_NOBODY: Final = Share()
# By the number that the store gives: whose limit is in the way, and which.
_IN_THE_WAY: Final = {
    1: (BudgetKind.KEY, "max_cost_usd_per_day"),
    2: (BudgetKind.KEY, "max_tokens_per_day"),
    3: (BudgetKind.AGENT, "max_cost_usd_per_day"),
    4: (BudgetKind.AGENT, "max_tokens_per_day"),
}


@dataclass(frozen=True, slots=True)
class Spender:
    """Whose budget a run spends: a key or an agent, by identity, how it is called, and its limit of a day."""

    kind: BudgetKind
    name: str
    label: str
    limit: Limit


@dataclass(eq=False, slots=True)
class Hold:
    """What is set aside for one call. `hold_id` is None where no budget over all processes has a limit.

    `tokens` are those of the run's own limit.
    """

    nano_usd: int
    tokens: int
    hold_id: UUID | None = None


class Budgets:
    """One per process. `process_id`: under which lease it spends; `today`: a day in place of the store's."""

    def __init__(
        self,
        database: Store,
        process_id: Callable[[], UUID],
        *,
        today: Callable[[], date | None] = lambda: None,
    ) -> None:
        self._database = database
        self._process_id = process_id
        self._today = today
        self._line = Line(database)
        self._steps: GroupCommit[Reserve | Settle, int] = GroupCommit(
            self._line.statement, self._step, max_items=200
        )
        self._settles: deque[Settle] = deque()
        self._bookings: list[Booking] = []
        self._at_once = _MOST_AT_ONCE
        self._writer: asyncio.Task[None] | None = None

    def account(
        self, tenant: str, run_id: str, spenders: Sequence[Spender], limit: Limit, *, likely: bool = False
    ) -> "RunAccount":
        """The ledger of one run: `limit` is the run's own, each spender has its own of the day.

        `likely`: of the run's own tokens as many are set aside as a call will likely take, not the most.
        """
        return RunAccount(self, tenant, run_id, spenders, limit, likely)

    async def reserve(self, tenant: str, spenders: Sequence[Spender], nano_usd: int, tokens: int) -> UUID:
        """Sets aside from all of these spenders or from none. Raises ResourceExhausted, Unavailable."""
        shares = {one.kind: _share(one) for one in spenders}
        wanted = Reserve(
            uuid4(),
            self._process_id(),
            tenant,
            nano_usd,
            tokens,
            shares.get(BudgetKind.KEY, _NOBODY),
            shares.get(BudgetKind.AGENT, _NOBODY),
        )
        # What is being given back makes room; to settle the same again changes nothing.
        settles = list(islice(self._settles, _MOST_AT_ONCE)) if self._at_once > 1 else []
        try:
            *_, refused = await self._steps.add([*settles, wanted])
        except BaseException:
            # It may be set aside all the same; nobody will use it.
            self.settle(wanted.hold_id, 0, 0)
            raise
        if refused:
            kind, limit = _IN_THE_WAY[refused]
            label = next(one.label for one in spenders if one.kind is kind)
            raise exhausted(kind.name.lower(), label, limit)
        return wanted.hold_id

    def settle(self, hold_id: UUID, nano_usd: int, tokens: int) -> None:
        """Books what a call took. It is done sooner or later; once, however often it is tried."""
        self._settles.append(Settle(hold_id, nano_usd, tokens))
        self._write()

    def book(self, bookings: Sequence[Booking]) -> None:
        """Books what was spent without a limit, sooner or later."""
        if bookings:
            self._bookings += bookings
            self._write()

    async def charge(self, most: int) -> int:
        """For the sweeper: see store.charge."""
        return await store.charge(self._database, most)

    async def settled(self) -> None:
        """Waits until all that is known is booked."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def close(self, *, within_s: float = 5.0) -> None:
        """Books what is known, and gives the connection back."""
        if self._writer is not None:
            _, late = await asyncio.wait([self._writer], timeout=within_s)
            if late:
                left = len(self._settles)
                _log.error("%d calls are not booked; they will be charged as they were set aside", left)
            for task in late:
                task.cancel()
        await self._steps.close()
        await self._line.close()

    async def _step(self, connection: asyncpg.Connection, items: Sequence[Reserve | Settle]) -> Sequence[int]:
        return await store.step(connection, items, self._today())

    def _write(self) -> None:
        if self._writer is None:
            # Not in the time of the call that it is about.
            self._writer = asyncio.create_task(
                self._drain(), name="settle budgets", context=contextvars.Context()
            )

    async def _drain(self) -> None:
        """Writes what waits, as often as it takes; however long the store is away, one task does it."""
        pause_s, longest_s = _BACKOFF_S
        try:
            while self._settles or self._bookings:
                try:
                    await self._write_some()
                    pause_s = _BACKOFF_S[0]
                except Unavailable:
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                    pause_s = min(2 * pause_s, longest_s)
                except Exception:
                    self._find_the_guilty()
        finally:
            self._writer = None
            self._at_once = _MOST_AT_ONCE

    def _find_the_guilty(self) -> None:
        """What cannot be written must not keep the rest: alone first, then not at all."""
        if self._at_once > 1:
            self._at_once = 1
            return
        _log.exception("what a call to a model took cannot be booked")
        if self._settles:
            self._settles.popleft()
        else:
            del self._bookings[:1]

    async def _write_some(self) -> None:
        settles = list(islice(self._settles, self._at_once))
        if settles:
            await self._steps.add(settles)
            for _ in settles:
                self._settles.popleft()
            return
        bookings = self._bookings[: self._at_once]
        if bookings:
            async with self._line.statement() as connection:
                await store.book(connection, bookings, self._today())
            del self._bookings[: len(bookings)]


@dataclass(slots=True)
class _Total:
    """What a run has spent and set aside."""

    nano_usd: int = 0
    tokens: int = 0


@dataclass(eq=False, slots=True)
class RunAccount:
    """What one run may spend and has spent; the Ledger of its calls to models."""

    _budgets: Budgets
    _tenant: str
    _run_id: str
    _spenders: Sequence[Spender]
    _limit: Limit
    _likely: bool = False
    _total: _Total = field(default_factory=_Total)
    _unbooked: _Total = field(default_factory=_Total)
    _closed: bool = False

    @property
    def limits_money(self) -> bool:
        """Whether any limit is one of money: then a model whose price is not known cannot be asked."""
        return any(
            one.nano_usd is not None for one in (self._limit, *(each.limit for each in self._spenders))
        )

    async def reserve(self, nano_usd: int, tokens: int, likely_tokens: int | None = None) -> Hold:
        """Sets aside the most that a call can take, or nothing.

        Raises ResourceExhausted (BUDGET_EXHAUSTED), and Unavailable where a limit holds over all processes.
        """
        total, limit = self._total, self._limit
        own_tokens = likely_tokens if self._likely and likely_tokens is not None else tokens
        if limit.nano_usd is not None and total.nano_usd + nano_usd > limit.nano_usd:
            raise exhausted("run", self._run_id, "max_cost_usd")
        if limit.tokens is not None and total.tokens + own_tokens > limit.tokens:
            raise exhausted("run", self._run_id, "max_tokens")
        limited = [one for one in self._spenders if one.limit]
        total.nano_usd += nano_usd
        total.tokens += own_tokens
        hold = Hold(nano_usd, own_tokens)
        if limited:
            try:
                hold.hold_id = await self._budgets.reserve(self._tenant, limited, nano_usd, tokens)
            except BaseException:
                total.nano_usd -= nano_usd
                total.tokens -= own_tokens
                raise
        return hold

    async def settle(self, hold: Hold, nano_usd: int, tokens: int) -> None:
        """Books what the call took and gives the rest back. Never raises, waits for nothing."""
        self._total.nano_usd += nano_usd - hold.nano_usd
        self._total.tokens += tokens - hold.tokens
        self._unbooked.nano_usd += nano_usd
        self._unbooked.tokens += tokens
        if hold.hold_id is not None:
            self._budgets.settle(hold.hold_id, nano_usd, tokens)
        if self._closed:  # its run was cancelled in the middle of the call
            self._budgets.book(self._taken())

    def close(self) -> Sequence[Booking]:
        """What is to be booked with the end of the run: what was spent where there is no limit."""
        self._closed = True
        return self._taken()

    def _taken(self) -> Sequence[Booking]:
        spent, self._unbooked = self._unbooked, _Total()
        if not (spent.nano_usd or spent.tokens):
            return ()
        return [
            Booking(one.kind, self._tenant, one.name, one.label, spent.nano_usd, spent.tokens)
            for one in self._spenders
            if not one.limit
        ]


def exhausted(budget: str, name: str, limit: str) -> ResourceExhausted:
    """The error for a budget that does not hold as much as a call may take."""
    return ResourceExhausted(
        f"the budget of this {budget} is used up",
        reason=ERROR_REASON_BUDGET_EXHAUSTED,
        metadata={"budget": budget, "name": name, "limit": limit},
    )


def _share(one: Spender) -> Share:
    return Share(one.name, one.label, one.limit.nano_usd, one.limit.tokens)
