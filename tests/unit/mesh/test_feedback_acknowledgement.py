"""Acknowledged means durable: in the store, or on disk. What is lost is never acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from recorder_rig import GUARD_S, Service, acknowledged, event, pipeline, running, spooled

from services.mesh.errors import AlreadyExists, Internal, Unavailable
from services.mesh.feedback import create_dispatcher
from services.mesh.feedback import pipeline as module
from services.mesh.feedback.frames import read
from services.mesh.feedback.spool import Spool
from services.mesh.feedback.waiting import Waiting


@pytest.fixture
def service() -> Service:
    return Service()


def set_aside(folder: Path) -> list[bytes]:
    """The records that were refused."""
    [path] = folder.glob("*.refused")
    return read(path.read_bytes()).records


async def test_an_event_is_acknowledged_when_the_service_has_answered(
    service: Service, tmp_path: Path
) -> None:
    recorder = pipeline(service, tmp_path)
    receipt = recorder.record_outcome(event("a"))
    assert receipt.durable is None
    async with running(recorder):
        assert await receipt
    assert receipt.durable
    assert (service.names, spooled(tmp_path)) == (["a"], [])


async def test_an_event_is_acknowledged_when_it_is_on_disk(service: Service, tmp_path: Path) -> None:
    service.leave()
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a", "b") == [True, True]
    await recorder.close()
    assert (service.names, spooled(tmp_path)) == ([], ["a", "b"])


async def test_a_result_tells_when_its_event_is_durable(service: Service, tmp_path: Path) -> None:
    async def agent(given: object, context: object) -> object:
        return given

    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await (await create_dispatcher(recorder).dispatch(agent, "a")).durable()
    assert service.names == ["a"]


async def test_what_the_service_refuses_is_not_acknowledged(service: Service, tmp_path: Path) -> None:
    service.refused = {"bad"}
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a", "bad", "b") == [True, False, True]
    assert (service.names, recorder.delivered, recorder.dropped) == (["a", "b"], 2, 1)


async def test_a_single_event_that_the_service_refuses_is_not_acknowledged(
    service: Service, tmp_path: Path
) -> None:
    service.error = AlreadyExists("with other content")
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a") == [False]


async def test_nothing_is_acknowledged_when_outcome_logging_is_off(service: Service, tmp_path: Path) -> None:
    assert await acknowledged(pipeline(service, tmp_path, enabled=False), "a") == [False]


async def test_who_waits_may_give_up_and_others_learn_of_it_all_the_same(
    service: Service, tmp_path: Path
) -> None:
    async def wait() -> bool:
        return await receipt

    recorder = pipeline(service, tmp_path)
    receipt = recorder.record_outcome(event("a"))
    gone, there = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    gone.cancel()
    async with running(recorder):
        assert await there
    assert gone.cancelled()


@pytest.mark.parametrize("error", [Unavailable("away"), Internal("a fault"), OSError("reset"), ValueError()])
async def test_whatever_a_service_fails_with_the_events_go_to_the_spool(
    service: Service, tmp_path: Path, error: Exception
) -> None:
    service.error = error
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a") == [True]
        assert recorder.spooled == 1
        service.come_back()
        await service.has("a")


async def test_a_service_that_does_not_answer_keeps_nobody_waiting_for_the_disk(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
    service.silent = True
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a") == [True]
        assert await acknowledged(recorder, "b", "c") == [True, True]
    assert recorder.spooled == 3


async def test_new_events_are_durable_at_once_however_long_the_service_is_away(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (3600.0, 3600.0))
    service.leave()
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        await acknowledged(recorder, "a")
        await service.until(lambda: service.calls >= 2)
        for name in "bcd":
            assert await acknowledged(recorder, name) == [True]
    assert service.calls == 2


async def test_events_that_come_while_the_spool_is_emptied_queue_behind_it(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.001, 0.001))
    service.leave()
    names = [f"{number}" for number in range(200)]
    recorder = pipeline(service, tmp_path, spool=Spool(tmp_path, file_bytes=2_000))
    async with running(recorder):
        for number, name in enumerate(names):
            assert await acknowledged(recorder, name) == [True]
            if number == 100:
                service.come_back()
        await service.has(*names)
    assert service.names == names
    assert recorder.dropped == 0


async def test_what_an_earlier_process_left_comes_before_what_is_new(
    service: Service, tmp_path: Path
) -> None:
    service.leave()
    first = pipeline(service, tmp_path)
    first.record_outcome(event("old"))
    await first.close()
    service.come_back()
    second = pipeline(service, tmp_path)
    second.record_outcome(event("new"))
    async with running(second):
        await service.has("old", "new")
    assert service.names == ["old", "new"]


async def test_what_a_dead_process_left_is_taken_over_by_one_that_lives(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "mine") == [True]
        dead = Spool(tmp_path)
        dead.append([event("of the dead").SerializeToString()])
        dead.close()
        await service.has("of the dead")
    assert service.calls == 2


async def test_two_processes_on_one_folder_deliver_each_event_once(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.001, 0.001))
    service.leave()
    names = [f"{number}" for number in range(100)]
    first, second = (pipeline(service, tmp_path, spool=Spool(tmp_path, file_bytes=1_000)) for _ in range(2))
    async with running(first), running(second):
        for number, name in enumerate(names):
            assert await acknowledged((first, second)[number % 2], name) == [True]
        service.come_back()
        await service.has(*names)
    assert len(service.events) == len(names)


async def test_a_record_that_is_no_event_is_set_aside_and_those_behind_it_arrive(
    service: Service, tmp_path: Path
) -> None:
    spool = Spool(tmp_path)
    spool.append([event("a").SerializeToString(), b"\xff no event", event("b").SerializeToString()])
    spool.close()
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "c") == [True]
        await service.has("a", "b", "c")
    assert set_aside(tmp_path) == [b"\xff no event"]
    assert recorder.dropped == 1


async def test_an_acknowledged_event_that_the_service_refuses_later_is_kept_aside(
    service: Service, tmp_path: Path
) -> None:
    service.leave()
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a", "bad", "b") == [True, True, True]
        service.refused = {"bad"}
        service.come_back()
        await service.has("a", "b")
        assert await acknowledged(recorder, "after") == [True]
        await service.has("after")
    await recorder.close()
    [record] = set_aside(tmp_path)
    assert b"bad" in record


async def test_a_replay_that_fails_half_way_goes_on_where_it_was(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.001, 0.001))
    names = [f"{number}" for number in range(3_000)]
    spool = Spool(tmp_path)
    spool.append([event(name).SerializeToString() for name in names])
    spool.close()

    async def send(events: list[object]) -> object:
        if service.calls == 1:
            service.calls += 1
            raise Unavailable("for a moment")
        return await Service.send(service, events)  # type: ignore[arg-type]

    recorder = pipeline(service, tmp_path, send=send)
    async with running(recorder):
        await service.has(*names)
    assert [one.action_type for one in service.events] == names


async def test_without_room_in_memory_those_that_came_first_stay(service: Service, tmp_path: Path) -> None:
    recorder = pipeline(service, tmp_path, waiting=Waiting(10, max_events=2))
    first, second, third = (recorder.record_outcome(event(name)) for name in "abc")
    assert (first.durable, second.durable, third.durable) == (None, None, False)
    assert recorder.dropped == 1
    async with running(recorder):
        await service.has("a", "b")
        assert await acknowledged(recorder, "d") == [True]
    assert (first.durable, second.durable, third.durable) == (True, True, False)
    assert service.names == ["a", "b", "d"]


async def test_memory_is_bounded_in_bytes_too(service: Service, tmp_path: Path) -> None:
    size = event("a").ByteSize()
    recorder = pipeline(service, tmp_path, waiting=Waiting(10, max_bytes=2 * size))
    receipts = [recorder.record_outcome(event(name)) for name in "abc"]
    assert [receipt.durable for receipt in receipts] == [None, None, False]


async def test_a_cancel_while_the_answer_is_awaited_loses_nothing(service: Service, tmp_path: Path) -> None:
    service.silent = True
    recorder = pipeline(service, tmp_path)
    receipt = recorder.record_outcome(event("a"))
    async with running(recorder):
        await service.until(lambda: service.calls == 1)
    service.silent = False
    await recorder.close()
    assert await receipt
    assert service.names == ["a"]


async def test_after_the_end_nothing_is_acknowledged(service: Service, tmp_path: Path) -> None:
    recorder = pipeline(service, tmp_path)
    await recorder.close()
    await recorder.close()
    assert await acknowledged(recorder, "a") == [False]
    assert recorder.dropped == 1


async def test_many_at_once_are_acknowledged_in_few_calls(service: Service, tmp_path: Path) -> None:
    recorder = pipeline(service, tmp_path, linger_s=GUARD_S, batch_size=100)
    async with running(recorder):
        assert all(await acknowledged(recorder, *(f"{number}" for number in range(5_000))))
    assert service.calls <= 6
