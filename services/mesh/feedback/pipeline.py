"""Outcomes on their way to the feedback service, by way of a spool on disk while it is away."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import grpc
from prometheus_client import Counter
from waymesh.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus

from services.mesh.client import ClientFactory
from services.mesh.errors import MeshError
from services.mesh.feedback.outcome import unreadable, without_secrets
from services.mesh.feedback.spool import Spool
from services.mesh.settings import MeshSettings
from services.mesh.telemetry import Telemetry

Send = Callable[[Sequence[OutcomeEvent]], Awaitable[None]]
Ask = Callable[[feedback_service_pb2.ListOutcomesRequest], Awaitable[Sequence[OutcomeEvent]]]

_log = logging.getLogger(__name__)

# Events in memory before the oldest go; reached only if neither the service nor the disk takes any.
_QUEUE: Final = 20_000
# Events a process remembers for get_recent_events while the service is away.
_RECENT: Final = 1_000
_BACKOFF_S: Final = (0.2, 10.0)
_TIMEOUT_S: Final = 5.0
_MAX_RPC: Final = 1_000
# What a refused batch does not become better for by trying again.
_REFUSED: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS})


class FeedbackPipeline:
    """Takes outcomes at once, delivers them in batches, and never in the caller's way.

    A batch is durable when the service has answered or when it is in the spool; `delivered`, `spooled` and
    `dropped` count events, `unreadable` those of which a part could not be read when they were made. Run
    `run()` in the background, `close()` at the end.
    """

    def __init__(
        self,
        *,
        send: Send,
        spool: Spool,
        ask: Ask | None = None,
        batch_size: int = 100,
        linger_s: float = 0.1,
        enabled: bool = True,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.enabled = enabled
        self.delivered = self.spooled = self.dropped = self.unreadable = 0
        self._send = send
        self._ask = ask
        self._spool = spool
        self._batch_size = min(batch_size, _MAX_RPC)
        self._linger_s = linger_s
        self._queue: deque[OutcomeEvent] = deque()
        self._recent: deque[OutcomeEvent] = deque(maxlen=_RECENT)
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._away = False
        self._leftovers = True
        self._metric = (
            None
            if telemetry is None
            else Counter(
                "waymesh_outcomes",
                "Outcomes recorded here, by what became of them",
                ["status"],
                registry=telemetry.registry,
            )
        )

    @classmethod
    def create(
        cls, service: str, settings: MeshSettings, clients: ClientFactory, telemetry: Telemetry
    ) -> "FeedbackPipeline":
        """The pipeline of a service: by RPC to the feedback service, spool in the data folder."""
        stub = clients.stub(feedback_service_pb2_grpc.FeedbackServiceStub, settings.feedback_target)

        async def send(events: Sequence[OutcomeEvent]) -> None:
            request = feedback_service_pb2.RecordOutcomesRequest(events=events)
            await stub.RecordOutcomes(request, timeout=_TIMEOUT_S)

        async def ask(request: feedback_service_pb2.ListOutcomesRequest) -> Sequence[OutcomeEvent]:
            return (await stub.ListOutcomes(request, timeout=_TIMEOUT_S)).events

        return cls(
            send=send,
            ask=ask,
            spool=Spool(Path(settings.data_dir) / "spool" / service),
            batch_size=settings.kafka_batch_size,
            linger_s=settings.kafka_linger_ms / 1000,
            enabled=settings.enable_outcome_logging,
            telemetry=telemetry,
        )

    def record_outcome(self, event: OutcomeEvent) -> None:
        """Never raises, never waits; what is recorded is redacted. From the loop's thread only."""
        if not self.enabled:
            return
        try:
            clean = without_secrets(event)
        except Exception:
            self.lost("an event")
        else:
            self.record_clean(clean)

    def lost(self, what: str) -> None:
        """Called while an error is handled that keeps an outcome from being recorded."""
        _log.exception("the outcome of %s could not be recorded", what)
        self._count("dropped", 1)

    def record_clean(self, event: OutcomeEvent) -> None:
        """As `record_outcome`, of an event that `outcome` has made, which is redacted."""
        if not self.enabled:
            return
        if unreadable(event):
            self._count("unreadable", 1)
        self._recent.append(event)
        queue = self._queue
        if len(queue) >= _QUEUE:
            queue.popleft()
            self._count("dropped", 1)
        queue.append(event)
        self._some.set()
        if len(queue) >= self._batch_size:
            self._full.set()

    async def get_recent_events(
        self, count: int, status: OutcomeStatus.ValueType | None = None, agent_name: str | None = None
    ) -> list[OutcomeEvent]:
        """The newest `count` (≤ 1,000) that match, newest first; this process's own if feedback is away."""
        count = max(0, min(count, _MAX_RPC))
        if count == 0:
            return []
        if self._ask is not None:
            request = feedback_service_pb2.ListOutcomesRequest(
                page_size=count,
                statuses=[] if status is None else [status],
                agent_name=agent_name or "",
            )
            try:
                return list(await self._ask(request))
            except MeshError as error:
                _log.info("recent outcomes come from memory: %s", error)
        matching = (
            event
            for event in reversed(self._recent)
            if (status is None or event.status == status)
            and (agent_name is None or event.agent_name == agent_name)
        )
        return [event for _, event in zip(range(count), matching, strict=False)]

    async def run(self) -> None:
        """Delivers until cancelled."""
        pause_s = _BACKOFF_S[0]
        while True:
            if self._leftovers:
                if await self._replay():
                    pause_s = _BACKOFF_S[0]
                else:
                    # Events that come meanwhile join the spool, so that order holds and memory stays small.
                    await self._pause(pause_s)
                    pause_s = min(pause_s * 2, _BACKOFF_S[1])
                    await self._to_spool(self._take())
                continue
            await self._some.wait()
            if len(self._queue) < self._batch_size and self._linger_s:
                await self._pause(self._linger_s)
            await self._deliver(self._take())

    async def close(self) -> None:
        """Delivers what waits, or puts it into the spool."""
        while self._queue:
            await self._deliver(self._take())
        await asyncio.to_thread(self._spool.close)

    async def _pause(self, seconds: float) -> None:
        self._full.clear()
        if len(self._queue) >= self._batch_size:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._full.wait()
        except TimeoutError:
            return

    def _take(self) -> list[OutcomeEvent]:
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), _MAX_RPC))]
        if not queue:
            self._some.clear()
        return batch

    async def _deliver(self, batch: list[OutcomeEvent]) -> None:
        if not batch:
            return
        if self._away:
            await self._to_spool(batch)
            return
        try:
            await self._send_or_drop(batch)
        except MeshError as error:
            _log.warning("feedback is away, outcomes go to the spool: %s", error)
            self._away = True
            await self._to_spool(batch)
        except asyncio.CancelledError:
            # The answer may be lost, the events must not be; feedback knows them again by their id.
            self._queue.extendleft(reversed(batch))
            raise

    async def _send_or_drop(self, batch: list[OutcomeEvent]) -> None:
        """Sends; of a batch that is refused, only those that are refused alone are dropped.

        Raises MeshErrors that pass; what was sent before may then be sent again, which changes nothing.
        """
        try:
            await self._send(batch)
        except MeshError as error:
            if error.code not in _REFUSED:
                raise
            if len(batch) == 1:
                _log.error("an outcome was refused: %s", error)
                self._count("dropped", 1)
                return
            half = len(batch) // 2
            await self._send_or_drop(batch[:half])
            await self._send_or_drop(batch[half:])
        else:
            self._count("delivered", len(batch))

    async def _to_spool(self, batch: list[OutcomeEvent]) -> None:
        if not batch:
            return
        self._leftovers = True
        records = [event.SerializeToString() for event in batch]
        try:
            taken = await asyncio.shield(asyncio.to_thread(self._spool.append, records))
        except OSError as error:
            _log.error("the spool does not take outcomes: %s", error)
            taken = 0
        self._count("spooled", taken)
        self._count("dropped", len(batch) - taken)

    async def _replay(self) -> bool:
        """Delivers the spool, oldest first. False if feedback is still away."""
        while True:
            found = await asyncio.to_thread(self._spool.oldest)
            if found is None:
                if self._away:
                    _log.info("feedback is back, the spool is empty")
                self._away = self._leftovers = False
                return True
            path, records = found
            events = [OutcomeEvent.FromString(record) for record in records]
            try:
                for at in range(0, len(events), _MAX_RPC):
                    await self._send_or_drop(events[at : at + _MAX_RPC])
            except MeshError:
                self._away = True
                return False
            await asyncio.to_thread(self._spool.discard, path)

    def _count(self, what: str, number: int) -> None:
        if number:
            setattr(self, what, getattr(self, what) + number)
            if self._metric is not None:
                self._metric.labels(what).inc(number)
