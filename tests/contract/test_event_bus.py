"""What every adapter of the event bus does, whatever it runs on."""

import asyncio

import asyncpg
import pytest

from services.mesh import logs
from services.mesh.events import PoisonMessage, Record, attributes, cause_of
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.request_id import serving
from tests.contract.events_rig import (
    GUARD_S,
    Rig,
    Seen,
    by_key,
    message,
    settled,
)
from tests.processes import until


async def test_what_is_published_is_read_with_all_it_came_with(rig: Rig) -> None:
    one = await rig.bus("courier-app")
    sent = message("k", b"\x00\xffbytes", headers={"note": "grün"})
    await one.publish(sent)
    seen = Seen()
    one.start(one.bus.consume("g", ["moves"], seen))
    [record] = await seen.enough(1)
    assert (record.topic, record.key, record.value) == ("moves", "k", b"\x00\xffbytes")
    assert (record.event_id, record.type, record.content_type) == (
        sent.event_id,
        sent.type,
        sent.content_type,
    )
    assert dict(record.headers) == {"note": "grün"}
    assert record.time.utcoffset() is not None
    assert attributes(record) == {
        "ce_specversion": "1.0",
        "ce_id": sent.event_id,
        "ce_type": sent.type,
        "ce_source": "courier-app",
        "ce_time": record.time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "content-type": "application/protobuf",
        "note": "grün",
    }


async def test_an_event_carries_the_request_in_which_it_was_made_to_whatever_follows_from_it(
    rig: Rig,
) -> None:
    one = await rig.bus()
    with serving("request-1"):
        made = message("k", "1")
    await one.publish(made)  # as a commit of several callers would, in nobody's context
    during: list[str] = []
    out, wide = Seen(), Seen()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        during.append(logs.request_id.get())
        await one.bus.publish(connection, [message(r.key, r.value, topic="state") for r in records])

    async def follow(records: list[Record]) -> None:
        during.append(logs.request_id.get())
        await wide(records)

    one.start(one.bus.consume("g", ["moves"], handle))
    one.start(one.bus.consume("followers", ["state"], out))
    one.start(one.bus.broadcast(["state"], follow))
    [record] = await out.enough(1)
    await wide.enough(1)
    assert dict(record.headers) == {"x-request-id": "request-1"}
    assert attributes(record)["x-request-id"] == "request-1"
    assert during == ["request-1", "request-1"]
    assert logs.request_id.get() == ""


async def test_an_event_of_no_request_says_nothing_of_one(rig: Rig) -> None:
    one = await rig.bus()
    during: list[str] = []
    seen = Seen()

    async def handle(_: asyncpg.Connection, records: list[Record]) -> None:
        during.append(logs.request_id.get())
        await seen(records)

    await one.publish(message("k"), message("k", headers={"x-request-id": "not\nan id"}))
    with serving("whoever starts a reader"):
        one.start(one.bus.consume("g", ["moves"], handle, max_batch=1))
    records = await seen.enough(2)
    assert dict(records[0].headers) == {}
    assert [cause_of(record) for record in records] == during == ["", ""]


async def test_a_batch_of_several_requests_is_of_none_and_each_record_of_its_own(rig: Rig) -> None:
    one = await rig.bus()
    during: list[tuple[str, set[str]]] = []
    seen, out = Seen(), Seen()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        during.append((logs.request_id.get(), {cause_of(record) for record in records}))
        following = []
        for record in records:
            with serving(cause_of(record)):
                following.append(message(record.key, record.value, topic="state"))
        await one.bus.publish(connection, following)
        await seen(records)

    made = []
    for n in range(40):
        with serving(f"request-{n % 2}"):
            made.append(message("k", f"{n}"))
    await one.publish(*made)
    await one.relayed()
    one.start(one.bus.consume("g", ["moves"], handle))
    one.start(one.bus.broadcast(["state"], out))
    await seen.enough(40)
    for record in await out.enough(40):
        assert cause_of(record) == f"request-{int(record.value) % 2}"
    for ambient, causes in during:
        assert ambient == (causes.pop() if len(causes) == 1 else "")


async def test_events_of_a_key_keep_their_order(rig: Rig) -> None:
    one = await rig.bus()
    keys = [f"courier-{n}" for n in range(20)]
    for turn in range(10):
        await one.publish(*[message(key, f"{turn}") for key in keys])
    seen = Seen()
    one.start(one.bus.consume("g", ["moves"], seen, max_batch=7))
    assert by_key(await seen.enough(200)) == {key: [str(turn) for turn in range(10)] for key in keys}


