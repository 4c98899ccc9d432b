"""A leader that does nothing but alerts, on a real store, and windows as a test says they are."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from waymesh.feedback.v1.alert_pb2 import Alert, AlertState, ListAlertsRequest, SilenceAlertRequest
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback import server
from services.feedback.alert_answers import listed, silenced
from services.feedback.alert_rules import Rules, built_in
from services.feedback.alerting import Alerting
from services.feedback.board import Figure
from services.feedback.records import SIGNALS, row
from services.feedback.settings import FeedbackSettings
from services.feedback.store import store as store_rows
from services.mesh.events import EventBus, Message, Record, create_bus
from services.mesh.store import Store

FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED
BREAKER, ANOMALY = SignalKind.SIGNAL_KIND_BREAKER_OPEN, SignalKind.SIGNAL_KIND_GPS_ANOMALY

RULES = list(built_in().all)
DRIFT = SignalKind.SIGNAL_KIND_COVERAGE_DRIFT


@dataclass
class View:
    """Windows as a test says they are."""

    agents: dict[str, AgentMetrics] = field(default_factory=dict)

    def figures(
        self, window: str, metric: str, above: float, agents: Collection[str]
    ) -> Mapping[str, Figure]:
        if window != "300s/60s":
            return {}
        found = {agent: Figure(getattr(one, metric), one.outcomes) for agent, one in self.agents.items()}
        return {agent: one for agent, one in found.items() if one.value > above or agent in agents}

    def set(self, agent: str, outcomes: int, **figures: float) -> None:
        self.agents[agent] = AgentMetrics(agent_name=agent, outcomes=outcomes, **figures)


class Rig:
    """A leader that does nothing but alerts."""

    def __init__(self, database: Store, bus: EventBus) -> None:
        self.database = database
        self.bus = bus
        self.view = View()
        self.now = datetime.now(UTC)
        self.alerting = self.leader()
        self.published: list[tuple[str, str, int]] = []
        self._numbers = 0

    def leader(self, rules: Rules | None = None) -> Alerting:
        """One that has just taken over."""
        return Alerting(rules or built_in())

    async def step(
        self, alerting: Alerting | None = None, *, undone: bool = False, behind: bool = False
    ) -> list[Message]:
        """One flush; what it published."""
        transaction = None
        try:
            async with self.database.transaction() as transaction:
                messages = await (alerting or self.alerting).step(
                    transaction, self.view, self.now, behind=behind
                )
                if messages:
                    await self.bus.publish(transaction, messages)
                if undone:
                    raise UndoneError
        except UndoneError:
            return []
        return list(messages)

    async def told(self, alerting: Alerting | None = None) -> list[tuple[str, int]]:
        """Key and state of what one flush published."""
        return [(one.key, Alert.FromString(one.value).state) for one in await self.step(alerting)]

    def after(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def signal(
        self,
        subject: str = "driver",
        *,
        active: bool = True,
        kind: SignalKind.ValueType = ANOMALY,
        source: str = "eta",
        severity: Severity.ValueType = Severity.SEVERITY_WARNING,
        ago_s: float = 0.0,
        labels: Mapping[str, str] | None = None,
    ) -> Signal:
        self._numbers += 1
        made = Signal(
            signal_id=f"signal-{self._numbers}",
            kind=kind,
            source=source,
            subject=subject,
            severity=severity,
            active=active,
            message=f"{subject} {'on' if active else 'off'}",
            labels=labels,
        )
        made.timestamp.FromDatetime(self.now - timedelta(seconds=ago_s))
        return made

    async def send(self, *signals: Signal) -> None:
        async with self.database.transaction() as connection:
            await store_rows(connection, SIGNALS, [row(SIGNALS, one) for one in signals])

    async def alerts(self, **wanted: object) -> list[Alert]:
        """Newest first."""
        return list((await listed(self.database, ListAlertsRequest(**wanted))).alerts)

    async def silence(self, key: str, duration_s: float) -> None:
        """The RPC goes by the real time; the test's goes on from there."""
        await silenced(self.database, SilenceAlertRequest(alert_key=key, duration_s=duration_s), RULES)
        self.now = max(self.now, datetime.now(UTC))

    async def on_the_topic(self) -> list[tuple[str, str, int]]:
        """Event id, key and state of everything on the topic."""
        found: list[Record] = []

        async def read(records: Sequence[Record]) -> None:
            found.extend(records)

        reader = self.bus.broadcast(["agent-alerts"], read)
        running = asyncio.create_task(reader.run())
        async with asyncio.timeout(60):
            await reader.caught_up.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [(one.event_id, one.key, Alert.FromString(one.value).state) for one in found]


class UndoneError(Exception):
    pass


@asynccontextmanager
async def alerting_rig(database: str, folder: Path) -> AsyncIterator[Rig]:
    """A rig on the embedded bus."""
    store = await Store.open(database, schema="feedback", migrations=server.MIGRATIONS)
    bus = create_bus(FeedbackSettings(data_dir=folder), service="feedback", pool=store.pool)
    await bus.start()
    try:
        yield Rig(store, bus)
    finally:
        await bus.close()
        await store.close()
