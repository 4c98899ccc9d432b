"""Fixes on Kafka to predictions on Kafka: how many a second one process of eta takes, and whether all count.

Orders and fixes are put on their topics first, by raw aiokafka; then eta starts and reads. All fixes are
counted, and each prediction lies on `eta-predictions` once.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from aiokafka import AIOKafkaProducer
from google.protobuf.message import Message as Proto
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest
from waymesh.order.v1.events_pb2 import OrderEvent

from bench.eta_pipeline import cpu_s, running
from services.mesh.events import PROTOBUF
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.topics import ETA_PREDICTIONS, GPS_EVENTS, ORDERS
from services.sim import schedule
from services.sim.recording import Recording
from services.sim.traces import Trace
from tools.kafka.look import Look
from tools.ports import free_ports

_READY_S: Final = 60.0
_WINDOW: Final = 5_000


async def through_kafka(
    servers: str, dsn: str, postgres_pid: int, traces: list[Trace], folder: Path
) -> dict[str, Any]:
    """Fixes a second, CPU of each process, and the audit. The topics are there and empty."""
    plan = schedule.plan(traces, side_by_side=50, duplicates=0.01, disorder=0.01, seed=1)
    recording = Recording(traces, "bench")
    orders = [(one.order_id, OrderEvent(order=one)) for one in recording.orders()]
    couriers = [(one.driver_id, OrderEvent(courier=one)) for one in recording.couriers()]
    fixes = [
        (fix.driver_id, fix)
        for first in range(0, len(plan), 1000)
        for fix in recording.events(plan, first, min(first + 1000, len(plan)))
    ]
    await _put(servers, ORDERS, orders + couriers)
    await _put(servers, GPS_EVENTS, fixes)
    port, nobody = free_ports(2)
    environment = {
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": servers,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_ETA_PORT": str(port),
        "WAYMESH_ETA_ADMIN_PORT": "0",
        "WAYMESH_FEEDBACK_TARGET": f"127.0.0.1:{nobody}",
        "ENABLE_OUTCOME_LOGGING": "false",
    }
    with running([sys.executable, "-m", "services.eta"], environment) as eta:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = eta_service_pb2_grpc.EtaServiceStub(channel)
            stats = await stub.GetGpsStats(GetGpsStatsRequest(), timeout=_READY_S, wait_for_ready=True)
            # It reads as soon as it serves: what it has read by now is not in the measure.
            early = stats.fixes + stats.duplicates
            began, before = time.perf_counter(), {"eta": cpu_s(eta.pid), "postgres": cpu_s(postgres_pid)}
            while stats.fixes + stats.duplicates < len(plan):
                await asyncio.sleep(0.02)
                stats = await stub.GetGpsStats(GetGpsStatsRequest())
            spent_s = time.perf_counter() - began
            used = {"eta": cpu_s(eta.pid), "postgres": cpu_s(postgres_pid)}
        measured = len(plan) - early
        published = await _predictions(servers, stats.predictions)
    return {
        "fixes": len(plan),
        "fixes_per_s": round(measured / spent_s),
        "cpu_us_per_fix": {name: round((used[name] - before[name]) / measured * 1e6, 1) for name in used},
        "lost": len(plan) - stats.fixes - stats.duplicates,
        "duplicates": {"injected": plan.duplicates, "counted": stats.duplicates},
        "predictions": stats.predictions,
        "predictions_published": len(published),
        "predictions_twice": sum(times - 1 for times in published.values()),
    }


async def _put(servers: str, topic: str, messages: Sequence[tuple[str, Proto]]) -> None:
    """As others would: protobuf, and no id in a header."""
    producer = AIOKafkaProducer(**KafkaOptions(servers).producer())
    await producer.start()
    for first in range(0, len(messages), _WINDOW):
        under_way = [
            await producer.send(
                topic,
                value=message.SerializeToString(),
                key=key.encode(),
                headers=[("content-type", PROTOBUF.encode())],
            )
            for key, message in messages[first : first + _WINDOW]
        ]
        await asyncio.gather(*under_way)
    await producer.stop()


async def _predictions(servers: str, expected: int) -> Counter[bytes]:
    """How often each prediction lies on its topic, once as many are there as eta has counted."""
    look = Look(bootstrap_servers=servers)
    async with asyncio.timeout(_READY_S):
        while sum((await look.ends(ETA_PREDICTIONS)).values()) < expected:  # noqa: ASYNC110 - the brokers' word
            await asyncio.sleep(0.2)
    return Counter(record.headers["ce_id"] for record in await look.records(ETA_PREDICTIONS))
