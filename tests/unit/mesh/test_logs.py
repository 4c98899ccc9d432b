"""Log lines: JSON, with the ids of the request at hand, without secrets, and never in the way."""

import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from services.mesh import logs, trace

log = logging.getLogger("waymesh.test")


@pytest.fixture
def lines() -> Iterator[Any]:
    """Calls give the lines so far."""
    stream = io.StringIO()
    root = logging.getLogger()
    level = root.level
    handler = logs.configure("eta", "INFO", stream)
    # An exporter of an earlier test may still be trying to reach its collector, and says so.
    handler.addFilter(lambda record: not record.name.startswith("opentelemetry."))
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_line_has_the_names_of_the_requirements(lines: Any):
    request = logs.request_id.set("request-1")
    place = trace.set_current(trace.TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
    log.info("order %s taken in", "order_1", extra={"duration_ms": 1.5})
    trace.reset_current(place)
    logs.request_id.reset(request)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "INFO",
        "service": "eta",
        "message": "order order_1 taken in",
        "request_id": "request-1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "duration_ms": 1.5,
        "logger": "waymesh.test",
    }


def test_a_line_outside_of_any_request_has_the_same_names(lines: Any):
    log.warning("up")
    (line,) = lines()
    assert (line["request_id"], line["trace_id"], line["duration_ms"]) == ("", "", None)


def test_whatever_is_added_stands_under_fields(lines: Any):
    log.info("x", extra={"fields": {"topic": "orders"}, "partition": 3})
    assert lines()[0]["fields"] == {"topic": "orders", "partition": 3}


def test_secrets_are_masked_in_message_fields_and_traceback(lines: Any):
    try:
        raise ConnectionError("postgresql://waymesh:hunter2@db/waymesh")
    except ConnectionError:
        log.exception(
            "no store at %s", "postgresql://waymesh:hunter2@db/waymesh", extra={"api_key": "hunter2"}
        )
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert "ConnectionError" in line["error"]


@pytest.mark.parametrize("value", [float("nan"), object(), b"\x00\xff", {"a": float("inf")}, "\ud800"])
def test_any_value_still_makes_a_line_of_json(lines: Any, value: object):
    log.info("x", extra={"value": value})
    assert lines()[0]["message"] == "x"


def test_lines_below_the_level_are_not_written(lines: Any):
    log.debug("x")
    assert lines() == []


def test_a_reader_that_does_not_read_blocks_nobody_and_loses_only_what_does_not_fit():
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 8192)
    with os.fdopen(write_end, "w") as stream:
        handler = logs.LineHandler(stream)
        handler.setFormatter(logging.Formatter("%(message)s"))
        for number in range(20_000):  # would wait for ever on a plain stream
            handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"{number:0100d}", None, None))
        assert handler.dropped > 0
        received = b""
        while (20_000 - handler.dropped) * 101 > len(received):
            handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "", None, None))
            received += os.read(read_end, 65536)
    os.close(read_end)
    numbers = [int(line) for line in received.decode().splitlines() if line]
    assert numbers[:1000] == list(range(1000))
    assert numbers == sorted(numbers)


def test_a_reader_that_has_gone_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stream:
        handler = logs.LineHandler(stream)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "nobody hears this", None, None))