async def test_a_batch_holds_records_of_one_partition_and_no_more_than_asked_for(rig: Rig) -> None:
    one = await rig.bus()
    await one.publish(*[message(f"k{n}") for n in range(100)])
    seen = Seen()
    one.start(one.bus.consume("g", ["moves"], seen, max_batch=9))
    await seen.enough(100)
    assert all(len({(r.topic, r.partition) for r in batch}) == 1 for batch in seen.batches)
    assert max(map(len, seen.batches)) <= 9


async def test_a_publish_that_is_rolled_back_was_never_published(rig: Rig) -> None:
    one = await rig.bus()
    async with one.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await one.bus.publish(connection, [message("k", "never")])
        await transaction.rollback()
    await one.publish(message("k", "really"))
    seen = Seen()
    one.start(one.bus.consume("g", ["moves"], seen))
    await seen.enough(1)
    assert seen.values() == ["really"]


async def test_readers_miss_nothing_while_many_publish_and_some_roll_back(rig: Rig) -> None:
    one, other = await rig.bus(), await rig.bus()
    seen, wide = Seen(), Seen()
    one.start(one.bus.consume("g", ["moves"], seen, max_batch=50))
    other.start(other.bus.broadcast(["moves"], wide))

    async def publish(process: int, worker: int) -> int:
        bus = (one, other)[process]
        kept = 0
        for turn in range(30):
            try:
                async with bus.pool.acquire() as connection, connection.transaction():
                    await bus.bus.publish(
                        connection,
                        [message(f"{worker}-{n % 5}", f"{process}.{worker}.{turn}.{n}") for n in range(10)],
                    )
                    await connection.execute("SELECT pg_sleep(random() * 0.003)")
                    if (turn + worker) % 7 == 0:
                        raise TimeoutError
                kept += 10
            except TimeoutError:
                pass
        return kept

    kept = sum(await asyncio.gather(*(publish(w % 2, w) for w in range(8))))
    await seen.enough(kept)
    await wide.enough(kept)
    assert len(seen.records) == len(set(seen.values())) == kept
    assert sorted(seen.values()) == sorted(wide.values())


@pytest.mark.mock_cluster_lacks("a group of two members never settles there")
async def test_members_of_a_group_share_the_partitions(rig: Rig) -> None:
    one, other = await rig.bus(), await rig.bus()
    first, second = Seen(), Seen()
    one.start(one.bus.consume("g", ["moves"], first))
    other.start(other.bus.consume("g", ["moves"], second))
    sent = 0
    async with asyncio.timeout(GUARD_S):
        while not (first.records and second.records):
            await one.publish(*[message(f"k{n}", f"{sent + n}") for n in range(40)])
            sent += 40
            await asyncio.sleep(0.02)
    await until(lambda: len(first.records) + len(second.records) >= sent, "all are read")
    assert sorted(map(int, first.values() + second.values())) == list(range(sent))


async def test_what_a_member_had_goes_to_the_others_when_it_ends(rig: Rig) -> None:
    one, other = await rig.bus(), await rig.bus()
    first, second = Seen(), Seen()
    consumer = one.bus.consume("g", ["moves"], first)
    ending = one.start(consumer)
    await one.publish(*[message(f"k{n}", "a") for n in range(40)])
    await first.enough(40)
    await settled(consumer)
    other.start(other.bus.consume("g", ["moves"], second))
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    await one.publish(*[message(f"k{n}", "b") for n in range(40)])
    await second.enough(40)
    assert set(second.values()) == {"b"}


async def test_groups_do_not_take_from_each_other(rig: Rig) -> None:
    one = await rig.bus()
    first, second = Seen(), Seen()
    one.start(one.bus.consume("g1", ["moves"], first))
    one.start(one.bus.consume("g2", ["moves"], second))
    await one.publish(*[message(f"k{n}") for n in range(30)])
    assert len(await first.enough(30)) == len(await second.enough(30)) == 30


async def effects(rig: Rig) -> asyncpg.Pool:
    pool = (await rig.bus()).pool
    await pool.execute("CREATE TABLE effects (value text)")
    return pool


