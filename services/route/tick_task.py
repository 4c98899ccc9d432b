"""A tick as a task that leaves an outcome, as RPCs do."""

from collections.abc import Mapping
from typing import Any, Final

from services.mesh.feedback import Dispatcher
from services.route.allocator import Allocator

ACTION: Final = "allocation_tick"


class TickTask:
    """Allocates once through the dispatcher; what goes wrong is recorded and raised."""

    name = "route"
    agent_type = "engine"

    def __init__(self, allocator: Allocator, dispatcher: Dispatcher) -> None:
        self._allocator = allocator
        self._dispatcher = dispatcher

    async def __call__(self) -> None:
        """One tick."""
        result = await self._dispatcher.dispatch(self, ACTION)
        if result.error is not None:
            raise result.error

    async def run(self, input_data: Any, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the dispatcher runs: counts, and the degradation that makes the outcome partial."""
        answer = await self._allocator.tick()
        if answer is None:
            return {"allocating_elsewhere": True}
        counted: dict[str, Any] = {"allocated": len(answer.allocations), "waiting": len(answer.waiting)}
        if answer.degradation is not None:
            counted["degradation"] = {
                "source": answer.degradation.source,
                "reason": answer.degradation.reason,
            }
        return counted
