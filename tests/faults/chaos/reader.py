"""A member of a group of readers whose only effect is a row for each event it is given.

The rows are written in the transaction of the handler, as any reader's effects are: what stands there twice
was given twice for all that anybody can see. The end of stdin ends it at once.

Beside it a reader of everything on `orders`, as eta has one. Its lines on stdout: `orders GROUP:PID ID…` with
the events as they came.
"""

import asyncio
import os
import sys
from typing import Final

import asyncpg

from services.mesh import logs
from services.mesh.events import Record, create_bus
from services.mesh.settings import MeshSettings, load

NAME: Final = "reader"
TOPICS: Final = ("agent-outcomes", "orders", "agent-metrics", "agent-alerts")
SCHEMA: Final = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.seen (
  group_name text NOT NULL, topic text NOT NULL, event_id text NOT NULL,
  partition integer NOT NULL, position bigint NOT NULL, value bytea
)
"""
# The metrics and alerts themselves are looked at afterwards.
_WITH_VALUE: Final = ("agent-metrics", "agent-alerts")
# Read from the start by a reader without a group as well.
BROADCAST: Final = "orders"
_INSERT: Final = """
INSERT INTO chaos.seen (group_name, topic, event_id, partition, position, value)
SELECT $1, $2, * FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bytea[])
"""


async def main() -> None:
    logs.configure(NAME, "INFO")
    group = os.environ["CHAOS_GROUP"]
    settings = load(MeshSettings)
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=4, timeout=10)
    bus = create_bus(settings, service=NAME, pool=pool)
    await bus.start()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        topic = records[0].topic
        await connection.execute(
            _INSERT,
            group,
            topic,
            [record.event_id for record in records],
            [record.partition for record in records],
            [record.position for record in records],
            [record.value if topic in _WITH_VALUE else None for record in records],
        )

    async def tell(records: list[Record]) -> None:
        print("orders", f"{group}:{os.getpid()}", *(record.event_id for record in records), flush=True)

    print("reading", flush=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_end_of_stdin())
        tasks.create_task(bus.broadcast([BROADCAST], tell).run())
        tasks.create_task(bus.consume(group, list(TOPICS), handle).run())


async def _end_of_stdin() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
