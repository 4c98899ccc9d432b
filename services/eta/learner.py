"""Reads feedback's record of deliveries and learns from it, once for all replicas."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from waymesh.feedback.v1.feedback_service_pb2 import (
    ListDeliveryOutcomesRequest,
    ListDeliveryOutcomesResponse,
)

from services.eta.drift import Coverage
from services.eta.learning import MODEL, Learned
from services.eta.signals import Signals
from services.eta.store import EtaStore
from services.mesh.errors import MeshError, OutOfRange
from services.mesh.principal import MESH, acting

if TYPE_CHECKING:
    from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceAsyncStub

log = logging.getLogger(__name__)

_PAGE: Final = 500
_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = (1.0, 30.0)
_GATHER_S: Final = 0.5


class Learner:
    """Keeps `learned` up to date. Without feedback it stays what it was."""

    def __init__(
        self, store: EtaStore, feedback: "FeedbackServiceAsyncStub", signals: Signals, *, every_s: float
    ) -> None:
        self._signals = signals
        self._coverage = Coverage()
        self._store = store
        self._feedback = feedback
        self._every_s = every_s
        self._news = asyncio.Event()
        self._page_token = ""
        self.learned = Learned()

    def soon(self) -> None:
        """There is something new to learn from."""
        self._news.set()

    async def load(self) -> None:
        """Begin with what was learned before."""
        stored = await self._store.load_learned(self._store.pool)
        if stored is not None:
            self._page_token, state = stored
            self.learned = Learned.restore(state)

    async def run(self) -> None:
        """Learn for ever."""
        wait_s = _RETRY_S[0]
        while True:
            try:
                more = await self.learn_once()
            except MeshError as error:
                log.warning("feedback lists no delivery outcomes", extra={"error": str(error)})
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_S[1])
                continue
            wait_s = _RETRY_S[0]
            if not more:
                await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                await self._news.wait()
        except TimeoutError:
            return
        # Deliveries come in flocks: what comes together is learned together.
        await asyncio.sleep(min(_GATHER_S, self._every_s))
        self._news.clear()

    async def learn_once(self) -> bool:
        """Read one page; true if there is more."""
        try:
            page = await self._list(self._page_token)
        except OutOfRange:
            # Feedback has lost its store. What it holds by now is news, all of it.
            log.warning("feedback no longer knows what was learned from; reading from its start")
            page = await self._list("")
        if not page.outcomes:
            return False
        async with self._store.transaction() as conn:
            stored = await self._store.load_learned(conn)
            if stored is not None and stored[0] != self._page_token:
                # Another replica was faster: what it learned is what we know.
                self._page_token, state = stored
                self.learned = Learned.restore(state)
                return True
            learned = Learned.restore(self.learned.dump())
            learned.learn(page.outcomes)
            await self._store.save_learned(conn, page.next_page_token, learned.dump())
        self.learned, self._page_token = learned, page.next_page_token
        if self._coverage.add(page.outcomes):
            self._signals.coverage(MODEL, self._coverage.share, drifted=self._coverage.drifted)
        return page.has_more

    async def _list(self, page_token: str) -> ListDeliveryOutcomesResponse:
        with acting(MESH):
            page: ListDeliveryOutcomesResponse = await self._feedback.ListDeliveryOutcomes(
                ListDeliveryOutcomesRequest(page_size=_PAGE, page_token=page_token), timeout=_TIMEOUT_S
            )
        return page
