"""What recording an outcome costs its caller, and how fast the recorder makes outcomes durable.

The time of `record_outcome` on the caller's loop (µs), and the time from it to the acknowledgement (ms), at a
steady pace: with a service there, away (to the spool, fsync on), and away with a disk that is full. Beside
it, on the same loop in the same run, interleaved: a JSON line with the same content written and synced at
once, and one handed to the thread of a logging.QueueListener, which syncs each.

Then a spool is replayed to a service that answers at once, and it is measured how long the loop is kept by
the outcome of an input of 2 MiB, one long text or many small values. The service is a stand-in in the same
process: this is about the recorder; `python -m bench.events` is about the service.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import logging.handlers
import os
import queue
import statistics
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from bench._command import command, seconds
from bench._mesh import a_folder, report, say
from services.mesh import json_codec
from services.mesh.errors import Unavailable
from services.mesh.feedback import FeedbackPipeline, Receipt
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.mesh.feedback.spool import Spool

_BURST: Final = 10
_TWO_MIB: Final = 2 << 20


def made(number: int, input_data: object = None) -> OutcomeEvent:
    """An outcome such as a service records around a task."""
    return outcome(
        agent_name=f"agent-{number % 20}",
        agent_type="bench",
        action_type="predict_eta",
        started=datetime.now(UTC),
        duration_ms=float(number % 250),
        status=SUCCESS,
        input_data=input_data or {"order_id": f"order_{number}", "driver_id": "driver_1", "fresh": True},
        output={"delivery_eta_minutes": 12.5, "confidence": 0.7},
        tags=("bench", "eta"),
    )


@dataclass(slots=True)
class Cost:
    """Of one way of recording, over all rounds."""

    calls_us: list[float] = field(default_factory=list)
    acks_ms: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        found = {}
        for name, values in (("call_us", self.calls_us), ("ack_ms", self.acks_ms)):
            if values:
                values.sort()
                for level in (50, 99):
                    found[f"{name}_p{level}"] = round(values[len(values) * level // 100], 2)
        return found


async def there(_events: Sequence[OutcomeEvent]) -> Collection[int]:
    return ()


async def away(_events: Sequence[OutcomeEvent]) -> Collection[int]:
    raise Unavailable("away")


class FullSpool(Spool):
    """On a disk that is full."""

    def append(self, records: Sequence[bytes]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def paced(events: Sequence[OutcomeEvent], per_s: int, one: Callable[[OutcomeEvent], None]) -> None:
    """Calls `one` for each, in small bursts at a steady pace."""
    began = time.perf_counter()
    for at in range(0, len(events), _BURST):
        for event in events[at : at + _BURST]:
            one(event)
        await asyncio.sleep(max(0.0, began + (at + _BURST) / per_s - time.perf_counter()))


async def recorder(cost: Cost, events: Sequence[OutcomeEvent], per_s: int, send: Any, spool: Spool) -> None:
    """Through the recorder, until all is acknowledged; on a full disk nothing is."""
    pipeline = FeedbackPipeline(send=send, spool=spool)
    running = asyncio.create_task(pipeline.run())
    waiting: list[asyncio.Task[None]] = []

    async def acknowledged(receipt: Receipt, began: float) -> None:
        if await receipt:
            cost.acks_ms.append((time.perf_counter() - began) * 1e3)

    def one(event: OutcomeEvent) -> None:
        began = time.perf_counter()
        receipt = pipeline.record_outcome(event)
        cost.calls_us.append((time.perf_counter() - began) * 1e6)
        waiting.append(asyncio.create_task(acknowledged(receipt, began)))

    await paced(events, per_s, one)
    if not isinstance(spool, FullSpool):
        await asyncio.gather(*waiting)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await pipeline.close()
    await asyncio.gather(*waiting)


async def synced_lines(cost: Cost, events: Sequence[OutcomeEvent], per_s: int, path: Path) -> None:
    """A JSON line for each, written and synced before the caller goes on."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def one(event: OutcomeEvent) -> None:
        began = time.perf_counter()
        os.write(out, json_codec.encode(event) + b"\n")
        os.fsync(out)
        cost.calls_us.append((time.perf_counter() - began) * 1e6)
        cost.acks_ms.append(cost.calls_us[-1] / 1e3)

    try:
        await paced(events, per_s, one)
    finally:
        os.close(out)


class Synced(logging.FileHandler):
    """Syncs each record, as one must who promises anything."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        assert self.stream is not None
        os.fsync(self.stream.fileno())
        began, cost = record.args if isinstance(record.args, tuple) else (0.0, None)
        assert isinstance(cost, Cost)
        assert isinstance(began, float)
        cost.acks_ms.append((time.perf_counter() - began) * 1e3)

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg)


class Handed(logging.handlers.QueueHandler):
    """Hands on the record as it is."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


