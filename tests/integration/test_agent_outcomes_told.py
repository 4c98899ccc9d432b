"""What agents say of what agents did, and of orders that wait for nobody, over the real mesh."""

import json
import time
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToJson
from waymesh.agent.v1 import agent_registry_service_pb2 as registry_pb
from waymesh.agent.v1 import definition_pb2, task_pb2
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesRequest
from waymesh.order.v1 import order_pb2
from waymesh.route.v1.route_service_pb2 import UpsertOrdersRequest

from services.mesh.errors import NotFound
from tests.integration.agents_rig import AgentsMesh, agents_mesh
from tests.integration.injection_rig import on_behalf_of
from tests.integration.route_mesh import eventually, order, stamp
from tests.mock_openai import Call, MockOpenAI, Script

LIMIT_S = 20.0
NOTHING = "there is nothing to plan."
UNCHANGED = "Nothing was changed."


async def ask(mesh: AgentsMesh, question: str) -> str:
    answer = await mesh.stub.Ask(task_pb2.AskRequest(question=question), timeout=LIMIT_S)
    return str(answer.answer)


async def recorded(mesh: AgentsMesh, agent: str) -> None:
    """Waits until an outcome of the agent can be listed."""

    async def known() -> bool:
        listed = await mesh.feedback.ListOutcomes(ListOutcomesRequest(agent_name=agent, page_size=1))
        return bool(listed.events)

    await eventually(known)


async def test_what_agents_did_is_told_as_it_is_recorded(database: str, tmp_path: Path):
    async with agents_mesh(database, tmp_path, enable_outcome_logging=True) as mesh:
        await mesh.seed()
        assert "is waiting for a courier" in await ask(mesh, "Where is order_0?")
        await recorded(mesh, "agents.dispatcher")
        for question in ("What did agents do of late?", "What did dispatcher do of late?"):
            assert " of agent dispatcher " in (await ask(mesh, question)).split(" known", 1)[0]

        unknown = task_pb2.ExplainEtaRequest(query=EtaQuery(order_id="order_9"))
        with pytest.raises(NotFound):
            await mesh.stub.ExplainEta(unknown, timeout=LIMIT_S)
        await recorded(mesh, "agents.eta")
        failed = await ask(mesh, "Which agents failed in the last hour?")
        assert failed.startswith("1 recent failed outcome of agent eta is known")
        assert "No recent failed outcomes of agents agent-custom, agent-demo, dispatcher and route" in failed


async def test_what_a_tenants_agents_did_is_told_to_that_tenant_alone(database: str, tmp_path: Path):
    async with agents_mesh(database, tmp_path, enable_outcome_logging=True) as mesh:
        owners = {"default": "night-shift", "acme": "day-shift"}
        for tenant, name in owners.items():
            spec = definition_pb2.AgentSpec(
                name=name, instructions=definition_pb2.AgentInstructions(system="Be kind.")
            )
            with on_behalf_of(tenant):
                await mesh.registry.CreateAgent(registry_pb.CreateAgentRequest(spec=spec))
                task = task_pb2.RunTaskRequest(agent=name, task="What can you do?", run_id="a-run-of-theirs")
                await mesh.stub.RunTask(task, timeout=LIMIT_S)
                await recorded(mesh, f"agents.{name}")
        for tenant, own in owners.items():
            with on_behalf_of(tenant):
                assert "1 recent" in await ask(mesh, f"What did {own} do of late?")
                assert f"of agent {own}" in await ask(mesh, f"What did agents.{own} do of late?")
        for tenant in ("default", "acme", "rival"):
            with on_behalf_of(tenant):
                for name in {*owners.values()} - {owners.get(tenant)}:
                    for asked in (name, f"agents.{name}"):
                        told = await ask(mesh, f"What did {asked} do of late?")
                        assert told.startswith("No recent outcomes of ")
                        assert told == (
                            await ask(mesh, f"What did {asked.replace('shift', 'watch')} do of late?")
                        ).replace("watch", "shift")
                listed = (await mesh.feedback.ListOutcomes(ListOutcomesRequest(page_size=1000))).events
            assert {one.agent_name for one in listed if "shift" in one.agent_name} == {
                f"agents.{owners[tenant]}" for _ in range(tenant in owners)
            }
            runs = [one.run_id for one in listed if "shift" in one.agent_name]
            assert runs == ["a-run-of-theirs"] * (tenant in owners)


