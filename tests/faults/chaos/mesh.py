"""The whole mesh under test: PostgreSQL, brokers, `waymesh up`, a recorder, a reader; a proxy on every
link between them."""

import asyncio
import contextlib
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.cli.environment import LOOPBACK, SERVICES, ports
from services.cli.probe import health
from services.mesh.store import EmbeddedPostgres, EmbeddedPostgresError, connect
from tests.faults.chaos import plan, reader
from tests.faults.chaos.children import Child
from tests.faults.chaos.clocks import PRELOAD, Clocks
from tests.faults.chaos.proxy import HOST, FaultProxy, tcp, unix
from tests.faults.up_rig import UNLIMITED, Up, gone, mesh_ports
from tools.kafka.cluster import KafkaCluster

LIVE: Final = "chaos-live"
FRESH: Final = "chaos-fresh"
_ROOT: Final = Path(__file__).resolve().parents[3]
_PEERS: Final = ("feedback", "route", "eta")
# Two readers of one group: each time one of them goes or comes, partitions change hands.
_CHILDREN: Final = {"recorder": "recorder", "reader": "reader", "other-reader": "reader"}
_RECORDED_PER_S: Final = 100
_DATABASE_AGAIN_S: Final = 0.1
_LOOK_AGAIN_S: Final = 0.1
# Not of the mesh under test, whatever stands in the environment of who runs it.
_NOT_INHERITED: Final = ("DATABASE_URL", "FASTAPI_API_KEY", "KAFKA_BOOTSTRAP_SERVERS", "ENABLE_KAFKA")


