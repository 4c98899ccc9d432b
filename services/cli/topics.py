"""`waymesh topics`."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from services.cli.event_place import EventPlace, bus_pool, event_place, kafka_trouble
from services.cli.table import print_table

if TYPE_CHECKING:
    from services.mesh.events.kafka_client import KafkaOptions


@click.group("topics")
def command() -> None:
    """Look after the event topics.

    Those of the Kafka cluster that KAFKA_BOOTSTRAP_SERVERS names; else of the embedded event bus, in the
    database that DATABASE_URL names or that `waymesh up` runs.
    """


@command.command("create")
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
            created, warnings = asyncio.run(_in_kafka(place.kafka))
    else:
        created = asyncio.run(_in_postgres(place))
    for name in created:
        click.echo(f"created {name}")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    where = place.name
    click.echo(f"all topics are in {where}" if not created else f"{len(created)} topics created in {where}")


@command.command("list")
def list_() -> None:
    """Show the topics: partitions, replicas, how long events are kept, what groups have still to read."""
    place = event_place()
    if place.kafka is not None:
        with kafka_trouble(place):
            rows = asyncio.run(_kafka_rows(place.kafka, place.group_prefix))
    else:
        rows = asyncio.run(_postgres_rows(place))
    print_table(["TOPIC", "PARTITIONS", "REPLICAS", "KEPT", "EVENTS", "STILL TO READ"], rows)


async def _in_kafka(options: "KafkaOptions") -> tuple[list[str], list[str]]:
    from services.mesh.events import TOPICS
    from services.mesh.events.kafka_probe import look
    from services.mesh.events.kafka_topics import create_topics, differences, existing_topics

    topics = list(TOPICS.values())
    await look(options, [])  # says what is wrong, and soon
    created = await create_topics(options, topics)
    there = await existing_topics(options, [topic for topic in topics if topic.name not in created])
    return created, [line for name, found in there.items() for line in differences(TOPICS[name], found)]


async def _in_postgres(place: EventPlace) -> list[str]:
    from services.mesh.events.postgres import PostgresBus

    assert place.dsn is not None
    async with bus_pool(place.dsn) as pool:
        return list(await PostgresBus(pool, service="waymesh").create_topics())


async def _kafka_rows(options: "KafkaOptions", prefix: str) -> list[list[str]]:
    from services.mesh.events import TOPICS
    from services.mesh.events.kafka_lag import events_and_lag
    from services.mesh.events.kafka_probe import look
    from services.mesh.events.kafka_topics import existing_topics

    await look(options, [])
    there = await existing_topics(options, list(TOPICS.values()))
    found = await events_and_lag(options, {one.name: one.partitions for one in there.values()}, prefix)
    rows = []
    for name in TOPICS:
        if (one := there.get(name)) is None:
            rows.append([options.name_in_cluster(name), "missing", "", "", "", ""])
            continue
        keeps_ms = one.configs.get("retention.ms", "")
        keeps = timedelta(milliseconds=int(keeps_ms)) if keeps_ms not in ("", "-1") else None
        policy = one.configs.get("cleanup.policy", "")
        kept = _kept("compact" in policy, keeps if "delete" in policy or not policy else None)
        events, lags = found[one.name]
        rows.append([one.name, str(one.partitions), str(one.replicas), kept, str(events), _lags(lags)])
    return rows


async def _postgres_rows(place: EventPlace) -> list[list[str]]:
    assert place.dsn is not None
    async with bus_pool(place.dsn) as pool:
        topics = await pool.fetch(_TOPICS)
        lags = await pool.fetch(_LAGS)
    groups: dict[str, list[tuple[str, int]]] = {}
    for topic, group, lag in lags:
        groups.setdefault(topic, []).append((group, lag))
    return [
        [name, str(partitions), "", _kept(compacted, retention), str(events), _lags(groups.get(name, []))]
        for name, partitions, compacted, retention, events in topics
    ]


_TOPICS = """
SELECT t.name, count(*), t.compacted, t.retention, sum(
  CASE WHEN t.compacted THEN (SELECT count(*) FROM bus.log WHERE part = p.part)
  ELSE h.last + 1 - coalesce(
    (SELECT position FROM bus.log WHERE part = p.part ORDER BY position LIMIT 1), h.last + 1) END)::bigint
FROM bus.topics t JOIN bus.partitions p ON p.topic = t.name JOIN bus.heads h USING (part)
GROUP BY t.name ORDER BY t.name
"""
_LAGS = """
SELECT p.topic, o.group_name, sum(h.last - o.position)::bigint
FROM bus.offsets o JOIN bus.partitions p USING (part) JOIN bus.heads h USING (part)
GROUP BY 1, 2 ORDER BY 1, 2
"""


def _kept(compacted: bool, retention: timedelta | None) -> str:
    newest = "newest per key" if compacted else ""
    if retention is None:
        return newest or "for ever"
    days = retention.total_seconds() / 86400
    return f"{newest}{', ' if newest else ''}{days:g} d"


def _lags(lags: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{group} {lag}" for group, lag in sorted(lags))
