"""Seconds from the command to a mesh that is ready: `waymesh up` on an empty folder, and the second time.

Medians over rounds, each with a folder of its own. Beside them the floor of the stack: the same PostgreSQL,
whose cluster is created the first time, and as many bare grpc.aio servers as the mesh has services.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench._command import command
from bench._mesh import a_folder, bare_stack, mesh, report, say

LIMIT_AGAIN_S: Final = 6.0


async def floor_s(folder: Path) -> float:
    began = time.perf_counter()
    async with bare_stack(folder):
        return time.perf_counter() - began


async def up_s(folder: Path) -> float:
    async with mesh(folder) as running:
        return running.ready_s


async def measure(rounds: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in ("first", "again", "floor_first", "floor_again")}
    for one in range(rounds):
        with a_folder() as folder:
            taken["first"].append(await up_s(folder))
            taken["again"].append(await up_s(folder))
        with a_folder() as folder:
            taken["floor_first"].append(await floor_s(folder))
            taken["floor_again"].append(await floor_s(folder))
        say(f"round {one + 1}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in taken.items()))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "rounds": rounds,
        **{f"{name}_s": round(seconds, 2) for name, seconds in medians.items()},
        "limit_again_s": LIMIT_AGAIN_S,
        "within_limit": medians["again"] <= LIMIT_AGAIN_S,
        "ratio_first": round(medians["first"] / medians["floor_first"], 2),
        "ratio_again": round(medians["again"] / medians["floor_again"], 2),
    }


def main() -> int:
    parser = command("startup", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="folders to start on")
    arguments = parser.parse_args()
    return report(lambda: measure(max(1, arguments.rounds)))


if __name__ == "__main__":
    sys.exit(main())
