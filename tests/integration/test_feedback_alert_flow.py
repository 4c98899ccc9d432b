"""From what services notice to the topic `agent-alerts`: every kind, each alert once, whatever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from processes import until
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState, ListAlertsRequest, SilenceAlertRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.metrics_pb2 import QueryMetricsRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.eta.cleaning import GPS_SPOOFING
from services.eta.fixes import columns_of
from services.eta.signals import Signals
from services.eta.tracks import Track
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.breaker import Breaker, BreakerPolicy
from services.mesh.client import ClientFactory
from services.mesh.errors import MeshError, Unavailable
from services.mesh.events import Record, create_bus
from services.mesh.feedback.outcome import outcome
from services.mesh.feedback.signals import SignalSender
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry
from tools.ports import free_ports

if TYPE_CHECKING:
    from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceAsyncStub

FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED
GUARD_S = 120.0
PLAN = "/waymesh.route.v1.RouteService/PlanRoutes"


class Topic:
    """Everything on `agent-alerts`, as it comes."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def take(self, records: Sequence[Record]) -> None:
        self.records.extend(records)

    @property
    def told(self) -> Counter[tuple[str, int]]:
        """How often each key was told to be in each state."""
        return Counter((one.key, Alert.FromString(one.value).state) for one in self.records)

    async def holds(self, wanted: set[tuple[str, int]]) -> None:
        await until(lambda: wanted <= self.told.keys(), f"{wanted} on the topic", guard_s=GUARD_S)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
async def topic(database: str, tmp_path: Path, stack: AsyncExitStack) -> Topic:
    empty = tmp_path / "no-migrations"
    empty.mkdir()
    store = await Store.open(database, schema="test", migrations=empty)
    stack.push_async_callback(store.close)
    bus = create_bus(FeedbackSettings(data_dir=tmp_path), service="test", pool=store.pool)
    await bus.start()
    stack.push_async_callback(bus.close)
    made = Topic()
    in_background(stack, bus.broadcast(["agent-alerts"], made.take).run)
    return made


def in_background(stack: AsyncExitStack, run: Callable[[], Any]) -> None:
    task = asyncio.ensure_future(run())

    async def end() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)


def stub_of(stack: AsyncExitStack, port: int) -> FeedbackServiceAsyncStub:
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    stack.push_async_callback(clients.close)
    stub: FeedbackServiceAsyncStub = clients.stub(FeedbackServiceStub, f"127.0.0.1:{port}")
    return stub


async def started(
    stack: AsyncExitStack, database: str, folder: Path, **settings: bool
) -> FeedbackServiceAsyncStub:
    """Who calls a feedback that ends with the stack."""
    feedback = Feedback(FeedbackSettings(port=0, admin=0, data_dir=folder, drain_s=0, **settings), database)
    await feedback.start()
    stack.push_async_callback(feedback.stop)
    return stub_of(stack, feedback.server.port)


def outcomes(count: int, *, good: bool) -> list[OutcomeEvent]:
    """What the agent `planner` did just now: well and fast, or badly and slowly."""
    status = OutcomeStatus.OUTCOME_STATUS_SUCCESS if good else OutcomeStatus.OUTCOME_STATUS_FAILURE
    made = [
        outcome(
            agent_name="planner",
            agent_type="engine",
            action_type="plan",
            started=datetime.now(UTC),
            duration_ms=5.0 if good else 2_500.0,
            status=status,
        )
        for _ in range(count)
    ]
    for one in made:
        one.event_id = str(uuid.uuid4())
        one.timestamp.FromDatetime(datetime.now(UTC))
        one.severity = Severity.SEVERITY_INFO if good else Severity.SEVERITY_ERROR
    return made


