"""Opens the caller's budget around the handler, and cancels a handler that outlives it."""

import asyncio
import time

from services.mesh import deadline
from services.mesh.chain.server.call import ServerCall


class _Timer:
    """Cancels a task at a time; knows afterwards whether that was its own doing."""

    __slots__ = ("_before", "_handle", "_task", "fired")

    def __init__(self, task: "asyncio.Task[object]", left_s: float) -> None:
        self._task = task
        # As asyncio.timeout does: a cancellation that comes from elsewhere as well must not be swallowed.
        self._before = task.cancelling()
        self.fired = False
        self._handle = task.get_loop().call_later(left_s, self._fire)

    def _fire(self) -> None:
        self.fired = True
        self._task.cancel()

    def stop(self) -> bool:
        """Whether a CancelledError that came out of the handler is this timer's alone."""
        self._handle.cancel()
        return self.fired and self._task.uncancel() <= self._before


class DeadlineLink:
    """Sets `call.deadline` and the context variable that the client's chain reads."""

    name = "deadline"

    def before(self, call: ServerCall) -> None:
        left_s: float | None = call.context.time_remaining()
        if left_s is None:
            deadline.begin(None)
            return
        call.deadline = call.started + left_s
        deadline.begin(call.deadline)
        if left_s <= 0:
            raise deadline.passed()
        task = asyncio.current_task()
        assert task is not None  # a handler always runs in one
        call.timer = _Timer(task, call.deadline - time.monotonic())

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        timer: _Timer | None = call.timer
        if timer is None:
            return error
        mine = timer.stop()
        if mine and isinstance(error, asyncio.CancelledError):
            return deadline.passed(call.budget_s)
        return error
