"""Part of bench/edge.py: what those who do harm cost a client who does none, at the edge and without it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from bench._edge_load import Load, compared, quantile_ms, statuses
from bench._mesh import a_folder, say
from bench._servers import ROOT
from tests.certificates import Authority
from tests.edge.edge_rig import running_edge, trusting
from tests.edge.replicas import eta_service, gateway_process, kill
from tests.faults.varied import Request
from tests.integration.gateway_rig import GPS, KEY
from tools.edge import write_sds
from tools.ports import free_ports

_RATE: Final = 100.0
_SOCKETS: Final = 2000
# Until as many of an attack's connections stand as will.
_BEGIN_S: Final = 5.0
_LOOK_S: Final = 0.2
SLOW: Final = {
    "slow_headers": ("/execute", "-H"),
    "slow_bodies": ("/execute", "-B"),
    # 32 bytes every 5 s of some hundred kilobytes.
    "slow_readers": ("/openapi.json", "-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32"),
}
ATTACKS: Final = ("long_headers", "bombs", "smuggling", "rapid_connects", "rapid_reset")


async def measure(length_s: float, attacks: float) -> dict[str, Any]:
    """Figures by way in and attack, `attacks` of which come a second."""
    found: dict[str, Any] = {}
    with a_folder() as folder:
        authority = Authority("public")
        shown = authority.issue("edge", uris=()).write(folder / "public")
        write_sds(folder / "sds", public=shown.folder, mesh=shown.folder)
        async with eta_service() as eta:
            [port] = free_ports(1)
            gateway = await gateway_process(folder, port, eta)
            try:
                addresses = {"gateway": [f"127.0.0.1:{port}"]}
                async with running_edge(
                    folder, addresses, tls=True, sds=folder / "sds", concurrency=2
                ) as edge:
                    await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
                    pids = {"gateway": gateway.pid, "edge": edge.process.pid}
                    found["behind"] = await _way(edge.public, shown.authorities, pids, length_s, attacks)
                    del pids["edge"]
                    found["directly"] = await _way(port, None, pids, length_s, attacks)
            finally:
                await kill(gateway)
    return found


async def _way(
    port: int, authority: Path | None, pids: dict[str, int], length_s: float, attacks: float
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    tls = None if authority is None else trusting(authority)
    ca = "plain" if authority is None else str(authority)
    async with Load(port, KEY, _fixes(), _RATE, tls=tls, timeout_ms=5000) as load:
        await load.until(int(_RATE))
        for name in (*SLOW, *ATTACKS):
            if (name == "rapid_reset") > (authority is not None):
                continue  # the gateway speaks no HTTP/2
            if name in SLOW and shutil.which("slowhttptest") is None:
                say(f"{name} is left out: slowhttptest is missing (apt-get install slowhttptest)")
                continue
            usual = await load.last(length_s)
            async with _attack(name, port, ca, attacks), _watched(pids) as most:
                await asyncio.sleep(_BEGIN_S)
                answers = await load.last(length_s)
            found[name] = {
                "statuses": statuses(answers),
                "p50_ms": quantile_ms(answers, 0.5),
                **compared(answers, usual),
                "most_rss_mib": {who: round(size / (1 << 20), 1) for who, size in most.items()},
            }
            say(f"{'directly' if tls is None else 'behind'} {name}: {found[name]}")
    return found


def _fixes() -> Iterator[Request]:
    for number in itertools.count():
        yield "report_gps", {**GPS, "driver_id": f"driver_{number % 50}"}


@asynccontextmanager
async def _attack(name: str, port: int, ca: str, attacks: float) -> AsyncIterator[None]:
    """Runs it, in a process that gets what the machine has left over: its own work is not measured."""
    if name in SLOW:
        scheme = "http" if ca == "plain" else "https"
        path, *how = SLOW[name]
        command = [
            *("slowhttptest", *how, "-c", str(_SOCKETS), "-r", "400", "-i", "5", "-l", "600", "-p", "5"),
            *("-u", f"{scheme}://127.0.0.1:{port}{path}"),
        ]
    else:
        command = [sys.executable, "-m", "bench._edge_attacks", name, str(port), ca, str(attacks)]
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "15", *command),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # slowhttptest ends once all are turned away
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def _watched(pids: dict[str, int]) -> AsyncIterator[dict[str, int]]:
    """The most memory that each process has had in the block, bytes."""
    most = dict.fromkeys(pids, 0)

    async def look() -> None:
        while True:
            for who, pid in pids.items():
                most[who] = max(most[who], psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(_LOOK_S)

    looking = asyncio.create_task(look())
    try:
        yield most
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