class Senders:
    """Every sender of signals there is, as it is in its service, and a clock that they go by."""

    def __init__(self, stub: FeedbackServiceAsyncStub) -> None:
        self.now_s = datetime.now(UTC).timestamp()
        self.of_eta = SignalSender("eta", self._record, wall=lambda: self.now_s)
        self.eta = Signals(self.of_eta, clock=lambda: self.now_s, wall=lambda: self.now_s)
        self.mesh = SignalSender("gateway", self._record)
        self.breaker = Breaker(
            "route:50052", PLAN, BreakerPolicy(failures=1, open_s=1.0), clock=lambda: self.now_s
        )
        self.breaker.on_change(self.mesh.breaker_changed)
        self._stub = stub

    async def _record(self, signals: Sequence[Signal]) -> None:
        await self._stub.RecordSignals(pb.RecordSignalsRequest(signals=signals), timeout=10)

    def track(self) -> Track:
        return Track(order_id="order", driver_id="driver", last_us=round(self.now_s * 1e6))

    def begin(self) -> None:
        self.breaker.settle(self.breaker.admit(), Unavailable("down"))
        self.mesh.check_changed("store", "OSError")
        fix = GpsEvent(driver_id="driver", order_id="order")
        fix.timestamp.FromMicroseconds(round(self.now_s * 1e6))
        self.eta.anomalies(columns_of([fix]), np.array([GPS_SPOOFING], dtype=np.int64))
        self.eta.coverage("calibration", 0.5, drifted=True)
        self.eta.predicted([EtaPrediction(order_id="order", promise_probability=0.1, delivery_eta_minutes=9)])
        self.eta.heard([self.track()])
        self.now_s += 301
        self.eta.sweep()

    def end(self) -> None:
        # Long enough for the anomaly to be over; whoever is heard after it is no longer silent.
        self.now_s += 601
        self.eta.sweep()
        self.breaker.settle(self.breaker.admit(), None)
        self.mesh.check_changed("store", None)
        self.eta.heard([self.track()])
        self.eta.coverage("calibration", 0.8, drifted=False)
        self.eta.predicted([EtaPrediction(order_id="order", promise_probability=0.9, delivery_eta_minutes=9)])


# What the requirements name, by the key of its alert: how bad it is, and whether outcomes tell of it.
NAMED = {
    "failure_rate/planner": Severity.SEVERITY_ERROR,
    "error_rate/planner": Severity.SEVERITY_ERROR,
    "p95_latency/planner": Severity.SEVERITY_WARNING,
    f"breaker_open/gateway/route:50052{PLAN}": Severity.SEVERITY_ERROR,
    "health_failing/gateway/store": Severity.SEVERITY_ERROR,
    "courier_silent/eta/driver": Severity.SEVERITY_ERROR,
    "gps_anomaly/eta/driver": Severity.SEVERITY_CRITICAL,
    "coverage_drift/eta/calibration": Severity.SEVERITY_WARNING,
    "lateness_risk/eta/order": Severity.SEVERITY_WARNING,
}


async def test_all_that_the_requirements_name_is_raised_and_resolved_once(
    database: str, tmp_path: Path, topic: Topic, stack: AsyncExitStack
) -> None:
    stub = await started(stack, database, tmp_path, enable_outcome_logging=False)
    senders = Senders(stub)
    in_background(stack, senders.mesh.run)
    in_background(stack, senders.of_eta.run)
    in_background(stack, senders.eta.run)

    senders.begin()
    await stub.RecordOutcomes(pb.RecordOutcomesRequest(events=outcomes(30, good=False)), timeout=10)
    await topic.holds({(key, FIRING) for key in NAMED})
    answer = await stub.ListAlerts(ListAlertsRequest(states=[FIRING]), timeout=10)
    assert {one.alert_key: one.severity for one in answer.alerts} == NAMED

    senders.end()
    await stub.RecordOutcomes(pb.RecordOutcomesRequest(events=outcomes(700, good=True)), timeout=10)
    await topic.holds({(key, RESOLVED) for key in NAMED})
    assert topic.told == Counter((key, state) for key in NAMED for state in (FIRING, RESOLVED))
    assert {(one.topic, one.type, one.key) for one in topic.records} == {
        ("agent-alerts", "waymesh.feedback.v1.Alert", key) for key in NAMED
    }
    assert not (await stub.ListAlerts(ListAlertsRequest(states=[FIRING]), timeout=10)).alerts


async def test_mistakes_of_callers_raise_no_alert_and_failures_do(
    database: str, tmp_path: Path, topic: Topic, stack: AsyncExitStack
) -> None:
    stub = await started(stack, database, tmp_path)
    for _ in range(30):
        with pytest.raises(MeshError):
            await stub.QueryMetrics(QueryMetricsRequest(page_token="wrong"), timeout=10)

    async def recorded() -> bool:
        metrics = (await stub.QueryMetrics(QueryMetricsRequest(window="300s/60s"), timeout=10)).metrics
        return any(one.agent_name and one.failures == 30 and one.failure_rate == 0 for one in metrics)

    async with asyncio.timeout(GUARD_S):
        while not await recorded():
            await asyncio.sleep(0.1)
    await stub.RecordOutcomes(pb.RecordOutcomesRequest(events=outcomes(30, good=False)), timeout=10)
    await topic.holds({("failure_rate/planner", FIRING), ("error_rate/planner", FIRING)})
    answer = await stub.ListAlerts(ListAlertsRequest(), timeout=10)
    assert {one.subject for one in answer.alerts} == {"planner"}


