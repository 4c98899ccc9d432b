"""Makes a fault happen and makes it pass."""

import asyncio
import contextlib
import os
import random
import signal
from typing import Final

import asyncpg

from tests.faults.chaos.mesh import Mesh
from tests.faults.chaos.plan import Fault, Kind
from tests.faults.chaos.proxy import Mode

_BYTES_PER_S: Final = 200_000
_MODES: Final = {
    Kind.SLOW: Mode.SLOW,
    Kind.STALL: Mode.STALL,
    Kind.HALF_OPEN: Mode.HALF_OPEN,
    Kind.REFUSE: Mode.REFUSE,
}


async def inflict(mesh: Mesh, fault: Fault) -> None:
    """From its beginning to its end; what it leaves behind is for others to recover from."""
    match fault.kind:
        case Kind.KILL:
            _kill(mesh, fault.targets[0])
        case Kind.KILL_DATABASE:
            if mesh.database_pid is not None:
                os.kill(mesh.database_pid, signal.SIGKILL)
        case Kind.KILL_BACKEND:
            await _kill_backend(mesh, random.Random(fault.number))
        case Kind.KILL_MESH:
            await mesh.kill_up()
            await mesh.start_up()
        case Kind.CUT:
            for target in fault.targets:
                mesh.proxies[target].cut()
        case Kind.SLOW | Kind.STALL | Kind.HALF_OPEN | Kind.REFUSE:
            await _links(mesh, fault)
        case Kind.DISK_FULL:
            await _disk_full(mesh, fault)
        case Kind.CLOCK:
            for target in fault.targets:
                mesh.clocks.set(target, fault.degree)
            await asyncio.sleep(fault.lasts_s)
            for target in fault.targets:
                mesh.clocks.set(target, 0.0)
        case Kind.BROKER_KILL | Kind.BROKER_STOP | Kind.BROKER_PAUSE:
            await _brokers(mesh, fault)


def _kill(mesh: Mesh, name: str) -> None:
    pid = mesh.pid(name)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _kill_backend(mesh: Mesh, chance: random.Random) -> None:
    with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):  # it is away already
        sessions = await mesh.backends()
        if sessions:
            os.kill(chance.choice(sessions), signal.SIGKILL)


async def _links(mesh: Mesh, fault: Fault) -> None:
    proxies = [mesh.proxies[target] for target in fault.targets]
    for proxy in proxies:
        await proxy.become(_MODES[fault.kind], latency_s=fault.degree, bytes_per_s=_BYTES_PER_S)
    await asyncio.sleep(fault.lasts_s)
    for proxy in proxies:
        await proxy.become(Mode.PASS)


async def _disk_full(mesh: Mesh, fault: Fault) -> None:
    """The spool takes nothing, or little, while it is wanted."""
    mesh.limit_files("recorder", int(fault.degree))
    feedback = mesh.proxies["feedback"]
    await feedback.become(Mode.REFUSE)
    await asyncio.sleep(fault.lasts_s)
    mesh.limit_files("recorder", None)
    await feedback.become(Mode.PASS)


async def _brokers(mesh: Mesh, fault: Fault) -> None:
    cluster = mesh.cluster
    assert cluster is not None
    numbers = [int(target) for target in fault.targets]
    async with mesh.brokers:
        match fault.kind:
            case Kind.BROKER_PAUSE:
                cluster.pause(*numbers)
                await asyncio.sleep(fault.lasts_s)
                cluster.resume(*numbers)
            case Kind.BROKER_STOP:
                await cluster.stop(*numbers)
                await asyncio.sleep(fault.lasts_s)
                await cluster.start(*numbers)
            case _:
                await cluster.kill(*numbers)
                await asyncio.sleep(fault.lasts_s)
                await cluster.start(*numbers)
