"""Sends batches of fixes over StreamGps: several in flight, none lost when the connection breaks."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.gps_stream_pb2 import RejectedFix, StreamGpsRequest
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.sim.latency import Latencies

IN_FLIGHT: Final = 8
# What a stream may end with while the service restarts; everything else is a fault that trying again does not
# mend.
PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)
# Not from any service: grpc's client says so of a write that met the end of its call (grpcio 1.85).
_OWN_FAULT: Final = "Internal error from Core"
_RECONNECT_S: Final = 0.2
# Given up after so long without a single acknowledgement, in seconds.
GIVE_UP_S: Final = 60.0


def passing(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same call may well go through a little later."""
    return error.code() in PASSING or error.details() == _OWN_FAULT


@dataclass(slots=True)
class _Sent:
    request: StreamGpsRequest
    at: float
    written: bool = False


class GpsSender:
    """One stream. After a break it goes on behind the last batch that was acknowledged as durable."""

    def __init__(
        self, eta: "eta_service_pb2_grpc.EtaServiceAsyncStub", *, in_flight: int = IN_FLIGHT
    ) -> None:
        self._eta = eta
        self._room = asyncio.Semaphore(in_flight)
        self._waiting: deque[_Sent] = deque()
        self._on_this_call = 0
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._next = 0
        self._acknowledged_at = time.monotonic()
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._run(), name="gps stream")
        self.accepted = 0
        self.resent = 0
        self.rejected: list[tuple[GpsEvent, RejectedFix]] = []
        self.latencies = Latencies()
        """From a batch's sending to its acknowledgement."""

    async def send(self, events: Sequence[GpsEvent]) -> None:
        """Takes at most 1,000 fixes; waits only while too many batches are under way.

        Raises grpc.aio.AioRpcError if the service refuses the stream, TimeoutError if it stays away.
        """
        await self._room.acquire()
        self._raise()
        request = StreamGpsRequest(events=events, cursor=str(self._next))
        self._next += 1
        if not self._waiting:
            self._acknowledged_at = time.monotonic()
        self._waiting.append(_Sent(request, time.monotonic()))
        self._empty.clear()
        self._more.set()

    async def finish(self) -> None:
        """Until everything is acknowledged."""
        await self._empty.wait()
        self._raise()

    async def close(self) -> None:
        """Ends the stream; what is not acknowledged may or may not have arrived."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._connection()
                except grpc.aio.AioRpcError as error:
                    if not passing(error):
                        raise
                if self._waiting and time.monotonic() - self._acknowledged_at > GIVE_UP_S:
                    raise TimeoutError(f"no batch of fixes was acknowledged for {GIVE_UP_S:g} s")
                await asyncio.sleep(_RECONNECT_S)
        except Exception as error:
            # Whoever waits for room or for the end has to hear of it.
            self._error = error
            self._empty.set()
            for _ in range(IN_FLIGHT + 1):
                self._room.release()

    async def _connection(self) -> None:
        """One call, until it ends or breaks."""
        call = self._eta.StreamGps()
        self._on_this_call = 0
        reader = asyncio.create_task(self._read(call), name="gps stream reader")
        writer = asyncio.create_task(self._write(call), name="gps stream writer")
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = reader.done()
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            call.cancel()
        # A write into a call that has just ended fails with something of gRPC's own; why the call ended is
        # what its reading end says, if that end has come so far.
        if ended:
            reader.result()

    async def _read(self, call: Any) -> None:
        async for response in call:
            sent = self._waiting.popleft()
            self._on_this_call -= 1
            self._acknowledged_at = time.monotonic()
            self.latencies.add(self._acknowledged_at - sent.at)
            self.accepted += response.accepted
            self.rejected.extend((sent.request.events[fix.index], fix) for fix in response.rejected)
            self._room.release()
            if not self._waiting:
                self._empty.set()

    async def _write(self, call: Any) -> None:
        while True:
            while self._on_this_call < len(self._waiting):
                sent = self._waiting[self._on_this_call]
                self.resent += len(sent.request.events) if sent.written else 0
                sent.written = True
                self._on_this_call += 1
                await call.write(sent.request)
            self._more.clear()
            await self._more.wait()
