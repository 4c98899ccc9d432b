"""Faults of a disk and of a process's means that last: nothing piles up, and nothing stands in the way."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from recorder_rig import Service, acknowledged, drained, event, pipeline, running

from services.mesh.feedback import pipeline as module
from services.mesh.feedback.frames import frame
from services.mesh.feedback.spool import Spool

READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.fixture
def service() -> Service:
    return Service()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_new_folders_are_durable_with_the_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def noted(file: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    folder = tmp_path / "spool" / "eta"
    spool = Spool(folder)
    spool.append([b"a"])
    spool.close()
    assert {str(tmp_path), str(tmp_path / "spool"), str(folder)} <= synced


@pytest.mark.parametrize("call", ["sync", "lock"])
def test_a_file_that_cannot_be_begun_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    spool = Spool(tmp_path)
    before = descriptors()

    def failing(*_given: object) -> None:
        raise OSError(errno.ENOLCK if call == "lock" else errno.EMFILE, "no means")

    with monkeypatch.context() as faults:
        if call == "lock":
            faults.setattr(fcntl, "flock", failing)
        else:
            faults.setattr(Spool, "_sync_names", failing)
        for _ in range(3):
            with pytest.raises(OSError, match="no means"):
                spool.append([b"a"])
    assert list(tmp_path.iterdir()) == []
    assert descriptors() == before
    assert spool.append([b"b"]) == 1
    assert drained(spool) == [b"b"]


def test_a_reader_that_gets_no_lock_lets_go_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a"])
    spool.close()
    before = descriptors()

    def failing(*_given: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    with monkeypatch.context() as faults:
        faults.setattr(fcntl, "flock", failing)
        with pytest.raises(OSError, match="no locks"):
            spool.oldest()
    assert descriptors() == before


def test_a_spool_is_not_taken_for_empty_for_want_of_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a"])
    spool.close()
    opened: Callable[..., int] = os.open

    def failing(path: object, flags: int, *rest: int) -> int:
        if str(path).endswith(".spool"):
            raise OSError(errno.EMFILE, "too many open files")
        return opened(path, flags, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as faults:
        faults.setattr(os, "open", failing)
        with pytest.raises(OSError, match="too many open files"):
            spool.oldest()
    assert drained(spool) == [b"a"]


def test_a_file_with_the_last_number_there_is_keeps_none_behind_it_from_being_read(tmp_path: Path) -> None:
    (tmp_path / f"{'9' * 20}-00.spool").write_bytes(frame(b"a"))
    spool = Spool(tmp_path)
    spool.append([b"b"])
    assert sorted(drained(spool)) == [b"a", b"b"]


async def test_a_disk_that_turns_read_only_does_not_keep_new_events_from_the_service(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.01, 0.01))
    monkeypatch.setattr(module, "_DISK_RETRY_S", 0.01)
    service.leave()
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "a") == [True]

        def failing(*_given: object, **_options: object) -> None:
            raise READ_ONLY

        with monkeypatch.context() as faults:
            faults.setattr(Path, "unlink", failing)
            faults.setattr(Path, "rename", failing)
            faults.setattr(Spool, "append", failing)
            waiting = recorder.record_outcome(event("b"))
            service.come_back()
            await service.has("a", "b")
            async with asyncio.timeout(30):
                assert await waiting
            assert await acknowledged(recorder, "c") == [True]
            assert service.names == ["a", "b", "c"]
            assert len(service.events) == 3, "each was sent once"
    await recorder.close()
    assert (recorder.delivered, recorder.dropped) == (3, 0)


async def test_a_spool_that_cannot_be_read_at_the_start_is_read_later(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.01, 0.01))
    before = Spool(tmp_path)
    before.append([event("old").SerializeToString()])
    before.close()
    oldest = Spool.oldest
    faults = iter([True])

    def failing(spool: Spool) -> object:
        if next(faults, False):
            raise OSError(errno.EMFILE, "too many open files")
        return oldest(spool)

    monkeypatch.setattr(Spool, "oldest", failing)
    recorder = pipeline(service, tmp_path)
    async with running(recorder):
        assert await acknowledged(recorder, "new") == [True]
        await service.has("old", "new")
        assert service.names == ["old", "new"]
    await recorder.close()
