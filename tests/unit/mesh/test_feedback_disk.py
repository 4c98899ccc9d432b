"""A disk that is full, breaks or is not there: nothing is acknowledged that is not on it, and all ends well.

Where the tests may mount a file system of their own, a small one is filled; the other faults are raised by
the calls that write and sync.
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorder_rig import Service, acknowledged, drained, event, pipeline, running, spooled

from services.mesh.feedback import pipeline as module
from services.mesh.feedback.frames import frame
from services.mesh.feedback.spool import Spool

FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")


class Disk:
    """Stands before write and fsync: while `error` is set they fail, a write after `room` more bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.sync_error: OSError | None = None
        self.room = 0
        self.failures = 0
        self._write, self._fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, file: int, data: memoryview) -> int:
        if self.error is None:
            return self._write(file, data)
        if not self.room:
            self.failures += 1
            raise self.error
        count = self._write(file, data[: self.room])
        self.room -= count
        return count

    def fsync(self, file: int) -> None:
        if self.sync_error is not None:
            self.failures += 1
            raise self.sync_error
        self._fsync(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("room", [0, 1, 16])
def test_a_disk_that_fills_up_within_a_write_takes_nothing_of_it(
    disk: Disk, tmp_path: Path, room: int
) -> None:
    spool = Spool(tmp_path)
    assert spool.append([b"before"]) == 1
    disk.error, disk.room = FULL, room
    with pytest.raises(OSError, match="No space"):
        spool.append([b"first", b"second"])
    disk.error = None
    assert spool.append([b"after"]) == 1
    assert drained(spool) == [b"before", b"after"]


@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_a_sync_that_fails_acknowledges_nothing_and_the_file_is_not_used_again(
    disk: Disk, tmp_path: Path, error: OSError
) -> None:
    spool = Spool(tmp_path)
    assert spool.append([b"before"]) == 1
    disk.sync_error = error
    with pytest.raises(OSError, match=error.strerror or ""):
        spool.append([b"lost"])
    disk.sync_error = None
    assert spool.append([b"after"]) == 1
    assert len(list(tmp_path.iterdir())) == 2
    assert drained(spool) == [b"before", b"after"]


def test_a_disk_that_fills_up_between_files_keeps_those_that_are_whole(disk: Disk, tmp_path: Path) -> None:
    spool = Spool(tmp_path, file_bytes=1)
    disk.error, disk.room = FULL, len(frame(b"a")) + 2
    assert spool.append([b"a", b"b", b"c"]) == 1
    disk.error = None
    assert drained(spool) == [b"a"]


def test_short_writes_are_gone_on_with(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda file, data: disk.write(file, data[:3]))
    spool = Spool(tmp_path)
    assert spool.append([b"a longer record", b"b"]) == 2
    assert drained(spool) == [b"a longer record", b"b"]


async def test_while_the_disk_is_full_events_wait_in_memory_and_are_acknowledged_when_there_is_room(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DISK_RETRY_S", 0.001)
    monkeypatch.setattr(module, "_BACKOFF_S", (3600.0, 3600.0))
    service = Service()
    service.leave()
    recorder = pipeline(service, tmp_path)
    disk.error = FULL
    async with running(recorder):
        waiting = [recorder.record_outcome(event(name)) for name in "abc"]
        await service.until(lambda: disk.failures > 2)
        assert [receipt.durable for receipt in waiting] == [None] * 3
        disk.error = None
        assert await acknowledged(recorder, "d") == [True]
        assert [receipt.durable for receipt in waiting] == [True] * 3
    await recorder.close()
    assert spooled(tmp_path) == ["a", "b", "c", "d"]
    assert recorder.dropped == 0


async def test_while_the_disk_is_full_a_service_that_comes_back_takes_what_waits(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DISK_RETRY_S", 0.001)
    service = Service()
    service.leave()
    recorder = pipeline(service, tmp_path)
    disk.error = FULL
    async with running(recorder):
        waiting = [recorder.record_outcome(event(name)) for name in "abc"]
        await service.until(lambda: disk.failures > 2)
        service.come_back()
        assert await acknowledged(recorder, "d") == [True]
    assert [receipt.durable for receipt in waiting] == [True] * 3
    assert service.names == ["a", "b", "c", "d"]


async def test_a_spool_at_its_bound_keeps_the_oldest_and_the_rest_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DISK_RETRY_S", 0.001)
    monkeypatch.setattr(module, "_BACKOFF_S", (0.001, 0.001))
    service = Service()
    service.leave()
    bound = 2 * len(frame(event("a").SerializeToString()))
    recorder = pipeline(service, tmp_path, spool=Spool(tmp_path, max_bytes=bound))
    async with running(recorder):
        receipts = [recorder.record_outcome(event(name)) for name in "abc"]
        await service.until(lambda: recorder.spooled == 2 and service.calls > 3)
        assert [receipt.durable for receipt in receipts] == [True, True, None]
        service.come_back()
        await service.has("a", "b", "c")
    assert service.names == ["a", "b", "c"]
    assert recorder.dropped == 0


async def test_what_neither_service_nor_disk_takes_at_the_end_is_counted_and_not_acknowledged(
    disk: Disk, tmp_path: Path
) -> None:
    service = Service()
    service.leave()
    disk.error = FULL
    recorder = pipeline(service, tmp_path)
    receipts = [recorder.record_outcome(event(name)) for name in "abc"]
    await recorder.close()
    assert [receipt.durable for receipt in receipts] == [False] * 3
    assert recorder.dropped == 3


async def test_a_folder_that_cannot_be_made_keeps_events_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DISK_RETRY_S", 0.001)
    service = Service()
    service.leave()
    in_the_way = tmp_path / "spool"
    in_the_way.write_bytes(b"")
    recorder = pipeline(service, in_the_way)
    async with running(recorder):
        receipt = recorder.record_outcome(event("a"))
        await service.until(lambda: service.calls > 3)
        assert receipt.durable is None
        in_the_way.unlink()
        assert await acknowledged(recorder, "b") == [True]
    assert receipt.durable


def test_a_file_that_cannot_be_read_does_not_stand_before_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, file_bytes=1)
    spool.append([b"a", b"b"])
    opened: Callable[..., object] = os.fdopen
    broken = iter([True])

    def failing(file: int, mode: str, **options: bool) -> object:
        if next(broken, False):
            raise BROKEN
        return opened(file, mode, **options)

    monkeypatch.setattr(os, "fdopen", failing)
    assert drained(spool) == [b"b"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".damaged"]


def test_a_file_that_cannot_be_opened_for_want_of_a_place_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a", b"b"])
    opened: Callable[..., object] = os.fdopen
    full = iter([True])

    def failing(file: int, mode: str, **options: bool) -> object:
        if next(full, False):
            raise OSError(errno.EMFILE, "too many open files")
        return opened(file, mode, **options)

    monkeypatch.setattr(os, "fdopen", failing)
    with pytest.raises(OSError, match="too many open files"):
        spool.oldest()
    assert drained(spool) == [b"a", b"b"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_real_file_system_that_is_full_loses_nothing_that_was_acknowledged(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DISK_RETRY_S", 0.001)
    monkeypatch.setattr(module, "_BACKOFF_S", (0.01, 0.01))
    service = Service()
    service.leave()
    recorder = pipeline(service, small)
    async with running(recorder):
        receipts = [recorder.record_outcome(event(f"{number}")) for number in range(1_000)]
        await service.until(lambda: recorder.spooled > 0 and service.calls > 5)
        taken = [receipt.event.action_type for receipt in receipts if receipt.durable]
        assert taken == [f"{number}" for number in range(len(taken))]
        assert 0 < len(taken) < 1_000
        service.come_back()
        await service.has(*(f"{number}" for number in range(1_000)))
        async with asyncio.timeout(30):
            assert all([await receipt for receipt in receipts])
    assert service.names == [f"{number}" for number in range(1_000)]
    assert recorder.dropped == 0
