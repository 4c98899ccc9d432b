"""One replica at a time keeps windows and alerts: it reads outcomes by number and writes what they come to.

All that a tick changes commits together with the position it has come to, and its events with it: each window
is published once per revision, whatever dies. Who may do it holds an advisory lock on a connection of its
own, and every statement goes through that connection; the position is moved only from where it was read.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

import asyncpg
from prometheus_client import Counter, Gauge
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback import metrics_store as store
from services.feedback.alerting import Alerting, OvertakenError
from services.feedback.intake import Bell
from services.feedback.metrics_spec import SECOND, WindowSpec
from services.feedback.metrics_store import Position
from services.feedback.windows import FLUSH_COST, QUIET_COST, Windows
from services.mesh.events import EventBus, Message, tenants
from services.mesh.events.topics import AGENT_METRICS
from services.mesh.store import Store, is_transient
from services.mesh.telemetry import Telemetry
from services.mesh.tenancy import tenant_of

_log = logging.getLogger(__name__)

_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('feedback.windows'), hashtext(current_schema()))"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtext('feedback.windows'), hashtext(current_schema()))"
# How often those who do not lead try to, in seconds.
_CANDIDATE_S: Final = 0.5
# Least time between two ticks that change something, and most between two looks, in seconds: together 250 ms.
_TICK_S: Final = 0.2
_LOOK_S: Final = 0.05
# Alerts are looked at this often though nothing came, in seconds: windows move on, silences are lifted.
_ALERTS_S: Final = 0.5
# Outcomes of one tick, and of one read when windows are made again.
_BATCH: Final = 5_000
_REBUILD_BATCH: Final = 50_000
_RETENTION_S: Final = 600.0
_RETENTION_CHUNK: Final = 5_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _FencedError(Exception):
    """Somebody else has moved the position."""


class _Did(Enum):
    """What a tick came to."""

    NOTHING = "nothing"
    ALL = "all there was"
    PART = "part of what waits"


@dataclass(slots=True)
class _Term:
    """What the leader remembers while it leads."""

    connection: asyncpg.Connection
    windows: Windows
    position: Position
    signals: int = -1
    alerts_at: float = 0.0
    retention_at: float = 0.0


class Leader:
    """Runs in every replica; leads in one. `clock` gives the time that windows close by."""

    def __init__(
        self,
        database: Store,
        bus: EventBus,
        bell: Bell,
        *,
        specs: Sequence[WindowSpec],
        lateness_s: float,
        keep_days: int,
        telemetry: Telemetry,
        alerting: Alerting | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._bus = bus
        self._bell = bell
        self._specs = specs
        self._lateness = round(lateness_s * SECOND)
        self._keep = timedelta(days=keep_days)
        self._alerting = alerting
        self._clock = clock
        self._leads = Gauge(
            "waymesh_feedback_leads",
            "1 while this replica keeps windows and alerts",
            registry=telemetry.registry,
        )
        self._too_late = Counter(
            "waymesh_feedback_outcomes_too_late",
            "Outcomes that are in no window because they came too late or are stamped more than a day ahead",
            registry=telemetry.registry,
        )
        self._crowded = Counter(
            "waymesh_feedback_outcomes_crowded",
            "Outcomes that only the windows of all agents together hold because there were too many agents",
            registry=telemetry.registry,
        )

    async def run(self) -> None:
        """Leads whenever nobody else does, until cancelled."""
        while True:
            try:
                async with self._database.pool.acquire() as connection:
                    if await connection.fetchval(_TRY_LOCK):
                        try:
                            await self._lead(connection)
                        finally:
                            self._leads.set(0)
                            # A lost connection has given the lock back already.
                            if not connection.is_closed():
                                await connection.execute(_UNLOCK)
            except (_FencedError, OvertakenError):
                _log.warning("somebody else has moved the windows on; they are read anew")
            except Exception as error:
                if not is_transient(error):
                    raise
                _log.warning("windows wait for the store: %s", type(error).__name__)
            await asyncio.sleep(_CANDIDATE_S)

    async def _lead(self, connection: asyncpg.Connection) -> None:
        began = time.monotonic()
        term = await self._take_over(connection)
        self._leads.set(1)
        _log.info(
            "this replica keeps the windows, from outcome %d on",
            term.position.number,
            extra={"duration_ms": round((time.monotonic() - began) * 1000, 1)},
        )
        while True:
            began = time.monotonic()
            match await self._tick(term):
                case _Did.NOTHING:
                    await self._keep_short(term)
                    await self._bell.wait(_TICK_S)
                case _Did.ALL:
                    await self._keep_short(term)
                    await asyncio.sleep(max(0.0, began + _TICK_S - time.monotonic()))
                    await self._bell.wait(_LOOK_S)
                case _Did.PART:
                    await asyncio.sleep(0)

    async def _take_over(self, connection: asyncpg.Connection) -> _Term:
        """Makes the windows that can still change again of the outcomes they hold."""
        at = await store.position(connection)
        now = _micros(self._clock())
        windows = self._empty()
        windows.watermark = at.watermark
        kept_from, final_to = windows.kept_from, windows.final_to
        windows = self._empty()
        read = at.since
        while (
            found := await store.columns(connection, read, at.number, _REBUILD_BATCH, kept_from)
        ) is not None:
            # What came before that time is not read again; what was read may be a stranger again.
            known = await store.workflows(
                connection, windows.strangers(found), at.since, at.number, before_time=kept_from, read=read
            )
            read = int(found.number[-1])
            await asyncio.to_thread(windows.add, found, known, now)
        stored = await store.stored(connection, final_to)
        windows.restore(at.watermark, at.too_late, stored, now)
        windows.crowded = 0
        if self._alerting is not None:
            await self._alerting.load(connection)
        return _Term(connection, windows, at)

    def _empty(self) -> Windows:
        limits = () if self._alerting is None else self._alerting.limits
        return Windows(self._specs, self._lateness, limits=limits)

    async def _tick(self, term: _Term) -> _Did:
        """One step on, in one transaction; nothing if there is nothing to do."""
        connection, windows, at = term.connection, term.windows, term.position
        heads = await store.heads(connection)
        wall = self._clock()
        now, last = _micros(wall), heads.outcomes
        new = last > at.number
        judge = self._judge(term, heads.signals, wall)
        if not (new or judge or windows.due(now)):
            return _Did.NOTHING
        async with connection.transaction():
            late: Sequence[int] = ()
            number = at.number
            found = await store.columns(connection, number, last, _BATCH) if new else None
            if found is not None:
                known = await store.workflows(connection, windows.strangers(found), at.since, number)
                # The loop serves callers meanwhile.
                late = await asyncio.to_thread(windows.add, found, known, now)
                number = int(found.number[-1])
            elif new:
                number = last  # their day was dropped before anybody had read them
            # What else there is to do comes first; of a quiet leader's time it takes a quarter.
            cost = FLUSH_COST if number < last else QUIET_COST
            made = await asyncio.to_thread(windows.flush, now, cost)
            if late:
                await store.mark_too_late(connection, late)
            if made:
                await store.write(connection, made)
            after = Position(at.since, number, windows.watermark, windows.too_late)
            if (made or after != at) and not await store.move(connection, at.number, after):
                raise _FencedError
            messages = [_message(one) for one in made if one.revision]
            if self._alerting is not None:
                messages += await self._alerting.step(connection, windows, wall, behind=number < last)
            if messages:
                await self._bus.publish(connection, messages)
        term.position, term.signals, term.alerts_at = after, heads.signals, time.monotonic()
        self._too_late.inc(after.too_late - at.too_late)
        self._crowded.inc(windows.crowded)
        windows.crowded = 0
        return _Did.PART if number < last else _Did.ALL

    def _judge(self, term: _Term, signals: int, now: datetime) -> bool:
        """Whether alerts are to be looked at, whatever has become of windows."""
        if self._alerting is None:
            return False
        waited_s = time.monotonic() - term.alerts_at
        return signals != term.signals or waited_s >= _ALERTS_S or self._alerting.due(now)

    async def _keep_short(self, term: _Term) -> None:
        """Deletes windows that were kept long enough, a chunk at a time."""
        now = time.monotonic()
        if now < term.retention_at:
            return
        gone = await store.discard(term.connection, self._clock() - self._keep, _RETENTION_CHUNK)
        if gone < _RETENTION_CHUNK:
            term.retention_at = now + _RETENTION_S


def _message(window: AgentMetrics) -> Message:
    return Message(
        topic=AGENT_METRICS,
        key=window.agent_name,
        value=store.told(window).SerializeToString(),
        event_id=window.metrics_id,
        type=AgentMetrics.DESCRIPTOR.full_name,
        headers=tenants.headers(tenant_of(window.agent_name)),
    )


def _micros(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(microseconds=1)
