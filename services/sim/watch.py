"""Follows WatchEta: every prediction as it is made, going on behind the last one after a break."""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.eta_service_pb2 import WatchEtaRequest

from services.sim.gps_stream import passing

_RECONNECT_S: Final = 0.2
_FIRST_S: Final = 30.0


class PredictionWatch:
    """Hands each prediction to `seen`. `start` returns once none that is made from then on can be missed."""

    def __init__(
        self, eta: "eta_service_pb2_grpc.EtaServiceAsyncStub", seen: Callable[[EtaPrediction], None]
    ) -> None:
        self._eta = eta
        self._seen = seen
        self._cursor = ""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises grpc.aio.AioRpcError if the service refuses, TimeoutError if it does not answer."""
        self._task = asyncio.create_task(self._run(), name="prediction watch")
        news = asyncio.create_task(self._news.wait())
        done, _ = await asyncio.wait(
            (self._task, news), timeout=_FIRST_S, return_when=asyncio.FIRST_COMPLETED
        )
        news.cancel()
        if self._task in done:
            self._task.result()
        if not done:
            await self.close()
            raise TimeoutError("WatchEta did not answer")

    async def until(self, satisfied: Callable[[], bool], limit_s: float) -> bool:
        """Until the predictions seen satisfy the condition, or so many seconds have passed without it."""
        try:
            async with asyncio.timeout(limit_s):
                while not satisfied():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Sees nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async for response in self._eta.WatchEta(WatchEtaRequest(cursor=self._cursor)):
                    self._cursor = response.cursor
                    if response.HasField("prediction"):
                        self._seen(response.prediction)
                    self._news.set()
            except grpc.aio.AioRpcError as error:
                if not passing(error):
                    raise
            await asyncio.sleep(_RECONNECT_S)
