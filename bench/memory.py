"""Memory of the whole mesh at rest: the proportional set size (PSS) of each of its processes and their sum.

A `waymesh up` without a demo on an empty folder, a minute after it is ready. Beside it, in the same run, the
floor of the stack: as many bare grpc.aio servers as the mesh has services, and the same PostgreSQL.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import psutil

from bench._command import command, seconds
from bench._mesh import Mesh, a_folder, bare_stack, mesh, report, say

LIMIT_MIB: Final = 700.0


def pss_mib(pids: Iterable[int]) -> float:
    """PSS of processes, MiB, as Linux counts it: what is shared is split between those who share it."""
    total_kib = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a backend that has just ended
        total_kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / 1024


def tree(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


async def floor(wait_s: float) -> dict[str, float]:
    """PSS of bare servers and an idle PostgreSQL, MiB."""
    with a_folder() as folder:
        async with bare_stack(folder) as (postgres, servers):
            await asyncio.sleep(wait_s)
            assert postgres.pid is not None
            return {
                "grpc_servers": round(pss_mib(servers), 1),
                "postgres": round(pss_mib(tree(postgres.pid)), 1),
            }


async def at_rest(running: Mesh, wait_s: float) -> dict[str, float]:
    await asyncio.sleep(wait_s)
    return {name: round(pss_mib(pids), 1) for name, pids in running.processes().items()}


async def measure(wait_s: float) -> dict[str, Any]:
    async with mesh() as running:
        say(f"ready after {running.ready_s:.1f} s; waiting {wait_s:g} s")
        ours = await at_rest(running, wait_s)
    say(f"mesh: {sum(ours.values()):.1f} MiB {ours}")
    theirs = await floor(min(wait_s, 5.0))
    say(f"floor: {sum(theirs.values()):.1f} MiB {theirs}")
    total, bare = sum(ours.values()), sum(theirs.values())
    return {
        "pss_mib": ours,
        "total_mib": round(total, 1),
        "limit_mib": LIMIT_MIB,
        "within_limit": total <= LIMIT_MIB,
        "seconds_after_ready": wait_s,
        "floor_mib": theirs,
        "floor_total_mib": round(bare, 1),
        "ratio": round(total / bare, 2),
    }


def main() -> int:
    parser = command("memory", __doc__)
    parser.add_argument("--after", type=seconds, default=60, metavar="SECONDS", help="after it is ready")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("bench/memory.py reads /proc/PID/smaps_rollup, which Linux has since 4.14")
    return report(lambda: measure(arguments.after))


if __name__ == "__main__":
    sys.exit(main())
