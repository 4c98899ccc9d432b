"""Log files of the services: what a child writes goes from its pipe to a file that is rotated by size.

The pipe is emptied in large pieces now and then rather than line by line, so that a busy service costs `up`
nothing.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

LineTap = Callable[[str, bytes], None]

_MAX_BYTES: Final = 10 * 1024 * 1024
_KEEP: Final = 3
_PIPE_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 18
# A child may fill its pipe for so long before it is looked at again, in seconds.
_PAUSE_S: Final = 0.05
_TAIL_BYTES: Final = 16 * 1024
_QUALIFIED_CLASS: Final = re.compile(r"^[a-z_]\w*(\.\w+)+: ")


class ServiceLog:
    """`<name>.log`, with `<name>.log.1` … before it. `tap`, if given, is handed each whole line as well."""

    def __init__(self, path: Path, tap: LineTap | None = None, *, max_bytes: int = _MAX_BYTES) -> None:
        self.path = path
        self._tap = tap
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Whole lines. A full disk loses lines, never the service."""
        if self._size + len(data) > self._max_bytes and self._size:
            self._rotate()
        with contextlib.suppress(OSError):
            self._size += os.write(self._fd, data)
        if self._tap is not None:
            for line in data.splitlines():
                self._tap(self.path.stem, line)

    def close(self) -> None:
        """Nothing is written from now on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> int:
        # Log lines may name customers and addresses.
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(_KEEP, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            with contextlib.suppress(OSError):
                newer.replace(older)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size


class LogPump:
    """Moves what one process writes into its log. `write_end` is for the process; `start` closes our copy of
    it.
    """

    def __init__(self, log: ServiceLog) -> None:
        self._log = log
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        with contextlib.suppress(OSError):  # above what an unprivileged user may ask for
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._partial = b""
        self._tail = b""
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Call once the process has its end."""
        os.close(self.write_end)
        self.write_end = -1
        self._listen()

    def close(self) -> None:
        """Takes what is still in the pipe and closes it."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1
        if self._read_end < 0:
            return
        while self._take():
            pass
        if self._partial:
            self._log.write(self._partial + b"\n")
            self._partial = b""
        self._forget()

    def last_words(self) -> str:
        """The last line that tells an error, else the last line; empty if nothing was written."""
        lines = [line for line in self._tail.splitlines() if line.strip()]
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                return line.decode("utf-8", "replace").strip()
            if isinstance(entry, dict) and entry.get("level") in ("ERROR", "CRITICAL"):
                return _error_text(entry)
        if not lines:
            return ""
        return str(json.loads(lines[-1]).get("message", ""))

    def _listen(self) -> None:
        self._resume = None
        if self._read_end >= 0:
            asyncio.get_running_loop().add_reader(self._read_end, self._on_readable)

    def _on_readable(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._read_end)
        if self._take():
            self._resume = loop.call_later(_PAUSE_S, self._listen)
        else:
            self._forget()

    def _take(self) -> bool:
        """Moves one piece; False at the end of the pipe or when nothing is there."""
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except OSError:  # BlockingIOError too: nothing there
            return False
        if not data:
            return False
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        whole, newline, self._partial = (self._partial + data).rpartition(b"\n")
        if newline:
            self._log.write(whole + newline)
        return True

    def _forget(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        if self._read_end >= 0:
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(self._read_end)
            os.close(self._read_end)
            self._read_end = -1


def _error_text(entry: dict[str, object]) -> str:
    """Message and, where there is a traceback, what its last line says."""
    message = str(entry.get("message", ""))
    trace = str(entry.get("error", "")).strip().splitlines()
    # A class of ours or of a library says nothing to who runs it; a bare KeyError: 'x' would without.
    return f"{message}: {_QUALIFIED_CLASS.sub('', trace[-1])}" if trace else message
