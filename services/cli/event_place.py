"""Where the events are that a command looks at: in a Kafka cluster, or on the embedded bus of a database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.cli import environment, state
from services.cli.errors import CliError
from services.cli.external_database import said
from services.cli.output import say
from services.mesh.redact import redact_setting

if TYPE_CHECKING:
    import asyncpg

    from services.mesh.events.kafka_client import KafkaOptions

# For so long nobody wonders what a command is doing, in seconds.
_SILENT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class EventPlace:
    """As KAFKA_* and DATABASE_URL say, or the mesh that runs on the data folder."""

    kafka: "KafkaOptions | None"
    """How to reach the cluster; None on the embedded bus."""
    group_prefix: str
    dsn: str | None
    """The database; None if there is a cluster and no database is known."""

    @property
    def name(self) -> str:
        """In words."""
        if self.kafka is None:
            return "the embedded event bus"
        return f"the Kafka cluster at {self.kafka.bootstrap_servers}"


def event_place() -> EventPlace:
    """Raises CliError if there is none, or if a variable is wrong."""
    from services.mesh.settings import MeshSettings, SettingsError, load

    data_dir = environment.data_dir()
    try:
        settings = load(MeshSettings, data_dir=data_dir)
    except SettingsError as error:
        raise CliError(str(error)) from error
    dsn = settings.database_url
    if dsn is None and state.is_running(data_dir):
        dsn = state.running(data_dir).dsn
    options = None
    if settings.kafka_enabled:
        from services.mesh.events.kafka_client import KafkaOptions

        options = KafkaOptions.from_settings(settings)
    elif dsn is None:
        raise CliError(
            "there are no events here: set KAFKA_BOOTSTRAP_SERVERS or DATABASE_URL, "
            f"or run `waymesh up` on {data_dir} first"
        )
    return EventPlace(options, f"{settings.kafka_group_id}.", dsn)


@contextlib.asynccontextmanager
async def bus_pool(dsn: str) -> AsyncIterator["asyncpg.Pool"]:
    """Connections to the database of the bus, whose schema is up to date. Raises CliError."""
    import asyncpg

    from services.mesh.events.postgres import MIGRATIONS, SCHEMA
    from services.mesh.store import MigrationError, Migrations, connect, migrate

    try:
        connection = await connect(dsn)
        try:
            await migrate(connection, SCHEMA, [Migrations("bus", MIGRATIONS)])
        finally:
            await connection.close()
        async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
            yield pool
    except (asyncpg.PostgresError, OSError, MigrationError) as error:
        raise CliError(_refusal(dsn, error)) from error


def _refusal(dsn: str, error: Exception) -> str:
    """Which database, and why, as of the cluster."""
    shown = " ".join(redact_setting("DATABASE_URL", dsn).split())
    if isinstance(error, OSError):
        return f"the database at {shown} cannot be reached ({said(error)})"
    return f"the database at {shown} refuses: {' '.join(str(error).split())}"


async def reach(place: EventPlace) -> None:
    """Waits for the cluster, and says so if that takes long. ClusterUnusableError tells what is wrong."""
    from services.mesh.events.kafka_probe import look

    assert place.kafka is not None
    words = f"waiting for {place.name} to answer"
    notice = asyncio.get_running_loop().call_later(_SILENT_S, lambda: say(words, err=True))
    try:
        await look(place.kafka, [])
    finally:
        notice.cancel()


@contextlib.contextmanager
def kafka_trouble(place: EventPlace) -> Iterator[None]:
    """Makes one line of whatever the cluster answers within, and keeps the library's lines back."""
    from aiokafka.errors import KafkaError

    from services.mesh.events import kafka_noise
    from services.mesh.events.kafka_probe import ClusterUnusableError

    def ignore() -> None:
        """What it says is told by the error that follows."""

    kafka_noise.keep_back(ignore)
    try:
        yield
    except ClusterUnusableError as error:
        raise CliError(f"{place.name} cannot be used: {error}") from error
    except (KafkaError, OSError, TimeoutError) as error:
        said = " ".join(f"{type(error).__name__} {error}".split())
        raise CliError(f"{place.name} refuses: {said}") from error
    finally:
        kafka_noise.let_through(ignore)
