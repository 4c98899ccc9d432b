"""Records on disk while the service that wants them is away: appended, synced, read back oldest first.

A record is its length and CRC-32 (4 bytes each, big-endian) and its bytes. A file whose end was torn by a
crash gives everything up to there. Each process appends to files of its own and holds a lock on the one it
writes to, so processes of one service may share a folder; a dead process's lock is gone with it, and its
files are read by whoever comes next. Calls block on the disk: run them in a thread, or in several.
"""

import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

_HEAD: Final = struct.Struct(">II")
_SUFFIX: Final = ".spool"


def frame(record: bytes) -> bytes:
    """A record as it lies in the file."""
    return _HEAD.pack(len(record), zlib.crc32(record)) + record


def frames(data: bytes) -> Iterator[bytes]:
    """The records up to the end, or up to the first that is torn or damaged."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, check = _HEAD.unpack_from(data, at)
        record = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(record) < length or zlib.crc32(record) != check:
            return
        yield record
        at += _HEAD.size + length


class Spool:
    """A folder of record files, at most `max_bytes` in all; beyond that nothing more is taken."""

    def __init__(self, folder: Path, *, max_bytes: int = 256 << 20, file_bytes: int = 4 << 20) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._file_bytes = file_bytes
        self._out: BinaryIO | None = None
        self._count = 0
        # Over the file being written: a reader must not close it under a writer.
        self._lock = threading.Lock()

    def append(self, records: Sequence[bytes]) -> int:
        """Takes records in order and returns how many had room; those are durable. Raises OSError."""
        with self._lock:
            return self._append(records)

    def _append(self, records: Sequence[bytes]) -> int:
        room = self._max_bytes - self.size()
        taken: list[bytes] = []
        for record in records:
            framed = frame(record)
            room -= len(framed)
            if room < 0:
                break
            taken.append(framed)
        if taken:
            out = self._file()
            start = out.tell()
            try:
                out.write(b"".join(taken))
                out.flush()
                os.fsync(out.fileno())
            except OSError:
                # Half a batch must not stand before later ones: what follows a torn record is not read.
                out.truncate(start)
                self._close()
                raise
            if out.tell() >= self._file_bytes:
                self._close()
        return len(taken)

    def oldest(self) -> tuple[Path, list[bytes]] | None:
        """The oldest file that no process writes to, and its records; `discard` it once delivered."""
        with self._lock:
            self._close()
            for path in self._paths():
                try:
                    with path.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        return path, list(frames(file.read()))
                except (BlockingIOError, FileNotFoundError):  # still written to, or just delivered
                    continue
            return None

    def discard(self, path: Path) -> None:
        """Forgets a file whose records are delivered."""
        path.unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes on disk, files of other processes included."""
        total = 0
        for path in self._paths():
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # another process has just delivered it
                continue
        return total

    def close(self) -> None:
        """Lets go of the file being written; the next record begins another."""
        with self._lock:
            self._close()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder.exists() else []

    def _file(self) -> BinaryIO:
        if self._out is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._count += 1
            name = f"{time.time_ns():020d}-{os.getpid()}-{self._count}{_SUFFIX}"
            self._out = (self._folder / name).open("xb")
            fcntl.flock(self._out, fcntl.LOCK_EX)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)  # a new file is durable only with its name
            finally:
                os.close(folder)
        return self._out

    def _close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
