"""The log of the embedded bus: partitions and kinds as numbers, publishing into it and reading from it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final
from zlib import crc32

import asyncpg

from services.mesh.events.bus import Message, Record
from services.mesh.events.topics import Topic
from services.mesh.request_id import NO_HEADERS

_PUBLISH: Final = "SELECT bus.publish($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_READ: Final = "SELECT * FROM bus.read($1, $2, $3)"
_READ_UNLESS: Final = "SELECT * FROM bus.read_unless($1, $2, $3, $4)"
_NEW_TOPIC: Final = """
INSERT INTO bus.topics AS t (name, compacted, retention) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET compacted = excluded.compacted, retention = excluded.retention
RETURNING t.xmax = 0
"""
_NEW_PARTITIONS: Final = """
WITH made AS (
  INSERT INTO bus.partitions (topic, partition) SELECT $1, n FROM generate_series(0, $2 - 1) AS n
  ON CONFLICT DO NOTHING RETURNING part
)
INSERT INTO bus.heads (part) SELECT part FROM made
"""
_PARTITIONS: Final = "SELECT part, topic, partition FROM bus.partitions ORDER BY topic, partition"
_KINDS: Final = "SELECT kind, type, content_type, source FROM bus.kinds"
_NEW_KIND: Final = (
    "INSERT INTO bus.kinds (type, content_type, source) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
)


class UnknownTopicError(LookupError):
    """A topic that was never created."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition and its number in the log."""

    part: int
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Slice:
    """What a read found in one partition."""

    records: list[Record]
    end: int
    """Newest position that was looked at."""
    looked: int
    """How many events were; more than there are records where some were passed over."""


