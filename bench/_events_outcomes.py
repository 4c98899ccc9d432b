"""Outcomes into feedback at a steady rate and as fast as it takes them: acknowledged, durable, to be queried.

Open loop: a batch's time runs from when it was due, not from when it could be sent, so that a feedback that
falls behind is told by its latencies. The client makes each outcome while it runs, on the same two cores.
What is acknowledged is counted by the second from when the first batch was due; a run of any length keeps no
more of it than a number for each second and each batch.
"""

from __future__ import annotations

import asyncio
import bisect
import math
import os
import time
import uuid
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import grpc
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from bench._mesh import Mesh, mesh, say
from bench.memory import pss_mib
from services.cli.cpu import cpu_seconds
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.mesh.store import connect

_STREAMS: Final = 4
# A service ends connections, and the streams on them, after some minutes.
_STREAM_LASTS_S: Final = 45.0
_PROBE: Final = "bench-probe"
_PROBE_EVERY_S: Final = 0.1
_SAMPLE_EVERY_S: Final = (5.0, 15.0)
_AUDIT_S: Final = 1800.0
# What is to be durable in each second.
_WANTED_PER_S: Final = 10_000
# Name, way, outcomes of a batch, batches at a time.
_SATURATED: Final = (
    ("saturated_stream", "stream", 500, 4),
    ("saturated_batch", "batch", 500, 4),
    ("saturated_single", "single", 1, 64),
)
_TABLE: Final = """
CREATE TABLE bench_outcomes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE, at timestamptz NOT NULL,
    agent_name text NOT NULL, status smallint NOT NULL, workflow_id text NOT NULL, body bytea NOT NULL);
CREATE INDEX ON bench_outcomes (at DESC, number DESC);
CREATE INDEX ON bench_outcomes (agent_name, at DESC, number DESC);
CREATE INDEX ON bench_outcomes (workflow_id, at DESC, number DESC) WHERE workflow_id <> '';
"""
_INSERT: Final = """
INSERT INTO bench_outcomes (id, at, agent_name, status, workflow_id, body)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::smallint[], $5::text[], $6::bytea[])
ON CONFLICT DO NOTHING
"""


class Maker:
    """Outcomes such as a service records around a task, each with ids and a time of its own."""

    def __init__(self, agents: int = 20) -> None:
        self._templates = [
            outcome(
                agent_name=f"bench-{n}",
                agent_type="bench",
                action_type="predict_eta",
                started=datetime.now(UTC),
                duration_ms=12.5 * (n % 20),
                status=SUCCESS,
                input_data={"order_id": f"order_{n}", "driver_id": f"driver_{n}", "fresh": True},
                output={"delivery_eta_minutes": 12.5, "confidence": 0.7},
                tags=("bench", "eta"),
            )
            for n in range(agents)
        ]
        self.made = 0

    def one(self) -> OutcomeEvent:
        event = OutcomeEvent()
        event.CopyFrom(self._templates[self.made % len(self._templates)])
        self.made += 1
        event.event_id, event.run_id = str(uuid.uuid4()), str(uuid.uuid4())
        now = time.time_ns()
        for stamp in (event.timestamp, event.start_time, event.end_time):
            stamp.seconds, stamp.nanos = divmod(now, 1_000_000_000)
        return event

    def batch(self, size: int) -> list[OutcomeEvent]:
        return [self.one() for _ in range(size)]


@dataclass(slots=True)
class Times:
    """Seconds, all of them."""

    values: array[float] = field(default_factory=lambda: array("d"))

    def figures(self, name: str) -> dict[str, float | None]:
        ordered = sorted(self.values)

        def at(level: float) -> float | None:
            if not ordered:
                return None
            return round(ordered[min(len(ordered) - 1, int(level * len(ordered)))] * 1000, 1)

        return {f"{name}_p50_ms": at(0.5), f"{name}_p99_ms": at(0.99), f"{name}_max_ms": at(1.0)}


