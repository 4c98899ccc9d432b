"""What happens when eta dies, comes back, or is one of several: nothing lost, nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eta_rig import Rig, counted, order, rig, stream, way
from waymesh.eta.v1.eta_service_pb2 import WatchEtaRequest
from waymesh.eta.v1.gps_stream_pb2 import ReportGpsRequest

from services.eta.consumer import FixConsumer


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


async def test_a_crash_in_the_middle_of_a_batch_changes_nothing(
    mesh: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try of every batch ends right before its commit."""
    publish = FixConsumer.publish
    crashed: list[int] = []

    async def crash_once(self: FixConsumer, conn: Any, state: Any, *what: Any) -> None:
        await publish(self, conn, state, *what)
        if state.number not in crashed:
            crashed.append(state.number)
            raise ConnectionResetError

    monkeypatch.setattr(FixConsumer, "publish", crash_once)
    await mesh.place(*(order(number) for number in range(6)))
    stub = mesh.stub(await mesh.start())
    events = [event for number in range(6) for event in way(number)]
    await stream(stub, events)
    stats = await counted(mesh, stub, len(events))
    assert crashed
    assert (stats.fixes, stats.duplicates, stats.conflicts) == (len(events), 0, 0)
    published = await mesh.published()
    stored = await mesh.row("SELECT seq FROM eta.prediction_head")
    assert stats.predictions == len(published) == stored["seq"]


async def test_repeats_are_known_after_a_restart(mesh: Rig) -> None:
    await mesh.place(order(1))
    eta = await mesh.start()
    stub = mesh.stub(eta)
    events = way(1)
    await stream(stub, events[:30])
    await counted(mesh, stub, 30)
    before = len(await mesh.published())
    await eta.stop()

    stub = mesh.stub(await mesh.start())
    await stream(stub, events[:30])
    stats = await counted(mesh, stub, 60)
    assert (stats.fixes, stats.duplicates) == (30, 30)
    assert len(await mesh.published()) == before
    late = events[10]
    late.event_id = "another"
    await stream(stub, [late])
    stats = await counted(mesh, stub, 61)
    assert [entry.count for entry in stats.flags if entry.flag == 5] == [1]


async def test_a_fix_that_waits_survives_a_restart(mesh: Rig) -> None:
    eta = await mesh.start()
    stub = mesh.stub(eta)
    await stub.ReportGps(ReportGpsRequest(event=way(1)[3]))
    await counted(mesh, stub, 1)
    await eta.stop()
    stub = mesh.stub(await mesh.start())
    await mesh.place(order(1))

    async def predicted() -> bool:
        return len(await mesh.published()) == 1

    await mesh.until(predicted, "the waiting fix is predicted from")


async def test_two_replicas_share_the_work_and_do_it_once(mesh: Rig) -> None:
    first, second = await mesh.start(), await mesh.start()
    stubs = [mesh.stub(first), mesh.stub(second)]
    ways = [way(number) for number in range(20)]
    # Half of the orders are known late: both replicas hear of them, one predicts.
    await mesh.place(*(order(number) for number in range(10)))
    half = [event for events in ways for event in events[:20]]
    rest = [event for events in ways for event in events[20:]]
    await asyncio.gather(stream(stubs[0], half[::2]), stream(stubs[1], half[1::2]))
    await counted(mesh, stubs[0], len(half))
    await mesh.place(*(order(number) for number in range(10, 20)))
    third = await mesh.start()
    await second.stop()
    await stream(mesh.stub(third), rest)
    stats = await counted(mesh, stubs[0], len(half) + len(rest))
    assert (stats.fixes, stats.duplicates) == (len(half) + len(rest), 0)

    async def every_order() -> bool:
        return len({one.order_id for one in await mesh.published()}) == 20

    await mesh.until(every_order, "every order is predicted")
    published = await mesh.published()
    seen = {(one.order_id, one.timestamp.seconds, one.delivery_eta_minutes) for one in published}
    assert len(seen) == len(published)


async def test_a_watcher_sees_each_prediction_once_in_the_order_of_the_log(mesh: Rig) -> None:
    await mesh.place(*(order(number) for number in range(6)))
    stub = mesh.stub(await mesh.start())
    watch = stub.WatchEta(WatchEtaRequest())
    responses = aiter(watch)
    await anext(responses)
    events = [event for number in range(6) for event in way(number)]
    await stream(stub, events, size=20)
    stats = await counted(mesh, stub, len(events))
    seen = [await anext(responses) for _ in range(stats.predictions)]
    watch.cancel()
    assert [one.cursor for one in seen] == [f"eta-{number}" for number in range(1, stats.predictions + 1)]
    published = {one.SerializeToString() for one in await mesh.published()}
    assert {one.prediction.SerializeToString() for one in seen} == published