async def test_a_crash_in_the_middle_of_a_handler_repeats_the_batch_and_keeps_no_effect_twice(
    rig: Rig,
) -> None:
    pool = await effects(rig)
    one, other = await rig.bus(), await rig.bus()
    stuck = asyncio.Event()
    done = Seen()

    async def crash(connection: asyncpg.Connection, records: list[Record]) -> None:
        await connection.executemany(
            "INSERT INTO effects VALUES ($1)", [(r.value.decode(),) for r in records]
        )
        stuck.set()
        await asyncio.Event().wait()

    async def finish(connection: asyncpg.Connection, records: list[Record]) -> None:
        await connection.executemany(
            "INSERT INTO effects VALUES ($1)", [(r.value.decode(),) for r in records]
        )
        await done(records)

    await one.publish(*[message("k", f"{n}") for n in range(20)])
    crashing = one.start(one.bus.consume("g", ["moves"], crash))
    async with asyncio.timeout(GUARD_S):
        await stuck.wait()
    crashing.cancel()
    await asyncio.gather(crashing, return_exceptions=True)
    finishing = other.bus.consume("g", ["moves"], finish)
    other.start(finishing)
    await done.enough(20)
    await settled(finishing)
    rows = await pool.fetch("SELECT value::int FROM effects ORDER BY 1")
    assert [row[0] for row in rows] == list(range(20))


async def test_a_handler_that_fails_for_a_while_is_called_again_and_nothing_is_lost(rig: Rig) -> None:
    pool = await effects(rig)
    one = await rig.bus()
    calls = 0
    done = Seen()

    async def flaky(connection: asyncpg.Connection, records: list[Record]) -> None:
        nonlocal calls
        calls += 1
        await connection.executemany(
            "INSERT INTO effects VALUES ($1)", [(r.value.decode(),) for r in records]
        )
        if calls < 3:
            raise ConnectionError("a peer is away")
        await done(records)

    await one.publish(*[message("k", f"{n}") for n in range(10)])
    consumer = one.bus.consume("g", ["moves"], flaky)
    one.start(consumer)
    await done.enough(10)
    await settled(consumer)
    rows = await pool.fetch("SELECT value::int FROM effects ORDER BY 1")
    assert [row[0] for row in rows] == list(range(10))


async def test_what_a_handler_publishes_happens_once_with_its_batch(rig: Rig) -> None:
    one = await rig.bus()
    calls = 0
    out = Seen()

    async def relay(connection: asyncpg.Connection, records: list[Record]) -> None:
        nonlocal calls
        calls += 1
        await one.bus.publish(connection, [message(r.key, r.value, topic="state") for r in records])
        if calls == 1:
            raise ConnectionError("after the publish, before the commit")

    one.start(one.bus.consume("g", ["moves"], relay))
    one.start(one.bus.broadcast(["state"], out))
    await one.publish(*[message("k", f"{n}") for n in range(10)])
    await one.publish(message("k", "end"))
    await out.enough(11)
    assert out.values() == [*map(str, range(10)), "end"]


async def test_a_poison_message_ends_among_the_dead_letters_and_its_partition_moves_on(rig: Rig) -> None:
    one = await rig.bus()
    good, dead = Seen(), Seen()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        for record in records:
            if record.value == b"poison":
                raise PoisonMessage(record, "it is poison")
        await good(records)

    one.start(one.bus.consume("g", ["moves"], handle))
    one.start(one.bus.consume("undertaker", [DEAD_LETTERS], dead))
    values = ["1", "poison", "2", "poison", "3"]
    await one.publish(*[message("k", value) for value in values])
    await good.enough(3)
    letters = await dead.enough(2)
    assert good.values() == ["1", "2", "3"]
    assert [(letter.key, letter.value) for letter in letters] == [("k", b"poison")] * 2
    headers = letters[0].headers
    assert headers["dead-reason"] == "it is poison"
    assert (headers["dead-topic"], headers["dead-group"]) == ("moves", "g")
    origin = (int(headers["dead-partition"]), int(headers["dead-position"]))
    assert origin[0] == good.records[0].partition
    assert good.records[0].position < origin[1] < good.records[1].position
    assert headers["dead-event-id"] not in {letter.event_id for letter in letters}


async def test_a_record_that_fails_again_and_again_dies_alone(rig: Rig) -> None:
    one = await rig.bus()
    good, dead = Seen(), Seen()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        if any(record.value == b"7" for record in records):
            raise ZeroDivisionError
        await good(records)

    one.start(one.bus.consume("g", ["moves"], handle))
    one.start(one.bus.consume("undertaker", [DEAD_LETTERS], dead))
    await one.publish(*[message("k", f"{n}") for n in range(10)])
    await good.enough(9)
    [letter] = await dead.enough(1)
    assert good.values() == [str(n) for n in range(10) if n != 7]
    assert letter.value == b"7"
    assert "ZeroDivisionError" in letter.headers["dead-reason"]


