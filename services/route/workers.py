"""Where computing happens that would hold up the event loop: a thread for a moment's work, a process for
more."""

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


# Of 19: what answers requests goes before what computes for seconds, without leaving that nothing.
_NICE: Final = 5


class Workers:
    """Runs functions off the loop. The process is started when it is first needed."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._warm = False

    @property
    def warm(self) -> bool:
        """Whether the process is there; starting it takes a second or two, more on a busy machine."""
        return self._warm

    async def warm_up(self) -> None:
        """Until the process is there."""
        await self.run(True, os.getpid)

    async def run(self, heavy: bool, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call(*args)` in a thread or, if `heavy`, in the worker process; both must be picklable then.

        Python code in a thread takes turns with the loop; that is fine for a tenth of a second, not for
        seconds.
        """
        if not heavy:
            return await asyncio.to_thread(call, *args, **kwargs)
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._running(), _call, call, args, kwargs)
        except BrokenProcessPool:
            # The process was killed from outside; a new one takes its place.
            self._pool, self._warm = None, False
            result = await loop.run_in_executor(self._running(), _call, call, args, kwargs)
        self._warm = True
        return result

    async def close(self) -> None:
        """Ends the worker process."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    def _running(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Spawned, not forked: gRPC's threads and locks do not survive a fork.
            self._pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
            )
        return self._pool


def _call(call: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]) -> R:
    return call(*args, **kwargs)


def _begin() -> None:
    """In the worker: after its parent's other work, which handles Ctrl-C; a parent that was killed is not
    outlived."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(0)
