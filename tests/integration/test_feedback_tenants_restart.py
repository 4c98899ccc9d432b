"""Another process goes on with each tenant's windows and alerts as if there had been no other before."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feedback_tenants_rig import ACME, RIVAL, TENANTS, Tenants, outcome, signal, tenants, until
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED
ALL = {"", "agent", "acme/", "acme/agent", "rival/", "rival/agent", "*/"}
ACMES = {"acme/", "acme/agent", "*/"}


def done_at(when: datetime, event_id: str) -> OutcomeEvent:
    made = outcome(event_id)
    made.timestamp.FromDatetime(when)
    return made


async def published(rig: Tenants, when: datetime) -> list[tuple[str, int, int]]:
    """Key, revision and outcomes of the minute's windows, as they came."""
    minute = int(when.timestamp()) // 60 * 60
    found = []
    for record in await rig.on_topic("agent-metrics"):
        one = AgentMetrics.FromString(record.value)
        if one.window == "60s" and one.window_start.seconds == minute:
            found.append((record.key, one.revision, one.outcomes))
    return found


async def test_windows_that_change_after_a_restart_are_the_tenants_alone(
    database: str, tmp_path: Path
) -> None:
    when = datetime.now(UTC) - timedelta(minutes=3)
    async with tenants(database, tmp_path) as rig:
        for tenant in TENANTS:
            await rig.record(tenant, done_at(when, "event"), outcome("now"))

        async def closed() -> bool:
            found = {(key, outcomes) for key, _, outcomes in await published(rig, when)}
            return found >= {*((key, 1) for key in ALL - {"*/"}), ("*/", 3)}

        await until(closed)
        first = await published(rig, when)
    assert {key for key, *_ in first} == ALL

    async with tenants(database, tmp_path) as rig:
        await rig.record(ACME, done_at(when, "late"))

        async def more() -> Counter[tuple[str, int, int]]:
            return Counter(await published(rig, when)) - Counter(first)

        async def corrected() -> bool:
            return {key for key, *_ in await more()} >= ACMES

        await until(corrected)
        again = await more()
    # Nothing that had not changed is told again, and all goes on counting where it was.
    last = {key: revision for key, revision, _ in sorted(first)}
    assert again == Counter(
        (key, last[key] + 1, outcomes) for key, outcomes in (("acme/", 2), ("acme/agent", 2), ("*/", 4))
    )


async def test_alerts_that_go_on_over_a_restart_end_for_their_tenant_alone(
    database: str, tmp_path: Path
) -> None:
    async def told(rig: Tenants) -> list[tuple[str, int]]:
        return sorted(
            (one.key, Alert.FromString(one.value).state) for one in await rig.on_topic("agent-alerts")
        )

    keys = ["gps_anomaly/eta/acme/courier", "gps_anomaly/eta/courier", "gps_anomaly/eta/rival/courier"]
    raised = [(key, FIRING) for key in keys]
    async with tenants(database, tmp_path) as rig:
        for tenant in TENANTS:
            await rig.signal(tenant, signal("1"))

        async def all_raised() -> bool:
            return await told(rig) == raised

        await until(all_raised)

    async with tenants(database, tmp_path) as rig:
        await rig.signal(RIVAL, signal("2", active=False))

        async def over() -> bool:
            return await told(rig) == sorted([*raised, (keys[2], RESOLVED)])

        await until(over)
