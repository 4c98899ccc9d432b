"""The cells of the fault matrix of agents: a fault, the models that have it, and the task that meets it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as registry_pb
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import definition_pb2 as definition_pb
from waymesh.agent.v1 import run_pb2, task_pb2
from waymesh.eta.v1 import eta_pb2
from waymesh.route.v1 import route_service_pb2 as route_pb

from services.agents.llm import backoff
from tests.integration.agents_rig import AgentsMesh, agents_mesh
from tests.integration.route_mesh import order
from tests.mock_openai import Call, Fault, MockOpenAI, Script

# What a caller gives; an answer comes within it, so the call is never DEADLINE_EXCEEDED.
DEADLINE_S: Final = 15.0
# Of one call to a model: short where it is waited for to its end, or else long enough for a busy machine.
_TIMEOUT_S: Final = 5.0
_SILENT_TIMEOUT_S: Final = 0.3
_MUTE_TIMEOUT_S: Final = 0.1

# Texts that differ from their first letter on, long enough for some of them to be told before a fault shows.
FAULTY_TEXT: Final = "A courier is on the way and traffic is light, which is all that there is to say. " * 8
RIGHT_TEXT: Final = "The kitchen takes its time with this one, and the courier waits at the merchant's. " * 8
RIGHT_SHAPE: Final = '{"advice": "The kitchen takes its time."}'
_SHAPE: Final = {
    "type": "object",
    "properties": {"advice": {"type": "string"}},
    "required": ["advice"],
    "additionalProperties": False,
}

FAULTS: Final = {
    "429": Script(FAULTY_TEXT, fault=Fault.RATE_LIMITED),
    "429 with Retry-After": Script(FAULTY_TEXT, fault=Fault.RATE_LIMITED, retry_after="0.05"),
    "429 with a long Retry-After": Script(FAULTY_TEXT, fault=Fault.RATE_LIMITED, retry_after="3600"),
    "500": Script(FAULTY_TEXT, fault=Fault.SERVER_ERROR),
    "503": Script(FAULTY_TEXT, fault=Fault.UNAVAILABLE),
    "timeout": Script(FAULTY_TEXT, fault=Fault.NEVER_ANSWERS),
    "stall in mid-stream": Script(FAULTY_TEXT, fault=Fault.STALLS_MIDWAY),
    "reset before the answer": Script(FAULTY_TEXT, fault=Fault.RESET_BEFORE),
    "reset in mid-stream": Script(FAULTY_TEXT, fault=Fault.RESET_MIDWAY),
    "malformed JSON": Script(FAULTY_TEXT, fault=Fault.MALFORMED_BODY),
    "schema violation": Script(fault=Fault.SCHEMA_VIOLATION),
    "endless tool loop": Script(
        fault=Fault.TOOL_LOOP,
        calls=(Call("recent_outcomes", '{"agent_name":"eta","status":null,"count":5}'),),
    ),
    "malformed tool arguments": Script(fault=Fault.MALFORMED_ARGUMENTS),
    "oversized answer": Script(fault=Fault.OVERSIZED, size_bytes=2 << 20, piece_chars=1 << 16),
    "content filter": Script(FAULTY_TEXT, fault=Fault.CONTENT_FILTER),
}
# Whose fault is told in the middle of a text, after some of it.
TOLD_FIRST: Final = frozenset(
    {"stall in mid-stream", "reset in mid-stream", "malformed JSON", "content filter"}
)
# Rounds of a model and its tools that come to no answer: no other model is asked, as none has failed.
ROUNDS: Final = frozenset({"endless tool loop", "malformed tool arguments"})

# What is asked, and where the answer has its text.
TASKS: Final = {
    "run_task": "answer",
    "ask": "answer",
    "explain_eta": "explanation",
    "explain_route": "explanation",
    "plan_delivery": "critique",
}
# With a shape of its answer; all others answer in text, for which no schema can be violated.
SHAPED: Final = frozenset({"run_task"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; each has models of its own, so that no breaker knows of another cell."""

    fault: str
    both: bool
    task: str
    streamed: bool

    def __str__(self) -> str:
        models = "both models" if self.both else "first model"
        return f"{self.fault}, {models}, {self.task} {'streamed' if self.streamed else 'whole'}".replace(
            " ", "_"
        )

    @property
    def agent(self) -> str:
        return f"cell-{CELLS.index(self)}"

    @property
    def models(self) -> tuple[str, str]:
        return f"{self.agent}-first", f"{self.agent}-second"

    @property
    def shaped(self) -> bool:
        return self.task in SHAPED

    @property
    def timeout_s(self) -> float:
        if self.fault == "timeout" and self.both:
            return _MUTE_TIMEOUT_S
        return _SILENT_TIMEOUT_S if self.fault in ("timeout", "stall in mid-stream") else _TIMEOUT_S

    @property
    def right(self) -> str:
        """The right answer as a model gives it."""
        return RIGHT_SHAPE if self.shaped else RIGHT_TEXT.strip()


CELLS: Final = tuple(
    Cell(fault, both, task, streamed)
    for fault in FAULTS
    for both in (False, True)
    for task in TASKS
    for streamed in (False, True)
    if fault != "schema violation" or task in SHAPED
)


