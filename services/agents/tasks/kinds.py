"""The tasks by name: what each takes and gives, which agent does it, and the code that does it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import Message
from waymesh.agent.v1 import task_pb2 as pb

from services.agents.tasks import ask, explain_eta, explain_route, plan_delivery, run_task
from services.agents.tasks.context import Context
from services.agents.tools import Scope


@dataclass(frozen=True, slots=True)
class Kind:
    """One task. `agent`: who does it where the request names nobody; `text`: the field that people read."""

    name: str
    agent: str
    response: type[Message]
    scope_of: Callable[[Any, Scope], None]
    run: Callable[[Any, Context], Awaitable[Any]]
    text: str
    workflow: bool = False


_ALL: Final = (
    Kind(run_task.NAME, "", pb.RunTaskResponse, run_task.scope_of, run_task.run, "answer"),
    Kind(ask.NAME, ask.AGENT, pb.AskResponse, ask.scope_of, ask.run, "answer"),
    Kind(
        explain_eta.NAME,
        explain_eta.AGENT,
        pb.ExplainEtaResponse,
        explain_eta.scope_of,
        explain_eta.run,
        "explanation",
    ),
    Kind(
        explain_route.NAME,
        explain_route.AGENT,
        pb.ExplainRouteResponse,
        explain_route.scope_of,
        explain_route.run,
        "explanation",
    ),
    Kind(
        plan_delivery.NAME,
        plan_delivery.AGENT,
        pb.PlanDeliveryResponse,
        plan_delivery.scope_of,
        plan_delivery.run,
        "critique",
        workflow=True,
    ),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ALL})
