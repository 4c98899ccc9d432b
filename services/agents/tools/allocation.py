"""Tool: who would carry orders, and, if the caller allows changes, who carries them."""

from typing import Annotated, Any

from pydantic import Field
from waymesh.route.v1.route_service_pb2 import AllocateDriversRequest, AllocateDriversResponse

from services.agents.tools import shapes
from services.agents.tools.desk import Desk, degraded
from services.agents.tools.sentences import engine_text
from services.agents.tools.signature import OrderId


async def allocate_drivers(
    desk: Desk,
    order_ids: Annotated[
        list[OrderId], Field(description="Waiting orders that the caller named.", min_length=1, max_length=20)
    ],
    dry_run: Annotated[
        bool | None, Field(description="true or null: only say what would be done. false: do it, if allowed.")
    ] = None,
) -> dict[str, Any]:
    """Find couriers for waiting orders and why each is the best. Only says what would be done, unless dry_run
    is false and the caller allowed changes."""
    for order_id in order_ids:
        desk.open_order(order_id)
    only_say = dry_run is not False or not desk.scope.allow_changes
    request = AllocateDriversRequest(order_ids=list(dict.fromkeys(order_ids)), dry_run=only_say)
    answer: AllocateDriversResponse = await desk.route.AllocateDrivers(request)
    for one in answer.allocations:
        if desk.scope.may_see_order(one.order_id):
            desk.scope.learn_driver(one.assigned_driver_id)
    told: dict[str, Any] = {
        "changed": not only_say,
        "allocations": [
            shapes.allocation(one, desk.scope)
            for one in answer.allocations
            if desk.scope.may_see_order(one.order_id)
        ],
        "unallocated": [
            {"order_id": desk.scope.shown_order(one.order_id), "engine_text": engine_text(one.reason)}
            for one in answer.unallocated
            if desk.scope.may_see_order(one.order_id)
        ],
    }
    if only_say and dry_run is False:
        told["note"] = "nothing was changed: the caller did not allow changes"
    if answer.HasField("degradation"):
        told["degradation"] = degraded(answer.degradation)
    return told
