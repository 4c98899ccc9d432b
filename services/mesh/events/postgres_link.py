"""The one connection that a process's bus keeps for itself: it listens, notifies, and says that we live.

Its server process is what the membership in groups hangs on: when this process dies, the connection goes, and
the other members of its groups take over.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import asyncpg

from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

T = TypeVar("T")

EVENTS_CHANNEL: Final = "bus_events"
GROUPS_CHANNEL: Final = "bus_groups"

# A NOTIFY takes a lock of the whole database at commit: one per process and 10 ms, not one per publish.
LINGER_S: Final = 0.010
# Safety net for a notification that came before its commit was visible, or not at all.
POLL_S: Final = 0.100
_BEAT_S: Final = 1.0
_RECONNECT_S: Final = (0.05, 2.0)
# A transaction still open that long after its publish is left to the poll.
_COMMIT_S: Final = 0.100
_COMMIT_STEP_S: Final = 0.002

_HEADS: Final = "SELECT part, last FROM bus.heads"
_BEAT: Final = "UPDATE bus.members SET seen = clock_timestamp() WHERE member = ANY ($1::uuid[])"
_LIVING: Final = """
SELECT group_name, string_agg(member::text, ',' ORDER BY member) AS members
FROM bus.living WHERE group_name = ANY ($1) GROUP BY group_name
"""


class Reader(Protocol):
    """What the link wakes."""

    group: str
    member: str
    """Its id in the group, empty while it is in none."""

    def published(self, parts: Iterable[int]) -> None:
        """Events may have come into these partitions."""
        ...

    def heads_known(self, heads: Mapping[int, int]) -> None:
        """The newest positions of all partitions."""
        ...

    def group_changed(self) -> None:
        """Members came or went, or we may have been taken for dead."""
        ...


@dataclass(frozen=True, slots=True)
class _Publish:
    """A publish whose transaction may still be open."""

    connection: asyncpg.Connection
    parts: frozenset[int]
    since: float


class PostgresLink:
    """Runs while the bus does; reconnects by itself."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._served = 0
        self._pause_s = _RECONNECT_S[0]
        self._readers: list[Reader] = []
        self._living: dict[str, str] = {}
        self._open: list[_Publish] = []
        self._notify = asyncio.Event()
        self._connected = asyncio.Event()
        self.heads: Mapping[int, int] = {}

    def add(self, reader: Reader) -> None:
        """Wakes this reader from now on."""
        self._readers.append(reader)

    def remove(self, reader: Reader) -> None:
        """Wakes it no more."""
        self._readers.remove(reader)

    async def call(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Runs statements on the link's connection. ConnectionError while there is none."""
        async with self._lock:
            connection = self._connection
            if connection is None or connection.is_closed():
                raise ConnectionResetError("the bus has no connection to its store")
            return await work(connection)

    def touched(self, connection: asyncpg.Connection, parts: Iterable[int]) -> None:
        """Tells readers of these partitions once the connection's transaction has ended."""
        self._open.append(_Publish(connection, frozenset(parts), time.monotonic()))
        self._notify.set()

    async def connected(self) -> None:
        """Waits for the first connection."""
        await self._connected.wait()

    async def run(self) -> None:
        """Keeps the connection until cancelled."""
        notifier = asyncio.create_task(self._notify_readers(), name="bus-notify")
        try:
            while True:
                served = self._served
                try:
                    async with self._pool.acquire() as connection:
                        try:
                            await self._serve(connection)
                        finally:
                            self._connection = None
                            with contextlib.suppress(asyncpg.InterfaceError):  # the pool has taken it back
                                connection.terminate()  # its listeners must not go back to the pool
                except Exception as error:
                    if is_transient(error):
                        _log.warning("the bus lost its store: %s", type(error).__name__)
                    else:
                        _log.exception("the bus's link failed")
                # At once after a loss, then ever less often.
                self._pause_s = (
                    min(self._pause_s * 2, _RECONNECT_S[1]) if served == self._served else _RECONNECT_S[0]
                )
                await asyncio.sleep(self._pause_s)
        finally:
            notifier.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await notifier

    async def _serve(self, connection: asyncpg.Connection) -> None:
        await connection.add_listener(EVENTS_CHANNEL, self._on_events)
        await connection.add_listener(GROUPS_CHANNEL, self._on_group)
        self._connection = connection
        self._connected.set()
        for reader in self._readers:
            reader.group_changed()
        beat_at = 0.0
        while True:
            async with self._lock:
                rows = await connection.fetch(_HEADS, timeout=10)
                self.heads = dict(rows)
                if time.monotonic() >= beat_at:
                    await self._beat(connection)
                    beat_at = time.monotonic() + _BEAT_S
            self._served += 1
            for reader in self._readers:
                reader.heads_known(self.heads)
            await asyncio.sleep(POLL_S)

    async def _beat(self, connection: asyncpg.Connection) -> None:
        members = [reader.member for reader in self._readers if reader.member]
        if not members:
            self._living = {}
            return
        await connection.execute(_BEAT, members, timeout=10)
        groups = [reader.group for reader in self._readers if reader.member]
        rows = await connection.fetch(_LIVING, groups, timeout=10)
        living = {row["group_name"]: row["members"] for row in rows}
        for reader in self._readers:
            if reader.member and living.get(reader.group) != self._living.get(reader.group):
                reader.group_changed()
        self._living = living

    def _on_events(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        parts = [int(part) for part in str(payload).split(",") if part]
        for reader in self._readers:
            reader.published(parts)

    def _on_group(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        for reader in self._readers:
            if reader.group == payload:
                reader.group_changed()

    async def _notify_readers(self) -> None:
        """At most one NOTIFY per linger; the first one after a quiet time goes out with its commit."""
        last = 0.0
        while True:
            await self._notify.wait()
            await asyncio.sleep(max(0.0, last + LINGER_S - time.monotonic()))
            self._notify.clear()
            waiting, self._open = self._open, []
            parts: set[int] = set()
            for publish in waiting:
                if _in_transaction(publish.connection, publish.since):
                    self._open.append(publish)
                else:
                    parts.update(publish.parts)
            if parts:
                # Whoever is not told now finds the events by polling.
                with contextlib.suppress(Exception):
                    await self.call(functools.partial(_tell, parts=parts))
                last = time.monotonic()
            if self._open:
                self._notify.set()
                await asyncio.sleep(_COMMIT_STEP_S)


async def _tell(connection: asyncpg.Connection, *, parts: set[int]) -> None:
    payload = ",".join(map(str, sorted(parts)))
    await connection.execute("SELECT pg_notify($1, $2)", EVENTS_CHANNEL, payload, timeout=10)


def _in_transaction(connection: asyncpg.Connection, since: float) -> bool:
    if time.monotonic() - since > _COMMIT_S:
        return False
    try:
        return bool(connection.is_in_transaction())
    except asyncpg.InterfaceError:  # given back to the pool: over
        return False
