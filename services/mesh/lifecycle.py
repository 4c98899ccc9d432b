"""The whole life of a process: start → ready → serve → not serving → drain → stop.

    start      start hooks in order, then background tasks, then the server takes calls
    ready      ready hooks; health says SERVING
    serve      until SIGTERM or SIGINT, or until a background task gives up
    drain      health says NOT_SERVING, calls go on for the drain window, calls under way end
    stop       background tasks are cancelled, stop hooks in reverse order

A second signal while draining skips what is left of the drain. A third ends the process at once.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn

from services.mesh.server import GrpcServer
from services.mesh.store.failures import is_transient

AsyncHook = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# Back-off of a background task that fails: doubles from the first to the last, in seconds.
_BACKOFF_S: Final = (0.1, 30.0)
# And the longest while it only waits for the store or a peer, which may be back at any moment.
_WAITING_S: Final = 3.0
# A task that has run this long without failing starts again at the first back-off, in seconds.
_HEALTHY_S: Final = 60.0
# How long one stop hook, or all background tasks together, may take, in seconds.
_STOP_S: Final = 10.0


class Lifecycle:
    """One object per process. `drain_s`: seconds between NOT_SERVING and the refusal of new calls."""

    def __init__(self, name: str, *, drain_s: float = 5.0) -> None:
        self.name = name
        self.drain_s = drain_s
        self._start: list[AsyncHook] = []
        self._ready: list[AsyncHook] = []
        self._stop: list[AsyncHook] = []
        self._background: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False
        self._server: GrpcServer | None = None
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._signals = 0

    def on_start(self, hook: AsyncHook) -> None:
        """Before anything is served; an exception ends the process."""
        self._start.append(hook)

    def on_ready(self, hook: AsyncHook) -> None:
        """Once calls are taken."""
        self._ready.append(hook)

    def on_stop(self, hook: AsyncHook) -> None:
        """After the last call has ended, in reverse order of registration; also after a failed start."""
        self._stop.append(hook)

    def background(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs as long as the process serves: again with back-off after an exception, cancelled at stop.

        Returning ends the task for good.
        """
        self._background.append((name, run))
        if self._running:
            self._spawn(name, run)

    def end(self) -> None:
        """Begins the drain, as SIGTERM does."""
        self._ending.set()

    async def run(self, server: GrpcServer | None = None) -> int:
        """From start to stop; returns the exit code: 0 after a clean end, 1 if the start failed."""
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            try:
                await self._until_end(self.start(server))
            except asyncio.CancelledError:
                raise
            except Exception:
                _log.exception("%s could not start", self.name)
                await self.stop()
                return 1
            if not self._ending.is_set():
                _log.info(
                    "%s is ready",
                    self.name,
                    extra={"duration_ms": round((time.monotonic() - began) * 1000, 1)},
                )
            await self._ending.wait()
            _log.info("%s is draining", self.name)
            await self._drained()
            await self.stop()
            _log.info("%s has stopped", self.name)
            return 0
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def start(self, server: GrpcServer | None = None) -> None:
        """Up to ready. Raises what a hook raises; call `stop` then too."""
        self._server = server
        for hook in self._start:
            await hook()
        # What start hooks registered is in the list; what comes later is spawned as it comes.
        self._running = True
        for name, run in self._background:
            self._spawn(name, run)
        if server is not None:
            await server.start()
        for hook in self._ready:
            await hook()

    async def drain(self) -> None:
        """NOT_SERVING, the window, the end of calls under way."""
        if self._server is not None:
            await self._server.drain(self.drain_s)

    async def stop(self) -> None:
        """Stops everything that was started; errors are logged and do not keep the rest from stopping."""
        self._running = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_S)
            for task in late:
                _log.error("background task %s does not stop", task.get_name())
        server, self._server = self._server, None
        if server is not None:
            await self._bounded("server", server.stop)
        for hook in reversed(self._stop):
            await self._bounded("stop hook", hook)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals == 1:
            _log.info("%s received %s", self.name, signal.Signals(number).name)
            self._ending.set()
        elif self._signals == 2:
            self._hurry.set()
        else:
            os._exit(128 + number)

    async def _until_end(self, starting: Coroutine[Any, Any, None]) -> None:
        """Starts, unless a signal comes first: a start that waits for a store must end with Ctrl-C too."""
        start = asyncio.create_task(starting, name="start")
        ending = asyncio.create_task(self._ending.wait(), name="ending")
        try:
            await asyncio.wait((start, ending), return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                start.cancel()
                await asyncio.wait((start,))
            if not start.cancelled():
                start.result()
        finally:
            ending.cancel()

    async def _drained(self) -> None:
        """Drains, unless a second signal says that there is no time."""
        drain = asyncio.create_task(self.drain(), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        try:
            await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
            if not drain.done():
                drain.cancel()
                await asyncio.wait((drain,))
            if not drain.cancelled() and drain.exception() is not None:
                _log.error("%s could not drain", self.name, exc_info=drain.exception())
        finally:
            hurry.cancel()

    async def _bounded(self, what: str, hook: AsyncHook) -> None:
        try:
            async with asyncio.timeout(_STOP_S):
                await hook()
        except TimeoutError:
            _log.error("%s %s takes too long", what, getattr(hook, "__qualname__", hook))
        except Exception:
            _log.exception("%s %s failed", what, getattr(hook, "__qualname__", hook))

    def _spawn(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(self._supervise(name, run), name=name))

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        pause_s = _BACKOFF_S[0]
        while True:
            began = time.monotonic()
            try:
                await run()
                return
            except Exception as error:
                if time.monotonic() - began > _HEALTHY_S:
                    pause_s = _BACKOFF_S[0]
                if is_transient(error):
                    pause_s = min(pause_s, _WAITING_S)
                    why = type(error).__name__
                    _log.warning("background task %s waits: %s; again in %.1f s", name, why, pause_s)
                else:
                    _log.exception("background task %s failed; it starts again in %.1f s", name, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _BACKOFF_S[1])


def run_process(main: Callable[[], Coroutine[Any, Any, int | None]]) -> NoReturn:
    """Runs `main` on uvloop and exits with what it returns; 0 for None, 130 after Ctrl-C."""
    import uvloop

    try:
        code = uvloop.run(main())
    except KeyboardInterrupt:
        code = 130
    logging.shutdown()
    sys.stdout.flush()
    sys.exit(code or 0)


async def settle() -> None:
    """A ready hook: what lives now lives on, and the collector passes over it, 40 to 190 ms each time."""
    gc.collect()
    gc.freeze()
