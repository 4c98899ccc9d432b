"""Tool: what agents did of late and how it ended, without what they were given or gave."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesRequest, ListOutcomesResponse
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus

from services.agents.tools import shapes
from services.agents.tools.desk import Desk
from services.agents.tools.scope import is_plain_id

Status = Literal["success", "failure", "partial", "timeout", "cancelled"]

# Waymesh's own; every other agent belongs to somebody.
OWN: Final = frozenset(
    {
        "eta",
        "route",
        "feedback",
        "gateway",
        "agents",
        "allocation",
        "dispatcher",
        "agent-demo",
        "agent-custom",
    }
)
_MOST: Final = 50
_NAME: Final = re.compile(r"[A-Za-z_.]{1,40}")


async def recent_outcomes(
    desk: Desk,
    agent_name: Annotated[str, Field(description="The agent, such as eta or route.", pattern=r"^.{1,128}$")],
    status: Annotated[Status | None, Field(description="Only outcomes that ended so; null: all.")] = None,
    count: Annotated[int | None, Field(description="How many at most; null: 20.", ge=1, le=_MOST)] = None,
) -> dict[str, Any]:
    """What an agent did of late, newest first: when, how it ended, how long it took, what kind of error."""
    if agent_name not in OWN:
        desk.open_name(agent_name, "an agent")
    request = ListOutcomesRequest(page_size=count or 20, agent_name=agent_name)
    if status is not None:
        request.statuses.append(OutcomeStatus.Value(f"OUTCOME_STATUS_{status.upper()}"))
    answer: ListOutcomesResponse = await desk.feedback.ListOutcomes(request)
    rows = [_row(event) for event in answer.events]
    ended: dict[str, int] = {}
    for row in rows:
        ended[row["status"]] = ended.get(row["status"], 0) + 1
    return {
        "agent_name": agent_name if is_plain_id(agent_name) else "the agent",
        "count": len(rows),
        "count_by_status": ended,
        "outcomes": rows,
        "more": bool(answer.next_page_token),
    }


def _row(event: OutcomeEvent) -> dict[str, Any]:
    """An outcome without ids, input, output and messages, which may be about anybody."""
    row: dict[str, Any] = {
        "timestamp": shapes.when(event.timestamp),
        "status": shapes.label(OutcomeStatus, event.status, "OUTCOME_STATUS_"),
        "duration_ms": event.duration_ms,
    }
    named = {"action_type": event.action_type, "error_type": event.error_type}
    # Anybody may record an outcome: what is not the name of a method or of an error is not told.
    return row | {name: text for name, text in named.items() if _NAME.fullmatch(text)}
