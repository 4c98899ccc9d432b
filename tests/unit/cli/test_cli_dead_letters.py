"""`waymesh dead-letters` on both adapters: what died is shown with its origin, and goes back as it was."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from services.mesh.events import JSON, PROTOBUF, EventBus, Message, PoisonMessage, Record
from services.mesh.events.kafka import KafkaBus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.postgres import PostgresBus
from services.mesh.store import connect
from tests.contract.events_rig import Process, Seen
from tests.kafka_brokers import Brokers
from tests.unit.cli.test_cli_main import waymesh

WORDS = "unknown enum value 'teleport'"


class Place:
    """A bus with one group that can read nothing, until it is mended."""

    def __init__(self, dsn: str, servers: str | None, folder: Path) -> None:
        self.dsn = dsn
        self.servers = servers
        self.folder = folder
        self.group = f"waymesh.{uuid.uuid4().hex[:8]}"
        self.mended = False
        self.seen = Seen()

    def bus(self, pool: asyncpg.Pool, service: str) -> EventBus:
        if self.servers is None:
            return PostgresBus(pool, service=service)
        return KafkaBus(pool, KafkaOptions(self.servers), service=service)

    @contextlib.asynccontextmanager
    async def process(self, service: str = "partner") -> AsyncIterator[Process]:
        pool = await asyncpg.create_pool(self.dsn, min_size=1, max_size=8, connect=connect)
        process = Process(self.bus(pool, service), pool)
        try:
            await process.bus.start()
            await process.bus.create_topics()
            yield process
        finally:
            await process.end()

    async def handle(self, connection: asyncpg.Connection, records: list[Record]) -> None:
        mine = [record for record in records if record.event_id.startswith(self.group)]
        if not self.mended:
            for record in mine:
                raise PoisonMessage(record, WORDS)
        await self.seen(mine)

    async def cli(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of `waymesh dead-letters`."""
        variables = {"DATABASE_URL": self.dsn}
        if self.servers is not None:
            variables["KAFKA_BOOTSTRAP_SERVERS"] = self.servers
        done = await asyncio.to_thread(
            waymesh, "dead-letters", *arguments, folder=self.folder, variables=variables
        )
        return done.returncode, done.stdout, done.stderr

    async def list(self, *filters: str) -> list[dict[str, object]]:
        code, out, err = await self.cli("list", "--group", self.group, "--json", *filters)
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    def message(self, name: str, value: bytes, content_type: str = JSON) -> Message:
        return Message(
            topic="order-commands",
            key="order-1",
            value=value,
            event_id=f"{self.group}.{name}",
            type="waymesh.order.v1.OrderCommand",
            content_type=content_type,
            headers={"tenant": "north"},
        )


@pytest.fixture(params=["embedded", "kafka"])
def place(request: pytest.FixtureRequest, database: str, kafka_brokers: Brokers, tmp_path: Path) -> Place:
    servers = None
    if request.param == "kafka":
        servers = (kafka_brokers.shared() or kafka_brokers.absent()).bootstrap_servers
    return Place(database, servers, tmp_path)