async def test_a_handler_can_bury_a_record_itself(rig: Rig) -> None:
    one = await rig.bus()
    dead = Seen()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        for record in records:
            await one.bus.dead_letter(connection, record, "no use")

    one.start(one.bus.consume("g", ["moves"], handle))
    one.start(one.bus.consume("undertaker", [DEAD_LETTERS], dead))
    await one.publish(message("k", "x"))
    [letter] = await dead.enough(1)
    assert (letter.value, letter.headers["dead-reason"]) == (b"x", "no use")


async def test_a_broadcast_reader_sees_everything_from_the_start_in_every_process(rig: Rig) -> None:
    one, other = await rig.bus(), await rig.bus()
    await one.publish(*[message(f"k{n}", f"{n}") for n in range(50)])
    await one.relayed()
    seens = Seen(), Seen()
    readers = [p.bus.broadcast(["moves"], seen) for p, seen in zip((one, other), seens, strict=True)]
    assert not any(reader.caught_up.is_set() for reader in readers)
    for process, reader in zip((one, other), readers, strict=True):
        process.start(reader)
    async with asyncio.timeout(GUARD_S):
        for reader in readers:
            await reader.caught_up.wait()
    assert [sorted(map(int, seen.values())) for seen in seens] == [list(range(50))] * 2
    await one.publish(message("k", "50"))
    for seen in seens:
        await seen.enough(51)


async def test_a_broadcast_reader_of_an_empty_topic_is_caught_up(rig: Rig) -> None:
    one = await rig.bus()
    reader = one.bus.broadcast(["state"], Seen())
    one.start(reader)
    async with asyncio.timeout(GUARD_S):
        await reader.caught_up.wait()


async def test_a_broadcast_reader_can_leave_the_past_out(rig: Rig) -> None:
    one = await rig.bus()
    await one.publish(message("k", "old"))
    await one.relayed()
    seen = Seen()
    reader = one.bus.broadcast(["moves"], seen, from_start=False)
    one.start(reader)
    async with asyncio.timeout(GUARD_S):
        await reader.caught_up.wait()
    await one.publish(message("k", "new"))
    await seen.enough(1)
    assert seen.values() == ["new"]


async def test_a_broadcast_reader_leaves_poison_out_and_goes_on(rig: Rig) -> None:
    one = await rig.bus()
    good = Seen()

    async def handle(records: list[Record]) -> None:
        for record in records:
            if record.value == b"poison":
                raise PoisonMessage(record, "it is poison")
        await good(records)

    one.start(one.bus.broadcast(["moves"], handle))
    await one.publish(*[message("k", value) for value in ("1", "poison", "2")])
    await good.enough(2)
    assert good.values() == ["1", "2"]


async def test_lag_is_what_a_reader_has_still_to_handle(rig: Rig) -> None:
    one = await rig.bus()
    seen = Seen()
    gate = asyncio.Event()

    async def wait(connection: asyncpg.Connection, records: list[Record]) -> None:
        await seen(records)
        await gate.wait()

    consumer = one.bus.consume("g", ["moves"], wait)
    one.start(consumer)
    await one.publish(*[message("k", f"{n}") for n in range(25)])
    await seen.enough(25)
    await settled(consumer, 25)
    gate.set()
    await settled(consumer)
    assert {topic for topic, _ in consumer.lag()} == {"moves"}


@pytest.mark.mock_cluster_lacks("it names no controller, which the admin client asks to create topics")
async def test_creating_topics_again_changes_nothing(rig: Rig) -> None:
    one = await rig.bus()
    await one.publish(message("k", "kept"))
    assert list(await one.bus.create_topics()) == []
    seen = Seen()
    one.start(one.bus.consume("g", ["moves"], seen))
    await seen.enough(1)


async def test_an_unknown_topic_is_refused_at_once(rig: Rig) -> None:
    one = await rig.bus()
    with pytest.raises(LookupError, match="nowhere"):
        await one.publish(message("k", topic="nowhere"))
    with pytest.raises(LookupError, match="nowhere"):
        one.bus.consume("g", ["nowhere"], Seen())
    with pytest.raises(LookupError, match="nowhere"):
        one.bus.broadcast(["nowhere"], Seen())
