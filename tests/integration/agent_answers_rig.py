"""Tasks over the whole mesh, in every way they can be asked for, and the numbers that answers are made of."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import task_pb2
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.route.v1.route_service_pb2 import OptimizeRouteRequest

from tests.integration.agents_rig import AgentsMesh

# A hang guard.
_LIMIT_S: Final = 20.0
TASKS: Final[dict[str, Any]] = {
    "run_task": task_pb2.RunTaskRequest(agent="dispatcher", task="When does order_0 arrive, and why then?"),
    "ask": task_pb2.AskRequest(question="When does order_0 arrive, and why then?"),
    "explain_eta": task_pb2.ExplainEtaRequest(query=EtaQuery(order_id="order_0")),
    "explain_route": task_pb2.ExplainRouteRequest(),
    "plan_delivery": task_pb2.PlanDeliveryRequest(order_ids=["order_0", "order_1"]),
}
RPCS: Final = {
    "run_task": "RunTask",
    "ask": "Ask",
    "explain_eta": "ExplainEta",
    "explain_route": "ExplainRoute",
    "plan_delivery": "PlanDelivery",
}
TEXTS: Final = {
    "run_task": "answer",
    "ask": "answer",
    "explain_eta": "explanation",
    "explain_route": "explanation",
    "plan_delivery": "critique",
}


def request_for(task: str, orders: list[Any]) -> Any:
    """A request of the task; a route is asked for with the orders themselves, which nobody carries yet."""
    made = type(TASKS[task])()
    made.CopyFrom(TASKS[task])
    if task == "explain_route":
        made.route.CopyFrom(OptimizeRouteRequest(driver_id="courier_0", orders=orders))
    return made


async def asked(mesh: AgentsMesh, task: str, request: Any) -> Message:
    """The answer of the task's own RPC."""
    answer: Message = await getattr(mesh.stub, RPCS[task])(request, timeout=_LIMIT_S)
    return answer


async def streamed(mesh: AgentsMesh, task: str, request: Any) -> list[pb.StreamRunResponse]:
    """All that a stream of the task tells."""
    started = pb.StreamRunRequest(**{task: request})
    return [event async for event in mesh.stub.StreamRun(started, timeout=_LIMIT_S)]


_NUMBER: Final = re.compile(r"(?<![\w.:-])\d+(?:\.\d+)?(?![\w:-]|\.\d)")
_CLOCK: Final = re.compile(r"\b(\d\d):(\d\d)\b")


def strange_numbers(text: str, *sources: Message) -> list[str]:
    """The numbers of a text that no source gives: a reading of its own, apart from the one agents have.

    A number may be rounded to the digits it has; metres may be kilometres, seconds minutes, shares percents.
    """
    plain = [MessageToDict(source, preserving_proto_field_name=True) for source in sources]
    given = {number for one in plain for number in _numbers(one)}
    clocks = {clock for one in plain for clock in _clocks(one)}
    strange = [match[0] for match in _CLOCK.finditer(text) if match[0] not in clocks]
    for match in _NUMBER.finditer(_CLOCK.sub("", text)):
        digits = len(match[0].partition(".")[2])
        told = float(match[0])
        if not any(
            abs(abs(number) * scale - told) <= 0.5 * 10**-digits + 1e-9
            for number in given
            for scale in (1.0, 1 / 1000, 1 / 60, 100.0)
        ):
            strange.append(match[0])
    return strange


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, str):
        # Sentences of engines name numbers, and 64-bit integers are strings in JSON.
        yield from (float(found) for found in re.findall(r"(?<![\w.:-])\d+(?:\.\d+)?", value))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list):
        yield float(len(value))
        for each in value:
            yield from _numbers(each)


def _clocks(value: Any) -> Iterator[str]:
    """Times of day in UTC, the seconds cut off or rounded."""
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return
        seconds = at.timestamp() % 86400
        for minutes in {int(seconds // 60), round(seconds / 60)}:
            yield f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"
    elif isinstance(value, dict):
        for each in value.values():
            yield from _clocks(each)
    elif isinstance(value, list):
        for each in value:
            yield from _clocks(each)