async def until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Looks again and again; the guard only ends a broken test."""
    async with asyncio.timeout(60):
        while await look() != wanted:
            await asyncio.sleep(0.2)


async def test_what_died_is_shown_with_its_origin_and_goes_back_as_it_was(place: Place) -> None:
    async with place.process() as process:
        process.start(process.bus.consume(place.group, ["order-commands"], place.handle))
        await process.publish(
            place.message("one", b'{"cancel":{"order_id":"order-1"}}'),
            place.message("two", b"\xff\x00\x01broken", PROTOBUF),
        )

        async def count() -> int:
            return len(await place.list())

        await until(count, 2)
        by_event = {str(one["event_id"]).rpartition(".")[2]: one for one in await place.list()}
        one = by_event["one"]
        assert one["topic"] == "order-commands"
        assert one["group"] == place.group
        assert one["source"] == "partner"
        assert one["reason"] == WORDS
        assert one["key"] == "order-1"
        assert one["content_type"] == JSON
        assert one["headers"] == {"tenant": "north"}
        assert one["replayed"] == []
        assert str(one["time"]).endswith("Z")
        assert str(one["published"]).endswith("Z")

        assert len(await place.list("--reason", "TELEPORT")) == 2
        assert await place.list("--reason", "never said") == []
        assert await place.list("--topic", "gps-events") == []
        assert len(await place.list("--since", "1h", "--limit", "1")) == 1
        assert await place.list("--since", "2999-01-01T00:00:00Z") == []

        code, out, _ = await place.cli("list", "--group", place.group)
        assert code == 0
        assert out.splitlines()[0].split() == ["ID", "DIED", "FROM", "GROUP", "EVENT", "REPLAYED", "REASON"]
        assert WORDS in out

        code, out, _ = await place.cli("show", str(one["id"])[:8])
        assert code == 0
        assert '"order_id": "order-1"' in out
        assert "tenant: north" in out
        assert f"order-commands/{one['partition']}@{one['position']}" in out
        code, out, _ = await place.cli("show", str(by_event["two"]["id"]))
        assert "ff 00 01 62 72" in out

        place.mended = True
        code, out, err = await place.cli("replay", str(one["id"]), "--yes")
        assert (code, err) == (0, "")
        assert "1 of 1 sent back" in out
        [back] = await place.seen.enough(1)
        assert back.value == b'{"cancel":{"order_id":"order-1"}}'
        assert (back.key, back.event_id, back.type) == ("order-1", one["event_id"], one["type"])
        assert (back.content_type, dict(back.headers), back.source) == (JSON, {"tenant": "north"}, "partner")

        code, _, err = await place.cli("replay", str(one["id"]), "--yes")
        assert code == 1
        assert err == "waymesh: nothing to send back: 1 sent back before: --again sends them once more\n"
        marked = {item["id"]: len(item["replayed"]) for item in await place.list()}  # type: ignore[arg-type]
        assert marked == {one["id"]: 1, by_event["two"]["id"]: 0}

        code, out, _ = await place.cli("replay", "--all", "--group", place.group, "--yes")
        assert code == 0
        assert "1 of 1 sent back" in out
        await place.seen.enough(2)
        assert place.seen.records[-1].value == b"\xff\x00\x01broken"
        code, out, _ = await place.cli("replay", "--all", "--group", place.group, "--yes")
        assert code == 0
        assert "nothing to send back" in out


async def test_what_goes_back_is_for_the_group_that_gave_it_up(place: Place) -> None:
    async with place.process() as process:
        others = Seen()

        async def other(connection: asyncpg.Connection, records: list[Record]) -> None:
            await others([record for record in records if record.event_id.startswith(place.group)])

        process.start(process.bus.consume(place.group, ["order-commands"], place.handle))
        process.start(process.bus.consume(f"{place.group}.other", ["order-commands"], other))
        await process.publish(place.message("one", b"{}"))
        await others.enough(1)

        async def count() -> int:
            return len(await place.list())

        await until(count, 1)
        await process.pool.execute("DELETE FROM bus.inbox")  # as a day later
        place.mended = True
        code, out, _ = await place.cli("replay", "--all", "--group", place.group, "--yes")
        assert (code, "1 of 1 sent back" in out) == (0, True)
        [back] = await place.seen.enough(1)
        assert dict(back.headers) == {"tenant": "north"}
        await process.publish(place.message("two", b"{}"))
        await others.enough(2)
        assert [record.event_id.rpartition(".")[2] for record in others.records] == ["one", "two"]


async def test_a_letter_is_not_sent_back_without_a_yes(place: Place) -> None:
    async with place.process() as process:
        process.start(process.bus.consume(place.group, ["order-commands"], place.handle))
        await process.publish(place.message("one", b"{"))

        async def count() -> int:
            return len(await place.list())

        await until(count, 1)
        code, _, err = await place.cli("replay", "--all", "--group", place.group)
        assert code == 2
        assert err == (
            "waymesh: nobody can be asked here: give --yes (see `waymesh dead-letters replay --help`)\n"
        )
        [letter] = await place.list()
        assert letter["replayed"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["replay"], 2, "give IDs, or --all with or without filters"),
        (["replay", "abcd1234", "--all"], 2, "give IDs, or --all with or without filters"),
        (["replay", "abcd1234", "--topic", "orders"], 2, "give IDs, or --all with or without filters"),
        (["list", "--since", "yesterday"], 2, "'yesterday' is no time: give 30m, 2h, 7d or 2026-01-31T12"),
        (["list", "--topic", "nosuch"], 1, "there is no topic 'nosuch', only gps-events, orders, order-com"),
        (["show", "abcd1234"], 1, "there is no dead letter abcd1234: `waymesh dead-letters list` shows what"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(
    database: str, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    place = Place(database, None, tmp_path)
    async with place.process():
        found, out, err = await place.cli(*arguments)
    assert (found, out) == (code, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_without_any_bus_it_says_what_to_set(tmp_path: Path) -> None:
    done = waymesh("dead-letters", "list", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "set KAFKA_BOOTSTRAP_SERVERS or DATABASE_URL, or run `waymesh up`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = waymesh(
        "dead-letters", "list", folder=tmp_path, variables={"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    )
    assert done.returncode == 1
    assert done.stderr == (
        "waymesh: the Kafka cluster at 127.0.0.1:1 cannot be used: 127.0.0.1:1 refuses connections\n"
    )


async def test_an_empty_box_says_so(database: str, tmp_path: Path) -> None:
    place = Place(database, None, tmp_path)
    async with place.process():
        assert await place.cli("list") == (0, "no dead letters\n", "")
        assert await place.cli("list", "--json") == (0, "", "")


def test_a_database_that_is_not_there_is_named_with_its_cause(tmp_path: Path) -> None:
    url = "postgresql://someone:secretword@127.0.0.1:1/x"
    done = waymesh("dead-letters", "list", folder=tmp_path, variables={"DATABASE_URL": url})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "waymesh: the database at postgresql://someone:[redacted]@127.0.0.1:1/x cannot be reached "
        "(connection refused)\n"
    )
