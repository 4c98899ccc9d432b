"""Each run as an outcome: what an agent did, how it ended, and what its models took."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from waymesh.agent.v1.run_pb2 import Usage
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.agents.catalogue import Agent
from services.agents.recorded_names import CUSTOM, PREFIX
from services.agents.runs.live_run import LiveRun
from services.agents.runs.record import NewRun
from services.mesh.feedback.actions import Action, DispatchResult
from services.mesh.feedback.dispatcher import Dispatcher
from services.mesh.principal import DEFAULT_TENANT

AGENT_TYPE: Final = "llm"
# Where the context of a run's action holds what it spends.
_USAGE: Final = "usage"
_PRIVATE: Final = "private"


class Acting:
    """One run as the dispatcher sees it. `text` names the field of the answer that people read."""

    agent_type = AGENT_TYPE

    def __init__(self, agent: Agent, work: Callable[[], Awaitable[Any]], text: str) -> None:
        known = agent.built_in or agent.tenant == DEFAULT_TENANT
        self.name = PREFIX + (agent.name if known else CUSTOM)
        self._work = work
        self._text = text
        self._response: Any = None

    async def run(self, input_data: Any, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """As the dispatcher calls it."""
        self._response = response = await self._work()
        # No word of the answer: runs are a tenant's own, outcomes are everybody's.
        told: dict[str, Any] = {"characters": len(getattr(response, self._text))}
        if response.HasField("degradation"):
            degradation = response.degradation
            told["degradation"] = {"source": degradation.source, "reason": degradation.reason}
        return told

    async def done(self, dispatcher: Dispatcher, action: str, live: LiveRun) -> Any:
        """Does it, leaves its outcome, and gives the answer. Raises what the work raised."""
        new = live.new
        context: dict[str, Any] = {"run_id": shown_run(new), _USAGE: live.usage}
        if new.workflow_id:
            context["workflow_id"] = new.workflow_id
        if new.tenant != DEFAULT_TENANT:
            # A request's id may be the caller's own words, as a run's.
            context["correlation_id"] = context["run_id"]
            context[_PRIVATE] = True
        result = await dispatcher.dispatch(self, action, None, context, (action,))
        if result.error is not None:
            raise result.error
        return self._response


def shown_run(new: NewRun) -> str:
    """A run in outcomes, which everybody may read: another tenant's by what it is stored by."""
    return new.run_id if new.tenant == DEFAULT_TENANT else str(new.id)


def note_usage(action: Action, result: DispatchResult, event: OutcomeEvent) -> None:
    """Post hook: what models took, in the event's own fields; and no text of an error that is a tenant's."""
    if action.context.get(_PRIVATE):
        event.ClearField("error_message")
    usage = action.context.get(_USAGE)
    if isinstance(usage, Usage) and usage.model_calls:
        event.llm_latency_ms = usage.llm_latency_ms
        event.tokens_used = usage.input_tokens + usage.output_tokens
        event.cost_estimate = usage.cost_usd
