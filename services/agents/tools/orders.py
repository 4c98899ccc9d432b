"""Tool: one order and when it arrives."""

import asyncio
from typing import Any

from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.eta.v1.eta_service_pb2 import PredictEtaRequest, PredictEtaResponse
from waymesh.route.v1.route_service_pb2 import GetOrderRequest, GetOrderResponse

from services.agents.tools import shapes
from services.agents.tools.desk import Desk, degraded
from services.agents.tools.signature import OrderId
from services.mesh.errors import MeshError, NotFound


async def get_order(desk: Desk, order_id: OrderId) -> dict[str, Any]:
    """Look an order up: its status, promised window, who carries it and why, and when it is expected
    (minutes, P10/P50/P90, confidence, factors)."""
    desk.open_order(order_id)
    found: GetOrderResponse | MeshError
    predicted: PredictEtaResponse | MeshError
    found, predicted = await asyncio.gather(
        _or_error(desk.route.GetOrder(GetOrderRequest(order_id=order_id))),
        _or_error(desk.eta.PredictEta(PredictEtaRequest(query=EtaQuery(order_id=order_id)))),
    )
    told: dict[str, Any] = {}
    if isinstance(found, MeshError):
        if isinstance(predicted, MeshError) or isinstance(found, NotFound):
            raise found
        told["order_missing"] = _why(found)
        desk.scope.learn_driver(predicted.prediction.driver_id)
    else:
        learn(desk, found)
        told["order"] = shapes.order(found.order, desk.scope)
        if found.HasField("allocation"):
            told["allocation"] = shapes.allocation(found.allocation, desk.scope)
    if isinstance(predicted, MeshError):
        told["prediction_missing"] = _why(predicted)
    else:
        told["prediction"] = shapes.prediction(predicted.prediction, desk.scope)
        if predicted.HasField("degradation"):
            told["degradation"] = degraded(predicted.degradation)
    return told


def learn(desk: Desk, found: GetOrderResponse) -> None:
    """Opens what the typed fields of an allowed order name: its courier, its merchant, its area."""
    desk.scope.learn_driver(found.order.driver_id)
    desk.scope.learn_driver(found.allocation.assigned_driver_id)
    desk.scope.learn_name(found.order.merchant.merchant_id)
    desk.scope.learn_name(found.order.context.area)


async def _or_error(call: Any) -> Any:
    try:
        return await call
    except MeshError as error:
        return error


def _why(error: MeshError) -> str:
    return error.reason_name or error.code.name
