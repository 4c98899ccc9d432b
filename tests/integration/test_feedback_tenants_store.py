"""Tenants in the store: lists of one go by its own index, and what was there before is the default one's."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState, SilenceAlertRequest
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback import alert_store, metrics_store, store
from services.feedback.alert_answers import silenced
from services.feedback.alert_rules import built_in
from services.feedback.alert_store import AlertFilter
from services.feedback.alerting import Alerting
from services.feedback.alerts import key_of
from services.feedback.metrics_store import WindowFilter
from services.feedback.records import SIGNALS, row
from services.feedback.server import MIGRATIONS
from services.feedback.store import Filter, Place
from services.mesh.principal import MESH_TENANT
from services.mesh.store import Store, connect
from services.mesh.tenancy import qualify, tenant_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLACE = Place(NOW, 7)
FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Store]:
    made = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    yield made
    await made.close()


class Explained:
    """A pool that tells how it would look for what is asked for."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plan = ""

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        rows = await self._connection.fetch(f"EXPLAIN (COSTS OFF) {query}", *values)
        self.plan = "\n".join(one[0] for one in rows)
        return []


LISTS = {
    "outcomes": lambda pool, tenant: store.newest_outcomes(pool, Filter(tenant), 101, PLACE),
    "deliveries": lambda pool, tenant: store.deliveries_after(pool, 7, 101, tenant=tenant),
    "windows": lambda pool, tenant: metrics_store.newest(pool, WindowFilter(tenant), 101, None),
    "alerts": lambda pool, tenant: alert_store.newest(pool, AlertFilter(tenant), 101, PLACE, NOW),
    "alerts of a rule": lambda pool, tenant: alert_store.newest(
        pool, AlertFilter(tenant, rule="breaker_open"), 101, PLACE, NOW
    ),
}


@pytest.mark.parametrize("tenant", ["acme", "default", MESH_TENANT])
@pytest.mark.parametrize("name", LISTS)
async def test_a_page_of_a_tenant_is_read_off_an_index_in_its_order(
    opened: Store, name: str, tenant: str
) -> None:
    async with opened.pool.acquire() as connection:
        await connection.execute("SELECT make_outcomes_of('2026-03-01'), make_outcomes_of('2026-03-02')")
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        pool: Any = Explained(connection)
        await LISTS[name](pool, tenant)
        assert "Index Scan" in pool.plan
        assert "Sort" not in pool.plan.replace("Sort Key", "")
        # What is not the tenant's is not looked at: the condition is the index's own.
        conditions = [line for line in pool.plan.splitlines() if "split_part" in line]
        assert bool(conditions) == (tenant != MESH_TENANT)
        assert all("Index Cond" in line for line in conditions)
        await connection.execute("RESET ALL")


def test_the_store_tells_the_tenant_of_an_id_as_the_mesh_does(postgres_dsn: str) -> None:
    definition = next(
        text for text in (MIGRATIONS / "0006_tenants.sql").read_text().split(";\n\n") if "FUNCTION" in text
    )
    with asyncio.Runner() as runner:
        connection = runner.run(connect(postgres_dsn))
        runner.run(connection.execute(definition.replace("FUNCTION tenant_of", "FUNCTION pg_temp.tenant_of")))
        texts = st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
        ) | st.text("/a")

        @settings(deadline=None, database=None)
        @given(st.lists(st.builds(qualify, st.sampled_from(["acme", "default", "a.b-c_1"]), texts)))
        def check(ids: list[str]) -> None:
            found = runner.run(
                connection.fetchval(
                    "SELECT array_agg(pg_temp.tenant_of(id) ORDER BY place)"
                    " FROM unnest($1::text[]) WITH ORDINALITY AS one (id, place)",
                    ids,
                )
            )
            assert (found or []) == [tenant_of(one) for one in ids]

        check()
        runner.run(connection.close())


def earlier(folder: Path) -> Path:
    """The migrations from before there were tenants."""
    folder.mkdir()
    for path in sorted(MIGRATIONS.glob("*.sql"))[:5]:
        shutil.copy(path, folder)
    return folder


def event(name: str) -> OutcomeEvent:
    made = OutcomeEvent(event_id=name, run_id="run", agent_name=name, workflow_id=name, action_type="act")
    made.status = OutcomeStatus.OUTCOME_STATUS_SUCCESS
    made.timestamp.FromDatetime(NOW)
    return made


