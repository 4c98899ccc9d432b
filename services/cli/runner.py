"""One service under `up`: kept running, its health followed, replaced without a gap."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.cli.child import Child, describe_exit
from services.cli.errors import CliError
from services.cli.probe import Health, health

# Waits before a crashed service is started again, in seconds; the last one repeats.
BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A service that ran this long begins again at the first wait, in seconds.
_HEALTHY_S: Final = 30.0
_POLL_STARTING_S: Final = 0.05
_POLL_SERVING_S: Final = 1.0
# A successor must be ready within this, in seconds.
_TAKEOVER_S: Final = 60.0
# How long an old process may drain before it is killed, in seconds.
DRAIN_LIMIT_S: Final = 20.0


class State(StrEnum):
    """What a service is doing, as `up` sees it."""

    STARTING = "starting"
    READY = "ready"
    FAILING = "failing"
    CRASHED = "crashed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service and its health page are reached."""

    host: str
    port: int
    admin_port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class StartFailedError(CliError):
    """The service ended before it was ever ready."""


class ServiceRunner:
    """Runs the service that `launch` starts; tells `changed` of each change of state."""

    def __init__(
        self,
        name: str,
        address: Address,
        launch: Callable[[], Awaitable[Child]],
        changed: Callable[["ServiceRunner", str], None],
        *,
        handover_s: float = DRAIN_LIMIT_S,
    ) -> None:
        """`handover_s`: how long an old process may go on once a successor has taken over."""
        self._handover_s = handover_s
        self.name = name
        self.address = address
        self.state = State.STOPPED
        self.child: Child | None = None
        self.was_ready = asyncio.Event()
        self._launch = launch
        self._changed = changed
        self._replaced = asyncio.Event()
        self._replacing = asyncio.Lock()
        self._stopping = False

    async def run(self) -> None:
        """Until `stop`. Raises StartFailedError if the first start fails: nobody waits for that to heal."""
        attempt = 0
        while not self._stopping:
            if self.child is None:
                self._tell(State.STARTING)
                self.child = await self._launch()
            child = self.child
            code = await self._attend(child)
            if code is None or self._stopping:
                continue
            self.child = None
            reason = self._without_name(child.last_words())
            if not self.was_ready.is_set():
                raise StartFailedError(f"{self.name} does not start: {reason or describe_exit(code)}")
            attempt = 0 if child.age_s > _HEALTHY_S else attempt
            pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
            attempt += 1
            said = f": {reason}" if reason and code != 0 and code > 0 else ""
            self._tell(State.CRASHED, f"{describe_exit(code)}{said}; starts again in {pause_s:g} s")
            await asyncio.sleep(pause_s)

    async def replace(self, progress: Callable[[str], None]) -> None:
        """Starts a successor on the same ports, waits for its own health, then drains the old process.

        Raises CliError if the successor does not get ready; the old process then goes on as if nothing had
        been.
        """
        if self._replacing.locked():
            raise CliError(f"{self.name} is being restarted already: wait for that to end")
        async with self._replacing:
            old = self.child
            if old is None or self.state is State.STARTING:
                raise CliError(f"{self.name} is {self.state}: wait until it is ready")
            successor = await self._launch()
            progress(f"successor started (pid {successor.pid})")
            try:
                await self._await_takeover(successor)
            except BaseException:
                successor.kill()
                await successor.wait()
                raise
            self.child = successor
            self._replaced.set()
            self._tell(
                State.READY, f"{self.address} (pid {successor.pid} takes over, {successor.age_s:.1f} s)"
            )
            progress(f"successor ready; draining pid {old.pid}")
            if not await old.stop(self._handover_s):
                progress(f"pid {old.pid} did not drain within {self._handover_s:g} s and was killed")

    async def stop(self, limit_s: float = DRAIN_LIMIT_S) -> None:
        """Drains and ends the process; afterwards `run` returns."""
        self._stopping = True
        child = self.child
        if child is None:
            return
        clean = await child.stop(limit_s)
        self._tell(State.STOPPED, "" if clean else f"killed: it did not drain within {limit_s:g} s")

    def kill(self) -> None:
        """Ends the process at once."""
        self._stopping = True
        if self.child is not None:
            self.child.kill()

    async def _attend(self, child: Child) -> int | None:
        """Follows a process; its exit code, or None once another has taken its place."""
        self._replaced.clear()
        tasks = {
            "ended": asyncio.create_task(child.wait()),
            "replaced": asyncio.create_task(self._replaced.wait()),
            "health": asyncio.create_task(self._follow_health(child)),
        }
        try:
            await asyncio.wait((tasks["ended"], tasks["replaced"]), return_when=asyncio.FIRST_COMPLETED)
            if child is not self.child:
                return None
            return await tasks["ended"]
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _follow_health(self, child: Child) -> None:
        ready = self.state is State.READY
        detail = ""
        while True:
            now = await self._ask(None)
            if child is not self.child or self._stopping:
                return
            if self._replacing.locked():
                # The answer may be that of the other process, which drains or is not ready yet.
                await asyncio.sleep(_POLL_SERVING_S)
                continue
            if now.ready and not ready:
                self.was_ready.set()
                again = "again" if self.state is State.FAILING else f"{child.age_s:.1f} s"
                self._tell(State.READY, f"{self.address} (pid {child.pid}, {again})")
            elif not now.ready and (ready or (self.state is State.FAILING and now.detail != detail)):
                self._tell(State.FAILING, now.detail)
            ready, detail = now.ready, now.detail
            starting = self.state is State.STARTING
            await asyncio.sleep(_POLL_STARTING_S if starting else _POLL_SERVING_S)

    async def _await_takeover(self, successor: Child) -> None:
        last = "it did not answer"
        try:
            async with asyncio.timeout(_TAKEOVER_S):
                while True:
                    now = await self._ask(successor.pid)
                    if now.ready:
                        return
                    last = now.detail or last
                    if successor.ended:
                        words = self._without_name(successor.last_words()) or "it ended"
                        raise CliError(f"the successor of {self.name} does not start: {words}")
                    await asyncio.sleep(_POLL_STARTING_S)
        except TimeoutError:
            raise CliError(
                f"the successor of {self.name} was not ready within {_TAKEOVER_S:g} s ({last}); "
                "the old process goes on"
            ) from None

    async def _ask(self, pid: int | None) -> Health:
        return await health(self.address.host, self.address.admin_port, answered_by=pid)

    def _without_name(self, words: str) -> str:
        """What a process of this service said of itself; who it is stands before it already."""
        return words.removeprefix(f"{self.name} could not start: ").removeprefix(f"{self.name}: ")

    def _tell(self, state: State, detail: str = "") -> None:
        self.state = state
        self._changed(self, detail)