async def test_a_silence_is_kept_by_the_service(
    database: str, tmp_path: Path, topic: Topic, stack: AsyncExitStack
) -> None:
    stub = await started(stack, database, tmp_path, enable_outcome_logging=False)
    quiet, loud = (f"gps_anomaly/eta/{subject}" for subject in ("quiet", "loud"))
    answer = await stub.SilenceAlert(
        SilenceAlertRequest(alert_key=quiet, duration_s=3_600, author="ops", comment="known"), timeout=10
    )
    assert answer.HasField("silenced_until")
    signals = [said(subject, active=True) for subject in ("quiet", "loud")]
    await stub.RecordSignals(pb.RecordSignalsRequest(signals=signals), timeout=10)
    await topic.holds({(loud, FIRING)})
    [alert] = (await stub.ListAlerts(ListAlertsRequest(subject="quiet"), timeout=10)).alerts
    assert (alert.state, alert.silenced_until) == (FIRING, answer.silenced_until)
    assert set(topic.told) == {(loud, FIRING)}
    await stub.SilenceAlert(SilenceAlertRequest(alert_key=quiet, duration_s=0), timeout=10)
    await topic.holds({(quiet, FIRING)})
    assert topic.told[quiet, FIRING] == 1


def said(subject: str, *, active: bool) -> Signal:
    made = Signal(
        signal_id=str(uuid.uuid4()),
        kind=SignalKind.SIGNAL_KIND_GPS_ANOMALY,
        source="eta",
        subject=subject,
        severity=Severity.SEVERITY_WARNING,
        active=active,
    )
    made.timestamp.FromDatetime(datetime.now(UTC))
    return made


class Replica:
    """A process of feedback that can be killed and started again."""

    def __init__(self, dsn: str, folder: Path) -> None:
        [self.port] = free_ports(1)
        self._environment = {
            "DATABASE_URL": dsn,
            "WAYMESH_DATA_DIR": str(folder),
            "WAYMESH_FEEDBACK_PORT": str(self.port),
            "WAYMESH_FEEDBACK_ADMIN_PORT": "0",
            "ENABLE_OUTCOME_LOGGING": "false",
            "LOG_LEVEL": "ERROR",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.feedback", env={**os.environ, **self._environment}
        )

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


@pytest.mark.faults
async def test_two_processes_that_are_killed_in_turn_tell_each_alert_once(
    database: str, tmp_path: Path, topic: Topic, stack: AsyncExitStack
) -> None:
    replicas = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        replicas.append(Replica(database, tmp_path / name))
        stack.push_async_callback(replicas[-1].kill)
        await replicas[-1].start()
    stubs = [stub_of(stack, replica.port) for replica in replicas]

    async def tell(call: Callable[[Any], Any]) -> None:
        """By whichever process answers: what was taken before its answer was lost changes nothing again."""
        async with asyncio.timeout(GUARD_S):
            while True:
                for stub in stubs:
                    with suppress(MeshError):
                        await call(stub)
                        return
                await asyncio.sleep(0.05)

    async def record(*signals: Signal) -> None:
        request = pb.RecordSignalsRequest(signals=signals)
        await tell(lambda stub: stub.RecordSignals(request, timeout=5))

    bad = pb.RecordOutcomesRequest(events=outcomes(30, good=False))
    planner_over = {(key, RESOLVED) for key in NAMED if key.endswith("/planner")}
    expected: set[tuple[str, int]] = set()
    for number in range(60):
        subject = f"driver-{number}"
        await record(said(subject, active=True))
        expected.add((f"gps_anomaly/eta/{subject}", FIRING))
        if number % 2:
            await record(said(subject, active=True), said(subject, active=False))
            expected.add((f"gps_anomaly/eta/{subject}", RESOLVED))
        if number == 10:
            await tell(lambda stub: stub.RecordOutcomes(bad, timeout=5))
            expected |= {(key, FIRING) for key, _ in planner_over}
        if number in (20, 40):
            # One of the two leads; after both kills its place was taken over once at least.
            victim = replicas[number // 20 % 2]
            await victim.kill()
            await victim.start()
            stubs.reverse()

    await topic.holds(expected)
    # Nothing more comes by itself: what is told last is told after everything else.
    await record(said("last", active=True))
    expected.add(("gps_anomaly/eta/last", FIRING))
    await topic.holds(expected)
    # On a machine so slow that the window of the planner's outcomes has passed, its alerts are over as well.
    assert {key: count for key, count in topic.told.items() if key not in planner_over} == Counter(expected)
    ids = [one.event_id for one in topic.records]
    assert len(set(ids)) == len(ids)

    listed: list[Alert] = []

    async def list_all(stub: Any) -> None:
        answer = await stub.ListAlerts(ListAlertsRequest(page_size=1_000), timeout=5)
        listed[:] = answer.alerts

    await tell(list_all)
    assert len(listed) == sum(1 for _, state in expected if state == FIRING)
    last = {key: max(state for one, state in topic.told if one == key) for key, _ in expected}
    assert {one.alert_key: one.state for one in listed} == last
