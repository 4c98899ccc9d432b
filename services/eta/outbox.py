"""Scored deliveries on their way to feedback: kept until it has acknowledged each."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import grpc
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.feedback_service_pb2 import (
    RecordDeliveryOutcomesRequest,
    RecordDeliveryOutcomesResponse,
)

from services.eta.store import EtaStore
from services.mesh.errors import InvalidArgument, MeshError
from services.mesh.principal import MESH, acting
from services.mesh.tenancy import qualify_message, tenant_of

if TYPE_CHECKING:
    from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceAsyncStub

log = logging.getLogger(__name__)

_BATCH: Final = 500
_TIMEOUT_S: Final = 5.0
_IDLE_S: Final = 0.5
_RETRY_S: Final = (0.5, 30.0)
# An outcome that was refused for one of these is not going to be taken later either.
_HOPELESS: Final = frozenset(
    code.value[0] for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS)
)


class OutcomeSender:
    """Background task: the outbox to feedback, at least once; feedback stores each once by its id."""

    def __init__(
        self,
        store: EtaStore,
        feedback: "FeedbackServiceAsyncStub",
        *,
        on_sent: Callable[[], None],
        on_scored: Callable[[DeliveryOutcome], None],
    ) -> None:
        """`on_scored` is given each outcome that was new to feedback, once over all replicas."""
        self._store = store
        self._on_scored = on_scored
        self._on_sent = on_sent
        self._feedback = feedback

    async def run(self) -> None:
        """Send for ever; while feedback is away everything waits in the store."""
        wait_s = _RETRY_S[0]
        while True:
            try:
                sent = await self.send_once()
            except MeshError as error:
                log.warning("feedback takes no delivery outcomes", extra={"error": str(error)})
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_S[1])
                continue
            wait_s = _RETRY_S[0]
            if not sent:
                await asyncio.sleep(_IDLE_S)

    async def send_once(self) -> int:
        """Send one batch; gives how many have left the outbox."""
        outcomes = []
        for outcome_id, body in await self._store.queued_outcomes(_BATCH):
            outcome = DeliveryOutcome.FromString(body)
            qualify_message(outcome, tenant_of(outcome_id))
            outcomes.append(outcome)
        if not outcomes:
            return 0
        done = await self._send(outcomes)
        await self._store.drop_outcomes(done)
        if done:
            self._on_sent()
        return len(done)

    async def _send(self, outcomes: Sequence[DeliveryOutcome]) -> list[str]:
        """Ids of those that need not be sent again.

        One that breaks a rule, such as one queued before the rule was made, fails its whole call: it is found
        by halves, and the others get through.
        """
        try:
            with acting(MESH):
                response: RecordDeliveryOutcomesResponse = await self._feedback.RecordDeliveryOutcomes(
                    RecordDeliveryOutcomesRequest(outcomes=outcomes), timeout=_TIMEOUT_S
                )
        except InvalidArgument as error:
            if len(outcomes) > 1:
                half = len(outcomes) // 2
                return await self._send(outcomes[:half]) + await self._send(outcomes[half:])
            _tell(outcomes[0].outcome_id, error.message)
            return [outcomes[0].outcome_id]
        done = []
        for result in response.results:
            if result.HasField("error") and result.error.code not in _HOPELESS:
                continue
            if result.HasField("error"):
                _tell(result.id, result.error.message)
            elif not result.duplicate:
                self._on_scored(outcomes[result.index])
            done.append(outcomes[result.index].outcome_id)
        return done


def _tell(outcome_id: str, fault: str) -> None:
    log.error("feedback refused a delivery outcome", extra={"id": outcome_id, "error": fault})
