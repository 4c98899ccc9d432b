"""`waymesh up`: the database, then every service; one line per change of state; everything stopped in
order.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.cli import state as state_file
from services.cli.api_key import first_key
from services.cli.child import Child, service_command
from services.cli.control import ControlServer, Progress
from services.cli.database import Database, EmbeddedDatabase
from services.cli.demo import DemoFleet
from services.cli.environment import (
    GATEWAY_ADMIN,
    SERVICES,
    PortSpec,
    ServiceSpec,
    check_free,
    has_tls,
    make_data_dir,
    reach_host,
)
from services.cli.errors import CliError
from services.cli.external_database import ExternalDatabase
from services.cli.logfile import ServiceLog
from services.cli.probe import health
from services.cli.runner import Address, ServiceRunner, State
from services.cli.screen import Screen
from services.cli.state import MeshState, RunLock, ServiceState
from services.cli.troubles import Troubles

# Nobody looks for another instance while the whole mesh stops, so there is little to wait for.
_DRAIN_S: Final = "0.5"
_SLOW_START_S: Final = 60.0
# How long the gateway may take to find services that are ready, in seconds; it goes on looking after that.
_SIGHT_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.02
# Tasks that have an answer in a mesh of which nobody has told anything.
_TO_TRY: Final = (
    '{"task":"get_gps_stats","parameters":{}}',
    '{"task":"ask","parameters":{"question":"What did agents do of late?"}}',
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and where."""

    data_dir: Path
    host: str
    ports: Mapping[PortSpec, int]
    database_url: str | None
    environ: Mapping[str, str]
    verbose: bool = False
    demo: Sequence[str] | None = None
    """Command line of a demo fleet, to run once everything is ready."""


