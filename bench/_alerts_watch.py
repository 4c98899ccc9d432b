"""When alerts can be seen: by who asks ListAlerts again and again, and by who reads the topic."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState, ListAlertsRequest

from bench._events_outcomes import Times
from services.mesh.events import Record
from services.mesh.events.postgres import PostgresBus
from services.mesh.events.topics import AGENT_ALERTS
from services.mesh.store import connect

FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED
LIMIT_MS: Final = 1_000.0

_PAGE: Final = 1_000
_POLL_S: Final = 0.02
# No alert here is open for longer.
_RECENT: Final = timedelta(seconds=20)
# How long an alert is waited for, in seconds, before it counts as missing.
_GUARD_S: Final = 15.0

Turn: TypeAlias = tuple[str, AlertState.ValueType]
"""One key raised, or resolved. No key is raised twice here."""


class Watch:
    """What was expected when, and when it was first seen on either way. Times are those of perf_counter."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._listed: dict[Turn, float] = {}
        self._told: dict[Turn, float] = {}
        self._events: Counter[str] = Counter()
        self._lists: defaultdict[str, Times] = defaultdict(Times)
        self._topic: defaultdict[str, Times] = defaultdict(Times)
        self._news = asyncio.Event()
        self.missing: list[Turn] = []

    @property
    def twice(self) -> int:
        """Events of the topic beyond one for each time that a key was raised or resolved."""
        turns = self._events.total() - len(self._told)
        return turns + sum(count - 1 for count in self._events.values())

    async def expect(self, name: str, turn: Turn, due: float) -> bool:
        """Waits until it is seen both ways; how long after `due` that was counts for `name`."""
        try:
            async with asyncio.timeout(_GUARD_S + max(0.0, due - time.perf_counter())):
                while turn not in self._listed or turn not in self._told:
                    await self._news.wait()
        except TimeoutError:
            self.missing.append(turn)
            return False
        self._lists[name].values.append(max(0.0, self._listed[turn] - due))
        self._topic[name].values.append(max(0.0, self._told[turn] - due))
        return True

    def figures(self) -> dict[str, dict[str, Any]]:
        """What was measured since it was last asked, by name."""
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(self._lists):
            lists, topic = self._lists[name], self._topic[name]
            found[name] = {
                "n": len(lists.values),
                **lists.figures("list"),
                **topic.figures("topic"),
                "within_limit": max(*lists.values, *topic.values) * 1000 <= LIMIT_MS,
            }
        self._lists.clear()
        self._topic.clear()
        return found

    async def ask(self) -> None:
        """Asks for the newest alerts again and again, until cancelled."""
        while True:
            request = ListAlertsRequest(page_size=_PAGE)
            request.start_time.FromDatetime(datetime.now(UTC) - _RECENT)
            while True:
                answer = await self._stub.ListAlerts(request, timeout=60)
                self._see(self._listed, answer.alerts)
                request.page_token = answer.next_page_token
                if not request.page_token:
                    break
            await asyncio.sleep(_POLL_S)

    async def take(self, records: Sequence[Record]) -> None:
        """What the topic holds."""
        self._events.update(record.event_id for record in records)
        self._see(self._told, [Alert.FromString(record.value) for record in records])

    def _see(self, seen: dict[Turn, float], alerts: Sequence[Alert]) -> None:
        now, before = time.perf_counter(), len(seen)
        for alert in alerts:
            seen.setdefault((alert.alert_key, FIRING), now)
            if alert.state == RESOLVED:
                seen.setdefault((alert.alert_key, RESOLVED), now)
        if len(seen) > before:
            self._news.set()
            self._news = asyncio.Event()


@asynccontextmanager
async def watching(stub: Any, dsn: str) -> AsyncIterator[Watch]:
    """A watch that reads the topic from here on."""
    watch = Watch(stub)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2, connect=connect) as pool:
        bus = PostgresBus(pool, service="bench")
        await bus.start()
        reader = bus.broadcast([AGENT_ALERTS], watch.take, from_start=False)
        reading = asyncio.create_task(reader.run())
        try:
            await reader.caught_up.wait()
            yield watch
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await bus.close()