async def logged(cost: Cost, events: Sequence[OutcomeEvent], per_s: int, path: Path) -> None:
    """A JSON line for each through logging's queue, to a thread that writes and syncs."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = Synced(path)
    listener = logging.handlers.QueueListener(lines, handler)
    logger = logging.getLogger("bench.recorder")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers = [Handed(lines)]
    listener.start()

    def one(event: OutcomeEvent) -> None:
        began = time.perf_counter()
        logger.info(json_codec.encode(event).decode(), began, cost)
        cost.calls_us.append((time.perf_counter() - began) * 1e6)

    await paced(events, per_s, one)
    await asyncio.to_thread(listener.stop)
    handler.close()


async def replayed(folder: Path, count: int) -> dict[str, float]:
    """How fast a spool reaches a service that answers at once."""
    spool = Spool(folder)
    events = [made(number) for number in range(count)]
    records = [event.SerializeToString() for event in events]
    began = time.perf_counter()
    for at in range(0, count, 1_000):
        spool.append(records[at : at + 1_000])
    appended_s = time.perf_counter() - began
    spool.close()
    arrived = 0
    done = asyncio.Event()

    async def take(some: Sequence[OutcomeEvent]) -> Collection[int]:
        nonlocal arrived
        arrived += len(some)
        if arrived >= count:
            done.set()
        return ()

    pipeline = FeedbackPipeline(send=take, spool=Spool(folder))
    began = time.perf_counter()
    running = asyncio.create_task(pipeline.run())
    await done.wait()
    took_s = time.perf_counter() - began
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await pipeline.close()
    size = sum(map(len, records))
    return {
        "spooled_per_s": round(count / appended_s),
        "replayed_per_s": round(count / took_s),
        "replayed_mb_per_s": round(size / took_s / 1e6, 1),
    }


def longest_step_ms(rounds: int) -> dict[str, float]:
    """To make and record an outcome with 2 MiB as its input and its output."""
    inputs: dict[str, object] = {
        "text": "name=value password=hunter2 " * (_TWO_MIB // 28),
        "values": {"rows": [{"id": n, "at": n / 3, "name": f"order_{n}"} for n in range(_TWO_MIB // 48)]},
    }
    found = {}
    for name, given in inputs.items():
        steps = []
        for _ in range(rounds):
            began = time.perf_counter()
            outcome(
                agent_name="a", agent_type="b", action_type="c", started=datetime.now(UTC), duration_ms=1.0,
                status=SUCCESS, input_data=given, output=given,
            )  # fmt: skip
            steps.append((time.perf_counter() - began) * 1e3)
        found[name] = round(statistics.median(steps), 2)
    return found


async def measure(rounds: int, per_s: int, round_s: float, spooled: int) -> dict[str, Any]:
    names = ("there", "away", "full", "synced_line", "queue_listener")
    costs = {name: Cost() for name in names}
    with a_folder() as folder:
        for one in range(rounds + 1):
            for name in names if one % 2 else reversed(names):
                events = [made(number) for number in range(max(_BURST, int(per_s * round_s)))]
                cost = costs[name] if one else Cost()  # the first round warms
                place = folder / f"{name}-{one}"
                if name == "there":
                    await recorder(cost, events, per_s, there, Spool(place))
                elif name == "away":
                    await recorder(cost, events, per_s, away, Spool(place))
                elif name == "full":
                    await recorder(cost, events, per_s, away, FullSpool(place))
                elif name == "synced_line":
                    await synced_lines(cost, events, per_s, place)
                else:
                    await logged(cost, events, per_s, place)
            say(f"round {one} of {rounds}")
        result: dict[str, Any] = {"rounds": rounds, "outcomes_per_s": per_s}
        result |= {name: cost.figures() for name, cost in costs.items()}
        result["replay"] = await replayed(folder / "replay", spooled)
    result["two_mib_ms"] = longest_step_ms(20)
    line = json.dumps(json_codec.to_dict(made(1)))
    result["bytes"] = {"record": made(1).ByteSize(), "line": len(line)}
    return result


def main() -> int:
    parser = command("recorder", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--rate", type=int, default=1_000, help="outcomes a second")
    parser.add_argument("--seconds", type=seconds, default=2.0, help="of each way in a round")
    parser.add_argument("--spooled", type=int, default=50_000, help="outcomes of the replay")
    given = parser.parse_args()
    logging.getLogger("services").setLevel(logging.CRITICAL)  # that the service is away is intended
    return report(
        lambda: measure(max(1, given.rounds), max(1, given.rate), given.seconds, max(1, given.spooled))
    )


if __name__ == "__main__":
    sys.exit(main())
