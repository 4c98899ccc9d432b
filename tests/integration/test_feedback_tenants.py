"""What two tenants record under the same ids never meets: records, lists, tokens, windows, alerts, events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feedback_tenants_rig import (
    ACME,
    DEFAULT,
    LONGEST,
    MESH,
    ODD_IDS,
    RIVAL,
    TENANTS,
    Tenants,
    delivery,
    outcome,
    signal,
    tenants,
    until,
)
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState, ListAlertsRequest, SilenceAlertRequest
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics, QueryMetricsRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity
from waymesh.feedback.v1.signal_pb2 import Signal
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CURSOR_INVALID

from services.feedback.owners import OUTCOME_IDS
from services.feedback.records import DELIVERIES, SIGNALS
from services.mesh.errors import AlreadyExists, InvalidArgument
from services.mesh.events import Message
from services.mesh.principal import TENANT_KEY, Principal, acting
from services.mesh.tenancy import is_marked, qualify

FIRING, RESOLVED = AlertState.ALERT_STATE_FIRING, AlertState.ALERT_STATE_RESOLVED


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Tenants]:
    async with tenants(database, tmp_path) as made:
        yield made


def test_ids_of_records_are_those_that_the_contract_marks() -> None:
    for kind, ids in ((OutcomeEvent, OUTCOME_IDS), (DeliveryOutcome, DELIVERIES.ids), (Signal, SIGNALS.ids)):
        assert {field.name for field in kind.DESCRIPTOR.fields if is_marked(field)} == set(ids)


class TestOutcomes:
    async def test_each_tenant_has_its_own_under_the_same_ids(self, rig: Tenants) -> None:
        sent = {
            tenant: [
                outcome(one, run_id=one, agent_name=one, workflow_id=one, tokens_used=n) for one in ODD_IDS
            ]
            for n, tenant in enumerate(TENANTS)
        }
        for tenant, events in sent.items():
            answer = await rig.record(tenant, *events)
            assert (answer.stored, [one.id for one in answer.results]) == (len(ODD_IDS), list(ODD_IDS))
            assert (await rig.record(tenant, *events)).duplicate
        for tenant, events in sent.items():
            assert list((await rig.listed(tenant)).events) == events[::-1]
            for event in events:
                name = event.agent_name
                assert list((await rig.listed(tenant, agent_name=name)).events) == [event]
                assert list((await rig.listed(tenant, workflow_id=name)).events) == [event]
        # The mesh sees all of them, and whose they are.
        everything = (await rig.listed(MESH)).events
        assert {(one.event_id, one.agent_name) for one in everything} == {
            (qualify(tenant, one), qualify(tenant, one)) for tenant in TENANTS for one in ODD_IDS
        }

    async def test_other_content_is_refused_within_a_tenant_and_said_in_its_words(self, rig: Tenants) -> None:
        await rig.record(ACME, outcome("x"))
        await rig.record(RIVAL, outcome("x", agent_type="other"))
        for tenant in (ACME, RIVAL):
            with pytest.raises(AlreadyExists) as refused:
                await rig.record(tenant, outcome("x", agent_type="third"))
            assert refused.value.message == "x was recorded before with other content"
            assert refused.value.metadata == {"id": "x"}
        batch = await rig.record(ACME, outcome("x", agent_type="third"), outcome("y"))
        assert batch.results[0].error.message == "x was recorded before with other content"
        assert ACME not in str(batch)

    async def test_streams_are_of_the_tenant_that_opens_them(self, rig: Tenants) -> None:
        async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
            wrong = outcome("acme/x", duration_ms=-1)
            yield pb.StreamOutcomesRequest(events=[outcome(LONGEST), wrong], cursor="1")
            yield pb.StreamOutcomesRequest(events=[outcome(LONGEST, agent_type="other")], cursor="2")

        for tenant in TENANTS:
            with acting(Principal(tenant)):
                answers = [one async for one in rig.stub.StreamOutcomes(requests(), timeout=20)]
            assert [(one.stored, [each.id for each in one.refused]) for one in answers] == [
                (1, ["acme/x"]),
                (0, [LONGEST]),
            ]
            assert answers[1].refused[0].error.message == f"{LONGEST} was recorded before with other content"
            assert [one.event_id for one in (await rig.listed(tenant)).events] == [LONGEST]

    async def test_a_watch_shows_its_own_tenant_alone_and_goes_on_for_it_alone(self, rig: Tenants) -> None:
        watches, cursors = {}, {}
        for tenant in (ACME, RIVAL, MESH):
            with acting(Principal(tenant)):
                watches[tenant] = rig.stub.WatchOutcomes(pb.WatchOutcomesRequest(), timeout=60).__aiter__()
                cursors[tenant] = (await anext(watches[tenant])).cursor
        await rig.record(ACME, outcome("x"))
        await rig.record(RIVAL, outcome("x"))
        await rig.record(ACME, outcome("y"))
        assert [(await anext(watches[ACME])).event.event_id for _ in range(2)] == ["x", "y"]
        assert [(await anext(watches[RIVAL])).event.event_id for _ in range(1)] == ["x"]
        assert [(await anext(watches[MESH])).event.event_id for _ in range(3)] == [
            "acme/x",
            "rival/x",
            "acme/y",
        ]
        with acting(Principal(ACME)):
            again = rig.stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor=cursors[ACME]), timeout=60)
            resumed = again.__aiter__()
            await anext(resumed)
            assert [(await anext(resumed)).event.event_id for _ in range(2)] == ["x", "y"]
            foreign = rig.stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor=cursors[RIVAL]), timeout=60)
            with pytest.raises(InvalidArgument) as refused:
                await anext(foreign.__aiter__())
        assert refused.value.reason == ERROR_REASON_CURSOR_INVALID

    async def test_counts_are_of_the_tenant(self, rig: Tenants) -> None:
        failed = OutcomeStatus.OUTCOME_STATUS_FAILURE
        await rig.record(ACME, outcome("1", status=failed), outcome("2"))
        await rig.record(RIVAL, outcome("1"), outcome("2"), outcome("3", agent_name="acme/agent"))

        async def counted(tenant: str, **wanted: str) -> dict[str, tuple[int, int]]:
            with acting(Principal(tenant)):
                answer = await rig.stub.ListFailureCounts(pb.ListFailureCountsRequest(**wanted), timeout=10)
            return {one.agent_name: (one.total, one.failures) for one in answer.agents}

        assert await counted(ACME) == {"agent": (2, 1)}
        assert await counted(RIVAL) == {"agent": (2, 0), "acme/agent": (1, 0)}
        assert await counted(RIVAL, agent_name="acme/agent") == {"acme/agent": (1, 0)}
        assert await counted(DEFAULT) == await counted(DEFAULT, agent_name="acme/agent") == {}
        assert await counted(MESH) == {
            "acme/agent": (2, 1),
            "rival/agent": (2, 0),
            "rival/acme/agent": (1, 0),
        }

    async def test_what_the_mesh_sends_goes_to_whom_it_belongs_however_long_its_ids_are(
        self, rig: Tenants
    ) -> None:
        ids = dict.fromkeys(OUTCOME_IDS, LONGEST)
        sent = [outcome(**{name: qualify(tenant, one) for name, one in ids.items()}) for tenant in TENANTS]
        answer = await rig.record(MESH, *sent)
        assert (answer.stored, [one.id for one in answer.results]) == (3, [one.event_id for one in sent])
        for tenant in TENANTS:
            [event] = (await rig.listed(tenant)).events
            assert {name: getattr(event, name) for name in OUTCOME_IDS} == ids
        # A contradiction is told to the mesh in its own words.
        other = outcome(qualify(ACME, LONGEST), agent_type="other")
        with pytest.raises(AlreadyExists) as refused:
            await rig.record(MESH, other)
        assert refused.value.metadata == {"id": qualify(ACME, LONGEST)}

    async def test_rules_are_about_plain_ids_for_the_mesh_as_well(self, rig: Tenants) -> None:
        for name in OUTCOME_IDS:
            with pytest.raises(InvalidArgument, match=name):
                await rig.record(MESH, outcome(**{name: qualify(ACME, LONGEST + "ä")}))

    async def test_an_id_that_nobody_has_qualified_is_the_plain_one_of_the_events_tenant(
        self, rig: Tenants
    ) -> None:
        await rig.record(MESH, outcome("x", run_id="acme/run"), outcome("acme/y", agent_name="rival/agent"))
        [event] = (await rig.listed(DEFAULT)).events
        assert (event.event_id, event.run_id) == ("x", "acme/run")
        [event] = (await rig.listed(ACME)).events
        assert (event.event_id, event.agent_name) == ("y", "rival/agent")
        assert not (await rig.listed(RIVAL)).events


class TestDeliveries:
    async def test_each_tenant_has_its_own_under_the_same_ids(self, rig: Tenants) -> None:
        sent = {
            tenant: [delivery(one, order_id=one, driver_id=one, confidence=n / 4) for one in ODD_IDS]
            for n, tenant in enumerate(TENANTS)
        }
        for tenant, outcomes in sent.items():
            assert (await rig.delivered(tenant, *outcomes)).stored == len(ODD_IDS)
            assert (await rig.delivered(tenant, *outcomes)).duplicate
        for tenant, outcomes in sent.items():
            assert list((await rig.deliveries(tenant)).outcomes) == outcomes
            for one in outcomes:
                assert list((await rig.deliveries(tenant, order_id=one.order_id)).outcomes) == [one]
                assert list((await rig.deliveries(tenant, driver_id=one.driver_id)).outcomes) == [one]
        everything = (await rig.deliveries(MESH)).outcomes
        assert [(one.outcome_id, one.order_id, one.driver_id) for one in everything] == [
            (qualify(tenant, one),) * 3 for tenant in TENANTS for one in ODD_IDS
        ]
        assert {one.context.merchant_id for one in everything} == {
            "acme/merchant",
            "rival/merchant",
            "merchant",
        }

    async def test_what_the_mesh_sends_goes_to_whom_its_order_belongs(self, rig: Tenants) -> None:
        one = delivery("random", order_id="acme/order", driver_id="acme/courier")
        one.context.merchant_id = "acme/merchant"
        await rig.delivered(MESH, one, delivery("random"))
        [theirs] = (await rig.deliveries(ACME)).outcomes
        assert theirs == delivery("random")
        assert list((await rig.deliveries(DEFAULT)).outcomes) == [delivery("random")]


TokenOf = Callable[[Tenants, str], Any]


async def _outcomes(rig: Tenants, tenant: str, token: str) -> Any:
    return await rig.listed(tenant, page_size=1, page_token=token)


async def _deliveries(rig: Tenants, tenant: str, token: str) -> Any:
    return await rig.deliveries(tenant, page_size=1, page_token=token)


async def _metrics(rig: Tenants, tenant: str, token: str) -> Any:
    with acting(Principal(tenant)):
        return await rig.stub.QueryMetrics(QueryMetricsRequest(page_size=1, page_token=token), timeout=10)


async def _alerts(rig: Tenants, tenant: str, token: str) -> Any:
    with acting(Principal(tenant)):
        return await rig.stub.ListAlerts(ListAlertsRequest(page_size=1, page_token=token), timeout=10)


async def test_page_tokens_of_another_tenant_are_refused_as_any_wrong_one(rig: Tenants) -> None:
    lists = (_outcomes, _deliveries, _metrics, _alerts)
    for tenant in TENANTS:
        await rig.record(tenant, outcome("1"), outcome("2"))
        await rig.delivered(tenant, delivery("1"), delivery("2"))
        await rig.signal(tenant, signal("1", "one"), signal("2", "other"))

    async def paged() -> bool:
        return all(
            [
                (await each(rig, tenant, "")).next_page_token
                for each in (_metrics, _alerts)
                for tenant in TENANTS
            ]
        )

    await until(paged)
    for each in lists:
        given = {tenant: (await each(rig, tenant, "")).next_page_token for tenant in TENANTS}
        for tenant in TENANTS:
            await each(rig, tenant, given[tenant])
            for other in set(TENANTS) - {tenant}:
                with pytest.raises(InvalidArgument) as refused:
                    await each(rig, tenant, given[other])
                with pytest.raises(InvalidArgument) as wrong:
                    await each(rig, tenant, "nonsense")
                assert refused.value.reason == wrong.value.reason == ERROR_REASON_CURSOR_INVALID
                assert refused.value.violations == wrong.value.violations
        if each in (_outcomes, _metrics, _alerts):
            with pytest.raises(InvalidArgument):
                await each(rig, MESH, given[ACME])


class TestMetrics:
    async def told(self, rig: Tenants, tenant: str, **wanted: Any) -> dict[str, tuple[int, int]]:
        """Outcomes and failures of the newest window, by agent."""
        request = QueryMetricsRequest(window="60s", **wanted)
        with acting(Principal(tenant)):
            metrics = (await rig.stub.QueryMetrics(request, timeout=10)).metrics
        newest = max((one.window_start.seconds for one in metrics), default=0)
        for one in metrics:
            assert one.metrics_id.endswith(f"/{one.revision}/{one.agent_name}")
        return {
            one.agent_name: (one.outcomes, one.failures)
            for one in metrics
            if one.window_start.seconds == newest
        }

    async def test_all_together_are_the_tenants_and_the_mesh_has_its_own(self, rig: Tenants) -> None:
        at = datetime.now(UTC)

        def some(count: int, **changes: Any) -> list[OutcomeEvent]:
            made = [outcome(f"event-{n}", **changes) for n in range(count)]
            for one in made:
                one.timestamp.FromDatetime(at)
            return made

        await rig.record(DEFAULT, *some(7))
        # Nobody else has any: what is the default tenant's is the mesh's.
        await until(lambda: _same(self.told(rig, MESH, together_only=True), {"": (7, 0)}))
        await rig.record(ACME, *some(3, status=OutcomeStatus.OUTCOME_STATUS_FAILURE))
        await rig.record(RIVAL, *some(2, agent_name="acme/agent"))
        await until(lambda: _same(self.told(rig, MESH, together_only=True), {"*/": (12, 3)}))
        assert await self.told(rig, DEFAULT) == {"": (7, 0), "agent": (7, 0)}
        assert await self.told(rig, ACME) == {"": (3, 3), "agent": (3, 3)}
        assert await self.told(rig, RIVAL) == {"": (2, 0), "acme/agent": (2, 0)}
        assert await self.told(rig, ACME, together_only=True) == {"": (3, 3)}
        assert await self.told(rig, ACME, agent_names=["", "acme/agent"]) == {"": (3, 3)}
        assert await self.told(rig, RIVAL, agent_names=["acme/agent", "agent"]) == {"acme/agent": (2, 0)}
        assert await self.told(rig, "stranger") == {}
        assert await self.told(rig, MESH) == {
            "*/": (12, 3), "": (7, 0), "agent": (7, 0), "acme/": (3, 3), "acme/agent": (3, 3),
            "rival/": (2, 0), "rival/acme/agent": (2, 0),
        }  # fmt: skip
        assert await self.told(rig, MESH, agent_names=["acme/", "rival/acme/agent"]) == {
            "acme/": (3, 3),
            "rival/acme/agent": (2, 0),
        }

    async def test_events_have_plain_values_qualified_keys_and_a_header(self, rig: Tenants) -> None:
        long_ago = datetime.now(UTC) - timedelta(minutes=3)
        for tenant in TENANTS:
            one = outcome("event")
            one.timestamp.FromDatetime(long_ago)
            await rig.record(tenant, one, outcome("now"))
        expected = {
            ("", None, ""), ("agent", None, "agent"), ("acme/", ACME, ""), ("acme/agent", ACME, "agent"),
            ("rival/", RIVAL, ""), ("rival/agent", RIVAL, "agent"), ("*/", MESH, ""),
        }  # fmt: skip

        async def published() -> bool:
            events = await rig.on_topic("agent-metrics")
            assert len({one.event_id for one in events}) == len(events)
            return expected == {
                (one.key, one.headers.get(TENANT_KEY), AgentMetrics.FromString(one.value).agent_name)
                for one in events
            }

        await until(published)


async def _same(found: Any, wanted: object) -> bool:
    return bool(await found == wanted)


class TestAlerts:
    KEY = "gps_anomaly/eta/courier"

    async def alerts(self, rig: Tenants, tenant: str, **wanted: Any) -> list[Alert]:
        with acting(Principal(tenant)):
            return list((await rig.stub.ListAlerts(ListAlertsRequest(**wanted), timeout=10)).alerts)

    async def silence(self, rig: Tenants, tenant: str, key: str, duration_s: float = 600) -> Any:
        request = SilenceAlertRequest(alert_key=key, duration_s=duration_s)
        with acting(Principal(tenant)):
            return await rig.stub.SilenceAlert(request, timeout=10)

    async def states(self, rig: Tenants, tenant: str) -> list[tuple[str, int]]:
        return [(one.alert_key, one.state) for one in await self.alerts(rig, tenant)]

    async def test_the_same_subject_has_an_alert_for_each_tenant(self, rig: Tenants) -> None:
        for tenant in TENANTS:
            await rig.signal(tenant, signal("1"))
        for tenant in TENANTS:
            await until(lambda tenant=tenant: _same(self.states(rig, tenant), [(self.KEY, FIRING)]))  # type: ignore[misc]
        await rig.signal(ACME, signal("2", active=False))
        await until(lambda: _same(self.states(rig, ACME), [(self.KEY, RESOLVED)]))
        assert await self.states(rig, RIVAL) == await self.states(rig, DEFAULT) == [(self.KEY, FIRING)]
        [theirs] = await self.alerts(rig, ACME, subject="courier")
        assert (theirs.subject, theirs.source, theirs.rule) == ("courier", "eta", "gps_anomaly")
        assert await self.alerts(rig, ACME, subject="rival/courier") == []
        assert {(one.alert_key, one.subject) for one in await self.alerts(rig, MESH)} == {
            (f"gps_anomaly/eta/{subject}", subject)
            for subject in ("courier", "acme/courier", "rival/courier")
        }
        events = await rig.on_topic("agent-alerts")
        assert {
            (one.key, one.headers.get(TENANT_KEY), Alert.FromString(one.value).alert_key) for one in events
        } == {
            (self.KEY, None, self.KEY),
            ("gps_anomaly/eta/acme/courier", ACME, self.KEY),
            ("gps_anomaly/eta/rival/courier", RIVAL, self.KEY),
        }
        assert {Alert.FromString(one.value).subject for one in events} == {"courier"}

    async def test_a_silence_keeps_its_own_tenants_alert_quiet_alone(self, rig: Tenants) -> None:
        odd = "gps_anomaly/eta/acme/courier"  # of a courier that the rival calls so
        await self.silence(rig, ACME, self.KEY)
        await self.silence(rig, RIVAL, odd)
        for tenant in (ACME, RIVAL):
            await rig.signal(tenant, signal("1"), signal("2", "acme/courier"))
        await until(lambda: _same(_count(self.alerts(rig, MESH)), 4))
        quiet = {
            (tenant, one.alert_key)
            for tenant in (ACME, RIVAL)
            for one in await self.alerts(rig, tenant)
            if one.HasField("silenced_until")
        }
        assert quiet == {(ACME, self.KEY), (RIVAL, odd)}
        told = {
            (one.headers.get(TENANT_KEY), Alert.FromString(one.value).alert_key)
            for one in await rig.on_topic("agent-alerts")
        }
        assert told == {(ACME, odd), (RIVAL, self.KEY)}
        answer = await self.silence(rig, ACME, self.KEY, 0)
        assert (answer.alert_key, answer.alert.subject) == (self.KEY, "courier")
        # The mesh lifts what it sees.
        answer = await self.silence(rig, MESH, "gps_anomaly/eta/rival/acme/courier", 0)
        assert answer.alert.subject == "rival/acme/courier"
        assert not [one for one in await self.alerts(rig, MESH) if one.HasField("silenced_until")]

    async def test_agents_of_the_same_name_are_judged_each_by_its_own(self, rig: Tenants) -> None:
        failed = [
            outcome(
                f"event-{n}", status=OutcomeStatus.OUTCOME_STATUS_FAILURE, severity=Severity.SEVERITY_ERROR
            )
            for n in range(30)
        ]
        await rig.record(ACME, *failed)
        await rig.record(RIVAL, *(outcome(f"event-{n}") for n in range(300)))

        async def raised() -> bool:
            return {key for key, _ in await self.states(rig, ACME)} == {
                "failure_rate/agent",
                "error_rate/agent",
            }

        await until(raised)
        assert await self.states(rig, RIVAL) == await self.states(rig, DEFAULT) == []
        assert {one.message.split(" is ")[0] for one in await self.alerts(rig, ACME)} == {
            "failure_rate of agent",
            "error_rate of agent",
        }


async def _count(found: Any) -> int:
    return len(await found)


class TestEvents:
    async def test_outcomes_have_plain_values_qualified_keys_and_a_header(self, rig: Tenants) -> None:
        for tenant in TENANTS:
            await rig.record(tenant, outcome("acme/x", run_id="run"))
        events = await rig.on_topic("agent-outcomes")
        assert {(one.key, one.event_id, one.headers.get(TENANT_KEY)) for one in events} == {
            ("run", "default/acme/x", None),
            ("acme/run", "acme/acme/x", ACME),
            ("rival/run", "rival/acme/x", RIVAL),
        }
        values = [OutcomeEvent.FromString(one.value) for one in events]
        assert {(one.event_id, one.run_id, one.agent_name) for one in values} == {("acme/x", "run", "agent")}

    async def test_outcomes_from_the_topic_go_to_whom_the_header_names(self, rig: Tenants) -> None:
        def event(tenant: str | None, spent: int) -> Message:
            return Message(
                "agent-outcomes",
                "run",
                outcome("x", tokens_used=spent).SerializeToString(),
                "x",
                "waymesh.feedback.v1.OutcomeEvent",
                headers={} if tenant is None else {TENANT_KEY: tenant},
            )

        wrong = ("", "*", "acme/x", "a b")
        async with rig.database.transaction() as connection:
            messages = [event(None, 0), event(ACME, 1), event(RIVAL, 2), *(event(one, 3) for one in wrong)]
            await rig.bus.publish(connection, messages)

        async def letters() -> bool:
            return len(await rig.on_topic("dead-letters")) == len(wrong)

        await until(letters)
        spent = {}
        for tenant in TENANTS:
            [one] = (await rig.listed(tenant)).events
            spent[tenant] = one.tokens_used
        assert spent == {DEFAULT: 0, ACME: 1, RIVAL: 2}
        assert len((await rig.listed(MESH)).events) == 3
