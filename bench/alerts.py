"""Alerts: how long after what raises or resolves them was acknowledged they can be seen.

A whole mesh with rules of its own; time runs from the answer to the signal or outcome that crosses a
threshold until ListAlerts has the alert (asked every 20 ms), and until a reader of agent-alerts has it.
A rule that wants it to last counts from the end of that time; `quiet` from 2 s after the last signal; `moved`
from 5 s after the end of the 10 s window that held the failure, for so long the next must be empty. Outcomes
that dilute the failures resolve with the answer to the last.

idle: a probe of each kind at a time, again and again, and nothing else. load: the same while 1,000 agents
record outcomes at --rate. storm: 1,000 agents cross the thresholds of three rules with one call, and come
back with one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from bench._alerts_watch import FIRING, LIMIT_MS, RESOLVED, Watch, watching
from bench._command import command, seconds
from bench._events_outcomes import Sender
from bench._mesh import mesh, report, say
from services.mesh.feedback.outcome import FAILURE, SUCCESS, outcome

_ANOMALY = SignalKind.SIGNAL_KIND_GPS_ANOMALY
_DRIFT = SignalKind.SIGNAL_KIND_COVERAGE_DRIFT
_SILENT = SignalKind.SIGNAL_KIND_COURIER_SILENT

_LASTS_S: Final = 1.0
_QUIET_S: Final = 2.0
_MOVES_S: Final = 10
# An empty window says that it is over after so long.
_EMPTY_S: Final = 5.0
_LASTING: Final = {"for_s": _LASTS_S, "resolve_for_s": _LASTS_S}
_OF_WINDOWS: Final = {"window": "300s/60s", "min_outcomes": 1, "severity": "error"}
_RULES: Final[dict[str, dict[str, Any]]] = {
    "failing": {"metric": "failure_rate", "threshold": 0.1, **_OF_WINDOWS},
    "slow": {"metric": "p95_latency_ms", "threshold": 2_000.0, **_OF_WINDOWS, **_LASTING},
    "moving": {"metric": "failure_rate", "threshold": 0.1, **_OF_WINDOWS, "window": f"{_MOVES_S}s"},
    "coverage_drift": _LASTING,
    "courier_silent": {"quiet_s": _QUIET_S},
}
# One failure this slow and eleven outcomes that take no time: neither its share nor the percentile is more
# than nine tenths of the threshold; with ten of them both are.
_SLOW_MS: Final = 3_800.0
_CALM: Final = 11

_AGENTS: Final = 1_000
_BATCH: Final = 100
_MOVED: Final = 20
_PAUSE_S: Final = 0.25


def made(agent: str, *, failed: bool) -> OutcomeEvent:
    """An outcome of now."""
    return outcome(
        agent_name=agent,
        agent_type="bench",
        action_type="predict_eta",
        started=datetime.now(UTC),
        duration_ms=_SLOW_MS if failed else 0.0,
        status=FAILURE if failed else SUCCESS,
    )


def ends_now(event: OutcomeEvent) -> OutcomeEvent:
    """The same, over now: its timestamp lies in the current window."""
    event.timestamp.FromDatetime(datetime.now(UTC))
    return event


@dataclass(slots=True)
class Probes:
    """Raises and resolves what nobody raised before, again and again."""

    stub: Any
    watch: Watch
    until: float
    made: int = 0

    def fresh(self, kind: str) -> str:
        self.made += 1
        return f"{kind}-{self.made}"

    async def outcomes(self, agents: Sequence[str], *, failed: bool) -> float:
        """One outcome of each in one call; when it was acknowledged."""
        events = [ends_now(made(agent, failed=failed)) for agent in agents]
        await self.stub.RecordOutcomes(pb.RecordOutcomesRequest(events=events), timeout=60)
        return time.perf_counter()

    async def signal(self, kind: SignalKind.ValueType, subject: str, *, active: bool) -> float:
        """Sends one; when it was acknowledged."""
        one = Signal(
            signal_id=str(uuid.uuid4()), kind=kind, source="bench", subject=subject, active=active,
            severity=Severity.SEVERITY_WARNING,
        )  # fmt: skip
        one.timestamp.FromDatetime(datetime.now(UTC))
        await self.stub.RecordSignals(pb.RecordSignalsRequest(signals=[one]), timeout=60)
        return time.perf_counter()

    async def signals(self, name: str, kind: SignalKind.ValueType, rule: str, lasts_s: float = 0.0) -> None:
        subject = self.fresh(name)
        key = f"{rule}/bench/{subject}"
        acked = await self.signal(kind, subject, active=True)
        if await self.watch.expect(f"{name}_raise", (key, FIRING), acked + lasts_s):
            await self.pause()
            acked = await self.signal(kind, subject, active=False)
            await self.watch.expect(f"{name}_resolve", (key, RESOLVED), acked + lasts_s)

    async def quiet(self) -> None:
        subject = self.fresh("quiet")
        key = f"courier_silent/bench/{subject}"
        acked = await self.signal(_SILENT, subject, active=True)
        if await self.watch.expect("signal_raise", (key, FIRING), acked):
            await self.watch.expect("quiet_resolve", (key, RESOLVED), acked + _QUIET_S)

    async def windows(self) -> None:
        await self.cross([self.fresh("agent")])

    async def cross(self, agents: Sequence[str]) -> None:
        """All of them cross the thresholds with one call, and come back with one."""
        acked = await self.outcomes(agents, failed=True)
        await self._all(agents, FIRING, acked, "raise")
        await self.pause()
        for _ in range(_CALM):
            acked = await self.outcomes(agents, failed=False)
        await self._all(agents, RESOLVED, acked, "resolve")

    async def moved(self) -> None:
        """Some agents fail once and are not heard of again."""
        agents = [self.fresh("gone") for _ in range(_MOVED)]
        ends = (time.time() // _MOVES_S + 1) * _MOVES_S
        if ends - time.time() < 1.0:  # too late to be sure of the window
            await asyncio.sleep(1.0)
            ends += _MOVES_S
        acked = await self.outcomes(agents, failed=True)
        due = time.perf_counter() + ends - time.time() + _EMPTY_S
        expect = self.watch.expect
        await asyncio.gather(*(expect("window_raise", (f"moving/{one}", FIRING), acked) for one in agents))
        await asyncio.gather(*(expect("moved_resolve", (f"moving/{one}", RESOLVED), due) for one in agents))

    async def pause(self) -> None:
        """Out of step with whatever feedback does at regular times."""
        await asyncio.sleep(random.uniform(0.0, _PAUSE_S))

    async def again(self, probe: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() < self.until:
            await probe()
            await self.pause()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.again(lambda: self.signals("signal", _ANOMALY, "gps_anomaly")))
            tasks.create_task(
                self.again(lambda: self.signals("lasting_signal", _DRIFT, "coverage_drift", _LASTS_S))
            )
            for probe in (self.quiet, self.windows, self.windows, self.moved):
                tasks.create_task(self.again(probe))

    async def _all(self, agents: Sequence[str], state: Any, acked: float, what: str) -> None:
        expect = self.watch.expect
        async with asyncio.TaskGroup() as tasks:
            for agent in agents:
                tasks.create_task(expect(f"window_{what}", (f"failing/{agent}", state), acked))
                tasks.create_task(
                    expect(f"lasting_window_{what}", (f"slow/{agent}", state), acked + _LASTS_S)
                )


@contextmanager
def rules_file() -> Iterator[Path]:
    with TemporaryDirectory(prefix="waymesh-bench-", dir="/tmp") as folder:
        path = Path(folder) / "rules.json"
        path.write_text(json.dumps(_RULES))
        yield path


@asynccontextmanager
async def asking(watch: Watch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.ask())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure(seconds: float, rate: float, storms: int) -> dict[str, Any]:
    result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1), "limit_ms": LIMIT_MS}
    with rules_file() as rules:
        async with (
            mesh(
                WAYMESH_ALERT_RULES=str(rules), WAYMESH_METRIC_WINDOWS=f"60s,300s/60s,{_MOVES_S}s"
            ) as running,
            grpc.aio.insecure_channel(running.state.target("feedback")) as channel,
        ):
            stub: Any = FeedbackServiceStub(channel)
            async with watching(stub, running.state.dsn) as watch:
                probes = Probes(stub, watch, 0.0)

                def phase(name: str, **further: Any) -> None:
                    result[name] = {**further, **watch.figures()}
                    say(f"{name}:")
                    for what, values in result[name].items():
                        say(f"  {what}: {values}")

                async with asking(watch):
                    probes.until = time.perf_counter() + seconds
                    await probes.run()
                phase("idle")

                sender = Sender(stub, _BATCH, _AGENTS)
                async with asking(watch), asyncio.TaskGroup() as tasks:
                    probes.until = time.perf_counter() + seconds
                    load = tasks.create_task(sender.open_loop(rate, seconds + 10.0, "stream"))
                    await probes.run()
                    took = time.perf_counter() - probes.until + seconds
                    acked = sender.stored
                    await load
                phase(
                    "load", agents=_AGENTS, outcomes_per_s=round(acked / took), **sender.acks.figures("ack")
                )

                for _ in range(storms):
                    async with asking(watch):
                        await probes.cross([probes.fresh("storm") for _ in range(_AGENTS)])
                phase("storm", agents=_AGENTS, storms=storms)
                result |= {"missing": len(watch.missing), "twice": watch.twice}
    result["reached"] = not watch.missing and all(
        figures["within_limit"]
        for name in ("idle", "load", "storm")
        for figures in result[name].values()
        if isinstance(figures, dict)
    )
    return result


def main() -> int:
    parser = command("alerts", __doc__)
    parser.add_argument("--seconds", type=seconds, default=40.0, help="how long idle and load last each")
    parser.add_argument("--rate", type=float, default=5_000.0, help="outcomes a second of the load")
    parser.add_argument("--storms", type=int, default=3, help="how often 1,000 agents cross at once")
    arguments = parser.parse_args()
    return report(
        lambda: measure(max(1.0, arguments.seconds), max(1.0, arguments.rate), max(1, arguments.storms))
    )


if __name__ == "__main__":
    sys.exit(main())
