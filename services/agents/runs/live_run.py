"""One run of this process, from its beginning to its recorded end."""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID

from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.runs import endings, replay
from services.agents.runs.endings import Account
from services.agents.runs.log import EventLog
from services.agents.runs.record import Accepted, NewRun, RunEnd
from services.mesh.errors import MeshError


class LiveRun:
    """What its work writes into: `steps`, `usage` and, where budgets are kept, `account`.

    They are recorded however the run ends, so what was done before a cancel is known, too.
    """

    def __init__(self, new: NewRun, process_id: UUID) -> None:
        self.new = new
        self.id = new.id
        self.process_id = process_id
        self.steps: list[pb.RunStep] = []
        self.usage = pb.Usage()
        self.account: Account | None = None
        self.log = EventLog(replay.accepted(new.agent_id, new.agent_name, new.agent_version, new.task))
        loop = asyncio.get_running_loop()
        # Whether it is recorded as this process's, and how it ended. Errors reach those who ask, if any.
        self.accepted: asyncio.Future[Accepted] = loop.create_future()
        self.done: asyncio.Future[RunEnd] = loop.create_future()
        self.accepted.add_done_callback(_looked_at)
        self.done.add_done_callback(_looked_at)
        self.stopped_by: MeshError | None = None
        self.waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._at_work = self._over = False

    @property
    def run_id(self) -> str:
        """Its identity within the tenant."""
        return self.new.run_id

    @property
    def cancelled(self) -> bool:
        """Whether it is to end, for whatever reason."""
        return self.stopped_by is not None

    def emit(self, event: StreamRunResponse) -> None:
        """Tells those who follow the run; cheap if there is nobody. Cursor and run_id are set later."""
        self.log.add(event)

    def token(self, text: str) -> None:
        """Tells a piece of the answer's text."""
        self.log.add_text(text)

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """Somebody waits for its end."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def recorded(self) -> None:
        """Returns once the run is recorded: to be awaited before work does what cannot be undone.

        Raises Unavailable if it cannot be; the work is ended then anyway.
        """
        await asyncio.shield(self.accepted)

    def start(self, task: "asyncio.Task[None]") -> None:
        """The task that does all of it."""
        self._task = task

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, `stop` cancels the task. Raises CancelledError if it was to stop before it began."""
        if self.stopped_by is not None:
            self._over = True
            raise asyncio.CancelledError
        self._at_work = True
        try:
            yield
        finally:
            self._at_work, self._over = False, True

    def stop(self, reason: MeshError) -> bool:
        """Ends the work, if it has not ended; the first reason counts. Whether this was it."""
        if self._over or self.stopped_by is not None:
            return False
        self.stopped_by = reason
        # Before its first step, a cancelled task would not even begin.
        if self._at_work and self._task is not None:
            self._task.cancel()
        return True

    def forget(self) -> None:
        """Drops what is recorded; what was told stays for those who follow."""
        self.steps, self.usage, self.account = [], pb.Usage(), None

    def give_up(self, error: Exception) -> None:
        """Whoever waits or follows is told this, unless he has been told how it went."""
        if not self.accepted.done():
            self.accepted.set_exception(error)
        if not self.done.done():
            self.done.set_exception(error)
        if not self.log.ended:
            self.log.end(replay.last(self.new.task, endings.of_error(error)))


def _looked_at(told: "asyncio.Future[Accepted] | asyncio.Future[RunEnd]") -> None:
    """An error that nobody has asked for is nobody's loss: it is recorded, or the run is not."""
    if not told.cancelled():
        told.exception()
