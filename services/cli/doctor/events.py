"""The topics, where they lie, and what is still to be read of them."""

import asyncio
from typing import TYPE_CHECKING, Final

from services.cli.doctor.finding import Finding, fail, ok, skip, warn
from services.cli.doctor.scene import Scene
from services.cli.errors import CliError

if TYPE_CHECKING:
    import asyncpg

_CHECK: Final = "events"
_PATIENCE_S: Final = 15.0
_QUERY_S: Final = 5.0
_MANY: Final = 10_000


async def look(scene: Scene) -> list[Finding]:
    """In the cluster, or on the bus in the database."""
    if scene.settings.kafka_enabled:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await _in_kafka(scene)
        except TimeoutError:
            words = (
                f"the cluster at {scene.settings.kafka_bootstrap_servers} takes longer than {_PATIENCE_S:g} s"
            )
            return [fail(_CHECK, words, "look at its brokers, and at the ways between here and each of them")]
    if scene.dsn is None:
        return [skip(_CHECK, "there is no database")]
    return await _in_postgres(scene.dsn)


async def _in_kafka(scene: Scene) -> list[Finding]:
    from services.cli.event_place import EventPlace, kafka_trouble
    from services.mesh.events import TOPICS
    from services.mesh.events.kafka_client import KafkaOptions
    from services.mesh.events.kafka_lag import events_and_lag
    from services.mesh.events.kafka_probe import look as probe
    from services.mesh.events.kafka_topics import differences, existing_topics

    options = KafkaOptions.from_settings(scene.settings)
    prefix = f"{scene.settings.kafka_group_id}."
    try:
        with kafka_trouble(EventPlace(options, prefix, None)):
            cluster = await probe(options, [options.name_in_cluster(name) for name in TOPICS])
            there = await existing_topics(options, list(TOPICS.values()))
            lags = await events_and_lag(options, {one.name: one.partitions for one in there.values()}, prefix)
    except CliError as error:
        remedy = "correct KAFKA_*, or let that cluster be reached and used from here"
        return [fail(_CHECK, str(error), remedy)]
    found = []
    missing = [name for name in TOPICS if name not in there]
    if missing:
        words = f"the cluster lacks {', '.join(missing[:3])}{' …' if missing[3:] else ''}"
        found.append(fail("topics", words, "run `waymesh topics create`"))
    if cluster.leaderless:
        words = f"nobody takes events of {', '.join(cluster.leaderless[:3])}"
        found.append(fail("topics", words, "bring back the brokers that have these topics"))
    for name, topic in there.items():
        for line in differences(TOPICS[name], topic):
            words, _, remedy = line.rpartition("; ")
            found.append(warn("topics", words, remedy))
    if not found:
        found.append(ok("topics", f"{len(there)} in Kafka, {cluster.brokers} brokers"))
    groups = {(group, name): count for name, (_, of) in lags.items() for group, count in of}
    return [*found, _lag(groups)]


async def _in_postgres(dsn: str) -> list[Finding]:
    import asyncpg

    from services.mesh.store import connect

    try:
        connection = await connect(dsn, timeout=_QUERY_S, command_timeout=_QUERY_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return [skip(_CHECK, "the database cannot be asked")]
    try:
        return await _on_the_bus(connection)
    finally:
        await connection.close(timeout=_QUERY_S)


async def _on_the_bus(connection: "asyncpg.Connection") -> list[Finding]:
    from services.cli.topics import LAGS
    from services.mesh.events import TOPICS

    if await connection.fetchval("SELECT to_regclass('bus.topics')") is None:
        return [skip("topics", "the bus has no schema yet")]
    there = {row["name"] for row in await connection.fetch("SELECT name FROM bus.topics")}
    missing = [name for name in TOPICS if name not in there]
    topics = ok("topics", f"{len(there)} on the embedded bus")
    if missing:
        words = f"the embedded bus lacks {', '.join(missing[:3])}{' …' if missing[3:] else ''}"
        topics = warn("topics", words, "run `waymesh topics create`, or start the services, which make them")
    groups = {(group, topic): lag for topic, group, lag in await connection.fetch(LAGS)}
    return [topics, _lag(groups)]


def _lag(groups: dict[tuple[str, str], int]) -> Finding:
    waiting = sorted(
        ((lag, group, topic) for (group, topic), lag in groups.items() if lag > _MANY), reverse=True
    )
    if waiting:
        lag, group, topic = waiting[0]
        words = f"{group} has {lag} events of {topic} still to read"
        return warn("lag", words, f"see whether {group} keeps up: run more of it, or look at its log")
    total = sum(groups.values())
    return ok("lag", f"{total} events still to read, by {len({group for group, _ in groups})} groups")
