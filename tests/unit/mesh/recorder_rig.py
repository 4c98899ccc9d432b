"""A recorder on a spool of its own before a service that can be away, silent, or refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.errors import Unavailable
from services.mesh.feedback import FeedbackPipeline
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.mesh.feedback.spool import Spool

GUARD_S = 30.0


class Service:
    """Stands in for the feedback service; `events` is what it has stored."""

    def __init__(self) -> None:
        self.events: list[OutcomeEvent] = []
        self.calls = 0
        self.error: Exception | None = None
        self.silent = False
        self.refused: set[str] = set()
        self._called = asyncio.Event()

    async def send(self, events: Sequence[OutcomeEvent]) -> Collection[int]:
        self.calls += 1
        self._called.set()
        if self.silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.events += [event for event in events if event.action_type not in self.refused]
        return {place for place, event in enumerate(events) if event.action_type in self.refused}

    def leave(self) -> None:
        self.error = Unavailable("away")

    def come_back(self) -> None:
        self.error = None

    @property
    def names(self) -> list[str]:
        """Of what it has stored, each once, in order of arrival."""
        return list(dict.fromkeys(event.action_type for event in self.events))

    async def until(self, met: Callable[[], bool]) -> None:
        """Until something holds; looked at whenever the service is called."""
        async with asyncio.timeout(GUARD_S):
            while not met():
                self._called.clear()
                await self._called.wait()
                await asyncio.sleep(0)

    async def has(self, *names: str) -> None:
        """Until all have been stored."""
        await self.until(lambda: set(names) <= set(self.names))


def event(name: str) -> OutcomeEvent:
    """An outcome of the action `name`."""
    return outcome(
        agent_name="agent",
        agent_type="test",
        action_type=name,
        started=datetime.now(UTC),
        duration_ms=1.0,
        status=SUCCESS,
    )


def pipeline(service: Service, folder: Path, **options: object) -> FeedbackPipeline:
    """A recorder that does not linger."""
    given: dict[str, object] = {"send": service.send, "spool": Spool(folder), "linger_s": 0.0, **options}
    return FeedbackPipeline(**given)  # type: ignore[arg-type]


@asynccontextmanager
async def running(recorder: FeedbackPipeline) -> AsyncIterator[FeedbackPipeline]:
    """While it delivers; cancelled at the end, and not closed."""
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def acknowledged(recorder: FeedbackPipeline, *names: str) -> list[bool]:
    """What becomes of events with these names, recorded at once."""
    receipts = [recorder.record_outcome(event(name)) for name in names]
    async with asyncio.timeout(GUARD_S):
        return [await receipt for receipt in receipts]


def spooled(folder: Path) -> list[str]:
    """What another process would find; only if nobody holds the files."""
    spool, names = Spool(folder), []
    held = []
    while (found := spool.oldest()) is not None:
        held.append(found)
        names += [OutcomeEvent.FromString(record).action_type for record in found.records]
    for one in held:
        one.release()
    return names


def drained(spool: Spool) -> list[bytes]:
    """All records that are there, oldest first, forgotten."""
    back: list[bytes] = []
    while (found := spool.oldest()) is not None:
        back += found.records
        found.discard()
    return back


async def _unsent(_events: object) -> Collection[int]:
    raise AssertionError("nothing runs that would send")


def idle_pipeline(folder: Path) -> FeedbackPipeline:
    """One that keeps what is recorded and is never run."""
    return FeedbackPipeline(send=_unsent, spool=Spool(folder))
