"""`waymesh topics`."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from services.cli.errors import CliError
from services.cli.event_place import EventPlace, bus_pool, event_place, kafka_trouble, reach
from services.cli.output import say
from services.cli.table import print_table

if TYPE_CHECKING:
    from services.mesh.events.kafka_client import KafkaOptions


@click.group("topics")
def command() -> None:
    """Look after the event topics.

    Those of the Kafka cluster that KAFKA_BOOTSTRAP_SERVERS names; else of the embedded event bus, in the
    database that DATABASE_URL names or that `waymesh up` runs.
    """


@command.command("create", short_help="Create the topics that do not exist yet.")
def create() -> None:
    """Create the topics that do not exist yet; the others are left as they are.

    In a cluster with three brokers they get three replicas. What differs from what is intended, such as the
    number of partitions, is told with a remedy. Services create what they miss in the embedded bus by
    themselves.
    """
    place = event_place()
    warnings: list[str] = []
    if place.kafka is not None:
        with kafka_trouble(place):
            created, warnings = asyncio.run(_in_kafka(place, place.kafka))
    else:
        created = asyncio.run(_in_postgres(place))
    for name in created:
        say(f"created {name}")
    for warning in warnings:
        say(f"warning: {warning}", err=True)
    where = place.name
    say(f"all topics are in {where}" if not created else f"{len(created)} topics created in {where}")


@dataclass(frozen=True, slots=True)
class _Row:
    """What there is of a topic; one without partitions is missing."""

    name: str
    partitions: int = 0
    replicas: int | None = None
    compacted: bool = False
    retention: timedelta | None = None
    """None: for ever."""
    events: int = 0
    lags: Sequence[tuple[str, int]] = ()
    """(group, events it has still to read)."""

    @property
    def cells(self) -> list[str]:
        if not self.partitions:
            return [self.name, "missing", "", "", "", ""]
        replicas = str(self.replicas) if self.replicas is not None else ""
        lags = ", ".join(f"{group} {lag}" for group, lag in sorted(self.lags))
        return [self.name, str(self.partitions), replicas, self._kept, str(self.events), lags]

    @property
    def as_dict(self) -> dict[str, object]:
        if not self.partitions:
            return {"topic": self.name, "missing": True}
        return {
            "topic": self.name,
            "missing": False,
            "partitions": self.partitions,
            "replicas": self.replicas,
            "compacted": self.compacted,
            "retention_s": self.retention.total_seconds() if self.retention is not None else None,
            "events": self.events,
            "still_to_read": dict(sorted(self.lags)),
        }

    @property
    def _kept(self) -> str:
        newest = "newest per key" if self.compacted else ""
        if self.retention is None:
            return newest or "for ever"
        days = self.retention.total_seconds() / 86400
        return f"{newest}{', ' if newest else ''}{days:g} d"


@command.command("list", short_help="Show the topics, and what is still to read.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_(as_json: bool) -> None:
    """Show the topics: partitions, replicas, how long events are kept, what groups have still to read.

    Exit code 1 if one is missing.

    \b
    waymesh topics list --json | jq -r 'select(.missing) | .topic'
    """
    place = event_place()
    if place.kafka is not None:
        with kafka_trouble(place):
            rows = asyncio.run(_kafka_rows(place, place.kafka))
    else:
        rows = asyncio.run(_postgres_rows(place))
    if as_json:
        for row in rows:
            say(json.dumps(row.as_dict, ensure_ascii=False))
    else:
        heads = ["TOPIC", "PARTITIONS", "REPLICAS", "KEPT", "EVENTS", "STILL TO READ"]
        print_table(heads, [row.cells for row in rows])
    missing = [row.name for row in rows if not row.partitions]
    if missing:
        raise CliError(f"{place.name} lacks {', '.join(missing)}: run `waymesh topics create`")


async def _in_kafka(place: EventPlace, options: "KafkaOptions") -> tuple[list[str], list[str]]:
    from services.mesh.events import TOPICS
    from services.mesh.events.kafka_topics import create_topics, differences, existing_topics

    topics = list(TOPICS.values())
    await reach(place)  # says what is wrong, and soon
    created = await create_topics(options, topics)
    there = await existing_topics(options, [topic for topic in topics if topic.name not in created])
    return created, [line for name, found in there.items() for line in differences(TOPICS[name], found)]


async def _in_postgres(place: EventPlace) -> list[str]:
    from services.mesh.events.postgres import PostgresBus

    assert place.dsn is not None
    async with bus_pool(place.dsn) as pool:
        return list(await PostgresBus(pool, service="waymesh").create_topics())


async def _kafka_rows(place: EventPlace, options: "KafkaOptions") -> list[_Row]:
    from services.mesh.events import TOPICS
    from services.mesh.events.kafka_lag import events_and_lag
    from services.mesh.events.kafka_topics import existing_topics

    await reach(place)
    there = await existing_topics(options, list(TOPICS.values()))
    partitions = {one.name: one.partitions for one in there.values()}
    found = await events_and_lag(options, partitions, place.group_prefix)
    rows = []
    for name in TOPICS:
        if (one := there.get(name)) is None:
            rows.append(_Row(options.name_in_cluster(name)))
            continue
        keeps_ms = one.configs.get("retention.ms", "")
        keeps = timedelta(milliseconds=int(keeps_ms)) if keeps_ms not in ("", "-1") else None
        policy = one.configs.get("cleanup.policy", "")
        rows.append(
            _Row(
                one.name,
                one.partitions,
                one.replicas,
                "compact" in policy,
                keeps if "delete" in policy or not policy else None,
                *found[one.name],
            )
        )
    return rows


async def _postgres_rows(place: EventPlace) -> list[_Row]:
    from services.mesh.events import TOPICS

    assert place.dsn is not None
    async with bus_pool(place.dsn) as pool:
        topics = await pool.fetch(_TOPICS)
        lags = await pool.fetch(LAGS)
    groups: dict[str, list[tuple[str, int]]] = {}
    for topic, group, lag in lags:
        groups.setdefault(topic, []).append((group, lag))
    found = {
        name: _Row(name, partitions, None, compacted, retention, events, groups.get(name, ()))
        for name, partitions, compacted, retention, events in topics
    }
    others = [row for name, row in found.items() if name not in TOPICS]
    return [*(found.get(name) or _Row(name) for name in TOPICS), *others]


_TOPICS = """
SELECT t.name, count(*), t.compacted, t.retention, sum(
  CASE WHEN t.compacted THEN (SELECT count(*) FROM bus.log WHERE part = p.part)
  ELSE h.last + 1 - coalesce(
    (SELECT position FROM bus.log WHERE part = p.part ORDER BY position LIMIT 1), h.last + 1) END)::bigint
FROM bus.topics t JOIN bus.partitions p ON p.topic = t.name JOIN bus.heads h USING (part)
GROUP BY t.name ORDER BY t.name
"""
# Without what is there no more: its time was over, or a relay has sent it on to Kafka.
LAGS = """
SELECT p.topic, o.group_name, sum(h.last - greatest(o.position, coalesce(
  (SELECT position - 1 FROM bus.log WHERE part = p.part ORDER BY position LIMIT 1), h.last)))::bigint
FROM bus.offsets o JOIN bus.partitions p USING (part) JOIN bus.heads h USING (part)
GROUP BY 1, 2 ORDER BY 1, 2
"""
