"""What is to be done, as hooks see it, and what came of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.feedback.receipts import Receipt


@dataclass(frozen=True, slots=True)
class Action:
    """What is about to be done, as hooks see it."""

    agent_name: str
    agent_type: str
    action_type: str
    input_data: Any
    context: Mapping[str, Any]
    run_id: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """What came of one action. `status` in words; `output` is None unless it succeeded or did a part.

    `receipt` tells what became of its event; hooks see the result before it is recorded, so without one.
    """

    status: str
    output: Any
    event_id: str
    run_id: str
    duration_ms: float
    error: BaseException | None = None
    receipt: Receipt | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.status in ("success", "partial")

    async def durable(self) -> bool:
        """Waits until the event is acknowledged: True; False if it is lost or outcome logging is off."""
        return self.receipt is not None and await self.receipt


class Settled(NamedTuple):
    """A result, and what has to be raised now that it is recorded: a cancel, the end of the process."""

    result: DispatchResult
    leaving: BaseException | None


PreHook = Callable[[Action], Awaitable[None] | None]
PostHook = Callable[[Action, DispatchResult, OutcomeEvent], Awaitable[None] | None]