@dataclass
class Outcome:
    """What a caller saw."""

    answer: Any
    text: str
    tokens: str = ""
    streamed: bool = False
    events: list[str] = field(default_factory=list)

    @property
    def degradation(self) -> Any:
        return self.answer.degradation if self.answer.HasField("degradation") else None


@dataclass
class Faulty:
    """The mesh and the server it asks."""

    mesh: AgentsMesh
    server: MockOpenAI
    order: str
    driver: str

    async def run(self, cell: Cell) -> Outcome:
        """Has the cell's agent made and asked."""
        await self._make(cell)
        request = self._request(cell)
        if cell.streamed:
            return await self._streamed(pb.StreamRunRequest(**{cell.task: request}), cell.task)
        rpc = getattr(self.mesh.stub, "".join(word.title() for word in cell.task.split("_")))
        answer = await rpc(request, timeout=DEADLINE_S)
        return Outcome(answer, getattr(answer, TASKS[cell.task]))

    async def stored(self, outcome: Outcome) -> run_pb2.Run:
        """The run as it is recorded."""
        found = await self.mesh.stub.GetRun(pb.GetRunRequest(run_id=outcome.answer.run_id))
        run: run_pb2.Run = found.run
        return run

    async def say(self, agent: str, text: str, *, streamed: bool, calls: tuple[Call, ...] = ()) -> Outcome:
        """Asks an agent whose models both answer with this text, the first one after these calls."""
        models = (f"{agent}-first", f"{agent}-second")
        for model in models:
            self.server.always(Script(text, piece_chars=64), model)
        if calls:
            self.server.queue(models[0], Script("", calls))
        await self._create(agent, models, shaped=False)
        request = task_pb2.AskRequest(question=f"Why is {self.order} late?", agent=agent)
        if streamed:
            return await self._streamed(pb.StreamRunRequest(ask=request), "ask")
        answer = await self.mesh.stub.Ask(request, timeout=DEADLINE_S)
        return Outcome(answer, answer.answer)

    async def _make(self, cell: Cell) -> None:
        first, second = cell.models
        await self._create(cell.agent, (first, second), shaped=cell.shaped, timeout_s=cell.timeout_s)
        right = Script(cell.right)
        self.server.always(FAULTS[cell.fault], first)
        self.server.always(FAULTS[cell.fault] if cell.both else right, second)

    async def _create(
        self, agent: str, models: tuple[str, str], *, shaped: bool, timeout_s: float = _TIMEOUT_S
    ) -> None:
        first, second = models
        spec = definition_pb.AgentSpec(
            name=agent,
            config=definition_pb.AgentConfig(
                model=definition_pb.ModelConfig(model=first, fallback_models=[second], timeout_s=timeout_s),
                limits=definition_pb.RunLimits(max_steps=4, max_tokens=1_000_000),
            ),
            capabilities=[
                definition_pb.Capability(capability_id=tool) for tool in ("recent_outcomes", "get_order")
            ],
        )
        if shaped:
            spec.output_schema.update(_SHAPE)
        await self.mesh.registry.CreateAgent(registry_pb.CreateAgentRequest(spec=spec))

    def _request(self, cell: Cell) -> Any:
        match cell.task:
            case "run_task":
                return task_pb2.RunTaskRequest(agent=cell.agent, task="Give advice.")
            case "ask":
                return task_pb2.AskRequest(question=f"Why is {self.order} late?", agent=cell.agent)
            case "explain_eta":
                query = eta_pb2.EtaQuery(order_id=self.order)
                return task_pb2.ExplainEtaRequest(query=query, agent=cell.agent)
            case "explain_route":
                route = route_pb.OptimizeRouteRequest(driver_id=self.driver, orders=[order(self.order)])
                return task_pb2.ExplainRouteRequest(route=route, agent=cell.agent)
            case _:
                return task_pb2.PlanDeliveryRequest(order_ids=[self.order], agent=cell.agent)

    async def _streamed(self, request: pb.StreamRunRequest, task: str) -> Outcome:
        events = [event async for event in self.mesh.stub.StreamRun(request, timeout=DEADLINE_S)]
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds[-1] == "result", events[-1]
        answer = getattr(events[-1].result, task)
        return Outcome(
            answer,
            getattr(answer, TASKS[task]),
            "".join(event.token.text for event in events if event.WhichOneof("event") == "token"),
            events[-1].result.streamed,
            kinds,
        )


@contextlib.asynccontextmanager
async def faulty(database: str, folder: Path) -> AsyncIterator[Faulty]:
    """The mesh; afterwards no connection to a model is open."""
    prices = {model: (1.0, 2.0) for cell in CELLS for model in cell.models}
    async with contextlib.AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # The matrix is about what comes of a fault; how long models are waited for is shown elsewhere.
        patch.setattr(backoff, "BASE_S", 0.01)
        server = MockOpenAI(record=1000)
        await server.start()
        stack.push_async_callback(server.close)
        async with agents_mesh(
            database, folder, base_url=server.base_url, model_prices=prices, cache_mib=0
        ) as mesh:
            (known,) = await mesh.seed()
            yield Faulty(mesh, server, known, "courier_0")
        await server.until(lambda: server.open_connections == 0)
