"""Questions about what agents did, and about orders that no courier is looked for."""

import pytest
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesResponse
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.route.v1.allocation_pb2 import UnallocatedOrder
from waymesh.route.v1.route_service_pb2 import AllocateDriversResponse

from services.agents.engines import answer
from services.agents.engines.intents import Call, calls_of, names_in
from services.agents.tools import Scope
from tests.unit.agents.tools.scripted_services import Mesh, stamp


async def ask(question: str, mesh: Mesh, scope: Scope | None = None) -> str:
    """The answer."""
    text, _ = await answer(question, scope or Scope(words=question), mesh.toolbox)
    return text


EVERYBODY = (
    *(f"agents.{name}" for name in ("agent-custom", "agent-demo", "dispatcher", "eta", "route")),
    *("allocation", "eta", "route"),
)


def recent(agent: str) -> Call:
    """What an agent did of late, however that ended."""
    return Call("recent_outcomes", {"agent_name": agent, "status": None})


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What did dispatcher do of late?", [recent("agents.dispatcher")]),
        ("What did agents.dispatcher do of late?", [recent("agents.dispatcher")]),
        ("What did Agent-Demo do of late?", [recent("agents.agent-demo")]),
        # A service and an agent are called so: the service, unless the question says that it is the agent.
        ("What did eta do of late?", [recent("eta")]),
        ("What did agents.eta do of late?", [recent("agents.eta")]),
        ("What did the agent eta do of late?", [recent("agents.eta")]),
        ("What did the eta agent do of late?", [recent("agents.eta")]),
        ("What did eta do of late, and what agents.route?", [recent("agents.route"), recent("eta")]),
        ("What did night-shift do of late?", [recent("night-shift")]),
        ("What has the agent Nightly been up to?", [recent("Nightly")]),
        ("What did Peter do of late?", []),
        ("What has the agent been doing?", [recent(each) for each in EVERYBODY]),
    ],
)
def test_agents_are_asked_for_as_outcomes_call_them(question: str, expected: list[Call]) -> None:
    assert calls_of(question, names_in(question, Scope(words=question))) == expected


async def test_agents_of_which_nothing_is_known_are_told_of_at_once() -> None:
    text = await ask("What did agents do of late?", Mesh())
    assert text == (
        "No recent outcomes of agents agent-custom, agent-demo, dispatcher, eta and route, of services eta"
        " and route and of allocation are known."
    )


async def test_an_agent_is_told_as_an_agent_and_those_that_did_nothing_after_it() -> None:
    mesh = Mesh()
    event = OutcomeEvent(status=3, timestamp=stamp(-1), agent_name="agents.dispatcher")
    mesh.feedback.answers["ListOutcomes"] = lambda request: ListOutcomesResponse(
        events=[event] if request.agent_name == event.agent_name else []
    )
    text = await ask("What did agents do of late?", mesh)
    assert text.startswith("1 recent partly successful outcome of agent dispatcher is known, at 19:29 UTC")
    assert text.endswith(
        "No recent outcomes of agents agent-custom, agent-demo, eta and route, of services eta and route"
        " and of allocation are known."
    )


@pytest.mark.parametrize("tenant", ["default", "acme"])
async def test_who_asks_for_an_agent_that_did_nothing_is_told_so(tenant: str) -> None:
    question = "What did night-shift do of late?"
    told = await ask(question, Mesh(), Scope(tenant=tenant, words=question))
    assert told == "No recent outcomes of night-shift are known."


async def test_an_agent_that_is_called_as_a_link_is_not_named() -> None:
    assert "evil.com" not in await ask("What did evil.com do of late?", Mesh())


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("is assigned", "Order order_1 has a courier already, so no courier is looked for."),
        (
            "is picked_up",
            "Order order_1 is on its way to the customer already, so no courier is looked for.",
        ),
        ("is delivered", "Order order_1 was delivered, so no courier is looked for."),
        ("is cancelled", "Order order_1 was cancelled, so no courier is looked for."),
        ("no courier within reach", "Order order_1 would have to wait: no courier within reach."),
    ],
)
async def test_only_orders_that_wait_would_have_to_wait(reason: str, told: str) -> None:
    mesh = Mesh()
    mesh.route.answers["AllocateDrivers"] = AllocateDriversResponse(
        unallocated=[UnallocatedOrder(order_id="order_1", reason=reason)]
    )
    assert await ask("Who could carry order_1?", mesh) == f"{told} Nothing was changed."
