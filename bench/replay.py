"""Real fixes through a whole mesh: how many a second from end to end, whether each is counted for what it is,
where the CPU time goes, and how far the predicted arrival times were off.

`waymesh replay gps` of geolife_sample.csv.gz in the folder WAYMESH_BENCH_DATA at full speed, with 1%
duplicates and 1% disorder, through a `waymesh up` on an empty folder. Beside it the floor: one client that
puts the same fixes into a table of the same PostgreSQL by COPY, as many at a time, each batch durable.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.__main__ import SKIPPED
from bench._command import command
from bench._mesh import mesh, report, say
from services.sim.replay import BATCH
from services.sim.traces import Trace, read_traces

GEOLIFE: Final = Path("gps") / "geolife_sample.csv.gz"
AIM_PER_S: Final = 20_000
_SHARE: Final = "0.01"
_TABLE: Final = """
CREATE TABLE bench_fixes (
    driver_id text NOT NULL, order_id text NOT NULL, at_us bigint NOT NULL, lat double precision NOT NULL,
    lon double precision NOT NULL, speed_kph double precision NOT NULL, event_id text PRIMARY KEY)
"""


def rows_of(traces: list[Trace]) -> list[tuple[Any, ...]]:
    return [
        (f"courier-{number}", f"order-{number}", at_us, lat, lon, speed, f"{number}-{row}")
        for number, trace in enumerate(traces)
        for row, (at_us, lat, lon, speed) in enumerate(
            zip(
                trace.at_us.tolist(),
                trace.lat.tolist(),
                trace.lon.tolist(),
                trace.speed_kph.tolist(),
                strict=True,
            )
        )
    ]


async def copy_per_s(dsn: str, rows: list[tuple[Any, ...]]) -> float:
    """Fixes a second by COPY into a fresh table."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("DROP TABLE IF EXISTS bench_fixes")
        await connection.execute(_TABLE)
        began = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            await connection.copy_records_to_table("bench_fixes", records=rows[start : start + BATCH])
        took = time.perf_counter() - began
        await connection.execute("DROP TABLE bench_fixes")
        return len(rows) / took
    finally:
        await connection.close()


async def measure(path: Path, rounds: int, couriers: int) -> dict[str, Any]:
    rows = rows_of(read_traces(path))
    replays, copies = [], []
    for one in range(rounds):
        # A fresh mesh each time: what it learned from the last round would make the next one better.
        async with mesh() as running:
            out = await running.run(
                *("replay", "gps", str(path), "--json", "--couriers", str(couriers)),
                *("--inject-duplicates", _SHARE, "--inject-disorder", _SHARE),
            )
            replays.append(json.loads(out.splitlines()[-1]))
            copies.append(await copy_per_s(running.state.dsn, rows))
        say(
            f"round {one + 1}: {replays[-1]['events_per_s']:,.0f} fixes/s, exact: {replays[-1]['exact']}; "
            f"COPY {copies[-1]:,.0f} fixes/s; CPU s {replays[-1]['cpu_s']}"
        )
    by_speed = sorted(replays, key=lambda one: one["events_per_s"])
    typical = by_speed[len(by_speed) // 2]
    copied = statistics.median(copies)
    return {
        "rounds": rounds,
        "fixes_per_s": round(typical["events_per_s"]),
        "fixes_per_s_of_rounds": [round(one["events_per_s"]) for one in replays],
        "aim_per_s": AIM_PER_S,
        "copy_fixes_per_s": round(copied),
        "ratio": round(
            statistics.median(one["events_per_s"] / two for one, two in zip(replays, copies, strict=True)), 3
        ),
        "exact": all(one["exact"] for one in replays),
        "expected": typical["expected"],
        "counted": typical["counted"],
        "other_flags": typical["other_flags"],
        "predictions": typical["predictions"],
        "intake_s": typical["intake_s"],
        "total_s": typical["total_s"],
        "ack_p50_ms": typical["ack_p50_ms"],
        "ack_p99_ms": typical["ack_p99_ms"],
        "cpu_us_per_fix": {
            name: round(seconds / typical["sent"] * 1e6, 1) for name, seconds in typical["cpu_s"].items()
        },
        "cpu_s": typical["cpu_s"],
        "load_before": round(os.getloadavg()[2], 1),
        "eta": typical["eta"],
        "eta_by_remaining_time": typical["eta_by_remaining_time"],
        "eta_by_predicted_time": typical["eta_by_predicted_time"],
    }


def main() -> int:
    parser = command("replay", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="replays, each through a fresh mesh")
    parser.add_argument("--couriers", type=int, default=128, help="traces side by side")
    arguments = parser.parse_args()
    data = os.environ.get("WAYMESH_BENCH_DATA")
    path = Path(data or "") / GEOLIFE
    if data is None or not path.exists():
        say(f"not run: bench/replay.py needs WAYMESH_BENCH_DATA to name a folder that holds {GEOLIFE}")
        return SKIPPED
    return report(lambda: measure(path, max(1, arguments.rounds), arguments.couriers))


if __name__ == "__main__":
    sys.exit(main())
