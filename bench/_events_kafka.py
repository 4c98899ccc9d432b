"""The parts of the bench that need brokers: a cluster and a PostgreSQL of their own, topics made anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench._mesh import a_folder
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.topics import TOPICS
from services.mesh.store import EmbeddedPostgres
from tools.kafka.cluster import KafkaCluster


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a part is measured."""

    cluster: KafkaCluster
    dsn: str
    postgres_pid: int
    folder: Path


@asynccontextmanager
async def ground(*, background: bool = False) -> AsyncIterator[Ground]:
    """Three brokers with all topics, replication 3; PostgreSQL with fsync on. KafkaUnavailableError.

    In the `background` the brokers run at a low priority.
    """
    with a_folder() as folder:
        postgres = EmbeddedPostgres(folder)
        try:
            async with KafkaCluster(background=background) as cluster:
                dsn = await postgres.start()
                await create_topics(KafkaOptions(cluster.bootstrap_servers), list(TOPICS.values()))
                yield Ground(cluster, dsn, postgres.pid or 0, folder)
        finally:
            await postgres.stop()
