"""Outcomes on their way to the feedback service, by way of a spool on disk while it is away."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import grpc
from prometheus_client import Counter
from waymesh.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus

from services.mesh import outboxes, principal, tenancy
from services.mesh.client import ClientFactory
from services.mesh.errors import MeshError
from services.mesh.feedback.outcome import fit_to_record, unreadable
from services.mesh.feedback.receipts import Receipt
from services.mesh.feedback.replay import Replay, Size
from services.mesh.feedback.spool import Leftover, Spool
from services.mesh.feedback.waiting import Waiting
from services.mesh.settings import MeshSettings
from services.mesh.store.failures import is_transient
from services.mesh.telemetry import Telemetry

# Sends a batch: durable on return, all but the places returned, which are refused for good.
Send = Callable[[Sequence[OutcomeEvent]], Awaitable[Collection[int] | None]]
Ask = Callable[[feedback_service_pb2.ListOutcomesRequest], Awaitable[Sequence[OutcomeEvent]]]
T = TypeVar("T")

_log = logging.getLogger(__name__)

_STATUSES: Final = ("delivered", "spooled", "dropped", "damaged", "unreadable")
# Events a process remembers for get_recent_events while the service is away.
_RECENT: Final = 1_000
# Between tries to reach a service that is away.
_BACKOFF_S: Final = (0.2, 5.0)
# Between tries of a disk that takes nothing.
_DISK_RETRY_S: Final = 0.5
# How often to look for what other processes of this service have left behind.
_LOOK_S: Final = 10.0
_TIMEOUT_S: Final = 5.0
# How long new events wait for an answer; then the disk has them sooner.
_PATIENCE_S: Final = 2.0
_MAX_RPC: Final = 1_000
_MAX_RPC_BYTES: Final = 2 << 20
# What a refused batch does not become better for by trying again.
_REFUSED: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS})


class FeedbackPipeline:
    """Takes outcomes at once, delivers them in batches, and never in the caller's way.

    An event belongs to whom the work at hand is done for when it is recorded; what is done for the mesh is
    the default tenant's. From then on its ids are qualified, in the spool as well, so that it stays theirs in
    a batch with others, and whoever delivers it: batches are sent for the mesh.

    An event is acknowledged by its receipt once it is durable: when the service has answered, or when it is
    in the spool. While the service is away, and until the spool is empty again, new events join the spool, so
    that they are durable soon and arrive in order. What neither takes waits in memory as long as there is
    room. `delivered`, `spooled` and `dropped` count events, `damaged` stretches of the spool that could not
    be read, `unreadable` events of which a part could not be read when they were made. Run `run()` in the
    background, `close()` at the end.
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
        waiting: Waiting | None = None,
    ) -> None:
        self.enabled = enabled
        self.delivered = self.spooled = self.dropped = self.damaged = self.unreadable = 0
        self._send = send
        self._ask = ask
        self._spool = spool
        self._batch_size = min(batch_size, _MAX_RPC)
        self._linger_s = linger_s
        self._waiting = Waiting(self._batch_size) if waiting is None else waiting
        self._recent: deque[OutcomeEvent] = deque(maxlen=_RECENT)
        # Set while there may be something in the spool: what is new goes behind it.
        self._behind = asyncio.Event()
        self._append: asyncio.Future[None] | None = None
        self._appends = 0
        self._replay: Replay | None = None
        self._looking: asyncio.Future[Leftover | None] | None = None
        self._size = Size()
        self._away = self._disk_refuses = self._crowded = self._closed = False
        # Its own, for agents may keep the loop's threads busy.
        self._disk = ThreadPoolExecutor(2, thread_name_prefix="spool")
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
        if self._metric is not None:
            for status in _STATUSES:  # an increase is seen only of what was there before
                self._metric.labels(status)
        if telemetry is not None:
            telemetry.outboxes.watch("outcomes", self._unsent)

    @classmethod
    def create(
        cls, service: str, settings: MeshSettings, clients: ClientFactory, telemetry: Telemetry
    ) -> "FeedbackPipeline":
        """The pipeline of a service: by RPC to the feedback service, spool in the data folder."""
        stub = clients.stub(feedback_service_pb2_grpc.FeedbackServiceStub, settings.feedback_target)

        async def send(events: Sequence[OutcomeEvent]) -> Collection[int]:
            request = feedback_service_pb2.RecordOutcomesRequest(events=events)
            with principal.acting(principal.MESH):
                answer = await stub.RecordOutcomes(request, timeout=_TIMEOUT_S)
            return {result.index for result in answer.results if result.HasField("error")}

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

    def record_outcome(self, event: OutcomeEvent) -> Receipt:
        """Never raises, never waits; what is recorded is redacted. From the loop's thread only.

        Who needs to know whether the event is durable awaits the receipt.
        """
        if not self.enabled:
            return self._refused(event)
        try:
            clean = fit_to_record(event)
        except Exception:
            self.lost("an event")
            return self._refused(event)
        return self.record_clean(clean)

    def lost(self, what: str) -> None:
        """Called while an error is handled that keeps an outcome from being recorded."""
        _log.exception("the outcome of %s could not be recorded", what)
        self._count("dropped", 1)

    def record_clean(self, event: OutcomeEvent) -> Receipt:
        """As `record_outcome`, of an event that `outcome` has made, which is redacted and not too large."""
        if not self.enabled:
            return self._refused(event)
        if unreadable(event):
            self._count("unreadable", 1)
        tenancy.qualify_message(event, _owner())
        self._recent.append(event)
        receipt = Receipt(event, event.ByteSize())
        if self._closed or not self._waiting.put(receipt):
            if not self._crowded:
                self._crowded = True
                _log.error("outcomes are dropped: %s", "closed" if self._closed else "no room in memory")
            self._count("dropped", 1)
            receipt.settle(False)
        return receipt

    async def get_recent_events(
        self,
        count: int,
        status: OutcomeStatus.ValueType | str | None = None,
        agent_name: str | None = None,
    ) -> list[OutcomeEvent]:
        """The newest `count` (≤ 1,000) that match, newest first; this process's own if feedback is away.

        Of the tenant that the work at hand is done for, with plain ids.
        `status` is a value of the contract or its word, such as `failure`. Raises ValueError for other words.
        """
        count = max(0, min(count, _MAX_RPC))
        if isinstance(status, str):
            status = OutcomeStatus.Value(f"OUTCOME_STATUS_{status.upper()}")
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
        tenant = _owner()
        agent = None if agent_name is None else tenancy.qualify(tenant, agent_name)
        matching = (
            tenancy.plain_message(event, tenant)
            for event in reversed(self._recent)
            if tenancy.tenant_of(event.event_id) == tenant
            and (status is None or event.status == status)
            and (agent is None or event.agent_name == agent)
        )
        return [event for _, event in zip(range(count), matching, strict=False)]

    async def run(self) -> None:
        """Delivers until cancelled."""
        # Before anything new is sent: what an earlier process left is older.
        if self._replay is None:
            try:
                self._replay = await self._next_file()
            except OSError as error:  # there may be something: what is new goes behind it
                _log.error("the spool cannot be read yet: %s", error)
                self._behind.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deliver_new(), name="recorder: new outcomes")
            tasks.create_task(self._deliver_spooled(), name="recorder: spooled outcomes")

    async def close(self) -> None:
        """Delivers what waits, or puts it into the spool; what neither takes is dropped."""
        if self._closed:
            return
        self._closed = True
        if self._append is not None:
            await asyncio.wait((self._append,))
        while batch := self._take():
            if not await self._settle(batch):
                rest = self._waiting.take(len(self._waiting), 1 << 62)
                _log.error("%d outcomes are dropped: no disk takes them", len(rest))
                self._drop(rest)
        if self._looking is not None:
            await asyncio.wait((self._looking,))
            _released(self._looking)
            self._looking = None
        if self._replay is not None:
            self._replay.leftover.release()
            self._replay = None
        await self._on_disk(self._spool.close)
        self._disk.shutdown(wait=False)

    async def _deliver_new(self) -> None:
        while True:
            await self._waiting.some(self._linger_s)
            if not await self._settle(self._take()):
                await asyncio.sleep(_DISK_RETRY_S)

    async def _deliver_spooled(self) -> None:
        pause_s = _BACKOFF_S[0]
        while True:
            try:
                back = await self._empty_spool()
            except OSError as error:
                _log.error("the spool cannot be read or cleared: %s", error)
                back = False
            if back:
                pause_s = _BACKOFF_S[0]
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._behind.wait()
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _BACKOFF_S[1])

    def _take(self) -> list[Receipt]:
        return self._waiting.take(_MAX_RPC, _MAX_RPC_BYTES)

    async def _settle(self, batch: list[Receipt]) -> bool:
        """Makes a batch durable. False if that was not possible; what is left of it waits again."""
        if not batch:
            return True
        if not self._behind.is_set():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    refused = await self._offer([receipt.event for receipt in batch])
            except asyncio.CancelledError:
                # The answer may be lost, the events must not be; feedback knows them again by their id.
                self._waiting.put_back(batch)
                raise
            except Exception as error:
                if not self._away:
                    _log.warning("feedback is away, outcomes go to the spool: %s", error)
                self._away = True
            else:
                self._away = False
                for place, receipt in enumerate(batch):
                    receipt.settle(place not in refused)
                self._count("delivered", len(batch) - len(refused))
                self._count("dropped", len(refused))
                self._crowded = False
                return True
        # A write under way is waited for even by who is cancelled: its outcome says what is acknowledged.
        self._behind.set()
        self._append = asyncio.ensure_future(self._spool_batch(batch))
        await asyncio.shield(self._append)
        return not self._disk_refuses

    async def _spool_batch(self, batch: list[Receipt]) -> None:
        def append() -> int:
            return self._spool.append([receipt.event.SerializeToString() for receipt in batch])

        try:
            taken = await self._on_disk(append)
            reason = "it is full"
        except Exception as error:  # whatever it was: they are not durable
            taken, reason = 0, str(error)
        for receipt in batch[:taken]:
            receipt.settle(True)
        self._count("spooled", taken)
        self._waiting.put_back(batch[taken:])
        if taken < len(batch) and not self._disk_refuses:
            _log.error("the spool does not take outcomes, they wait in memory: %s", reason)
        self._disk_refuses = taken < len(batch)
        self._crowded = self._crowded and self._disk_refuses
        self._append = None
        self._appends += 1

    async def _offer(self, batch: Sequence[OutcomeEvent]) -> set[int]:
        """Sends, and returns the places of those that are refused; of a refused batch each is tried alone.

        Raises what passes; what was sent before may then be sent again, which changes nothing.
        """
        if not batch:
            return set()
        try:
            return set(await self._send(batch) or ())
        except MeshError as error:
            if error.code not in _REFUSED:
                raise
            if len(batch) == 1:
                _log.error("an outcome was refused: %s", error)
                return {0}
        half = len(batch) // 2
        first = await self._offer(batch[:half])
        second = await self._offer(batch[half:])
        return first | {half + place for place in second}

    async def _next_file(self) -> Replay | None:
        # Who is cancelled leaves the look, and the lock on what it finds, to the next one or to `close`.
        looking = self._looking = self._looking or asyncio.ensure_future(self._on_disk(self._spool.oldest))
        try:
            leftover = await asyncio.shield(looking)
        except Exception:
            self._looking = None
            raise
        self._looking = None
        if leftover is None:
            return None
        self._behind.set()
        return Replay(leftover, self._offer, self._on_disk)

    async def _empty_spool(self) -> bool:
        """Delivers the spool, oldest first. False if feedback is still away."""
        while True:
            if self._replay is None:
                before = self._appends
                self._replay = await self._next_file()
            replay = self._replay
            if replay is None:
                if self._append is not None:
                    await asyncio.wait((self._append,))
                elif before == self._appends:
                    if self._behind.is_set() and not self._disk_refuses:
                        _log.info("the spool is empty, outcomes go straight to feedback")
                    self._behind.clear()
                    return True
                continue
            try:
                await replay.run(self._size)
            except Exception as error:
                if is_transient(error):
                    _log.info("feedback is still away: %s", error)
                else:
                    _log.exception("the spool cannot be delivered; it is tried again")
                return False
            leftover = replay.leftover
            self._away = False
            await self._on_disk(partial(leftover.discard, replay.refused))
            self._replay = None
            self._count("delivered", len(leftover.records) - len(replay.refused))
            self._count("dropped", len(replay.refused))
            self._count("damaged", leftover.damaged)

    async def _unsent(self) -> outboxes.Waiting:
        size_bytes, oldest_age_s = await self._on_disk(self._spool.standing)
        return outboxes.Waiting(len(self._waiting), oldest_age_s, size_bytes)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    def _drop(self, receipts: Sequence[Receipt]) -> None:
        self._count("dropped", len(receipts))
        for receipt in receipts:
            receipt.settle(False)

    def _refused(self, event: OutcomeEvent) -> Receipt:
        receipt = Receipt(event)
        receipt.settle(False)
        return receipt

    def _count(self, what: str, number: int) -> None:
        if number:
            setattr(self, what, getattr(self, what) + number)
            if self._metric is not None:
                self._metric.labels(what).inc(number)


def _owner() -> str:
    """Whose is what happens now."""
    tenant = principal.current().tenant
    return principal.DEFAULT_TENANT if tenant == principal.MESH_TENANT else tenant


def _released(looking: asyncio.Future[Leftover | None]) -> None:
    if not looking.cancelled() and looking.exception() is None and (found := looking.result()) is not None:
        found.release()
