"""Whether a process may be given calls: checks of its dependencies drive what its health service says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]

from services.mesh.errors import MeshError
from services.mesh.telemetry import Telemetry

Probe = Callable[[], Awaitable[None]]
Listener = Callable[[str, str | None], None]

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_UNCHECKED: Final = "not checked yet"

_log = logging.getLogger(__name__)


class Health:
    """State of a server: starting, serving, not serving (a check fails), draining."""

    def __init__(self, telemetry: Telemetry, *, every_s: float = 1.0, probe_timeout_s: float = 2.0) -> None:
        self.servicer = health.aio.HealthServicer()
        self._telemetry = telemetry
        self._every_s = every_s
        self._probe_timeout_s = probe_timeout_s
        self._probes: dict[str, Probe] = {}
        # What each check last said; None while it passes.
        self._failures: dict[str, str | None] = {}
        self._listeners: list[Listener] = []
        self._services: list[str] = [""]
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._draining = False

    def add(self, name: str, probe: Probe) -> None:
        """`probe` raises, or does not return in time, while the dependency cannot be used."""
        self._probes[name] = probe
        self._failures[name] = _UNCHECKED

    def on_change(self, listener: Listener) -> None:
        """`listener(check, failure)` when a check begins to fail or, with None, passes again.

        It must not block or raise.
        """
        self._listeners.append(listener)

    @property
    def serving(self) -> bool:
        """Whether calls are welcome now."""
        return self._started and not self._draining and not any(self._failures.values())

    @property
    def draining(self) -> bool:
        """Whether the process is on its way out."""
        return self._draining

    def report(self) -> dict[str, object]:
        """For /health: overall status and what each check says."""
        if self._draining:
            status = "draining"
        elif not self._started:
            status = "starting"
        else:
            status = "ok" if self.serving else "failing"
        return {
            "status": status,
            "service": self._telemetry.service,
            "checks": {name: failure or "ok" for name, failure in self._failures.items()},
        }

    async def start(self, services: Iterable[str]) -> None:
        """Runs every check once, then says what is true, and goes on checking."""
        self._services = ["", *services]
        for service in self._services:
            await self.servicer.set(service, NOT_SERVING)
        await self._check_all()
        self._started = True
        await self._tell()
        if self._probes:
            self._task = asyncio.create_task(self._watch(), name="health")

    async def drain(self) -> None:
        """NOT_SERVING from now on, whatever the checks say."""
        self._draining = True
        await self.servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Ends the checks."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            before = self.serving
            await self._check_all()
            if self.serving != before:
                await self._tell()

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(name, probe) for name, probe in self._probes.items()))

    async def _check(self, name: str, probe: Probe) -> None:
        failure: str | None = None
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                await probe()
        except Exception as error:
            # What others raise may hold an address or a password; a MeshError is made to be told.
            failure = error.message if isinstance(error, MeshError) else type(error).__name__
            if self._failures[name] != failure:
                _log.warning("health check %s fails: %s", name, error, extra={"fields": {"check": name}})
        else:
            if self._failures[name] is not None and self._started:
                _log.info("health check %s passes again", name, extra={"fields": {"check": name}})
        before, self._failures[name] = self._failures[name], failure
        failed = before not in (None, _UNCHECKED)
        if (failure is not None) != failed:
            for listener in self._listeners:
                listener(name, failure)
        self._telemetry.health.labels(name).set(0 if failure else 1)

    async def _tell(self) -> None:
        status = SERVING if self.serving else NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)
