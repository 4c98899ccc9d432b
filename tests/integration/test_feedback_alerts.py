"""Alerts on real PostgreSQL: each raised once and resolved once, whatever is undone in between."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feedback_alerts_rig import BREAKER, DRIFT, FIRING, RESOLVED, RULES, Rig, View, alerting_rig
from waymesh.feedback.v1.alert_pb2 import Alert, ListAlertsRequest, SilenceAlertRequest
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback.alert_answers import listed, silenced
from services.feedback.alert_rules import Rules, built_in
from services.feedback.alerting import Alerting, OvertakenError
from services.feedback.board import Figure
from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with alerting_rig(database, tmp_path) as made:
        yield made


KEY = "gps_anomaly/eta/driver"


async def test_a_signal_raises_an_alert_and_its_end_resolves_it(rig: Rig) -> None:
    await rig.send(rig.signal(labels={"flags": "gps_spoofing"}, severity=Severity.SEVERITY_CRITICAL))
    [raised] = await rig.step()
    alert = Alert.FromString(raised.value)
    assert (raised.topic, raised.key, raised.type) == ("agent-alerts", KEY, "waymesh.feedback.v1.Alert")
    assert raised.event_id == f"{alert.alert_id}/firing"
    assert (alert.rule, alert.subject, alert.source) == ("gps_anomaly", "driver", "eta")
    assert (alert.severity, alert.state, alert.occurrences) == (Severity.SEVERITY_CRITICAL, FIRING, 1)
    assert (alert.message, dict(alert.labels)) == ("driver on", {"flags": "gps_spoofing"})
    assert alert.raised_at.ToDatetime(UTC) == rig.now
    assert not alert.HasField("value")
    assert await rig.alerts() == [alert]

    rig.after(5)
    await rig.send(rig.signal(active=False))
    [over] = await rig.step()
    alert = Alert.FromString(over.value)
    assert over.event_id == f"{alert.alert_id}/resolved"
    assert (alert.state, alert.resolved_at.ToDatetime(UTC)) == (RESOLVED, rig.now)
    assert await rig.alerts() == [alert]
    assert await rig.on_the_topic() == [(raised.event_id, KEY, FIRING), (over.event_id, KEY, RESOLVED)]


async def test_a_signal_stamped_far_ahead_is_ended_by_one_of_now(rig: Rig) -> None:
    ahead = rig.signal()
    ahead.timestamp.FromDatetime(datetime(9999, 12, 31, tzinfo=UTC))
    await rig.send(ahead)
    sent = rig.now + timedelta(seconds=0.1)
    # It is judged a while after the end was told of.
    rig.after(0.3)
    assert await rig.told() == [(KEY, FIRING)]
    over = rig.signal(active=False)
    over.timestamp.FromDatetime(sent)
    await rig.send(over)
    assert await rig.told() == [(KEY, RESOLVED)]


async def test_subjects_that_are_made_up_have_an_end(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    few = Alerting(built_in(), most=2)
    await rig.send(*[rig.signal(f"driver-{n}") for n in range(4)])
    assert len(await rig.told(few)) == 2
    assert "2 signals of subjects that are new make no alerts: 2 are known already" in caplog.text
    await rig.send(rig.signal("driver-0", active=False), rig.signal("driver-9"))
    assert await rig.told(few) == [("gps_anomaly/eta/driver-0", RESOLVED)]
    rig.after(3_601)
    await rig.told(few)
    await rig.send(rig.signal("driver-9"))
    assert ("gps_anomaly/eta/driver-9", FIRING) in await rig.told(few)


async def test_repeated_signals_publish_nothing_more_but_count(rig: Rig) -> None:
    await rig.send(rig.signal())
    assert await rig.told() == [(KEY, FIRING)]
    rig.after(30)
    await rig.send(
        rig.signal(), rig.signal(severity=Severity.SEVERITY_ERROR), rig.signal(ago_s=300, active=False)
    )
    assert await rig.told() == []
    [alert] = await rig.alerts()
    assert (alert.occurrences, alert.severity, alert.state) == (3, Severity.SEVERITY_ERROR, FIRING)


async def test_what_begins_and_ends_within_one_batch_is_told_twice(rig: Rig) -> None:
    await rig.send(rig.signal(), rig.signal(active=False), rig.signal())
    assert await rig.told() == [(KEY, FIRING), (KEY, RESOLVED), (KEY, FIRING)]
    assert [one.state for one in await rig.alerts()] == [FIRING, RESOLVED]


async def test_figures_of_agents_raise_and_resolve(rig: Rig) -> None:
    rig.view.set("eta", 100, failure_rate=0.2, error_rate=0.01, p95_latency_ms=2_500)
    rig.view.set("route", 19, failure_rate=1.0, error_rate=1.0, p95_latency_ms=9_000)
    assert await rig.told() == [("failure_rate/eta", FIRING), ("p95_latency/eta", FIRING)]
    assert await rig.told() == []
    by_rule = {one.rule: one for one in await rig.alerts()}
    assert (by_rule["p95_latency"].value, by_rule["p95_latency"].threshold) == (2_500, 2_000)
    assert {one.source for one in by_rule.values()} == {"feedback"}
    rig.view.set("eta", 100, failure_rate=0.09, error_rate=0.01, p95_latency_ms=1_801)
    assert await rig.told() == [("failure_rate/eta", RESOLVED)]
    del rig.view.agents["eta"]
    assert await rig.told() == []
    rig.after(5)
    assert await rig.told() == [("p95_latency/eta", RESOLVED)]
    assert await rig.database.pool.fetchval("SELECT count(*) FROM alert_conditions") == 0


async def test_an_undone_step_is_taken_again_from_what_is_stored(rig: Rig) -> None:
    await rig.send(rig.signal())
    rig.view.set("eta", 100, failure_rate=0.2)
    await rig.step(undone=True)
    assert await rig.alerts() == []
    assert await rig.told() == [(KEY, FIRING), ("failure_rate/eta", FIRING)]
    await rig.send(rig.signal(active=False))
    rig.view.set("eta", 100, failure_rate=0.0)
    await rig.step(undone=True)
    assert sorted(await rig.told()) == [("failure_rate/eta", RESOLVED), (KEY, RESOLVED)]
    assert len(await rig.on_the_topic()) == 4


async def test_a_step_that_fails_half_way_leaves_nothing_behind(rig: Rig) -> None:
    await rig.send(rig.signal())

    class Broken(View):
        def figures(
            self, window: str, metric: str, above: float, agents: Collection[str]
        ) -> Mapping[str, Figure]:
            raise OSError("away")

    async with rig.database.transaction() as connection:
        with pytest.raises(OSError, match="away"):
            await rig.alerting.step(connection, Broken(), rig.now)
    assert await rig.told() == [(KEY, FIRING)]


async def test_another_leader_goes_on_where_the_last_one_stopped(rig: Rig) -> None:
    await rig.send(rig.signal(), rig.signal("other", labels={"process": "1"}))
    rig.view.set("eta", 100, failure_rate=0.2)
    assert len(await rig.told()) == 3
    second = rig.leader()
    async with rig.database.transaction() as connection:
        await second.load(connection)
    assert await rig.told(second) == []
    await rig.send(rig.signal(active=False), rig.signal("other", active=False, labels={"process": "2"}))
    assert await rig.told(second) == [(KEY, RESOLVED)]
    # The first one was cut off and comes back: what it remembers is not what is stored.
    await rig.send(rig.signal("other", active=False, labels={"process": "1"}))
    rig.view.set("eta", 100, failure_rate=0.0)
    assert await rig.told() == [("gps_anomaly/eta/other", RESOLVED), ("failure_rate/eta", RESOLVED)]


async def test_two_leaders_at_once_do_not_raise_an_alert_twice(rig: Rig) -> None:
    async def waits() -> bool:
        """Whether somebody waits for what somebody else has not committed yet."""
        return bool(
            await rig.database.pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
            )
        )

    await rig.send(rig.signal())
    second = rig.leader()
    async with rig.database.transaction() as connection:
        messages = await second.step(connection, rig.view, rig.now)
        slower = asyncio.create_task(rig.step())
        async with asyncio.timeout(60):
            while not await waits():
                await asyncio.sleep(0.01)
        await rig.bus.publish(connection, messages)
    with pytest.raises(OvertakenError):
        await slower
    assert await rig.told() == []
    assert len(await rig.on_the_topic()) == 1


async def test_what_nobody_repeats_or_ends_is_over_after_its_quiet_time(rig: Rig) -> None:
    risk = SignalKind.SIGNAL_KIND_LATENESS_RISK
    await rig.send(rig.signal(), rig.signal("order", kind=risk))
    await rig.step()
    assert not rig.alerting.due(rig.now + timedelta(seconds=899))
    assert rig.alerting.due(rig.now + timedelta(seconds=900))
    rig.after(900)
    assert await rig.told() == [(KEY, RESOLVED)]
    rig.after(6_300)
    assert await rig.told() == [("lateness_risk/eta/order", RESOLVED)]
    rig.after(3_600)
    assert await rig.told() == []
    assert await rig.database.pool.fetchval("SELECT count(*) FROM alert_conditions") == 0
    assert not rig.alerting.due(rig.now + timedelta(days=30))


async def test_a_breaker_of_two_processes_is_closed_when_both_say_so(rig: Rig) -> None:
    def said(process: str, *, active: bool) -> Signal:
        return rig.signal("route", kind=BREAKER, active=active, labels={"process": process})

    await rig.send(said("1", active=True), said("2", active=True), said("1", active=False))
    assert await rig.told() == [("breaker_open/eta/route", FIRING)]
    await rig.send(said("2", active=False))
    assert await rig.told() == [("breaker_open/eta/route", RESOLVED)]


async def test_the_same_subject_of_two_sources_makes_two_alerts(rig: Rig) -> None:
    await rig.send(
        rig.signal("route", kind=BREAKER, source="eta"), rig.signal("route", kind=BREAKER, source="gateway")
    )
    assert await rig.told() == [("breaker_open/eta/route", FIRING), ("breaker_open/gateway/route", FIRING)]


async def test_an_alert_whose_rule_is_taken_away_is_over(rig: Rig) -> None:
    await rig.send(rig.signal(), rig.signal("route", kind=BREAKER))
    await rig.step()
    rules = built_in()
    fewer = rig.leader(Rules.of({name: one for name, one in rules.all.items() if name != "gps_anomaly"}, ""))
    assert await rig.told(fewer) == [(KEY, RESOLVED)]
    assert [one.rule for one in await rig.alerts(states=[FIRING])] == ["breaker_open"]


async def test_signals_from_before_a_step_are_taken_in_batches(rig: Rig) -> None:
    await rig.send(*(rig.signal(f"driver-{number}") for number in range(2_500)))
    assert len(await rig.told()) == 2_000
    assert rig.alerting.due(rig.now)
    assert len(await rig.told()) == 500
    assert not rig.alerting.due(rig.now)


async def test_what_is_over_is_kept_for_its_days_and_what_goes_on_for_ever(rig: Rig) -> None:
    short = Alerting(built_in(), keep_days=2)
    await rig.send(rig.signal(), rig.signal(active=False), rig.signal("drift", kind=DRIFT))
    await rig.step(short)
    rig.after(47 * 3_600)
    await rig.step(short)
    assert len(await rig.alerts()) == 2
    rig.after(2 * 3_600)
    await rig.step(short)
    assert [one.subject for one in await rig.alerts()] == ["drift"]


class TestSilence:
    """What is silenced is stored as ever, and told when there is still something to tell."""

    async def test_what_is_raised_and_resolved_meanwhile_is_not_told(self, rig: Rig) -> None:
        await rig.silence(KEY, 600)
        await rig.send(rig.signal())
        assert await rig.told() == []
        [alert] = await rig.alerts()
        assert alert.HasField("silenced_until")
        await rig.send(rig.signal(active=False))
        assert await rig.told() == []
        rig.after(600)
        assert await rig.told() == []
        assert [one.state for one in await rig.alerts()] == [RESOLVED]
        assert await rig.on_the_topic() == []

    async def test_what_still_fires_when_it_ends_is_told_then(self, rig: Rig) -> None:
        await rig.silence(KEY, 600)
        await rig.send(rig.signal())
        raised_at = rig.now
        await rig.step()
        assert not rig.alerting.due(rig.now + timedelta(seconds=590))
        rig.after(600)
        assert rig.alerting.due(rig.now)
        [message] = await rig.step()
        alert = Alert.FromString(message.value)
        assert (alert.state, alert.raised_at.ToDatetime(UTC)) == (FIRING, raised_at)
        assert not alert.HasField("silenced_until")
        assert await rig.told() == []
        await rig.send(rig.signal(active=False))
        assert await rig.told() == [(KEY, RESOLVED)]

    async def test_another_leader_tells_it_too(self, rig: Rig) -> None:
        await rig.silence(KEY, 600)
        await rig.send(rig.signal())
        await rig.step()
        second = rig.leader()
        assert await rig.told(second) == []
        rig.after(600)
        assert await rig.told(second) == [(KEY, FIRING)]

    async def test_whoever_was_told_that_it_began_is_told_that_it_is_over(self, rig: Rig) -> None:
        await rig.send(rig.signal())
        assert await rig.told() == [(KEY, FIRING)]
        await rig.silence(KEY, 600)
        await rig.send(rig.signal(active=False))
        [message] = await rig.step()
        alert = Alert.FromString(message.value)
        assert alert.state == RESOLVED
        assert alert.HasField("silenced_until")

    async def test_lifting_it_tells_what_fires(self, rig: Rig) -> None:
        await rig.silence(KEY, 600)
        await rig.send(rig.signal())
        assert await rig.told() == []
        await rig.silence(KEY, 0)
        assert await rig.told() == [(KEY, FIRING)]
        [alert] = await rig.alerts()
        assert not alert.HasField("silenced_until")

    async def test_it_answers_with_the_newest_alert_of_the_key(self, rig: Rig) -> None:
        unknown = await silenced(rig.database, SilenceAlertRequest(alert_key=KEY, duration_s=60), RULES)
        assert (unknown.alert_key, unknown.HasField("alert")) == (KEY, False)
        await rig.send(rig.signal(), rig.signal(active=False), rig.signal())
        await rig.step()
        known = await silenced(rig.database, SilenceAlertRequest(alert_key=KEY, duration_s=60), RULES)
        assert known.alert.state == FIRING
        assert known.alert.silenced_until == known.silenced_until
        lifted = await silenced(rig.database, SilenceAlertRequest(alert_key=KEY, duration_s=0), RULES)
        assert not lifted.HasField("silenced_until")
        assert not lifted.alert.HasField("silenced_until")

    @pytest.mark.parametrize(
        "key",
        ["x", "/x", "p95-latency/eta", "P95_LATENCY/eta", "p95_latency", "p95_latency/", " p95_latency/eta"],
    )
    async def test_a_key_of_no_rule_is_refused_with_the_rules(self, rig: Rig, key: str) -> None:
        with pytest.raises(InvalidArgument) as refused:
            await silenced(rig.database, SilenceAlertRequest(alert_key=key, duration_s=60), RULES)
        [violation] = refused.value.violations
        assert violation.field == "alert_key"
        assert violation.description.endswith(f"rules are {', '.join(RULES)}")
        assert await rig.database.pool.fetchval("SELECT count(*) FROM silences") == 0

    async def test_one_that_says_not_how_long_is_refused(self) -> None:
        for missing in (SilenceAlertRequest(alert_key=KEY), SilenceAlertRequest(alert_key=KEY, author="ops")):
            with pytest.raises(InvalidArgument, match=r"^duration_s: is required$"):
                check(missing)
        check(SilenceAlertRequest(alert_key=KEY, duration_s=0))


class TestListing:
    """Newest raised first; filtered first, then cut into pages."""

    async def test_filters_and_pages(self, rig: Rig) -> None:
        start = rig.now
        for number in range(7):
            await rig.send(rig.signal(f"driver-{number}"), rig.signal(f"route-{number}", kind=BREAKER))
            await rig.step()
            rig.after(1)
        await rig.send(rig.signal("driver-0", active=False))
        await rig.step()

        def subjects(alerts: Sequence[Alert]) -> list[str]:
            return [one.subject for one in alerts]

        assert subjects(await rig.alerts(rule="gps_anomaly", states=[RESOLVED])) == ["driver-0"]
        assert subjects(await rig.alerts(subject="route-3")) == ["route-3"]
        request = ListAlertsRequest()
        request.start_time.FromDatetime(start + timedelta(seconds=2))
        request.end_time.FromDatetime(start + timedelta(seconds=4))
        within = (await listed(rig.database, request)).alerts
        assert subjects(within) == ["route-3", "driver-3", "route-2", "driver-2"]
        pages, token = [], ""
        while True:
            answer = await listed(rig.database, ListAlertsRequest(page_size=6, page_token=token))
            pages += [subjects(answer.alerts)]
            token = answer.next_page_token
            if not token:
                break
        assert [len(page) for page in pages] == [6, 6, 2]
        assert [one for page in pages for one in page] == [
            f"{kind}-{number}" for number in range(6, -1, -1) for kind in ("route", "driver")
        ]

    async def test_a_token_of_other_filters_is_refused(self, rig: Rig) -> None:
        await rig.send(rig.signal("one"), rig.signal("other"))
        await rig.step()
        token = (await listed(rig.database, ListAlertsRequest(page_size=1))).next_page_token
        assert token
        with pytest.raises(InvalidArgument, match="page_token"):
            await listed(rig.database, ListAlertsRequest(page_token=token, rule="gps_anomaly"))

    async def test_a_token_that_is_not_ours_is_refused(self, rig: Rig) -> None:
        with pytest.raises(InvalidArgument, match="page_token"):
            await listed(rig.database, ListAlertsRequest(page_token="x"))
