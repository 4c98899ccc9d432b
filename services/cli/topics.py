"""`waymesh topics`."""

import asyncio
from typing import TYPE_CHECKING

import click

from services.cli import environment, state
from services.cli.errors import CliError

if TYPE_CHECKING:
    from services.mesh.settings import MeshSettings


@click.group("topics")
def command() -> None:
    """Look after the event topics."""


@command.command("create")
def create() -> None:
    """Create the topics that do not exist yet; the others are left as they are.

    In the Kafka cluster that KAFKA_BOOTSTRAP_SERVERS names, with three replicas where it has three brokers;
    else in the embedded event bus, in the database that DATABASE_URL names or that `waymesh up` runs.
    Services create what they miss in the embedded bus by themselves.
    """
    from services.mesh.settings import MeshSettings, SettingsError, load

    try:
        settings = load(MeshSettings, data_dir=environment.data_dir())
    except SettingsError as error:
        raise CliError(str(error)) from error
    if settings.kafka_enabled:
        where = f"the Kafka cluster at {settings.kafka_bootstrap_servers}"
        created = asyncio.run(_in_kafka(settings))
    else:
        dsn = settings.database_url
        if dsn is None:
            data_dir = environment.data_dir()
            if not state.is_running(data_dir):
                raise CliError(
                    "there is nothing to create topics in: set KAFKA_BOOTSTRAP_SERVERS or DATABASE_URL, "
                    f"or run `waymesh up` on {data_dir} first"
                )
            dsn = state.running(data_dir).dsn
        where = "the embedded event bus"
        created = asyncio.run(_in_postgres(dsn))
    for name in created:
        click.echo(f"created {name}")
    click.echo(f"all topics are in {where}" if not created else f"{len(created)} topics created in {where}")


async def _in_kafka(settings: "MeshSettings") -> list[str]:
    from aiokafka.errors import KafkaError

    from services.mesh.events import TOPICS
    from services.mesh.events.kafka_client import KafkaOptions
    from services.mesh.events.kafka_topics import create_topics

    try:
        return await create_topics(KafkaOptions.from_settings(settings), list(TOPICS.values()))
    except (KafkaError, OSError) as error:
        raise CliError(
            f"the Kafka cluster at {settings.kafka_bootstrap_servers} refuses: {type(error).__name__} {error}"
        ) from error


async def _in_postgres(dsn: str) -> list[str]:
    import asyncpg

    from services.mesh.events.postgres import MIGRATIONS, SCHEMA, PostgresBus
    from services.mesh.store import Migrations, connect, migrate

    try:
        connection = await connect(dsn)
        try:
            await migrate(connection, SCHEMA, [Migrations("bus", MIGRATIONS)])
        finally:
            await connection.close()
        async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
            return list(await PostgresBus(pool, service="waymesh").create_topics())
    except (asyncpg.PostgresError, OSError) as error:
        raise CliError(f"the database refuses: {error}") from error