async def test_a_model_that_asks_for_an_agent_by_its_name_gets_its_outcomes(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    asked = Call("recent_outcomes", json.dumps({"agent_name": "dispatcher", "status": None, "count": None}))
    async with agents_mesh(
        database, tmp_path, base_url=mock_openai.base_url, enable_outcome_logging=True
    ) as mesh:
        mock_openai.always(Script(text="All is well."))
        await ask(mesh, "Is all well?")
        await recorded(mesh, "agents.dispatcher")
        mock_openai.answer_with(
            lambda body: (
                Script(text="Somebody was asked.")
                if any(message["role"] == "tool" for message in body["messages"])
                else Script(text="", calls=(asked,))
            )
        )
        answer = await mesh.stub.Ask(task_pb2.AskRequest(question="Who was busy?"), timeout=LIMIT_S)
        (evidence,) = answer.evidence
        assert evidence.result["agent_name"] == "agents.dispatcher"
        assert evidence.result["count"] == 1
        assert "run_id" not in MessageToJson(evidence.result)


STANDING = {
    order_pb2.ORDER_STATUS_ASSIGNED: "Order {} has a courier already",
    order_pb2.ORDER_STATUS_PICKED_UP: "Order {} is on its way to the customer already",
    order_pb2.ORDER_STATUS_DELIVERED: "Order {} was delivered",
    order_pb2.ORDER_STATUS_CANCELLED: "Order {} was cancelled",
}


@pytest.mark.parametrize("commit", [False, True])
async def test_orders_that_do_not_wait_are_said_to_stand_as_they_do(
    database: str, tmp_path: Path, commit: bool
):
    told = set(order_pb2.OrderStatus.values()) - {order_pb2.ORDER_STATUS_UNSPECIFIED}
    assert told == {*STANDING, order_pb2.ORDER_STATUS_PLACED}
    async with agents_mesh(database, tmp_path) as mesh:
        await mesh.seed()
        for status, words in STANDING.items():
            name = f"order_as_{status}"
            driver = {} if status == order_pb2.ORDER_STATUS_CANCELLED else {"driver_id": "courier_0"}
            one = order(name, status=status, ready_at=stamp(time.time()), **driver)
            if status == order_pb2.ORDER_STATUS_PICKED_UP:
                one.picked_up_at.CopyFrom(stamp(time.time()))
            await mesh.route.UpsertOrders(UpsertOrdersRequest(orders=[one]))
            request = task_pb2.PlanDeliveryRequest(order_ids=[name], commit=commit)
            plan = await mesh.stub.PlanDelivery(request, timeout=LIMIT_S)
            end = "" if commit else f" {UNCHANGED}"
            assert plan.critique == f"{words.format(name)}: {NOTHING}{end}"
            answer = await ask(mesh, f"Who could carry {name}?")
            assert answer == f"{words.format(name)}, so no courier is looked for. {UNCHANGED}"

        # One that does wait is planned beside them.
        both = task_pb2.PlanDeliveryRequest(order_ids=["order_0", "order_as_4"], commit=commit)
        plan = await mesh.stub.PlanDelivery(both, timeout=LIMIT_S)
        assert f"{'carries' if commit else 'would carry'} order order_0" in plan.critique
        assert f"Order order_as_4 was delivered: {NOTHING}" in plan.critique
        assert "has no courier" not in plan.critique
