"""Alerts under whoever makes things up, a clock that is set back, and a leader that has not read all yet."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from feedback_alerts_rig import BREAKER, FIRING, RESOLVED, Rig, alerting_rig
from waymesh.feedback.v1.signal_pb2 import SignalKind

from services.feedback.alert_rules import Rules, built_in
from services.feedback.alerting import Alerting
from services.feedback.records import SIGNALS, row
from services.feedback.store import store as store_rows

KEY = "gps_anomaly/eta/driver"


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with alerting_rig(database, tmp_path) as made:
        yield made


def changed(name: str, **fields: float) -> Rules:
    """The built-in rules, one of them with other values."""
    rules = built_in().all
    return Rules.of({**rules, name: rules[name].model_copy(update=fields)}, "changed")


async def test_made_up_subjects_of_one_kind_leave_room_for_other_kinds(rig: Rig) -> None:
    few = Alerting(built_in(), most=12)
    await rig.send(*[rig.signal(f"driver-{n}") for n in range(20)])
    assert len(await rig.told(few)) == 12
    await rig.send(*[rig.signal(f"peer-{n}", kind=BREAKER) for n in range(5)])
    # Each of the six kinds of signals has a sixth for itself.
    assert len(await rig.told(few)) == 2


async def test_agents_that_fail_leave_room_for_signals(rig: Rig) -> None:
    few = Alerting(built_in(), most=3)
    for n in range(5):
        rig.view.set(f"agent-{n}", 100, failure_rate=0.5)
    assert len(await rig.told(few)) == 5
    await rig.send(rig.signal("route", kind=BREAKER))
    assert await rig.told(few) == [("breaker_open/eta/route", FIRING)]
    second = Alerting(built_in(), most=3)
    await rig.send(*[rig.signal(f"driver-{n}") for n in range(3)])
    assert len(await rig.told(second)) == 2


async def test_a_signal_that_is_repeated_sets_no_further_timer(rig: Rig) -> None:
    for _ in range(20):
        await rig.send(*[rig.signal(f"driver-{n}") for n in range(10)])
        await rig.step()
        rig.after(1)
    assert len(rig.alerting._timers) == 10
    rig.after(898)
    assert await rig.told() == []
    rig.after(2)
    assert len(await rig.told()) == 10
    rig.after(3_600)
    await rig.step()
    assert not rig.alerting._timers


async def test_a_sender_of_ever_new_processes_is_remembered_within_bounds(rig: Rig) -> None:
    for n in range(5):
        await rig.send(*[rig.signal(labels={"process": f"{n}-{m}"}) for m in range(100)])
        await rig.step()
        rig.after(1)
    state = await rig.database.pool.fetchval("SELECT state FROM alert_conditions WHERE alert_key = $1", KEY)
    assert list(json.loads(state)["holders"]) == [f"4-{m}" for m in range(36, 100)]
    assert len(await rig.on_the_topic()) == 1
    rig.after(900)
    assert await rig.told() == [(KEY, RESOLVED)]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_set_back_puts_no_end_off(rig: Rig, restart: bool) -> None:
    rules = changed("failure_rate", for_s=60.0, resolve_for_s=60.0)
    alerting = rig.leader(rules)
    rig.view.set("eta", 100, failure_rate=0.5)
    risk = SignalKind.SIGNAL_KIND_LATENESS_RISK
    await rig.send(rig.signal(), rig.signal("order", kind=risk))
    assert len(await rig.told(alerting)) == 2
    rig.now -= timedelta(hours=5)
    alerting = rig.leader(rules) if restart else alerting
    assert await rig.told(alerting) == []
    rig.after(60)
    assert await rig.told(alerting) == [("failure_rate/eta", FIRING)]
    rig.view.set("eta", 100, failure_rate=0.0)
    assert await rig.told(alerting) == []
    rig.now -= timedelta(hours=5)
    alerting = rig.leader(rules) if restart else alerting
    assert await rig.told(alerting) == []
    rig.after(60)
    assert await rig.told(alerting) == [("failure_rate/eta", RESOLVED)]
    rig.after(840)
    assert await rig.told(alerting) == [(KEY, RESOLVED)]
    rig.after(900)
    assert await rig.told(alerting) == [("lateness_risk/eta/order", RESOLVED)]


async def test_a_figure_of_what_has_been_read_so_far_resolves_nothing(rig: Rig) -> None:
    rig.view.set("eta", 100, failure_rate=0.5)
    rig.view.set("route", 100, failure_rate=0.5)
    assert len(await rig.told()) == 2
    second = rig.leader()
    rig.view.agents.clear()
    rig.view.set("route", 10, failure_rate=0.0)
    rig.view.set("gateway", 100, failure_rate=0.5)
    for _ in range(3):
        rig.after(10)
        messages = await rig.step(second, behind=True)
        assert [one.key for one in messages] in (["failure_rate/gateway"], [])
    rig.view.set("eta", 1_000, failure_rate=0.5)
    rig.view.set("route", 1_000, failure_rate=0.5)
    assert await rig.told(second) == []
    rig.view.set("route", 2_000, failure_rate=0.0)
    assert await rig.told(second) == [("failure_rate/route", RESOLVED)]
    assert len(await rig.on_the_topic()) == 4


async def test_what_was_calm_and_is_not_begins_to_calm_anew_though_not_all_has_been_read(rig: Rig) -> None:
    alerting = rig.leader(changed("failure_rate", resolve_for_s=60.0))
    rig.view.set("eta", 100, failure_rate=0.5)
    assert await rig.told(alerting) == [("failure_rate/eta", FIRING)]
    rig.view.set("eta", 200, failure_rate=0.0)
    assert await rig.told(alerting) == []
    rig.after(30)
    rig.view.set("eta", 300, failure_rate=0.5)
    assert await rig.step(alerting, behind=True) == []
    rig.after(40)
    rig.view.set("eta", 400, failure_rate=0.0)
    assert await rig.told(alerting) == []
    rig.after(60)
    assert await rig.told(alerting) == [("failure_rate/eta", RESOLVED)]


async def test_a_list_of_one_rule_does_not_look_through_the_alerts_of_others(rig: Rig) -> None:
    async with rig.database.pool.acquire() as connection:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT body FROM alerts WHERE rule = 'breaker_open'"
            " ORDER BY raised_at DESC, number DESC LIMIT 100"
        )
    assert "alerts_by_rule" in str(plan)
    assert "Sort" not in str(plan)


async def test_subjects_that_a_tenant_makes_up_keep_no_other_tenant_from_its_share(rig: Rig) -> None:
    """Of 12 conditions, 2 are each kind's own; of these, 1 each tenant's."""
    few = Alerting(built_in(), most=12)

    async def send(tenant: str, *subjects: str) -> None:
        signals = [rig.signal(subject) for subject in subjects]
        async with rig.database.transaction() as connection:
            await store_rows(connection, SIGNALS, [row(SIGNALS, one, tenant) for one in signals])

    await send("acme", *(f"made-up-{n}" for n in range(40)))
    assert len(await rig.told(few)) == 12
    await send("rival", "courier", "other")
    assert await rig.told(few) == [("gps_anomaly/eta/rival/courier", FIRING)]
    await send("acme", "one-more")
    await send("default", "courier", "other")
    assert await rig.told(few) == [("gps_anomaly/eta/courier", FIRING)]
