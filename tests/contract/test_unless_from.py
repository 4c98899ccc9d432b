"""A reader that leaves out what one source published, on both adapters."""

import asyncio

from tests.contract.events_rig import GUARD_S, Rig, Seen, message, settled


async def test_a_reader_passes_over_what_a_source_published_and_reads_all_else(rig: Rig) -> None:
    own, other = await rig.bus("own"), await rig.bus("other")
    for n in range(30):
        await own.publish(*(message(f"k{n % 3}", f"own-{n}-{m}") for m in range(4)))
        if n % 10 == 0:
            await other.publish(*(message(f"k{m}", f"other-{n}-{m}") for m in range(3)))
    seen = Seen()
    consumer = own.bus.consume("g", ["moves"], seen, max_batch=7, unless_from="own")
    task = own.start(consumer)
    await seen.enough(9)
    await settled(consumer)
    assert sorted(seen.values()) == sorted(f"other-{n}-{m}" for n in (0, 10, 20) for m in range(3))

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await own.publish(*(message(f"k{n}", "own again") for n in range(5)))
    await other.publish(message("k1", "other again"))
    heir = other.bus.consume("g", ["moves"], seen, unless_from="own")
    other.start(heir)
    await seen.enough(10)
    await settled(heir)
    assert seen.values()[9:] == ["other again"]


async def test_what_was_passed_over_is_not_looked_at_again_by_the_next_member(rig: Rig) -> None:
    own = await rig.bus("own")
    await own.publish(*(message("k", f"own-{n}") for n in range(20)))
    consumer = own.bus.consume("g", ["moves"], Seen(), unless_from="own")
    task = own.start(consumer)
    stored = (
        "SELECT sum(next) FROM bus.kafka_offsets WHERE group_name = 'g'"
        if type(own.bus).__name__ == "KafkaBus"
        else "SELECT sum(position) FROM bus.offsets WHERE group_name = 'g'"
    )
    async with asyncio.timeout(GUARD_S):
        while (await own.pool.fetchval(stored) or 0) < 20:
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    everything = Seen()
    own.start(own.bus.consume("h", ["moves"], everything))
    assert len(await everything.enough(20)) == 20