async def test_what_was_there_is_the_default_tenants_whatever_its_ids_look_like(
    database: str, tmp_path: Path
) -> None:
    names = ["plain", "acme/x", "default/x", "/x"]
    before = await Store.open(database, schema="feedback", migrations=earlier(tmp_path / "before"))
    insert = """
    INSERT INTO outcomes (number, stored_at, at, id, agent_name, status, severity, workflow_id, latency_ms,
      error_type, tokens_used, cost_estimate, body)
    VALUES ($1, now(), $2, $3, $3, 1, 1, $3, 0, '', 0, 0, $4)
    """
    for number, name in enumerate(names, 1):
        one = event(name)
        await before.pool.execute(insert, number, NOW, name, one.SerializeToString())
        await before.pool.execute("INSERT INTO outcome_ids VALUES ($1, '\\x00', $2)", name, number)
        await before.pool.execute(
            "INSERT INTO deliveries VALUES ($1, $2, '\\x00', $3, $2, $2, '')", number, name, NOW
        )
        window = AgentMetrics(agent_name=name, window="60s", metrics_id=f"60s/1/{name}", outcomes=1)
        await before.pool.execute(
            "INSERT INTO windows VALUES ('60s', $1, $1, $2, 1, now(), $3)",
            NOW, name, window.SerializeToString(),
        )  # fmt: skip
    await before.close()
    after = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    pool = after.pool
    for tenant, own in (("default", names), ("acme", []), ("", [])):
        outcomes = await store.newest_outcomes(pool, Filter(tenant), 9, None)
        assert sorted(OutcomeEvent.FromString(one.body).event_id for one in outcomes) == sorted(own)
        assert {one.tenant for one in outcomes} <= {tenant}
        assert len(await store.deliveries_after(pool, 0, 9, tenant=tenant)) == len(own)
        windows = await metrics_store.newest(pool, WindowFilter(tenant), 9, None)
        assert {one.agent_name for _, one in windows} == {qualify("default", name) for name in own}
    for name in names:
        kept = qualify("default", name)
        for wanted in (Filter(agent_name=kept), Filter(workflow_id=kept)):
            assert len(await store.newest_outcomes(pool, wanted, 9, None)) == 1
        assert len(await store.deliveries_after(pool, 0, 9, order_id=kept)) == 1
        assert len(await store.deliveries_after(pool, 0, 9, driver_id=kept)) == 1
        assert await pool.fetchval("SELECT number FROM outcome_ids WHERE id = $1", kept)
    await after.close()


SUBJECTS = ("driver", "acme/driver", "route:50052/waymesh.route.v1.RouteService/PlanRoutes")


async def test_alerts_and_silences_that_were_there_go_on(database: str, tmp_path: Path) -> None:
    before = await Store.open(database, schema="feedback", migrations=earlier(tmp_path / "before"))
    pool = before.pool
    rules = [("breaker_open", "eta"), ("failure_rate", "")]
    for rule, source in rules:
        for number, subject in enumerate(SUBJECTS):
            key = key_of(rule, source, subject)
            alert = Alert(alert_key=key, rule=rule, subject=subject, source=source, state=FIRING)
            alert.alert_id = f"{rule}-{number}"
            alert.raised_at.FromDatetime(NOW)
            await pool.execute(
                "INSERT INTO alerts (alert_id, alert_key, rule, subject, state, raised_at, published, body)"
                " VALUES ($1, $2, $3, $4, 1, $5, true, $6)",
                alert.alert_id, key, rule, subject, NOW, alert.SerializeToString(),
            )  # fmt: skip
            holders = {"": [0, True, 1_772_366_400_000_000]}
            state = {"holders": holders, "facts": {"severity": 3, "message": "m"}}
            await pool.execute(
                "INSERT INTO alert_conditions VALUES ($1, $2, $3, $4, 2, NULL, $5::text::json)",
                key, rule, source, subject, json.dumps(state),
            )  # fmt: skip
            await pool.execute(
                "INSERT INTO silences VALUES ($1, $2, '', '', now())", key, datetime(2030, 1, 1, tzinfo=UTC)
            )
    await before.close()

    after = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    found = [one for _, one in await alert_store.newest(after.pool, AlertFilter(), 99, None, NOW)]
    assert {(one.alert_key, one.subject) for one in found} == {
        (key_of(rule, source, subject), qualify("default", subject))
        for rule, source in rules
        for subject in SUBJECTS
    }
    assert all(one.HasField("silenced_until") for one in found)
    assert not await alert_store.newest(after.pool, AlertFilter("acme"), 99, None, NOW)
    for one in found:
        lifted = SilenceAlertRequest(alert_key=one.alert_key, duration_s=0)
        answer = await silenced(after, lifted, list(built_in().all))
        assert answer.alert.alert_id == one.alert_id

    # The breaker closes: its alert, and not another one, is over.
    closed = Signal(
        signal_id="s", kind=SignalKind.SIGNAL_KIND_BREAKER_OPEN, source="eta", subject=SUBJECTS[2],
        severity=Severity.SEVERITY_INFO, active=False,
    )  # fmt: skip
    closed.timestamp.FromDatetime(NOW)
    alerting = Alerting(built_in())
    async with after.transaction() as connection:
        await store.store(connection, SIGNALS, [row(SIGNALS, closed)])
        messages = await alerting.step(connection, _Nothing(), NOW)
    told = {one.key: Alert.FromString(one.value).state for one in messages}
    assert told[key_of("breaker_open", "eta", SUBJECTS[2])] == RESOLVED
    assert FIRING not in told.values()
    await after.close()


class _Nothing:
    """Windows without outcomes."""

    def figures(self, *_: Any) -> dict[str, Any]:
        return {}