class Supervisor:
    """Runs the plan until a signal; `run` gives the exit code."""

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self.plan = plan
        self._screen = screen
        self._lock = RunLock(plan.data_dir)
        self._ending = asyncio.Event()
        self._signals = 0
        self._dsn = ""
        self._api_key = ""
        self._database = self._choose_database()
        self._logs: list[ServiceLog] = []
        self._troubles = Troubles(self._trouble)
        self._runners: dict[str, ServiceRunner] = {}
        self._control = ControlServer(plan.data_dir, self._command)
        self._demo: DemoFleet | None = None

    def address(self, name: str) -> Address:
        """Where a service is reached from this machine."""
        spec = next(entry for entry in SERVICES if entry.name == name)
        return Address(reach_host(self.plan.host), self.plan.ports[spec.port], self.plan.ports[spec.admin])

    async def run(self) -> int:
        """From start to stop. Raises CliError with one line if the start fails."""
        try:
            self._check_place()
            return await self._run()
        finally:
            if self._lock.held:
                state_file.clear(self.plan.data_dir)
                self._lock.release()

    def _check_place(self) -> None:
        if os.path.exists(self.plan.data_dir):
            self._take_folder()  # first: what an earlier mesh left running there may have the ports
        for spec, port in self.plan.ports.items():
            check_free(port, spec, self.plan.environ)

    def _take_folder(self) -> None:
        """Makes it if need be, and lets nobody else run on it."""
        if self._lock.held:
            return
        make_data_dir(self.plan.data_dir)
        self._lock.acquire()
        for pid in state_file.end_leftovers(self.plan.data_dir):
            self._screen.change("up", "cleaned", f"ended pid {pid}, left by a mesh that was killed")
        state_file.clear(self.plan.data_dir)
        self._api_key = first_key(self.plan.data_dir, self.plan.environ)

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        tasks: list[asyncio.Task[None]] = []
        try:
            if not await self._unless_ending(self._start_database()):
                return 0
            tasks.append(asyncio.create_task(self._database.run(), name="postgres"))
            for spec in SERVICES:
                runner = self._add(spec)
                tasks.append(asyncio.create_task(runner.run(), name=spec.name))
            await self._control.start()
            if not await self._until_ready(tasks):
                return 0
            self._welcome()
            if self.plan.demo is not None:
                self._demo = DemoFleet(self.plan.demo, self.plan.data_dir, self._screen)
                tasks.append(asyncio.create_task(self._demo.run(self._environ(None)), name="demo"))
            await self._until_end(tasks)
            return 0
        finally:
            await self._stop(tasks)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _choose_database(self) -> Database:
        if self.plan.database_url:
            return ExternalDatabase(self.plan.database_url, self._database_changed)
        return EmbeddedDatabase(self.plan.data_dir, self._database_changed)

    async def _start_database(self) -> None:
        await self._database.check()
        self._take_folder()  # not before: a start that is refused leaves nothing behind
        self._dsn = await self._database.start()
        self._save()

    def _add(self, spec: ServiceSpec) -> ServiceRunner:
        log = ServiceLog(self.plan.data_dir / "logs" / f"{spec.name}.log", self._heard)
        self._logs.append(log)
        environ = self._environ(spec)

        async def launch() -> Child:
            self._troubles.forget(spec.name)
            child = await Child.spawn(spec.name, service_command(spec.name), environ, log)
            self._save(child)
            return child

        runner = ServiceRunner(
            spec.name, self.address(spec.name), launch, self._changed, handover_s=spec.handover_s
        )
        self._runners[spec.name] = runner
        return runner

    def _environ(self, spec: ServiceSpec | None) -> dict[str, str]:
        """Variables for a service, or for who is a client of the mesh alone."""
        environ = dict(self.plan.environ)
        environ.setdefault("WAYMESH_DRAIN_S", _DRAIN_S)
        environ["DATABASE_URL"] = self._dsn
        environ["WAYMESH_DATA_DIR"] = str(self.plan.data_dir)
        environ["WAYMESH_BIND_HOST"] = self.plan.host
        for port_spec, port in self.plan.ports.items():
            if port_spec is not GATEWAY_ADMIN or port != self.address("gateway").port:
                environ[port_spec.variable] = str(port)
        # Health is looked for where services listen; a health port is one for one service.
        for variable in ("WAYMESH_ADMIN_HOST", "WAYMESH_HEALTH_PORT"):
            environ.pop(variable, None)
        for entry in SERVICES:
            if entry.name != "gateway":
                environ[f"WAYMESH_{entry.name.upper()}_TARGET"] = str(self.address(entry.name))
        # The first key is the gateway's business alone.
        environ.pop("FASTAPI_API_KEY", None)
        if spec is not None and spec.name == "gateway":
            environ["FASTAPI_API_KEY"] = self._api_key
        return environ

    async def _until_ready(self, tasks: list[asyncio.Task[None]]) -> bool:
        """True once every service is ready; False if the end was asked for. Raises what a task raises."""

        async def all_ready() -> None:
            for runner in self._runners.values():
                await runner.was_ready.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SIGHT_S):
                    await self._until_gateway_sees_all()

        ready = asyncio.create_task(all_ready())
        ending = asyncio.create_task(self._ending.wait())
        try:
            while True:
                done, _ = await asyncio.wait(
                    (ready, ending, *tasks), timeout=_SLOW_START_S, return_when=asyncio.FIRST_COMPLETED
                )
                if ending in done:
                    return False
                for task in tasks:
                    if task.done():
                        task.result()
                if ready in done:
                    return True
                late = [name for name, runner in self._runners.items() if not runner.was_ready.is_set()]
                if not done:
                    self._screen.change(
                        "up", "waiting", f"for {', '.join(late)}; see {self.plan.data_dir}/logs"
                    )
        finally:
            ready.cancel()
            ending.cancel()

    async def _until_gateway_sees_all(self) -> None:
        """The gateway may have looked for its peers before they listened; its first call is not to wait."""
        gateway = self.address("gateway")
        peers = [spec.name for spec in SERVICES if spec.name != "gateway"]
        while True:
            seen = (await health(gateway.host, gateway.admin_port)).checks
            if all(seen.get(name) == "ok" for name in peers):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _until_end(self, tasks: list[asyncio.Task[None]]) -> None:
        ending = asyncio.create_task(self._ending.wait())
        try:
            pending: set[asyncio.Task[Any]] = {ending, *tasks}
            while not ending.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            ending.cancel()

    async def _unless_ending(self, step: Coroutine[Any, Any, None]) -> bool:
        """Runs a step to its end unless the end of everything is asked for meanwhile; whether it ran to its
        end.
        """
        running = asyncio.create_task(step)
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait((running, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not running.done():
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            return False
        running.result()
        return True

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        if self._demo is not None:
            await self._demo.stop()
        await self._control.close()
        for spec in reversed(SERVICES):
            runner = self._runners.get(spec.name)
            if runner is not None:
                await runner.stop()
        await self._database.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for log in self._logs:
            log.close()

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            self._screen.change("up", "stopping", f"{number.name}; once more stops at once")
            self._ending.set()
        else:
            for runner in self._runners.values():
                runner.kill()

    def _changed(self, runner: ServiceRunner, detail: str) -> None:
        # Who acts on the line finds the state that goes with it.
        self._save()
        self._screen.change(runner.name, runner.state, detail)

    def _heard(self, service: str, line: bytes) -> None:
        if self.plan.verbose:
            self._screen.log(service, line)
        self._troubles.hear(service, line)

    def _trouble(self, place: str, state: str, words: str) -> None:
        if not self.plan.verbose:  # else the line itself has been shown
            self._screen.change(place, state, words)

    def _database_changed(self, state: State, detail: str) -> None:
        if self._dsn:
            self._save()
        self._screen.change("postgres", state, detail)

    def _save(self, *more: Child) -> None:
        children = [runner.child for runner in self._runners.values() if runner.child is not None]
        processes = [child.identity for child in (*children, *more)]
        state_file.save(
            self.plan.data_dir,
            MeshState(
                pid=os.getpid(),
                data_dir=str(self.plan.data_dir),
                dsn=self._dsn,
                postgres_pid=self._database.pid,
                services={name: self._describe(runner) for name, runner in self._runners.items()},
                processes=list(dict.fromkeys(processes)),
            ),
        )

    def _describe(self, runner: ServiceRunner) -> ServiceState:
        address = runner.address
        pid = runner.child.pid if runner.child is not None else None
        return ServiceState(runner.name, runner.state, pid, address.host, address.port, address.admin_port)

    def _curl_certificates(self) -> str:
        """The options of curl with which it shows the operator's certificate."""
        if not has_tls(self.plan.environ):
            return ""
        files = {"cert": "CERT", "key": "KEY", "cacert": "CA"}
        return "".join(
            f"--{option} '{self.plan.environ.get(f'WAYMESH_TLS_{name}_FILE', '')}' ".replace(
                "{service}", "operator"
            )
            for option, name in files.items()
        )

    def _welcome(self) -> None:
        gateway = self.address("gateway")
        screen = self._screen
        screen.line()
        tls = has_tls(self.plan.environ)
        url = f"{'https' if tls else 'http'}://{gateway}"
        metrics = f"http://{gateway.host}:{gateway.admin_port}/metrics" if tls else ""
        screen.line(f"  gateway   {url}   docs {url}/docs{'   metrics ' if metrics else ''}{metrics}")
        for name in ("eta", "route", "feedback", "agents"):
            entry = self.address(name)
            metrics = f"http://{entry.host}:{entry.admin_port}/metrics"
            screen.line(f"  {name:<9} {entry}   metrics {metrics}")
        screen.line(f"  data      {self.plan.data_dir}   logs in {self.plan.data_dir / 'logs'}")
        screen.line()
        screen.line("READY. Try:")
        for task in _TO_TRY:
            screen.line(
                f"  curl -s {self._curl_certificates()}{url}/execute -H 'X-API-Key: {self._api_key}' "
                f"-H 'Content-Type: application/json' -d '{task}'"
            )
        screen.line()

    async def _command(self, request: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        match request.get("command"):
            case "status":
                return {
                    "services": {name: entry.state for name, entry in self._runners.items()},
                    "troubles": self._troubles.lasting,
                }
            case "restart":
                runner = self._runners.get(str(request.get("service")))
                if runner is None:
                    raise CliError(f"there is no service '{request.get('service')}'")
                await runner.replace(progress)
                return {}
            case other:
                raise CliError(f"this mesh does not know the command '{other}': is it another version?")
