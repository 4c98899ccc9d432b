"""JSON lines on stderr: request_id, service, level, message, duration_ms, timestamp, trace_id.

Use the standard `logging` module; `extra` adds to a line: `duration_ms` as it is, everything else under
`fields`. Values under secret names and secrets in texts are masked (redact.py). Writing never blocks the
event loop: what a slow reader of stderr does not take waits in a bounded buffer, and beyond that lines are
dropped and counted.
"""

import contextlib
import json
import logging
import os
import select
import sys
import traceback
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from services.mesh import trace
from services.mesh.redact import redact, redact_text

request_id: ContextVar[str] = ContextVar("waymesh_request_id", default="")

# Bytes that wait for a slow reader before lines are dropped.
_BUFFER_BYTES: Final = 1 << 20
# A pipe that polls as writable takes this many bytes without blocking (PIPE_BUF, pipe(7)).
_CHUNK_BYTES: Final = 4096
_MAX_TEXT: Final = 16_384
# What every record has; all other attributes came in by `extra`.
_OWN: Final = frozenset(
    {*logging.LogRecord("", 0, "", 0, "", None, None).__dict__, "message", "asctime", "duration_ms"}
)


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        message = redact_text(record.getMessage())
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
        fields = {key: value for key, value in record.__dict__.items() if key not in _OWN}
        fields.update(fields.pop("fields", None) or {})
        if fields:
            line["fields"] = redact(fields)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = redact_text("".join(traceback.format_exception(*record.exc_info)))[-_MAX_TEXT:]
        try:
            return json.dumps(line, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:  # not a number, or a circle: readers of the line want JSON all the same
            return json.dumps(line | {"fields": redact_text(str(fields))}, ensure_ascii=False, default=str)


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
    # One line per call to a collector, and one per idle poll, say nothing; hpack tells every header.
    for chatty in ("grpc", "urllib3", "asyncio", "aiokafka", "opentelemetry", "h2", "hpack"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    # gRPC's core writes its own lines to stderr, no JSON, among them one for each handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    return handler