class Mesh:
    """Everything that faults can happen to. `said` gets the lines of its children."""

    def __init__(
        self, folder: Path, *, kafka: bool, servers: str | None, said: Callable[[str], None]
    ) -> None:
        folder.chmod(0o711)  # PostgreSQL runs as another user when this one is root
        self.folder = folder
        self.cluster: KafkaCluster | None = None
        self.proxies = {name: FaultProxy(name) for name in (plan.DATABASE, *_PEERS)}
        self.clocks = Clocks(folder / "clocks", (*plan.SERVICES, "recorder"))
        self.restarts = 0
        self.brokers = asyncio.Lock()
        """Held by who starts or ends brokers."""
        self._kafka = kafka
        self._servers = servers
        self._said = said
        self._ports = mesh_ports()
        self._postgres = EmbeddedPostgres(folder / "database")
        self._keeping: asyncio.Task[None] | None = None
        self._up: Up | None = None
        self._lines: list[str] = []
        self.children: dict[str, Child] = {}
        (folder / "logs").mkdir()

    @property
    def targets(self) -> dict[str, str]:
        """Of the services, by way of their proxies."""
        return {name: self.proxies[name].address for name in _PEERS}

    @property
    def dsn(self) -> str:
        """Of the database, with nothing in between."""
        return self._postgres.dsn

    @property
    def database_pid(self) -> int | None:
        return self._postgres.pid

    @property
    def up(self) -> Up:
        assert self._up is not None
        return self._up

    @property
    def up_lines(self) -> list[str]:
        """All that `waymesh up` has printed, each of those there were."""
        return self._lines + (self._up.lines if self._up is not None else [])

    def pid(self, name: str) -> int | None:
        """Of a service or child, None if it is not running."""
        if name in self.children:
            return self.children[name].pid
        with contextlib.suppress(AssertionError, KeyError):
            return self.up.state.services[name].pid
        return None

    async def start(self) -> None:
        """Returns once everything is ready."""
        for name in _PEERS:
            self.proxies[name].upstream = tcp(HOST, int(self._ports[f"WAYMESH_{name.upper()}_PORT"]))
        await asyncio.gather(self._start_database(), self._start_brokers())
        for proxy in self.proxies.values():
            if not proxy.port:
                await proxy.start()
        await self.create_topics()
        await self.start_up()
        for name, module in _CHILDREN.items():
            log = self.folder / "logs" / f"{name}.log"
            self.children[name] = Child(name, module, self._child_environ(), log, self._said)
            self.children[name].start()

    async def start_up(self) -> None:
        """Starts `waymesh up`, again after it was killed, and waits until it is ready."""
        self._lines = self.up_lines
        self._up = Up(self.folder / "mesh", self._up_environ())
        await self._up.start()
        await self._up.until_ready()

    async def kill_up(self) -> None:
        """-9 of `waymesh up`, and so of all services."""
        state = self.up.state
        self.up.send(signal.SIGKILL)
        await self.up.wait()
        await gone(state.processes)

    async def well(self) -> list[str]:
        """Who is not ready; empty if all are."""
        chosen = ports(self._ports)
        answers = await asyncio.gather(*(health(LOOPBACK, chosen[spec.admin]) for spec in SERVICES))
        missing = [spec.name for spec, answer in zip(SERVICES, answers, strict=True) if not answer.ready]
        missing += [name for name, child in self.children.items() if child.pid is None]
        return missing

    def limit_files(self, name: str, size: int | None) -> None:
        """No file that a process writes can grow beyond so many bytes; None lifts that."""
        pid = self.pid(name)
        if pid is not None:
            soft = resource.RLIM_INFINITY if size is None else size
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    async def backends(self) -> list[int]:
        """Pids of the database's sessions, our own left out."""
        connection = await connect(self.dsn, timeout=10)
        try:
            rows = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid() ORDER BY pid"
            )
        finally:
            await connection.close(timeout=5)
        return [row["pid"] for row in rows]

    def a_reader(self, group: str) -> Child:
        """One more reader, with no proxy before anything."""
        environ = {
            **self._child_environ(),
            "CHAOS_GROUP": group,
            "DATABASE_URL": self.dsn,
            **self._bus_environ(plain=True),
        }
        return Child(group, "reader", environ, self.folder / "logs" / f"{group}.log", self._said)

    async def close(self) -> None:
        """Ends all of it, whatever state it is in."""
        for child in self.children.values():
            await child.close()
        if self._up is not None:
            await self._up.close()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._postgres.stop()
        if self.cluster is not None:
            self.cluster.resume()
            await self.cluster.close()
        for proxy in self.proxies.values():
            await proxy.close()

    async def _start_database(self) -> None:
        await self._postgres.start()
        socket = self._postgres.dsn.partition("host=")[2].replace("%2F", "/")
        self.proxies[plan.DATABASE].upstream = unix(f"{socket}/.s.PGSQL.5432")
        connection = await connect(self.dsn)
        await connection.execute(reader.SCHEMA)
        await connection.close()
        self._keeping = asyncio.create_task(self._keep_database(), name="database")

    async def _keep_database(self) -> None:
        while True:
            await self._postgres.wait()
            self.restarts += 1
            await asyncio.sleep(_DATABASE_AGAIN_S)
            while True:
                try:
                    await self._postgres.start()
                    break
                except EmbeddedPostgresError as error:
                    print(f"the database does not start: {error}")
                    await asyncio.sleep(_DATABASE_AGAIN_S)

    async def _start_brokers(self) -> None:
        if not self._kafka or self._servers is not None:
            return
        links = [FaultProxy(f"{plan.BROKER_LINK}{number}") for number in plan.BROKERS]
        for link in links:
            await link.start()
            self.proxies[link.name] = link
        self.cluster = KafkaCluster(advertised=[link.port for link in links])
        await self.cluster.start()
        for number, link in zip(plan.BROKERS, links, strict=True):
            link.upstream = tcp(HOST, self.cluster.port(number))

    def _bus_environ(self, *, plain: bool = False) -> dict[str, str]:
        if not self._kafka:
            return {"ENABLE_KAFKA": "false"}
        servers = self._servers
        if self.cluster is not None:
            servers = self.cluster.plain_servers if plain else self.cluster.bootstrap_servers
        assert servers is not None
        return {"KAFKA_BOOTSTRAP_SERVERS": servers}

    def _common(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        address = self.proxies[plan.DATABASE].address
        return {
            **kept,
            **UNLIMITED,
            **self._ports,
            **self._bus_environ(),
            "DATABASE_URL": f"postgresql://waymesh@{address}/waymesh?sslmode=disable",
            "WAYMESH_DATA_DIR": str(self.folder / "mesh"),
            "CHAOS_CLOCKS": str(self.clocks.folder),
            "PYTHONPATH": os.pathsep.join((str(PRELOAD), str(_ROOT))),
        }

    def _targets_environ(self) -> dict[str, str]:
        return {f"WAYMESH_{name.upper()}_TARGET": address for name, address in self.targets.items()}

    def _up_environ(self) -> dict[str, str]:
        return {
            **self._common(),
            "CHAOS_ENVIRON": json.dumps(self._targets_environ()),
        }

    def _child_environ(self) -> dict[str, str]:
        return {
            **self._common(),
            **self._targets_environ(),
            "CHAOS_RATE": str(_RECORDED_PER_S),
            "CHAOS_GROUP": LIVE,
        }

    async def create_topics(self) -> None:
        """In the cluster; the embedded bus makes its own."""
        if self._kafka:
            environ = {**self._up_environ(), **self._bus_environ(plain=True)}
            code, _, error = await Up(self.folder, environ).run("topics", "create")
            assert code == 0, error
