"""Each alert fires on a real mesh when its cause is there, and resolves when the cause is gone.

What dashboards and the runbook ask Prometheus has an answer in that time.

Prometheus goes by our own rules, in a hurry (hastened.py). Causes that do not get in each other's way come
together.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.kafka_brokers import Brokers
from tests.observability.live_mesh import LiveMesh, live_mesh
from tests.observability.promtool import program
from tools.observability import derived
from tools.observability.dashboards import BOARDS
from tools.observability.manifests import rule_groups

NAMES = [rule["alert"] for group in rule_groups(derived.FOLDER) for rule in group["rules"] if "alert" in rule]

PANELS = {
    f"{board.uid}: {panel.title}, {chr(ord('A') + place)}": query.expr
    for board in BOARDS
    for panel in board.panels
    for place, query in enumerate(panel.queries)
}
RUNBOOK = re.findall(
    r"^```promql\n(.*?)^```$", (derived.ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE | re.DOTALL
)


def _here(query: str) -> str:
    """As Grafana would send it, where all is chosen and a scrape is a second."""
    return re.sub(r"\$(service|topic)\b", ".*", query).replace("$__rate_interval", "4s")


@dataclass
class Story:
    """What was seen."""

    fired: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name, the first alert that was waited for, with its texts."""
    resolved: set[str] = field(default_factory=set)
    left: list[dict[str, Any]] = field(default_factory=list)
    """What still fires when everything is mended."""
    unseen: set[str] = field(default_factory=set)
    """Queries of dashboards and of the runbook that never had a value."""
    early: list[str] = field(default_factory=list)
    """What fires before anything was done."""

    async def caused(
        self, live: LiveMesh, cause: AbstractAsyncContextManager[None], **alerts: dict[str, str]
    ) -> None:
        """The alerts, given with labels, fire while the cause is there, and resolve after it."""
        async with cause:
            for name, labels in alerts.items():
                await live.prometheus.until_firing(name, **labels)
                wanted = {"alertname": name, **labels}.items()
                for alert in await live.prometheus.alerts():
                    if wanted <= alert["labels"].items():
                        self.fired[name] = alert
        for name, labels in alerts.items():
            await live.prometheus.until_resolved(name, **labels)
            self.resolved.add(name)


async def _at_work(live: LiveMesh, story: Story) -> None:
    certificate = {"WaymeshCertificateExpiring": {"service": "feedback"}}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(story.caused(live, live.certificate_old(), **certificate))
        tasks.create_task(
            story.caused(
                live,
                live.feedback_dead(),
                WaymeshReplicaDown={"service": "feedback"},
                WaymeshBreakerOpen={"target": "feedback"},
                WaymeshOutboxStale={"outbox": "outcomes"},
            )
        )
        tasks.create_task(story.caused(live, live.brokers_silent(), WaymeshOutboxStale={"outbox": "events"}))
        tasks.create_task(story.caused(live, live.model_silent(), WaymeshWordsSlow={}))
        tasks.create_task(
            story.caused(
                live,
                live.tables_locked(),
                WaymeshConsumerLag={"service": "eta", "topic": "gps-events"},
                WaymeshStorePoolExhausted={"service": "route"},
                WaymeshHighLatency={"service": "route"},
            )
        )


async def _lesser(live: LiveMesh, story: Story) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(story.caused(live, live.agents_dead(), WaymeshServiceDown={"service": "agents"}))
        tasks.create_task(story.caused(live, live.eta_frozen(), WaymeshEventLoopBlocked={"service": "eta"}))
        tasks.create_task(
            story.caused(live, live.predictions_wrong(), WaymeshEtaErrorHigh={}, WaymeshEtaCoverageDrift={})
        )
        tasks.create_task(story.caused(live, live.spool_damaged(), WaymeshOutcomesLost={"service": "route"}))
        tasks.create_task(story.caused(live, live.fix_broken(), WaymeshDeadLetters={"topic": "gps-events"}))


async def _tell(folder: Any, cluster: Any) -> Story:
    story = Story()
    async with live_mesh(folder, cluster) as live:
        # All are down until they are scraped; then nothing is wrong but what is so from the start.
        for name in NAMES:
            if name != "WaymeshCertificateExpiring":
                await live.prometheus.until_resolved(name)
        story.early = [alert["labels"]["alertname"] for alert in await live.prometheus.alerts()]
        began = time.time()
        await live.one_order()
        await _at_work(live, story)
        await _lesser(live, story)
        await story.caused(
            live,
            live.postgres_away(),
            WaymeshHealthCheckFailing={"service": "route", "check": "store"},
            WaymeshHighErrorRate={"service": "gateway"},
        )
        for name in NAMES:
            await live.prometheus.until_resolved(name)
        story.left = await live.prometheus.alerts()
        for query in {*PANELS.values(), *RUNBOOK}:
            if not await live.prometheus.seen(_here(query), began):
                story.unseen.add(query)
    return story


@pytest.fixture(scope="module")
def story(kafka_brokers: Brokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    program("prometheus")
    cluster = kafka_brokers.own() or kafka_brokers.absent()
    yield asyncio.run(_tell(tmp_path_factory.mktemp("alerts"), cluster))
    kafka_brokers.mend()


def test_no_alert_fires_while_all_is_well(story: Story) -> None:
    assert set(story.early) <= {"WaymeshCertificateExpiring"}


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_fires_when_its_cause_is_there(story: Story, name: str) -> None:
    assert name in story.fired


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_resolves_when_its_cause_is_gone(story: Story, name: str) -> None:
    assert name in story.resolved


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_tells_of_what_happened_in_words(story: Story, name: str) -> None:
    texts = story.fired[name]["annotations"]
    told = texts["summary"] + texts["description"]
    assert not re.search(r"\{\{|<no value>|error expanding|%!", told), told


@pytest.mark.parametrize("panel", PANELS)
def test_each_query_of_a_dashboard_has_an_answer(story: Story, panel: str) -> None:
    assert PANELS[panel] not in story.unseen


@pytest.mark.parametrize("query", RUNBOOK)
def test_each_query_of_the_runbook_has_an_answer(story: Story, query: str) -> None:
    assert query not in story.unseen


def test_nothing_is_left_of_it(story: Story) -> None:
    assert story.left == []
