"""Callers who send all the while and send again, the same under the same id, until it is acknowledged."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import grpc
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.feedback.v1.feedback_service_pb2 import (
    RecordDeliveryOutcomesRequest,
    RecordOutcomesRequest,
    StreamOutcomesRequest,
)
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.route.v1.route_service_pb2 import UpsertOrdersRequest
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.sim.gps_stream import GpsSender, passing
from tests.faults.chaos.events import a_delivery, a_fix, an_order, an_outcome
from tests.faults.chaos.ledger import DELIVERY, ORDER, OUTCOME, Ledger

_TIMEOUT_S: Final = 3.0
_BACKOFF_S: Final = (0.05, 1.0)
_BATCH: Final = 20
_BETWEEN_S: Final = 0.2
_ORDER_WORKERS: Final = 3
_FIXES: Final = 10
_MAX_SILENCE_S: Final = 5.0

# What a call may end with in the middle of a fault.
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)


class Load:
    """All callers of a run. `errors` counts what they were told by code, `wrong` what no fault explains."""

    def __init__(self, targets: dict[str, str], ledger: Ledger) -> None:
        self.errors: Counter[str] = Counter()
        self.during: Counter[str] = Counter()
        """The same errors by what was going wrong at the time."""
        self.suffering = "no fault"
        self.wrong: list[str] = []
        self._ledger = ledger
        # Not the mesh's own clients, whose breakers give a target that has failed a rest: these want answers.
        self._channels = {
            name: grpc.aio.insecure_channel(target, options=_options()) for name, target in targets.items()
        }
        self._feedback: Any = FeedbackServiceStub(self._channels["feedback"])
        self._route: Any = RouteServiceStub(self._channels["route"])
        self._eta: Any = EtaServiceStub(self._channels["eta"])
        self._prefix = uuid4().hex[:8]
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Everybody begins."""
        works: dict[str, Callable[[str], Awaitable[None]]] = {
            "batches": self._batches,
            "stream": self._stream,
            "deliveries": self._deliveries,
            "gps": self._fixes,
            **{f"orders {n}": self._orders for n in range(1, _ORDER_WORKERS + 1)},
        }
        for name, work in works.items():
            if name != "gps":
                self._ledger.begin(name)
            self._tasks.append(asyncio.create_task(work(name), name=name))

    def check(self) -> None:
        """Raises what a caller's own code has raised."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def finish(self, limit_s: float) -> None:
        """Nobody begins anything new; what is under way is sent until it is acknowledged.

        TimeoutError with the names of those who are not done.
        """
        self._stopping.set()
        done, left = await asyncio.wait(self._tasks, timeout=limit_s)
        for task in done:
            task.result()
        if left:
            raise TimeoutError(
                f"not done within {limit_s:.0f} s: {', '.join(task.get_name() for task in left)}"
            )

    async def close(self) -> None:
        """Ends all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _until_taken(self, who: str, call: Callable[[], Awaitable[Any]]) -> Any:
        pause_s = _BACKOFF_S[0]
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                self._count(who, error.code(), error.details() or "")
            await self._pause(random.uniform(0.5, 1.0) * pause_s)
            pause_s = min(pause_s * 2, _BACKOFF_S[1])

    def _count(self, who: str, code: grpc.StatusCode, words: str) -> None:
        self.errors[f"{who.split()[0]} {code.name}"] += 1
        self.during[self.suffering] += 1
        if code not in _PASSING:
            self._is_wrong(f"{who}: {code.name} {words}")

    def _is_wrong(self, what: str) -> None:
        self.wrong.append(f"{self._ledger.now_s:.1f} s, fault {self._ledger.fault}: {what}")

    def _refused(self, who: str, results: Sequence[Any]) -> None:
        for result in results:
            if result.HasField("error"):
                self._is_wrong(f"{who}: {result.id} refused: {result.error.message}")

    async def _batches(self, who: str) -> None:
        number = 0
        while not self._stopping.is_set():
            ids = [f"bat-{self._prefix}-{number + n}" for n in range(_BATCH)]
            number += _BATCH
            request = RecordOutcomesRequest(events=[an_outcome(id_, "batches") for id_ in ids])
            answer = await self._until_taken(
                who, lambda r=request: self._feedback.RecordOutcomes(r, timeout=_TIMEOUT_S)
            )
            self._refused(who, answer.results)
            self._ledger.acknowledge(who, OUTCOME, [(id_, 1) for id_ in ids])
            await self._pause(_BETWEEN_S)

    async def _deliveries(self, who: str) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            id_ = f"del-{self._prefix}-{number}"
            request = RecordDeliveryOutcomesRequest(outcomes=[a_delivery(id_)])
            answer = await self._until_taken(
                who, lambda r=request: self._feedback.RecordDeliveryOutcomes(r, timeout=_TIMEOUT_S)
            )
            self._refused(who, answer.results)
            self._ledger.acknowledge(who, DELIVERY, [(id_, 1)])
            await self._pause(_BETWEEN_S)

    async def _orders(self, who: str) -> None:
        chance, number = random.Random(who), 0
        while not self._stopping.is_set():
            number += 1
            id_ = f"ord-{self._prefix}-{who.split()[-1]}-{number}"
            for revision in range(1, chance.choice((1, 2, 2, 3)) + 1):
                request = UpsertOrdersRequest(orders=[an_order(id_, revision)])
                answer = await self._until_taken(
                    who, lambda r=request: self._route.UpsertOrders(r, timeout=_TIMEOUT_S)
                )
                self._refused(who, answer.results)
                self._ledger.acknowledge(who, ORDER, [(id_, revision)])
            await self._pause(_BETWEEN_S)

    async def _stream(self, who: str) -> None:
        """One stream after the other; what was not acknowledged on one goes first on the next."""
        waiting: dict[str, StreamOutcomesRequest] = {}
        number = 0

        def more() -> None:
            nonlocal number
            ids = [f"str-{self._prefix}-{number + n}" for n in range(_BATCH)]
            waiting[str(number)] = StreamOutcomesRequest(
                events=[an_outcome(id_, "stream") for id_ in ids], cursor=str(number)
            )
            number += _BATCH

        async def requests() -> AsyncIterator[StreamOutcomesRequest]:
            sent: set[str] = set()
            while not (self._stopping.is_set() and not waiting):
                if not self._stopping.is_set() and len(waiting) < 8:
                    more()
                for cursor, request in list(waiting.items()):
                    if cursor not in sent:
                        sent.add(cursor)
                        yield request
                await self._pause(_BETWEEN_S)

        while waiting or not self._stopping.is_set():
            call = self._feedback.StreamOutcomes(requests())
            try:
                while True:
                    async with asyncio.timeout(_MAX_SILENCE_S):
                        answer = await call.read()
                    if answer is grpc.aio.EOF:
                        break
                    for refused in answer.refused:
                        self._is_wrong(f"{who}: {refused.id} refused: {refused.error.message}")
                    request = waiting.pop(answer.cursor)
                    self._ledger.acknowledge(who, OUTCOME, [(event.event_id, 1) for event in request.events])
            except TimeoutError:
                self._count(who, grpc.StatusCode.DEADLINE_EXCEEDED, "silence")
            except grpc.aio.AioRpcError as error:
                self._count(who, _code(error), error.details() or "")
            finally:
                call.cancel()
            await self._pause(_BACKOFF_S[0])

    async def _fixes(self, who: str) -> None:
        """Nobody asks afterwards where they are: they keep eta, the bus and the database busy."""
        number = 0
        while not self._stopping.is_set():
            sender = GpsSender(self._eta)
            try:
                while not self._stopping.is_set():
                    async with asyncio.timeout(_MAX_SILENCE_S):
                        await sender.send([a_fix(courier, number) for courier in range(_FIXES)])
                    number += 1
                    await self._pause(_BETWEEN_S)
            except TimeoutError:
                self._count(who, grpc.StatusCode.DEADLINE_EXCEEDED, "silence")
            except grpc.aio.AioRpcError as error:
                self._count(who, _code(error), error.details() or "")
            finally:
                await sender.close()


def _options() -> list[tuple[str, int]]:
    """A stub that has lost its server looks for it again soon."""
    return [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]


def _code(error: grpc.aio.AioRpcError) -> grpc.StatusCode:
    """What gRPC's client says of its own writes into a call that has just ended is no word of a service's."""
    return error.code() if error.code() in _PASSING or not passing(error) else grpc.StatusCode.UNAVAILABLE
