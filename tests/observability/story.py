"""What a mesh goes through while Prometheus watches: every cause of an alert comes, and goes.

Prometheus goes by our own rules, in a hurry (hastened.py). Causes that do not get in each other's way come
together.
"""

import asyncio
import re
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.observability.live_mesh import LiveMesh, live_mesh
from tools.kafka.cluster import KafkaCluster
from tools.observability import derived
from tools.observability.dashboards import BOARDS
from tools.observability.manifests import rule_groups

# Those of the edge have a story of their own (test_edge_live.py).
_EDGE = "waymesh-edge"


def _names(*, edge: bool) -> list[str]:
    groups = [group for group in rule_groups(derived.FOLDER) if (group["name"] == _EDGE) is edge]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]


def _panels(*, edge: bool) -> dict[str, str]:
    return {
        f"{board.uid}: {panel.title}, {chr(ord('A') + place)}": query.expr
        for board in BOARDS
        if (board.uid == _EDGE) is edge
        for panel in board.panels
        for place, query in enumerate(panel.queries)
    }


def _runbook(*, edge: bool) -> list[str]:
    sections = (derived.ROOT / "docs" / "runbook.md").read_text().split("\n## ")
    wanted = "".join(each for each in sections if each.startswith("WaymeshEdge") is edge)
    return re.findall(r"^```promql\n(.*?)^```$", wanted, re.MULTILINE | re.DOTALL)


NAMES, EDGE_NAMES = _names(edge=False), _names(edge=True)
PANELS, EDGE_PANELS = _panels(edge=False), _panels(edge=True)
RUNBOOK, EDGE_RUNBOOK = _runbook(edge=False), _runbook(edge=True)


def here(query: str) -> str:
    """As Grafana would send it, where all is chosen and a scrape is a second."""
    return re.sub(r"\$(service|topic)\b", ".*", query).replace("$__rate_interval", "4s")


@dataclass
class Story:
    """What was seen."""

    fired: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name, the first alert that was waited for, with its texts."""
    resolved: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    """What still fires when everything is mended."""
    unseen: set[str] = field(default_factory=set)
    """Queries of dashboards and of the runbook that never had a value."""
    metrics: dict[str, str] = field(default_factory=dict)
    """What each service gave Prometheus, by service, when it had been asked for strange things."""
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


async def tell(folder: Path, cluster: KafkaCluster) -> Story:
    """All of it; takes more than a minute."""
    story = Story()
    async with live_mesh(folder, cluster) as live:
        # All are down until they are scraped; then nothing is wrong but what is so from the start.
        story.early = await live.prometheus.until_quiet(but="WaymeshCertificateExpiring")
        began = time.time()
        await live.one_order()
        await live.strange_requests()
        await _at_work(live, story)
        story.metrics = await live.metrics()
        await _lesser(live, story)
        await story.caused(
            live,
            live.postgres_away(),
            WaymeshHealthCheckFailing={"service": "route", "check": "store"},
            WaymeshHighErrorRate={"service": "gateway"},
        )
        story.left = await live.prometheus.until_quiet()
        for query in {*PANELS.values(), *RUNBOOK}:
            if not await live.prometheus.seen(here(query), began):
                story.unseen.add(query)
    return story
