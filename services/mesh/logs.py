"""JSON lines on stderr: request_id, service, level, message, duration_ms, timestamp, trace_id.

Use the standard `logging` module; `extra={"duration_ms": 1.5, "fields": {...}}` adds to a line. Values under
secret names and passwords in texts are masked. Writing never blocks the event loop: what a slow reader of
stderr does not take waits in a bounded buffer, and beyond that lines are dropped and counted.
"""

import contextlib
import json
import logging
import os
import re
import select
import sys
import traceback
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from services.mesh import trace

request_id: ContextVar[str] = ContextVar("waymesh_request_id", default="")

_MASK: Final = "***"
# Bytes that wait for a slow reader before lines are dropped.
_BUFFER_BYTES: Final = 1 << 20
# A pipe that polls as writable takes this many bytes without blocking (PIPE_BUF, pipe(7)).
_CHUNK_BYTES: Final = 4096
_MAX_TEXT: Final = 16_384

_SECRET_NAME: Final = re.compile(
    r"(?i)(ssn|passw(or)?d|pwd|secret|token|api[_\-]?key|authorization|credential|private[_\-]?key|cookie)"
)
_SECRET_IN_TEXT: Final = (
    # scheme://user:password@host
    (re.compile(r"(?i)([a-z][a-z0-9+.\-]*://[^\s/:@]*):[^\s@]+@"), rf"\1:{_MASK}@"),
    # password=..., "api_key": "...", Authorization: Bearer ...
    (
        re.compile(
            r"(?i)((?:ssn|passw(?:or)?d|pwd|secret|token|api[_\-]?key|authorization)[\"']?\s*[=:]\s*)"
            r"(?:(?:bearer|basic)\s+)?(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)"
        ),
        rf"\1{_MASK}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=\-]{8,}"), rf"\1 {_MASK}"),
    (re.compile(r"\bsk-[A-Za-z0-9_\-]{8,}"), _MASK),
)
_HINTS: Final = re.compile(r"(?i)@|ssn|passw|pwd|secret|token|api.?key|authorization|bearer|basic|sk-")


def scrub(text: str) -> str:
    """The text with passwords in addresses, key=value secrets and bearer tokens masked."""
    if _HINTS.search(text) is None:
        return text
    for pattern, replacement in _SECRET_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _clean(value: object) -> object:
    """Fields of a line: secret names masked at any depth, texts scrubbed, everything else as text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {
            str(key): _MASK if _SECRET_NAME.search(str(key)) else _clean(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return scrub(str(value))[:_MAX_TEXT]


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        message = scrub(record.getMessage())
        line: dict[str, Any] = {
            "timestamp": _timestamp(record.created),
            "level": record.levelname,
            "service": self._service,
            "message": message[:_MAX_TEXT],
            "request_id": request_id.get(),
            "trace_id": trace.current_trace_id(),
            "duration_ms": getattr(record, "duration_ms", None),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = _clean(fields)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = scrub("".join(traceback.format_exception(*record.exc_info)))[-_MAX_TEXT:]
        return json.dumps(line, ensure_ascii=False, default=str)


def _timestamp(created_s: float) -> str:
    moment = datetime.fromtimestamp(created_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class _Descriptor:
    """Writes to a file descriptor as much as it takes at once, and keeps the rest for the next time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self.dropped = 0

    def write(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        if self._waiting_bytes + len(data) > _BUFFER_BYTES:
            self.dropped += 1
        else:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        self.flush()

    def flush(self, wait_ms: int = 0) -> None:
        while self._waiting:
            if not any(event & select.POLLOUT for _, event in self._poll.poll(wait_ms)):
                return
            chunk = self._waiting[0]
            try:
                written = os.write(self._fd, chunk[:_CHUNK_BYTES])
            except BlockingIOError:
                return
            except OSError:  # the reader has gone: nobody is left to tell
                self._waiting.clear()
                self._waiting_bytes = 0
                return
            self._waiting_bytes -= written
            if written == len(chunk):
                self._waiting.popleft()
            else:
                self._waiting[0] = chunk[written:]


class LineHandler(logging.Handler):
    """Sends lines to a stream; to its file descriptor without ever waiting, where it has one."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor: _Descriptor | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):  # those of an in-memory stream
            self._descriptor = _Descriptor(stream.fileno())

    @property
    def dropped(self) -> int:
        """Lines that found the buffer full."""
        return 0 if self._descriptor is None else self._descriptor.dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            if self._descriptor is not None:
                self._descriptor.write(line)
            else:
                self._stream.write(line)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        if self._descriptor is not None:
            self._descriptor.flush(wait_ms=200)


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> LineHandler:
    """Makes JSON lines of everything that is logged in this process from now on."""
    handler = LineHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LineHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # One line per call to a collector, and one per idle poll, say nothing.
    for chatty in ("grpc", "urllib3", "asyncio", "aiokafka", "opentelemetry"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    return handler
