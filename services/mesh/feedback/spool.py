"""Records on disk while the service that wants them is away: appended, synced, read back oldest first.

A folder of files of frames. Their names begin with a number that only grows, whatever the clock does. Each
process appends to files of its own and holds a lock on the one it writes to; whoever reads a file holds its
lock until it is delivered. So processes of one service may share a folder, and what a dead one left is taken
over by one of those that live. Calls block on the disk: run them in a thread, or in several.

Nothing is dropped unseen: a file with damage stays as `.damaged` once its whole records are delivered, and
records that the service refused lie in a file `.refused`; of both the newest are kept.
"""

import errno
import fcntl
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from services.mesh.feedback.frames import frame, read

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".spool"
_DAMAGED: Final = ".damaged"
# What a disk says that has lost what lies on it.
_BROKEN: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
_REFUSED: Final = ".refused"
_NAME: Final = re.compile(r"(\d{20})-[0-9a-f]+\.(?:spool|damaged|refused)")
# The share of the bound that what was set aside may take besides.
_ASIDE_SHARE: Final = 8
# What a process is short of for a while.
_NO_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_LAST_NUMBER: Final = 10**20 - 1
# A write that fails with these may succeed with less.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Leftover:
    """A file that nobody writes to any more, locked for whoever holds this: `discard` or `release` it."""

    def __init__(self, spool: "Spool", path: Path, lock: int, data: bytes) -> None:
        found = read(data)
        self.path = path
        self.records = found.records
        self.damaged = found.damaged
        self._spool = spool
        self._lock = lock

    def discard(self, refused: Sequence[bytes] = ()) -> None:
        """Forgets the file, whose records are delivered, all but the `refused`. Raises OSError.

        Done again, or after `release`, it does nothing: a disk that keeps the file, such as one that has
        turned read-only, does not make this process deliver it again.
        """
        if self._lock < 0:
            return
        try:
            if refused:
                self._spool.set_aside(self.path, refused)
            if self.damaged:
                self.path.rename(self.path.with_suffix(_DAMAGED))
            else:
                self.path.unlink(missing_ok=True)
        except OSError:
            self._spool.skip(self.path)
            raise
        finally:
            self.release()

    def release(self) -> None:
        """Leaves the file to whoever comes next."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class Spool:
    """A folder of record files, at most `max_bytes` in all; beyond that nothing more is taken.

    So the oldest stay. A file is closed beyond `file_bytes`, the size in which records are read back.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 256 << 20, file_bytes: int = 4 << 20) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._file_bytes = file_bytes
        self._out = -1
        self._path: Path | None = None
        self._written = 0
        self._skipped: set[Path] = set()
        # Of each file, when its records began to wait; by the wall clock, as the file system tells it.
        self._seen: dict[Path, float] = {}
        # Folders whose names are not known to be durable yet.
        self._made: list[Path] = []
        # Over the file being written: a reader must not close it under a writer.
        self._lock = threading.Lock()

    def append(self, records: Sequence[bytes]) -> int:
        """Takes records in order and returns how many; those are durable, the others had no room.

        Raises OSError if the disk takes none.
        """
        with self._lock:
            taken = 0
            try:
                for some in self._cut(records):
                    written = self._write_fitting(some)
                    taken += written
                    if written < len(some):
                        break
            except OSError:
                if not taken:
                    raise
            return taken

    def oldest(self) -> Leftover | None:
        """The oldest file that nobody else holds; if it is our own, the next record begins another.

        Raises OSError for what may pass, such as too many open files.
        """
        while True:
            with self._lock:
                held = self._hold()
            if held is None:
                return None
            path, lock = held
            try:
                with os.fdopen(lock, "rb", closefd=False) as file:
                    return Leftover(self, path, lock, file.read())
            except OSError as error:
                os.close(lock)
                if error.errno not in _BROKEN:
                    raise
                # What the disk does not give back must not stand before what it does.
                _log.error("%s cannot be read: %s", path, error)
                path.rename(path.with_suffix(_DAMAGED))

    def set_aside(self, origin: Path, records: Iterable[bytes]) -> None:
        """Keeps records that are not to be read back, under a name like that of `origin`. Raises OSError."""
        path = origin.with_suffix(_REFUSED)
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _write_all(out, b"".join(map(frame, records)))
            os.fsync(out)
        finally:
            os.close(out)
        self._sync_names()

    def skip(self, path: Path) -> None:
        """From now on this process does not find the file, which it cannot remove."""
        self._skipped.add(path)

    def size(self) -> int:
        """Bytes that wait on disk, files of other processes included."""
        return sum(map(_size, self._paths(_SUFFIX)))

    def standing(self) -> tuple[int, float]:
        """Bytes that wait on disk, and for how many seconds the oldest have, as far as this process saw."""
        now = time.time()
        paths = self._paths(_SUFFIX)
        # A file that is being written is as young as its last record; so the first time it is seen counts.
        self._seen = {path: self._seen.get(path) or _changed(path, now) for path in paths}
        since = min(self._seen.values(), default=now)
        return sum(map(_size, paths)), max(now - since, 0.0)

    def close(self) -> None:
        """Lets go of the file being written; the next record begins another."""
        with self._lock:
            self._close()

    def _hold(self) -> tuple[Path, int] | None:
        for path in self._paths(_SUFFIX):
            if path in self._skipped:
                continue
            try:
                lock = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # just delivered by another process
                continue
            except OSError as error:
                if error.errno in _NO_MEANS:
                    raise
                _log.error("%s cannot be opened: %s", path, error)
                continue
            if path == self._path:
                self._close()
            try:
                locked = _locked(lock)
            except OSError:
                os.close(lock)
                raise
            if locked:
                return path, lock
            os.close(lock)
        return None

    def _cut(self, records: Sequence[bytes]) -> Iterable[list[bytes]]:
        """Frames that have room, in portions of a file."""
        room = self._max_bytes - self.size()
        some: list[bytes] = []
        size = self._written
        for record in records:
            framed = frame(record)
            room -= len(framed)
            if room < 0:
                break
            some.append(framed)
            size += len(framed)
            if size >= self._file_bytes:
                yield some
                some, size = [], 0
        if some:
            yield some

    def _write_fitting(self, some: Sequence[bytes]) -> int:
        """How many of these the disk took. Raises OSError if it took none."""
        try:
            self._write(b"".join(some))
            return len(some)
        except OSError as error:
            if len(some) == 1 or error.errno not in _NO_ROOM:
                raise
        half = len(some) // 2
        taken = self._write_fitting(some[:half])
        if taken == half:
            with suppress(OSError):
                taken += self._write_fitting(some[half:])
        return taken

    def _write(self, data: bytes) -> None:
        out = self._file()
        start = self._written
        try:
            _write_all(out, data)
            os.fsync(out)
        except OSError:
            # After a failed write or sync nobody knows what the disk holds: nothing more goes into this file,
            # and what it may hold of this is not acknowledged. If it can be taken back, it is.
            with suppress(OSError):
                os.ftruncate(out, start)
            if not start and self._path is not None:
                with suppress(OSError):
                    self._path.unlink()
            self._close()
            raise
        self._written = start + len(data)
        if self._written >= self._file_bytes:
            self._close()

    def _file(self) -> int:
        if self._out >= 0 and not os.fstat(self._out).st_nlink:  # somebody has cleared the folder
            self._close()
        if self._out < 0:
            self._make_folder()
            self._trim_aside()
            while self._out < 0:
                self._begin()
        return self._out

    def _begin(self) -> None:
        """A new file, unless a reader of another process is faster. One that cannot be begun is not left."""
        path = self._folder / f"{self._next():020d}-{secrets.token_hex(4)}{_SUFFIX}"
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            if not _locked(out):  # the reader found it empty and forgot it
                os.close(out)
                return
            self._sync_names()
        except OSError:
            with suppress(OSError):
                path.unlink()
            os.close(out)
            raise
        self._out, self._path, self._written = out, path, 0

    def _make_folder(self) -> None:
        if not self._folder.exists():
            self._made += [one for one in (self._folder, *self._folder.parents) if not one.exists()]
            self._folder.mkdir(parents=True, exist_ok=True)
        while self._made:
            with suppress(PermissionError):  # of a folder that may be passed and not be read
                _sync_folder(self._made[-1].parent)
            self._made.pop()

    def _next(self) -> int:
        """One more than any name has. What is gone was delivered: nothing older is ordered by it."""
        matches = (_NAME.fullmatch(name) for name in os.listdir(self._folder))
        return min(1 + max((int(match[1]) for match in matches if match), default=0), _LAST_NUMBER)

    def _sync_names(self) -> None:
        """A new file is durable only with its name."""
        _sync_folder(self._folder)

    def _trim_aside(self) -> None:
        """Forgets the oldest of what was set aside, if it is too much."""
        aside = self._paths(_DAMAGED, _REFUSED)
        size = sum(map(_size, aside))
        for path in aside:
            if size <= self._max_bytes // _ASIDE_SHARE:
                return
            size -= _size(path)
            _log.error("%s is forgotten: more than enough is damaged or refused", path)
            with suppress(OSError):
                path.unlink()

    def _paths(self, *suffixes: str) -> list[Path]:
        try:
            names = sorted(os.listdir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self._folder / name for name in names if name.endswith(suffixes) and _NAME.fullmatch(name)]

    def _close(self) -> None:
        out, self._out, self._path, self._written = self._out, -1, None, 0
        if out >= 0:
            os.close(out)


def _write_all(out: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(out, rest) :]


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Takes the lock of a file; not of one that is locked, nor of one that was removed meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file).st_nlink > 0


def _changed(path: Path, now: float) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just delivered it
        return now


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process has just delivered it
        return 0
