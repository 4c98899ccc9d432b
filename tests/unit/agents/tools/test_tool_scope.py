"""A tool can do no more than the caller may: what is open to a run, and how it comes to be open."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesResponse
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_ORDER_UNKNOWN
from waymesh.order.v1.order_pb2 import Merchant, OrderItem
from waymesh.route.v1.route_service_pb2 import GetOrderResponse

from services.agents.tools import Scope
from services.agents.tools.scope import names
from services.mesh.errors import NotFound
from tests.unit.agents.tools.scripted_services import Mesh, an_order

ARGUMENTS = {
    "get_order": {"order_id": "order_9"},
    "find_similar_deliveries": {"order_id": "order_9", "merchant_id": None, "area": None, "hour": None},
    "allocate_drivers": {"order_ids": ["order_1", "order_9"], "dry_run": True},
    "weather": {"place": None, "order_id": "order_9", "in_minutes": None},
    "optimize_route": {"driver_id": "driver_9", "max_alternatives": None},
    "recent_outcomes": {"agent_name": "night-shift", "status": None, "count": None},
}


@pytest.mark.parametrize(
    "words", ["where is order_9?", "order_9", "(order_9)", "order_9's way", "order_9, now"]
)
def test_the_callers_words_open_what_they_name_as_a_whole(words: str) -> None:
    assert Scope(words=words).may_see_order("order_9")


@pytest.mark.parametrize(
    "words",
    [
        "order_99",
        "my-order_9",
        "order_9-b",
        "order_9.1",
        "t2:order_9",
        "Order_9",
        "order 9",
        "xorder_9",
        "order_9:b",
        "",
    ],
)
def test_a_part_of_a_longer_token_opens_nothing(words: str) -> None:
    assert not Scope(words=words).may_see_order("order_9")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_text_is_too_odd_to_be_looked_through(words: str, token: str) -> None:
    found = names(words, token)
    assert not found or token in words


@pytest.mark.parametrize("tool", ARGUMENTS)
async def test_what_nobody_named_is_refused_before_anybody_is_asked(tool: str) -> None:
    mesh = Mesh()
    outcome = await mesh.use(
        tool, json.dumps(ARGUMENTS[tool]), Scope(words="where is order_1 with driver_1?")
    )
    assert outcome.error is not None
    assert outcome.error.reason_name == "TOOL_REFUSED"
    assert outcome.result is None
    assert mesh.asked == 0


@pytest.mark.parametrize("tool", ARGUMENTS)
async def test_what_the_scope_names_is_given(tool: str) -> None:
    mesh = Mesh()
    scope = Scope(order_ids={"order_1", "order_9"}, driver_ids={"driver_9"}, words="how is night-shift?")
    outcome = await mesh.use(tool, json.dumps(ARGUMENTS[tool]), scope)
    assert outcome.error is None
    assert outcome.result is not None


async def test_a_refusal_says_the_same_whether_the_order_exists_or_not() -> None:
    mesh = Mesh()
    there = await mesh.use("get_order", '{"order_id":"order_9"}', Scope())
    mesh.route.answers["GetOrder"] = NotFound("no", reason=ERROR_REASON_ORDER_UNKNOWN)
    away = await mesh.use("get_order", '{"order_id":"order_404"}', Scope())
    assert there.text == away.text


async def test_an_orders_courier_is_learned_from_its_typed_field() -> None:
    mesh = Mesh()
    scope = Scope(words="why is order_1 late?")
    before = await mesh.use("optimize_route", '{"driver_id":"driver_1"}', scope)
    await mesh.use("get_order", '{"order_id":"order_1"}', scope)
    after = await mesh.use("optimize_route", '{"driver_id":"driver_1"}', scope)
    assert (before.error is None, after.error is None) == (False, True)


async def test_a_courier_who_was_only_come_upon_opens_no_further_order_and_names_none() -> None:
    mesh = Mesh()
    scope = Scope(words="why is order_1 late?")
    await mesh.use("get_order", '{"order_id":"order_1"}', scope)
    route = await mesh.use("optimize_route", '{"driver_id":"driver_1"}', scope)
    assert "order_1" in route.text
    assert "order_2" not in route.text
    assert route.result is not None
    assert [stop["order_id"] for stop in route.result["stops"]] == ["order_1", "another order"] * 2
    assert not scope.may_see_order("order_2")


async def test_a_courier_whom_the_caller_named_opens_the_orders_on_board() -> None:
    mesh = Mesh()
    scope = Scope(words="what does driver_1 carry?")
    await mesh.use("optimize_route", '{"driver_id":"driver_1"}', scope)
    assert (await mesh.use("get_order", '{"order_id":"order_2"}', scope)).error is None


@pytest.mark.parametrize(
    "field",
    [
        {"merchant": Merchant(merchant_id="m", name="look at order_9 and driver_9")},
        {"items": [OrderItem(name="order_9 driver_9", quantity=1)]},
        {"cancel_reason": "see order_9 of driver_9"},
        {"required_skills": ["order_9", "driver_9"]},
        {"driver_id": "order_9 driver_9"},
    ],
)
async def test_free_text_of_an_allowed_order_opens_nothing(field: dict[str, object]) -> None:
    mesh = Mesh()
    scope = Scope(words="where is order_1?")
    mesh.route.answers["GetOrder"] = GetOrderResponse(order=an_order("order_1", **field))
    assert (await mesh.use("get_order", '{"order_id":"order_1"}', scope)).error is None
    for tool, arguments in (
        ("get_order", '{"order_id":"order_9"}'),
        ("optimize_route", '{"driver_id":"driver_9"}'),
    ):
        refused = await mesh.use(tool, arguments, scope)
        assert refused.error is not None
        assert refused.error.reason_name == "TOOL_REFUSED"


async def test_runners_up_and_mates_of_an_allocation_stay_unknown() -> None:
    mesh = Mesh()
    scope = Scope(words="who takes order_1?")
    outcome = await mesh.use("allocate_drivers", '{"order_ids":["order_1"],"dry_run":true}', scope)
    for stranger in ("driver_9", "order_77", "order_78"):
        assert stranger not in outcome.text
    assert not scope.may_see_driver("driver_9")
    assert scope.may_see_driver("driver_1")
    assert "3.5 min more" in outcome.text


@pytest.mark.parametrize("asked", ["true", "false", "null"])
async def test_nothing_changes_unless_the_caller_allows_it(asked: str) -> None:
    mesh = Mesh()
    outcome = await mesh.use(
        "allocate_drivers", f'{{"order_ids":["order_1"],"dry_run":{asked}}}', Scope(order_ids={"order_1"})
    )
    [request] = mesh.route.requests("AllocateDrivers")
    assert request.dry_run
    assert outcome.result is not None
    assert outcome.result["changed"] is False


@pytest.mark.parametrize(("asked", "dry"), [("true", True), ("null", True), ("false", False)])
async def test_even_if_allowed_only_a_plain_no_to_dry_run_changes_anything(asked: str, dry: bool) -> None:
    mesh = Mesh()
    scope = Scope(order_ids={"order_1"}, allow_changes=True)
    await mesh.use("allocate_drivers", f'{{"order_ids":["order_1"],"dry_run":{asked}}}', scope)
    [request] = mesh.route.requests("AllocateDrivers")
    assert request.dry_run is dry
    assert list(request.order_ids) == ["order_1"]


async def test_a_tool_that_the_agent_does_not_have_is_refused() -> None:
    mesh = Mesh()
    outcome = await mesh.toolbox.call("get_order", '{"order_id":"order_1"}', Scope(words="order_1"), None)
    assert outcome.error is not None
    assert outcome.error.reason_name == "TOOL_REFUSED"
    assert mesh.asked == 0


@pytest.mark.parametrize(
    ("asked", "recorded"),
    [
        ("dispatcher", "agents.dispatcher"),
        ("agents.dispatcher", "agents.dispatcher"),
        ("agent-demo", "agents.agent-demo"),
        ("agent-custom", "agents.agent-custom"),
        ("agents.eta", "agents.eta"),
        ("eta", "eta"),
        ("agents", "agents"),
        ("allocation", "allocation"),
    ],
)
async def test_agents_of_our_own_are_asked_for_as_they_are_recorded_by_anybody(
    asked: str, recorded: str
) -> None:
    mesh = Mesh()
    outcome = await mesh.use("recent_outcomes", json.dumps({"agent_name": asked}), Scope(tenant="acme"))
    assert outcome.result is not None
    assert outcome.result["agent_name"] == recorded
    assert [request.agent_name for request in mesh.feedback.requests("ListOutcomes")] == [recorded]


async def test_agents_that_nobody_named_are_refused() -> None:
    mesh = Mesh()
    outcome = await mesh.use("recent_outcomes", '{"agent_name":"night-shift"}', Scope(tenant="acme"))
    assert outcome.error is not None
    assert outcome.error.reason_name == "TOOL_REFUSED"
    assert mesh.asked == 0


@pytest.mark.parametrize("tenant", ["default", "acme"])
@pytest.mark.parametrize(
    ("asked", "looked_for"),
    [
        ("night-shift", ["night-shift", "agents.night-shift"]),
        ("agents.night-shift", ["agents.night-shift"]),
        ("agents.day-shift", ["agents.day-shift"]),
        ("planner", ["planner"]),
    ],
)
async def test_tenants_own_agents_are_found_under_their_names(
    tenant: str, asked: str, looked_for: list[str]
) -> None:
    """Whose they are is for feedback to say, which tells a tenant its own alone."""
    mesh = Mesh()
    events = {"agents.night-shift": [OutcomeEvent(status=1)], "planner": [OutcomeEvent(status=2)]}
    mesh.feedback.answers["ListOutcomes"] = lambda request: ListOutcomesResponse(
        events=events.get(request.agent_name, [])
    )
    scope = Scope(tenant=tenant, words=f"What did {asked} do?")
    outcome = await mesh.use("recent_outcomes", json.dumps({"agent_name": asked}), scope)
    assert [request.agent_name for request in mesh.feedback.requests("ListOutcomes")] == looked_for
    assert outcome.result is not None
    assert outcome.result["agent_name"] == looked_for[-1]
    assert outcome.result["count"] == len(events.get(looked_for[-1], []))
