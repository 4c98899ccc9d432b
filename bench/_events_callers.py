"""Callers of feedback as a process of their own: batches at a steady rate, whatever the answers take.

What the bench itself does meanwhile, such as starting brokers and looking at what lies there, takes nothing
from the loop that measures. Each line on stdin begins a phase of that name; at the end of stdin all that is
under way is awaited, the ids of what was acknowledged are written to a file, 16 bytes each, and one line of
JSON tells of each phase.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop
from waymesh.feedback.v1.feedback_service_pb2 import RecordOutcomesRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub

from bench._events_outcomes import Maker

_BATCH: Final = 20
_READY_S: Final = 60.0
_CALL_S: Final = 10.0
_END_S: Final = 60.0


@dataclass(slots=True)
class Phase:
    """What callers saw of the calls that were due while something was so."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "errors": dict(self.errors)}


class Callers:
    """Each batch is sent when it is due, and its time runs from then."""

    def __init__(self, stub: Any, per_s: float) -> None:
        self._stub = stub
        self._maker = Maker()
        self._every_s = _BATCH / per_s
        self._calls: set[asyncio.Task[None]] = set()
        self.phases: dict[str, Phase] = {}
        self.ids = bytearray()

    async def run(self, phase: asyncio.Queue[str | None]) -> None:
        """Until None comes instead of a phase, and all answers are here."""
        name = await phase.get()
        due = time.perf_counter()
        while name is not None:
            self.phases[name] = Phase()
            while phase.empty():
                due += self._every_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                call = asyncio.create_task(self._call(self.phases[name], due))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            name = phase.get_nowait()
        await asyncio.gather(*self._calls)

    async def _call(self, phase: Phase, due: float) -> None:
        events = self._maker.batch(_BATCH)
        try:
            await self._stub.RecordOutcomes(RecordOutcomesRequest(events=events), timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            phase.errors[error.code().name] += 1
            return
        phase.seconds.append(time.perf_counter() - due)
        self.ids += b"".join(uuid.UUID(event.event_id).bytes for event in events)


class Apart:
    """The process of callers, as the bench has it."""

    def __init__(self, target: str, per_s: float, folder: Path) -> None:
        self._ids = folder / "acknowledged"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench._events_callers", target, str(per_s), str(self._ids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, phase: str) -> None:
        """From now on calls count for this phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(phase + "\n")
        self._process.stdin.flush()

    async def end(self) -> tuple[Mapping[str, Phase], set[str]]:
        """Waits for all answers: the phases by name, and the ids of what was acknowledged."""
        out, _ = await asyncio.to_thread(self._process.communicate, timeout=_END_S)
        if self._process.returncode:
            raise RuntimeError(f"the callers ended with {self._process.returncode}")
        phases = {
            name: Phase(told["seconds"], Counter(told["errors"])) for name, told in json.loads(out).items()
        }
        ids = self._ids.read_bytes()
        return phases, {str(uuid.UUID(bytes=ids[at : at + 16])) for at in range(0, len(ids), 16)}

    def kill(self) -> None:
        """However it stands."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


async def main(target: str, per_s: float, ids: Path) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    phases: asyncio.Queue[str | None] = asyncio.Queue()

    async def listen() -> None:
        async for line in reader:
            phases.put_nowait(line.decode().strip())
        phases.put_nowait(None)

    async with grpc.aio.insecure_channel(target) as channel:
        await asyncio.wait_for(channel.channel_ready(), _READY_S)
        callers = Callers(FeedbackServiceStub(channel), per_s)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            tasks.create_task(callers.run(phases))
    ids.write_bytes(callers.ids)  # noqa: ASYNC240 - nobody calls any more
    print(json.dumps({name: phase.told() for name, phase in callers.phases.items()}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])))
