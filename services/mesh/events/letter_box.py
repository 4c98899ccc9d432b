"""Reads `dead-letters` on either adapter, and sends letters back to where they came from."""

import heapq
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.mesh.events.bus import Message, Record
from services.mesh.events.dead_letters import ONLY_FOR
from services.mesh.events.inbox import digest_of
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_probe import look
from services.mesh.events.letters import Letter, newest_first
from services.mesh.events.postgres_log import PostgresLog, UnknownTopicError
from services.mesh.events.topics import DEAD_LETTERS, TOPICS

REPLAY_SOURCE: Final = "waymesh.replay"
"""CloudEvents source of what is sent back although its origin named none."""

_PARTS: Final = "SELECT part, partition FROM bus.partitions WHERE topic = $1 ORDER BY part"
_PAGE: Final = """
SELECT l.key, l.event_id, l.value, k.type, k.content_type, l.headers, l.position, l.time, k.source
FROM bus.log l JOIN bus.kinds k USING (kind)
WHERE l.part = $1 AND l.position > $2 ORDER BY l.position LIMIT 500
"""
_POLL_MS: Final = 500
# Marks outlive the letters they are about.
_FORGET: Final = "DELETE FROM bus.replays WHERE replayed_at < now() - interval '90 days'"
_MARKS: Final = """
SELECT letter_id, array_agg(replayed_at ORDER BY replayed_at) AS times FROM bus.replays
WHERE letter_id = ANY ($1) GROUP BY letter_id
"""
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('bus.replays'), hashtext($1))"
_MARK: Final = "INSERT INTO bus.replays (letter_id) VALUES ($1)"
# Else the group that gave the event up would take it for one that it has handled.
_ADMIT_AGAIN: Final = "DELETE FROM bus.inbox WHERE group_name = $1 AND digest = ANY ($2::bytea[])"


class NotReplayableError(Exception):
    """A letter that cannot be sent back. The text is one line."""


async def find(
    records: AsyncIterator[Letter], wanted: Callable[[Letter], bool], most: int | None
) -> list[Letter]:
    """Those that are wanted, newest first, `most` of them; holds not many more at a time."""
    kept: list[tuple[datetime, int, Letter]] = []
    number = 0
    async for letter in records:
        if not wanted(letter):
            continue
        number += 1
        # Twice as many, since some may be there twice.
        if most is None or len(kept) < 2 * most:
            heapq.heappush(kept, (letter.time, number, letter))
        else:
            heapq.heappushpop(kept, (letter.time, number, letter))
    return newest_first((letter for _, _, letter in kept), most)


async def in_postgres(pool: asyncpg.Pool) -> AsyncIterator[Letter]:
    """All letters on the embedded bus."""
    parts = await pool.fetch(_PARTS, DEAD_LETTERS)
    for part, partition in parts:
        position = 0
        while rows := await pool.fetch(_PAGE, part, position):
            for key, event_id, value, type_, content_type, headers, position, time, source in rows:
                yield Letter.of(
                    Record(
                        DEAD_LETTERS, key, value, event_id, type_, content_type,
                        json.loads(headers) if headers else {},
                        partition=partition, position=position, time=time, source=source,
                    )
                )  # fmt: skip


async def in_kafka(options: KafkaOptions) -> AsyncIterator[Letter]:
    """All letters in a cluster, as of now.

    ClusterUnusableError, KafkaError; UnknownTopicError if it has no such topic.
    """
    name = options.name_in_cluster(DEAD_LETTERS)
    count = (await look(options, [name])).partitions.get(name)
    if count is None:
        raise UnknownTopicError(f"topic {name!r} does not exist; `waymesh topics create`")
    partitions = [TopicPartition(name, number) for number in range(count)]
    consumer = AIOKafkaConsumer(**options.consumer(None))
    try:
        await consumer.start()
        consumer.assign(partitions)
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning()
        while [one for one in partitions if await consumer.position(one) < ends[one]]:
            for batch in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for raw in batch:
                    yield Letter.of(options.to_record(raw))
    finally:
        await consumer.stop()


async def replays(pool: asyncpg.Pool, letters: Sequence[Letter]) -> dict[str, list[datetime]]:
    """When each letter was sent back, by its id; those that never were are left out."""
    rows = await pool.fetch(_MARKS, [letter.id for letter in letters])
    return {row["letter_id"]: list(row["times"]) for row in rows}


def _for_its_group(letter: Letter) -> Message:
    """The event, for the group that gave it up: the others have handled it, maybe longer ago than they know.

    On a compacted topic it is for all, since it becomes what the topic has of its key.
    """
    if not letter.group or TOPICS[letter.topic].compacted:
        return letter.event
    return replace(letter.event, headers={**letter.headers, ONLY_FOR: letter.group})


async def replay(pool: asyncpg.Pool, letter: Letter, *, again: bool = False) -> bool:
    """Sends a letter's event back to its topic, as it was, and marks that; False if that was done before.

    It goes by the log, in one transaction with the mark: from there readers of the embedded bus have it, or
    the relay of whatever service runs sends it on to Kafka. NotReplayableError if it can never be handled.
    """
    if letter.omitted_bytes:
        raise NotReplayableError(f"its value of {letter.omitted_bytes} bytes was too large to be kept")
    if letter.topic not in TOPICS or letter.topic == DEAD_LETTERS:
        raise NotReplayableError(f"it came from '{letter.topic}', which is no topic that is read")
    source = letter.source or REPLAY_SOURCE
    log = PostgresLog(pool, source)
    await log.load()
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(_LOCK, letter.id)
        marks = await connection.fetch(_MARKS, [letter.id])
        if marks and not again:
            return False
        await connection.execute(_MARK, letter.id)
        await connection.execute(_FORGET)
        # As it came, and as an earlier replay has sent it.
        sources = (letter.source, source)
        digests = [digest_of(letter.topic, one, letter.event_id, letter.headers) for one in sources]
        await connection.execute(_ADMIT_AGAIN, letter.group, digests)
        await log.append(connection, [_for_its_group(letter)])
    return True
