"""Whatever happens to service, disk and process: what was acknowledged is stored once, in order, and all else
is at most lost."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_rig import event
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.errors import Unavailable
from services.mesh.feedback import FeedbackPipeline, Receipt
from services.mesh.feedback import pipeline as module
from services.mesh.feedback.frames import MARK
from services.mesh.feedback.spool import Spool
from tests.examples import examples

GUARD_S = 30.0


class Store:
    """Stores each event once; may be away, and may lose its answer after it has stored."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.away = self.mute = False

    async def send(self, events: Sequence[OutcomeEvent]) -> Collection[int]:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        known = set(self.names)
        self.names += [one.event_id for one in events if one.event_id not in known]
        if self.mute:
            raise Unavailable("the answer is lost")
        return ()


class World:
    """A store, a disk, and one process after the other that records."""

    def __init__(self, folder: Path) -> None:
        self.store = Store()
        self.folder = folder
        self.full = False
        self.receipts: list[Receipt] = []
        self._start()

    def _start(self) -> None:
        world = self

        class Disk(Spool):
            def append(self, records: Sequence[bytes]) -> int:
                if world.full:
                    raise OSError(errno.ENOSPC, "full")
                return super().append(records)

        self.spool = Disk(self.folder, file_bytes=500)
        self.pipeline = FeedbackPipeline(send=self.store.send, spool=self.spool, linger_s=0.0, batch_size=3)
        self.running = asyncio.create_task(self.pipeline.run())

    def record(self, count: int) -> None:
        for _ in range(count):
            one = event("work")
            one.event_id = f"{len(self.receipts):06d}"
            self.receipts.append(self.pipeline.record_outcome(one))

    async def crash(self) -> None:
        """The process is gone: its files are unlocked, its memory is lost, a write may be torn."""
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running
        if self.pipeline._append is not None:
            await asyncio.wait((self.pipeline._append,))
        await asyncio.to_thread(self.pipeline._disk.shutdown)
        for _ in range(5):  # what the threads have ended with is heard of
            await asyncio.sleep(0)
        if self.pipeline._replay is not None:
            self.pipeline._replay.leftover.release()
        if self.pipeline._looking is not None and (found := await self.pipeline._looking) is not None:
            found.release()
        path = self.spool._path
        self.spool.close()
        if path is not None and path.exists():
            with path.open("ab") as file:
                file.write(MARK + b"\0\0\1")
        self.store.mute = False
        self._start()

    async def settle(self) -> None:
        """All faults are over, and all that waits is delivered."""
        self.full = self.store.away = self.store.mute = False
        last = event("last")
        receipt = self.pipeline.record_outcome(last)
        async with asyncio.timeout(GUARD_S):
            assert await receipt
            while last.event_id not in self.store.names:
                await asyncio.sleep(0.001)
        self.store.names.remove(last.event_id)
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running
        await self.pipeline.close()


class Step(NamedTuple):
    """A state of the world, and what happens in it."""

    faults: frozenset[str]
    before: int
    pauses: int
    after: int
    more_pauses: int
    crash: bool


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from([(), ("away",), ("mute",), ("away", "full"), ("mute", "full")]).map(frozenset),
        st.integers(0, 8),
        st.integers(0, 10),
        st.integers(0, 8),
        st.integers(0, 10),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=examples(100), deadline=None)
@given(steps=steps)
def test_what_was_acknowledged_is_stored_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    async def run() -> None:
        world = World(tmp_path_factory.mktemp("spool"))
        for step in steps:
            world.full = "full" in step.faults
            world.store.away = "away" in step.faults
            world.store.mute = "mute" in step.faults
            for count, pauses in ((step.before, step.pauses), (step.after, step.more_pauses)):
                world.record(count)
                for _ in range(pauses):
                    await asyncio.sleep(0.0005)
            if step.crash:
                await world.crash()
        await world.settle()
        acknowledged = [one.event.event_id for one in world.receipts if one.durable]
        names = world.store.names
        assert len(set(names)) == len(names)
        assert names == sorted(names)
        assert set(acknowledged) <= set(names)
        assert not any(one.durable is False for one in world.receipts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BACKOFF_S", (0.001, 0.002))
        patch.setattr(module, "_DISK_RETRY_S", 0.001)
        asyncio.run(run())
