"""Each run as an outcome: what an agent did, how it ended, and what its models took."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from waymesh.agent.v1.run_pb2 import Usage
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.agents.catalogue import Agent
from services.agents.recorded_names import PREFIX
from services.agents.runs.live_run import LiveRun
from services.mesh.feedback.actions import Action, DispatchResult
from services.mesh.feedback.dispatcher import Dispatcher

AGENT_TYPE: Final = "llm"
# Where the context of a run's action holds what it spends.
_USAGE: Final = "usage"


class Acting:
    """One run as the dispatcher sees it. `text` names the field of the answer that people read."""

    agent_type = AGENT_TYPE

    def __init__(self, agent: Agent, work: Callable[[], Awaitable[Any]], text: str) -> None:
        self.name = PREFIX + agent.name
        self._work = work
        self._text = text
        self._response: Any = None

    async def run(self, input_data: Any, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """As the dispatcher calls it."""
        self._response = response = await self._work()
        # No word of the answer: that is kept with the run, and no longer than the run.
        told: dict[str, Any] = {"characters": len(getattr(response, self._text))}
        if response.HasField("degradation"):
            degradation = response.degradation
            told["degradation"] = {"source": degradation.source, "reason": degradation.reason}
        return told

    async def done(self, dispatcher: Dispatcher, action: str, live: LiveRun) -> Any:
        """Does it, leaves its outcome, and gives the answer. Raises what the work raised."""
        new = live.new
        context: dict[str, Any] = {"run_id": new.run_id, _USAGE: live.usage}
        if new.workflow_id:
            context["workflow_id"] = new.workflow_id
        result = await dispatcher.dispatch(self, action, None, context, (action,))
        if result.error is not None:
            raise result.error
        return self._response


def note_usage(action: Action, result: DispatchResult, event: OutcomeEvent) -> None:
    """Post hook: what models took, in the event's own fields."""
    usage = action.context.get(_USAGE)
    if isinstance(usage, Usage) and usage.model_calls:
        event.llm_latency_ms = usage.llm_latency_ms
        event.tokens_used = usage.input_tokens + usage.output_tokens
        event.cost_estimate = usage.cost_usd