class PostgresLog:
    """The log through one process's eyes. It holds no connection; numbers are cached."""

    def __init__(self, pool: asyncpg.Pool, source: str) -> None:
        self._pool = pool
        self._source = source
        self._parts: dict[str, tuple[int, ...]] = {}
        self._partitions: dict[int, Partition] = {}
        self._kinds: dict[int, tuple[str, str, str]] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._learning = asyncio.Lock()

    async def load(self) -> None:
        """Reads the numbers of partitions and kinds."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(_PARTITIONS)
            kinds = await connection.fetch(_KINDS)
        self._partitions = {
            row["part"]: Partition(row["part"], row["topic"], row["partition"]) for row in rows
        }
        parts: dict[str, list[int]] = {}
        for row in rows:
            parts.setdefault(row["topic"], []).append(row["part"])
        self._parts = {topic: tuple(numbers) for topic, numbers in parts.items()}
        self._kinds = {row["kind"]: (row["type"], row["content_type"], row["source"]) for row in kinds}
        self._numbers = {
            (type_, content_type): kind
            for kind, (type_, content_type, source) in self._kinds.items()
            if source == self._source
        }

    async def create_topics(self, topics: Sequence[Topic]) -> list[str]:
        """Creates topics and partitions that are missing; names of the topics that are new.

        A topic never loses partitions. One that gets more has the order of a key only from then on.
        """
        new = []
        async with self._pool.acquire() as connection, connection.transaction():
            for topic in topics:
                if await connection.fetchval(_NEW_TOPIC, topic.name, topic.compacted, topic.retention):
                    new.append(topic.name)
                await connection.execute(_NEW_PARTITIONS, topic.name, topic.partitions)
        await self.load()
        return new

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """All partitions of these topics. UnknownTopicError."""
        return [self._partitions[part] for topic in topics for part in self._parts_of(topic)]

    def partition(self, part: int) -> Partition:
        """The partition of a number."""
        return self._partitions[part]

    async def append(self, connection: asyncpg.Connection, messages: Sequence[Message]) -> list[int]:
        """Publishes in the connection's transaction; the numbers of the partitions it went to."""
        by_part: dict[int, list[Message]] = {}
        known = self._parts
        for message in messages:
            parts = known.get(message.topic) or self._parts_of(message.topic)
            part = parts[crc32(message.key.encode()) % len(parts)]
            if part in by_part:
                by_part[part].append(message)
            else:
                by_part[part] = [message]
        touched = sorted(by_part)
        counts = [len(by_part[part]) for part in touched]
        skipped, before = [], 0
        for count in counts:
            skipped.append(before)
            before += count
        ordered = [message for part in touched for message in by_part[part]]
        await connection.execute(
            _PUBLISH,
            touched,
            skipped,
            counts,
            list(chain.from_iterable(repeat(slot, count) for slot, count in enumerate(counts, 1))),
            await self._kind_numbers(ordered),
            [message.key for message in ordered],
            [message.event_id for message in ordered],
            [message.value for message in ordered],
            _headers_as_text(ordered),
        )
        return touched

    async def read(self, positions: Mapping[int, int], most: int, unless_from: str = "") -> dict[int, Slice]:
        """Up to `most` events of each partition after its position; partitions without any are left out.

        Those that the source `unless_from` published are looked at and left out.
        """
        if not unless_from:
            found = await self._records(_READ, list(positions), list(positions.values()), most)
            return {part: Slice(some, some[-1].position, len(some)) for part, some in found.items()}
        unwanted = [kind for kind, (_, _, source) in self._kinds.items() if source == unless_from]
        looked: dict[int, int] = {}
        found = await self._records(
            _READ_UNLESS, list(positions), list(positions.values()), most, unwanted, looked=looked
        )
        return {
            part: Slice([one for one in some if one.source != unless_from], some[-1].position, looked[part])
            for part, some in found.items()
        }

    async def _records(
        self, query: str, *arguments: object, looked: dict[int, int] | None = None
    ) -> dict[int, list[Record]]:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(query, *arguments)
        kinds = self._kinds
        found: dict[int, list[Record]] = {}
        part, records, topic, partition = -1, [], "", 0
        text, extra = None, NO_HEADERS
        for number, position, time, kind, key, event_id, value, headers, *rest in rows:
            if number != part:
                if looked is not None:
                    looked[number] = rest[0]
                part = number
                records = found.setdefault(part, [])
                topic, partition = self._partitions[part].topic, self._partitions[part].partition
            if kind not in kinds:
                await self.load()
                kinds = self._kinds
            if headers != text:  # neighbours mostly have the same
                text, extra = headers, json.loads(headers) if headers else NO_HEADERS
            type_, content_type, source = kinds[kind]
            records.append(
                Record(
                    topic, key, value, event_id, type_, content_type, extra,
                    partition=partition, position=position, time=time, source=source,
                )
            )  # fmt: skip
        return found

    async def heads(self) -> dict[int, int]:
        """The newest position of each partition."""
        rows = await self._pool.fetch("SELECT part, last FROM bus.heads")
        return {row["part"]: row["last"] for row in rows}

    def _parts_of(self, topic: str) -> tuple[int, ...]:
        try:
            return self._parts[topic]
        except KeyError:
            raise UnknownTopicError(f"topic {topic!r} does not exist; `waymesh topics create`") from None

    async def _kind_numbers(self, messages: Sequence[Message]) -> list[int]:
        numbers = self._numbers
        try:
            return [numbers[message.type, message.content_type] for message in messages]
        except KeyError:
            missing = {(one.type, one.content_type) for one in messages} - numbers.keys()
        # On a connection of its own: a number must not be remembered of a transaction that is rolled back.
        async with self._learning:
            async with self._pool.acquire() as connection:
                for type_, content_type in sorted(missing):
                    await connection.execute(_NEW_KIND, type_, content_type, self._source)
            await self.load()
        numbers = self._numbers
        return [numbers[message.type, message.content_type] for message in messages]


def _headers_as_text(messages: Sequence[Message]) -> list[str | None]:
    """Those of one request share theirs, which are written once."""
    texts: list[str | None] = []
    text, last = None, NO_HEADERS
    for message in messages:
        headers = message.headers
        if headers is not last:
            text, last = json.dumps(dict(headers)) if headers else None, headers
        texts.append(text)
    return texts
