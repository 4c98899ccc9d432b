"""Fixes through eta from end to end: how many a second, and where the time goes.

A client streams fixes by StreamGps to a process of eta on an embedded PostgreSQL (fsync on) until every one
is counted as processed. The traces are those of WAYMESH_BENCH_DATA if it is set, else made up: couriers who
wander towards a place. Then the same fixes go through the pure middle alone, step by step.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil
import uvloop
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest
from waymesh.order.v1.events_pb2 import OrderEvent

from bench._command import command
from services.eta import rules
from services.eta.advance import advance
from services.eta.answers import answer
from services.eta.couriers import CourierTable
from services.eta.decoding import decode
from services.eta.fixes import columns_of
from services.eta.identity import hash_contents, hash_ids, identify
from services.eta.learning import Learned
from services.eta.orders import OrderBook
from services.eta.seen import SeenFixes, repeats
from services.eta.tracks import Track
from services.mesh.events import PROTOBUF, Message, Record
from services.mesh.events.postgres import PostgresBus
from services.mesh.store import EmbeddedPostgres, Store
from services.sim import schedule
from services.sim.gps_stream import GpsSender
from services.sim.recording import Recording
from services.sim.traces import Trace, read_traces
from tools.ports import free_ports

GEOLIFE: Final = Path("gps") / "geolife_sample.csv.gz"
_READY_S: Final = 30.0


def made_up(couriers: int, fixes: int) -> list[Trace]:
    """Couriers who go about 20 km/h from place to place, one fix every 3 s."""
    random = np.random.default_rng(1)
    traces = []
    for number in range(couriers):
        heading = np.cumsum(random.normal(0, 0.2, size=fixes))
        step_deg = 20 / 3.6 * 3 / 111_195
        lat = -23.5 + np.cumsum(np.cos(heading)) * step_deg
        lon = -46.6 + np.cumsum(np.sin(heading)) * step_deg
        at_us = (1_700_000_000 + number + 3 * np.arange(fixes)) * 1_000_000
        traces.append(
            Trace("courier", number, at_us.astype(np.int64), lat, lon, np.full(fixes, 20.0), np.arange(fixes))
        )
    return traces


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children."""
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return total


async def publish_orders(dsn: str, recording: Recording, folder: Path) -> None:
    """As route would have: all of them before the first fix."""
    folder.mkdir()  # noqa: ASYNC240 - before anything is measured
    store = await Store.open(dsn, schema="bench", migrations=folder)
    bus = PostgresBus(store.pool, service="route")
    await bus.start()
    events = [(one.order_id, OrderEvent(order=one)) for one in recording.orders()]
    events += [(one.driver_id, OrderEvent(courier=one)) for one in recording.couriers()]
    async with store.transaction() as conn:
        await bus.publish(
            conn,
            [
                Message("orders", key, event.SerializeToString(), f"{key}@1", "waymesh.order.v1.OrderEvent")
                for key, event in events
            ],
        )
    await bus.close()
    await store.close()


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


