"""Recorded traces through a running mesh by its public stubs: each trace is one courier with one order.

The pickup is at the trace's first fix, the dropoff at its last. Pieces too short to be a delivery are sent as
the fixes of an idle courier whom nobody knows: taken in, not scored.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import grpc
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, GetGpsStatsResponse
from waymesh.gps.v1.gps_pb2 import AnomalyFlag, GpsEvent
from waymesh.route.v1 import route_service_pb2_grpc
from waymesh.route.v1.route_service_pb2 import UpsertCouriersRequest, UpsertOrdersRequest

from services.mesh.settings import SettingsError
from services.sim.accuracy import Accuracy, Forecast
from services.sim.channels import channel
from services.sim.gps_stream import GpsSender
from services.sim.recording import Recording
from services.sim.schedule import Schedule
from services.sim.watch import PredictionWatch

BATCH: Final = 1000
_UPSERT_BATCH: Final = 500
_CALL_S: Final = 30.0
_STATS_EVERY_S: Final = 0.1
# Fixes that fall due within so long are sent together when time is kept, seconds.
_TICK_S: Final = 0.05
# Without any progress for so long, eta is taken to be stuck, seconds.
_STALLED_S: Final = 60.0
# Predictions are on their way when their fixes are counted; for so long at most, seconds.
_LAST_PREDICTIONS_S: Final = 5.0

Progress = Callable[[int, int], None]
"""Told now and then: fixes acknowledged as durable, fixes processed."""


class ReplayError(Exception):
    """The mesh did not take what it was sent; one line that says what."""


@dataclass(slots=True)
class ReplayResult:
    """What came out. The mesh counts all its traffic, so other senders at the same time are in the counts."""

    sent: int = 0
    accepted: int = 0
    resent: int = 0
    fixes: int = 0
    duplicates: int = 0
    conflicts: int = 0
    predictions: int = 0
    watched: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    prepare_s: float = 0.0
    """To make the couriers and orders known."""
    intake_s: float = 0.0
    """From the first fix sent to the last acknowledged as durable."""
    total_s: float = 0.0
    """From the first fix sent to the last counted as processed."""
    ack_p50_ms: float | None = None
    ack_p99_ms: float | None = None


class Replay:
    """One run of a recording. `speed`: recorded seconds per second; 0 as fast as the mesh takes it."""

    def __init__(
        self,
        recording: Recording,
        schedule: Schedule,
        *,
        speed: float,
        eta_target: str,
        route_target: str,
    ) -> None:
        self._recording = recording
        self._schedule = schedule
        self._speed = speed
        self._eta_target = eta_target
        self._route_target = route_target
        self._delivered_us = recording.delivered_us
        self.accuracy = Accuracy()
        self.result = ReplayResult()

    async def run(self, progress: Progress) -> ReplayResult:
        """Plays everything and waits until the mesh has counted it. Raises ReplayError."""
        began = time.monotonic()
        try:
            async with (
                channel(self._route_target) as route_channel,
                channel(self._eta_target) as eta_channel,
            ):
                await self._introduce(route_service_pb2_grpc.RouteServiceStub(route_channel))
                self.result.prepare_s = time.monotonic() - began
                await self._play(eta_service_pb2_grpc.EtaServiceStub(eta_channel), progress)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ReplayError(
                    f"the mesh does not answer at {self._route_target} and {self._eta_target}: start one with"
                    " `waymesh up`, or set WAYMESH_ROUTE_TARGET and WAYMESH_ETA_TARGET to where it is"
                ) from error
            raise ReplayError(f"the mesh failed with {error.code().name}: {error.details()}") from error
        except SettingsError as error:
            raise ReplayError(str(error)) from error
        except TimeoutError as error:
            raise ReplayError(f"the mesh does not answer: {error}") from error
        return self.result

    async def _introduce(self, route: "route_service_pb2_grpc.RouteServiceAsyncStub") -> None:
        """Makes the couriers and orders known."""
        couriers, orders = self._recording.couriers(), self._recording.orders()
        for start in range(0, len(orders), _UPSERT_BATCH):
            part = slice(start, start + _UPSERT_BATCH)
            known = await route.UpsertCouriers(
                UpsertCouriersRequest(couriers=couriers[part]), timeout=_CALL_S
            )
            taken = await route.UpsertOrders(UpsertOrdersRequest(orders=orders[part]), timeout=_CALL_S)
            for result in (*known.results, *taken.results):
                if result.HasField("error"):
                    raise ReplayError(f"{result.id} was refused: {result.error.message}")

    async def _play(self, eta: "eta_service_pb2_grpc.EtaServiceAsyncStub", progress: Progress) -> None:
        before = await eta.GetGpsStats(GetGpsStatsRequest(), timeout=_CALL_S)
        for order_id, at_us in self._delivered_us.items():
            self.accuracy.delivered(order_id, at_us)
        watch = PredictionWatch(eta, self._predicted)
        await watch.start()
        sender = GpsSender(eta)
        sending = asyncio.create_task(self._send(sender), name="replay")
        try:
            await self._count(eta, before.cursor, sender, sending, progress)
            await watch.until(lambda: self.result.watched >= self.result.predictions, _LAST_PREDICTIONS_S)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await sender.close()
            await watch.close()

    async def _send(self, sender: GpsSender) -> None:
        began = time.monotonic()
        result = self.result
        for due_s, events in self._batches():
            wait_s = due_s / self._speed - (time.monotonic() - began) if self._speed > 0 else 0.0
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await sender.send(events)
            result.sent += len(events)
        await sender.finish()
        result.intake_s = time.monotonic() - began
        result.accepted, result.resent = sender.accepted, sender.resent
        if sender.rejected:
            event, why = sender.rejected[0]
            raise ReplayError(
                f"{len(sender.rejected)} fixes were refused, the first is that of line "
                f"{self._recording.line(event)}: {why.field} {why.description}"
            )
        result.ack_p50_ms = sender.latencies.quantile_ms(0.5)
        result.ack_p99_ms = sender.latencies.quantile_ms(0.99)

    async def _count(
        self,
        eta: "eta_service_pb2_grpc.EtaServiceAsyncStub",
        cursor: str,
        sender: GpsSender,
        sending: asyncio.Task[None],
        progress: Progress,
    ) -> None:
        """Until everything is sent and what was accepted is counted. Raises what sending raised."""
        began = moved = time.monotonic()
        processed = -1
        while True:
            sent = sending.done()
            if sent:
                sending.result()
            stats = await eta.GetGpsStats(
                GetGpsStatsRequest(cursor=cursor), timeout=_CALL_S, wait_for_ready=True
            )
            now = stats.fixes + stats.duplicates + stats.conflicts
            if now != processed or not sent:
                processed, moved = now, time.monotonic()
            progress(sender.accepted, processed)
            if sent and processed >= sender.accepted:
                self.result.total_s = time.monotonic() - began
                self._take_counts(stats)
                return
            if time.monotonic() - moved > _STALLED_S:
                raise ReplayError(
                    f"eta processed {processed} of {sender.accepted} fixes and does not go on: see its log"
                )
            await asyncio.wait((sending,), timeout=_STATS_EVERY_S)
            if sent:
                await asyncio.sleep(_STATS_EVERY_S)

    def _take_counts(self, stats: GetGpsStatsResponse) -> None:
        result = self.result
        result.fixes, result.duplicates, result.conflicts = stats.fixes, stats.duplicates, stats.conflicts
        result.predictions = stats.predictions
        result.flags = {
            AnomalyFlag.Name(entry.flag).removeprefix("ANOMALY_FLAG_").lower(): entry.count
            for entry in stats.flags
            if entry.count
        }

    def _predicted(self, prediction: EtaPrediction) -> None:
        if prediction.order_id not in self._delivered_us:
            return
        self.result.watched += 1
        minutes = prediction.delivery
        self.accuracy.predicted(
            prediction.order_id,
            Forecast(
                prediction.timestamp.seconds * 1_000_000 + prediction.timestamp.nanos // 1000,
                minutes.p10_minutes,
                minutes.p50_minutes,
                minutes.p90_minutes,
            ),
        )

    def _batches(self) -> Iterator[tuple[float, list[GpsEvent]]]:
        """Fixes with when they are due, seconds: full batches, or where time is kept what falls due
        together.
        """
        schedule = self._schedule
        start, total = 0, len(schedule)
        while start < total:
            end = min(start + BATCH, total)
            if self._speed > 0:
                until = schedule.due_s[start] + _TICK_S * self._speed
                end = min(end, max(start + 1, int(schedule.due_s.searchsorted(until, side="right"))))
            yield float(schedule.due_s[end - 1]), self._recording.events(schedule, start, end)
            start = end