class Sender:
    """Batches through streams, or a call each; `acks` holds one time per batch from when it was due.

    `by_second` are the outcomes acknowledged in each second of the newest open loop.
    """

    def __init__(self, stub: Any, size: int, agents: int = 20) -> None:
        self._stub = stub
        self._size = size
        self._maker = Maker(agents)
        self.acks = Times()
        self.by_second = array("L")
        self.errors: Counter[str] = Counter()
        self.stored = 0
        self._began = 0.0

    async def open_loop(self, rate: float, seconds: float, way: str) -> None:
        """`rate` outcomes a second, whatever comes of them; returns once all are answered."""
        lanes = _STREAMS if way == "stream" else int(rate / self._size)
        step = self._size / rate
        began = self._began = time.perf_counter() + 0.1
        self.by_second = array("L", bytes(array("L").itemsize * math.ceil(seconds)))
        run = self._streams if way == "stream" else self._calls
        async with asyncio.TaskGroup() as tasks:
            for lane in range(lanes):
                tasks.create_task(run([began + step * n for n in range(lane, int(seconds / step), lanes)]))

    async def closed_loop(self, seconds: float, at_a_time: int, way: str) -> float:
        """`at_a_time` batches under way without a pause; outcomes a second."""
        began, stored = time.perf_counter(), self.stored
        room = asyncio.Semaphore(at_a_time)
        until = began + seconds
        if way == "stream":
            await self._stream(None, until=until, room=room)
        else:

            async def worker() -> None:
                while time.perf_counter() < until:
                    await self._call(time.perf_counter())

            async with asyncio.TaskGroup() as tasks:
                for _ in range(at_a_time):
                    tasks.create_task(worker())
        return (self.stored - stored) / (time.perf_counter() - began)

    async def _streams(self, due: Sequence[float]) -> None:
        """One after the other."""
        while due:
            few = bisect.bisect(due, due[0] + _STREAM_LASTS_S)
            await self._stream(iter(due[:few]))
            due = due[few:]

    async def _calls(self, due: Sequence[float]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for at in due:
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                tasks.create_task(self._call(at))

    async def _call(self, at: float) -> None:
        try:
            if self._size == 1:
                request = pb.RecordOutcomeRequest(event=self._maker.one())
                stored = not (await self._stub.RecordOutcome(request, timeout=60)).duplicate
            else:
                batch = pb.RecordOutcomesRequest(events=self._maker.batch(self._size))
                stored = (await self._stub.RecordOutcomes(batch, timeout=60)).stored
        except grpc.aio.AioRpcError as error:  # what a service does that is sent more than it can take
            self.errors[error.code().name] += 1
        else:
            self._answered(at, stored)

    async def _stream(
        self, due: Iterator[float] | None, *, until: float = 0.0, room: asyncio.Semaphore | None = None
    ) -> None:
        sent: asyncio.Queue[float] = asyncio.Queue()

        async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
            if due is not None:
                for at in due:
                    await asyncio.sleep(max(0.0, at - time.perf_counter()))
                    sent.put_nowait(at)
                    yield pb.StreamOutcomesRequest(events=self._maker.batch(self._size))
                return
            assert room is not None
            while time.perf_counter() < until:
                await room.acquire()
                sent.put_nowait(time.perf_counter())
                yield pb.StreamOutcomesRequest(events=self._maker.batch(self._size))

        async for answer in self._stub.StreamOutcomes(requests()):
            self._answered(sent.get_nowait(), answer.stored)
            if room is not None:
                room.release()

    def _answered(self, at: float, stored: int) -> None:
        assert stored == self._size
        now = time.perf_counter()
        self.acks.values.append(now - at)
        self.stored += stored
        second = int(now - self._began)
        if second < len(self.by_second):
            self.by_second[second] += stored


class Probe:
    """One outcome every 100 ms, and how long after its answer a list and a watch have it."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._maker = Maker()
        self._acked: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self.lists, self.watches = Times(), Times()
        self.stored = 0

    async def run(self, ended: asyncio.Event) -> None:
        """Until told that the load has ended."""
        watch = asyncio.create_task(self._watch())
        try:
            while not ended.is_set():
                await self._once()
                await asyncio.sleep(_PROBE_EVERY_S)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _once(self) -> None:
        event = self._maker.one()
        event.agent_name = _PROBE
        answer = await self._stub.RecordOutcome(pb.RecordOutcomeRequest(event=event), timeout=60)
        assert not answer.duplicate
        self.stored += 1
        acked = self._acked[event.event_id] = time.perf_counter()
        self._both(event.event_id)
        request = pb.ListOutcomesRequest(agent_name=_PROBE, page_size=1)
        while True:
            answer = await self._stub.ListOutcomes(request, timeout=60)
            if answer.events and answer.events[0].event_id == event.event_id:
                break
        self.lists.values.append(time.perf_counter() - acked)

    async def _watch(self) -> None:
        while True:
            try:
                async for answer in self._stub.WatchOutcomes(pb.WatchOutcomesRequest(agent_name=_PROBE)):
                    self._seen[answer.event.event_id] = time.perf_counter()
                    self._both(answer.event.event_id)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:  # its connection has come of age
                    raise

    def _both(self, id_: str) -> None:
        if id_ in self._acked and id_ in self._seen:
            self.watches.values.append(max(0.0, self._seen.pop(id_) - self._acked.pop(id_)))


async def sampled(pids: list[int], every_s: float, seen: list[float]) -> None:
    """Memory of these processes in MiB, now and then until cancelled."""
    while True:
        seen.append(round(pss_mib(pids), 1))
        await asyncio.sleep(every_s)


def grown(samples: list[float]) -> float:
    """Between the second and the last quarter of a run, each by its mean: 0 if it is flat once it is warm."""
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    return round(sum(last) / len(last) - sum(second) / len(second), 1)


async def steady(
    running: Mesh, stub: Any, *, rate: float, seconds: float, size: int, way: str, earlier: int
) -> dict[str, Any]:
    """At `rate` for `seconds` with probes beside; audited together with the `earlier` ones."""
    sender, probe, ended = Sender(stub, size), Probe(stub), asyncio.Event()
    await sender.open_loop(rate, min(seconds, 5.0), way)  # warm
    sender.acks = Times()
    before, cpu = sender.stored, cpu_seconds(running.state)
    memory: list[float] = []
    every_s = _SAMPLE_EVERY_S[seconds > 300]
    own_mib = pss_mib([os.getpid()])
    async with asyncio.TaskGroup() as tasks:
        sampling = tasks.create_task(sampled(running.processes()["feedback"], every_s, memory))
        tasks.create_task(probe.run(ended))
        began = time.perf_counter()
        await sender.open_loop(rate, seconds, way)
        took = time.perf_counter() - began
        spent = {name: used - cpu[name] for name, used in cpu_seconds(running.state).items()}
        ended.set()
        sampling.cancel()
    acked = sender.stored - before
    whole = sender.by_second[: int(seconds)]
    result = {
        "way": way,
        "size": size,
        "offered_per_s": round(rate),
        "seconds": round(took, 1),
        "acked_per_s": round(sum(whole) / max(1, len(whole))),
        "slowest_second": min(whole, default=0),
        f"seconds_below_{_WANTED_PER_S}": sum(one < _WANTED_PER_S for one in whole),
        "errors": dict(sender.errors),
        **sender.acks.figures("ack"),
        "list_lag": probe.lists.figures("lag"),
        "watch_lag": probe.watches.figures("lag"),
        "probes": probe.stored,
        "feedback_mib": memory,
        "feedback_mib_every_s": every_s,
        "feedback_mib_grown": grown(memory),
        "client_mib_grown": round(pss_mib([os.getpid()]) - own_mib, 1),
        "cpu_us_per_outcome": {name: round(used / acked * 1e6, 1) for name, used in spent.items()},
        "cpu_share": {name: round(used / took, 2) for name, used in spent.items()},
        **await audit(running.state.dsn, earlier + sender.stored + probe.stored),
    }
    say(f"{way}, {size} a batch: {result}")
    return result


async def audit(dsn: str, acked: int) -> dict[str, int]:
    """What was acknowledged against what the table and the log hold; empties neither."""
    connection = await connect(dsn)
    try:
        stored, ids, published = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM feedback.outcomes WHERE agent_name LIKE 'bench-%'),"
            " (SELECT count(DISTINCT id) FROM feedback.outcomes WHERE agent_name LIKE 'bench-%'),"
            " (SELECT last FROM feedback.heads WHERE kind = 'outcome')"
            " - (SELECT sum(h.last) FROM bus.heads h JOIN bus.partitions p USING (part)"
            " WHERE p.topic = 'agent-outcomes')",
            timeout=_AUDIT_S,
        )
    finally:
        await connection.close()
    return {"acked": acked, "lost": acked - ids, "twice": stored - ids, "unpublished": int(published)}


async def saturated(stub: Any, *, seconds: float, size: int, at_a_time: int, way: str) -> dict[str, Any]:
    """As fast as it goes."""
    sender = Sender(stub, size)
    await sender.closed_loop(min(seconds, 3.0), at_a_time, way)
    sender.acks = Times()
    rate = await sender.closed_loop(seconds, at_a_time, way)
    result = {
        "way": way,
        "size": size,
        "at_a_time": at_a_time,
        "outcomes_per_s": round(rate),
        **sender.acks.figures("ack"),
        "acked": sender.stored,
    }
    say(f"as fast as it goes: {result}")
    return result


async def bare(dsn: str, *, seconds: float, size: int, at_a_time: int) -> dict[str, Any]:
    """The floor: INSERTs of the same rows over eight connections, with the same columns and indexes."""
    maker, times, stored = Maker(), Times(), 0
    async with asyncpg.create_pool(dsn, min_size=8, max_size=8) as pool:
        await pool.execute(_TABLE)
        until = (began := time.perf_counter()) + seconds

        async def worker() -> None:
            nonlocal stored
            while (at := time.perf_counter()) < until:
                events = maker.batch(size)
                await pool.execute(
                    _INSERT,
                    [event.event_id for event in events],
                    [event.timestamp.ToDatetime(UTC) for event in events],
                    [event.agent_name for event in events],
                    [event.status for event in events],
                    [event.workflow_id for event in events],
                    [event.SerializeToString() for event in events],
                )
                times.values.append(time.perf_counter() - at)
                stored += size

        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_a_time):
                tasks.create_task(worker())
        took = time.perf_counter() - began
        await pool.execute("DROP TABLE bench_outcomes")
    result = {
        "size": size,
        "at_a_time": at_a_time,
        "outcomes_per_s": round(stored / took),
        **times.figures("ack"),
    }
    say(f"bare INSERTs: {result}")
    return result


async def outcomes(*, rate: float, seconds: float, size: int) -> dict[str, Any]:
    """Steady through streams and in calls, then as fast as it goes, each beside bare INSERTs."""
    saturate_s = min(seconds, 15.0)
    async with (
        mesh() as running,
        grpc.aio.insecure_channel(running.state.target("feedback")) as channel,
    ):
        stub: Any = FeedbackServiceStub(channel)
        result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1)}
        acked = 0
        for way, lasts in (("stream", seconds), ("batch", min(seconds, 20.0))):
            steadily = await steady(
                running, stub, rate=rate, seconds=lasts, size=size, way=way, earlier=acked
            )
            result[f"steady_{way}"], acked = steadily, steadily["acked"]
        for name, way, count, at_a_time in _SATURATED:
            ours = await saturated(stub, seconds=saturate_s, size=count, at_a_time=at_a_time, way=way)
            floor = await bare(running.state.dsn, seconds=saturate_s / 3, size=count, at_a_time=at_a_time)
            acked += ours.pop("acked")
            result[name] = {"mesh": ours, "asyncpg": floor}
        result |= await audit(running.state.dsn, acked)
    return result
