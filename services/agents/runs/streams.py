"""Runs as streams, from the memory of the process that has the run or from the store: cursors fit both."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.runs import replay
from services.agents.runs.cursors import START, Position, cursor_of, parse_cursor
from services.agents.runs.live import LiveRuns
from services.agents.runs.record import RUNNING, StoredRun, key_of, unknown, unknown_cursor
from services.mesh import cursors
from services.mesh.errors import NotFound, Unavailable

_log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 10.0
# How often a run of another process is looked at, in seconds.
_LOOK_S: Final = 0.25

# The run's identity, how much has been seen behind the event, and the event: None for a sign of life.
_Told = tuple[str, Position, StreamRunResponse | None]


class RunStreams:
    """Follows runs for any number of readers. `heartbeat_s`: silence after which a sign of life is sent."""

    def __init__(self, runs: LiveRuns, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._runs = runs
        self._heartbeat_s = heartbeat_s

    async def stream(
        self, tenant: str, *, run_id: str = "", cursor: str = ""
    ) -> AsyncIterator[StreamRunResponse]:
        """What happened in a tenant's run, from its beginning or from a cursor on, up to its end.

        A reader that goes away ends nothing. Raises InvalidArgument for a cursor that is not one of ours,
        OutOfRange for one that is ahead of the run, NotFound (RUN_UNKNOWN), Unavailable.
        """
        one, start = parse_cursor(cursor) if cursor else (key_of(tenant, run_id), START)
        missing = unknown(run_id) if run_id else unknown_cursor()
        async for name, seen, event in self._told(tenant, one, start, run_id or cursor, missing):
            told = StreamRunResponse()
            if event is None:
                told.heartbeat.SetInParent()
            else:
                told.CopyFrom(event)
            told.cursor = cursor_of(one, seen)
            told.run_id = name
            yield told

    async def _told(
        self, tenant: str, one: UUID, seen: Position, asked: str, missing: NotFound
    ) -> AsyncIterator[_Told]:
        live = self._runs.find(one)
        if live is not None:
            if live.new.tenant != tenant:
                raise missing
            if (await asyncio.shield(live.accepted)).fresh:
                if not live.log.knows(seen):
                    raise cursors.not_kept(asked)
                async for position, event in live.log.follow(seen, self._heartbeat_s):
                    yield live.run_id, position, event
                return
        async for told in self._stored(tenant, one, seen, missing):
            yield told

    async def _stored(
        self, tenant: str, one: UUID, seen: Position, missing: NotFound
    ) -> AsyncIterator[_Told]:
        stored = await self._runs.store.read(one, tenant)
        spoke = time.monotonic()
        while stored is not None and stored.run.status == RUNNING:
            for position, event in replay.first(stored, seen):
                seen, spoke = position, time.monotonic()
                yield stored.run.run_id, position, event
            while await self._is_running(one):
                await asyncio.sleep(min(_LOOK_S, self._heartbeat_s))
                if time.monotonic() - spoke >= self._heartbeat_s:
                    spoke = time.monotonic()
                    yield stored.run.run_id, seen, None
            stored = await self._read(tenant, one, stored)
        if stored is None:
            raise missing
        for position, event in replay.rest(stored, seen):
            yield stored.run.run_id, position, event

    async def _is_running(self, one: UUID) -> bool:
        try:
            return await self._runs.store.status(one) == RUNNING
        except Unavailable as error:
            _log.warning("a reader waits for the store: %s", error)
            return True

    async def _read(self, tenant: str, one: UUID, before: StoredRun) -> StoredRun | None:
        try:
            return await self._runs.store.read(one, tenant)
        except Unavailable:
            return before
