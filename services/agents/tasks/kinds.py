"""The tasks by name: what each takes and gives, which agent does it, and the code that does it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.message import Message
from waymesh.agent.v1 import task_pb2 as pb
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.tasks import ask, explain_eta, explain_route, plan_delivery, run_task
from services.agents.tasks.context import Context
from services.agents.tools import Scope


@dataclass(frozen=True, slots=True)
class Kind:
    """One task. `agent`: who does it where the request names nobody."""

    name: str
    agent: str
    response: type[Message]
    scope_of: Callable[[Any, Scope], None]
    run: Callable[[Any, Context], Awaitable[Any]]
    event: Callable[..., StreamRunResponse]
    text: Callable[[Any], str]
    workflow: bool = False


_ALL: Final = (
    Kind(
        run_task.NAME,
        "",
        pb.RunTaskResponse,
        run_task.scope_of,
        run_task.run,
        run_task.event,
        lambda answer: str(answer.answer),
    ),
    Kind(
        ask.NAME,
        ask.AGENT,
        pb.AskResponse,
        ask.scope_of,
        ask.run,
        ask.event,
        lambda answer: str(answer.answer),
    ),
    Kind(
        explain_eta.NAME,
        explain_eta.AGENT,
        pb.ExplainEtaResponse,
        explain_eta.scope_of,
        explain_eta.run,
        explain_eta.event,
        lambda answer: str(answer.explanation),
    ),
    Kind(
        explain_route.NAME,
        explain_route.AGENT,
        pb.ExplainRouteResponse,
        explain_route.scope_of,
        explain_route.run,
        explain_route.event,
        lambda answer: str(answer.explanation),
    ),
    Kind(
        plan_delivery.NAME,
        plan_delivery.AGENT,
        pb.PlanDeliveryResponse,
        plan_delivery.scope_of,
        plan_delivery.run,
        plan_delivery.event,
        lambda answer: str(answer.critique),
        workflow=True,
    ),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ALL})