async def end_to_end(traces: list[Trace], side_by_side: int, folder: Path) -> dict[str, Any]:
    postgres = EmbeddedPostgres(folder)
    dsn = await postgres.start()
    try:
        plan = schedule.plan(traces, side_by_side=side_by_side, duplicates=0.01, disorder=0.01, seed=1)
        recording = Recording(traces, "bench")
        await publish_orders(dsn, recording, folder / "migrations")
        port, nobody = free_ports(2)
        environment = {
            "DATABASE_URL": dsn,
            "WAYMESH_DATA_DIR": str(folder),
            "WAYMESH_ETA_PORT": str(port),
            "WAYMESH_ETA_ADMIN_PORT": "0",
            "WAYMESH_FEEDBACK_TARGET": f"127.0.0.1:{nobody}",
            "ENABLE_OUTCOME_LOGGING": "false",
        }
        batches = [
            recording.events(plan, start, min(start + 1000, len(plan))) for start in range(0, len(plan), 1000)
        ]
        with running([sys.executable, "-m", "services.eta"], environment) as eta:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = eta_service_pb2_grpc.EtaServiceStub(channel)
                start = await stub.GetGpsStats(GetGpsStatsRequest(), timeout=_READY_S, wait_for_ready=True)
                pids = {"eta": eta.pid, "postgres": postgres.pid or 0, "client": os.getpid()}
                before = {name: cpu_s(pid) for name, pid in pids.items()}
                before["client"] = sum(os.times()[:2])
                began = time.perf_counter()
                sender = GpsSender(stub)
                for batch in batches:
                    await sender.send(batch)
                await sender.finish()
                intake_s = time.perf_counter() - began
                while True:
                    stats = await stub.GetGpsStats(GetGpsStatsRequest(cursor=start.cursor))
                    if stats.fixes + stats.duplicates + stats.conflicts >= len(plan):
                        break
                    await asyncio.sleep(0.02)
                total_s = time.perf_counter() - began
                used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
                used["client"] = sum(os.times()[:2]) - before["client"]
                await sender.close()
        return {
            "fixes": len(plan),
            "fixes_per_s": round(len(plan) / total_s),
            "intake_fixes_per_s": round(len(plan) / intake_s),
            "ack_p50_ms": sender.latencies.quantile_ms(0.5),
            "ack_p99_ms": sender.latencies.quantile_ms(0.99),
            "cpu_us_per_fix": {name: round(seconds / len(plan) * 1e6, 1) for name, seconds in used.items()},
            "duplicates": {"injected": plan.duplicates, "counted": stats.duplicates},
            "out_of_order": {"injected": plan.disordered, "counted": stats.flags[4].count},
            "speed_anomaly": stats.flags[1].count,
            "predictions": stats.predictions,
        }
    finally:
        await postgres.stop()


def pure(traces: list[Trace], side_by_side: int) -> dict[str, float]:
    """Microseconds per fix of each step, in batches of 1,000 of one partition."""
    plan = schedule.plan(traces, side_by_side=side_by_side, duplicates=0, disorder=0, seed=1)
    recording = Recording(traces, "pure")
    book = OrderBook()
    book.apply(OrderEvent(order=one) for one in recording.orders())
    spent: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    couriers, tracks, seen, learned = CourierTable(), dict[str, Track](), SeenFixes(), Learned()
    now = datetime.now(UTC)
    for start in range(0, len(plan), 1000):
        events = recording.events(plan, start, min(start + 1000, len(plan)))
        with timed("intake: check, name, serialise"):
            assert not rules.faults(columns_of(events), events)
            names = identify(events)
            values = [event.SerializeToString(deterministic=True) for event in events]
        records = [
            Record("gps-events", "", value, name, "", PROTOBUF, partition=0, position=0, time=now)
            for value, name in zip(values, names, strict=True)
        ]
        with timed("consumer: decode and check"):
            batch = decode(records)
        with timed("of that: identity and content hashes"):
            hash_ids(names)
            hash_contents(events)
        with timed("consumer: repeats"):
            duplicate, conflict = repeats(seen, batch.ids, batch.contents)
            assert not (duplicate | conflict).any()
            seen.add(batch.ids, batch.contents)
        couriers.load({}, couriers.missing(batch.fixes.driver_id))
        with timed("consumer: clean, follow, choose"):
            moved = advance(batch.fixes, couriers, tracks, book)
        with timed("consumer: predict"):
            answer(moved.cases, learned)
    return {name: round(seconds / len(plan) * 1e6, 2) for name, seconds in spent.items()}


def main() -> None:
    parser = command("eta_pipeline", __doc__)
    parser.add_argument("--side-by-side", type=int, default=50, metavar="TRACES", help="traces at a time")
    parser.add_argument("--made-up", action="store_true", help="made-up couriers even if real data is there")
    arguments = parser.parse_args()
    data = os.environ.get("WAYMESH_BENCH_DATA")
    real = data is not None and not arguments.made_up and (Path(data) / GEOLIFE).exists()
    traces = read_traces(Path(data or "") / GEOLIFE) if real else made_up(500, 400)
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bench-", dir="/tmp"))
    try:
        measured = uvloop.run(end_to_end(traces, arguments.side_by_side, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "traces": "geolife" if real else "made up",
        "side_by_side": arguments.side_by_side,
        **measured,
        "pure_us_per_fix": pure(traces, arguments.side_by_side),
        "load_before": round(os.getloadavg()[1], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
