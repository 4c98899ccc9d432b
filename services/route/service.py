"""RouteService: messages in, calls of the rooms behind, messages out."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1 import allocation_pb2, route_service_pb2
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceServicer

from services.mesh import logs
from services.mesh.errors import to_status
from services.mesh.events import EventBus
from services.mesh.store import GroupCommit, Store
from services.route import refusals, store
from services.route.allocator import Allocator
from services.route.bodies import from_body
from services.route.intake import Change, Taken, take_couriers, take_orders
from services.route.planner import Planner
from services.route.store import Connection

T = TypeVar("T")
# An item with the id of the request that asks for it, which whoever writes it no longer knows.
_Asked: TypeAlias = tuple[T, str]


class RouteServicer(RouteServiceServicer):
    """What route serves."""

    def __init__(
        self,
        *,
        database: Store,
        bus: EventBus,
        planner: Planner,
        allocator: Allocator,
    ) -> None:
        self._database = database
        self._bus = bus
        self._planner = planner
        self._allocator = allocator
        self._orders = GroupCommit(database.transaction, self._write_orders)
        self._couriers = GroupCommit(database.transaction, self._write_couriers)

    async def close(self) -> None:
        """Waits for the writes under way."""
        await self._orders.close()
        await self._couriers.close()

    async def UpsertOrders(  # noqa: N802
        self, request: route_service_pb2.UpsertOrdersRequest, context: Any
    ) -> route_service_pb2.UpsertOrdersResponse:
        """Each order once by its id and revision; a refused one fails a call that holds no other."""
        orders = request.orders
        faults = [refusals.order_fault(order, f"orders[{i}]") for i, order in enumerate(orders)]
        good = [order for order, fault in zip(orders, faults, strict=True) if fault is None]
        written = iter(await self._orders.add(_asked(good)))
        results = _unless_alone(
            [
                next(written) if fault is None else Taken(order.order_id, 0, error=fault)
                for order, fault in zip(orders, faults, strict=True)
            ]
        )
        return route_service_pb2.UpsertOrdersResponse(
            results=[_result(taken) for taken in results], duplicate=_all_duplicates(results)
        )

    async def UpsertCouriers(  # noqa: N802
        self, request: route_service_pb2.UpsertCouriersRequest, context: Any
    ) -> route_service_pb2.UpsertCouriersResponse:
        """Each courier once by id and revision."""
        results = _unless_alone(await self._couriers.add(_asked(request.couriers)))
        return route_service_pb2.UpsertCouriersResponse(
            results=[_result(taken) for taken in results], duplicate=_all_duplicates(results)
        )

    async def CancelOrder(  # noqa: N802
        self, request: route_service_pb2.CancelOrderRequest, context: Any
    ) -> route_service_pb2.CancelOrderResponse:
        """Raises NotFound for an unknown order, FailedPrecondition for one that is picked up or over."""
        (taken,) = await self._orders.add(_asked([request.cancellation]))
        if taken.error is not None:
            raise taken.error
        return route_service_pb2.CancelOrderResponse(order=taken.order, duplicate=taken.duplicate)

    async def GetOrder(  # noqa: N802
        self, request: route_service_pb2.GetOrderRequest, context: Any
    ) -> route_service_pb2.GetOrderResponse:
        """Raises NotFound for an unknown order."""
        async with self._database.pool.acquire() as conn:
            found = await store.get_order(conn, request.order_id)
        if found is None:
            raise refusals.unknown_order(request.order_id)
        order, allocation = found
        order_id = request.order_id
        response = route_service_pb2.GetOrderResponse(order=from_body(Order, order, order_id))
        if allocation is not None:
            response.allocation.CopyFrom(from_body(allocation_pb2.Allocation, allocation, order_id))
        return response

    async def OptimizeRoute(  # noqa: N802
        self, request: route_service_pb2.OptimizeRouteRequest, context: Any
    ) -> route_service_pb2.OptimizeRouteResponse:
        """See Planner.optimize."""
        return await self._planner.optimize(request)

    async def AllocateDrivers(  # noqa: N802
        self, request: route_service_pb2.AllocateDriversRequest, context: Any
    ) -> route_service_pb2.AllocateDriversResponse:
        """See Allocator.on_demand."""
        answer = await self._allocator.on_demand(
            request.order_ids, dry_run=request.dry_run, limits=request.limits
        )
        response = route_service_pb2.AllocateDriversResponse(
            allocations=answer.allocations,
            unallocated=[
                allocation_pb2.UnallocatedOrder(order_id=waiting.order_id, reason=waiting.reason)
                for waiting in answer.waiting
            ],
        )
        if answer.degradation is not None:
            response.degradation.CopyFrom(answer.degradation)
        return response

    async def _write_orders(self, conn: Connection, changes: Sequence[_Asked[Change]]) -> Sequence[Taken]:
        items, causes = _apart(changes)
        taken, messages = await take_orders(conn, items, causes)
        if messages:
            await self._bus.publish(conn, messages)
        return taken

    async def _write_couriers(self, conn: Connection, couriers: Sequence[_Asked[Courier]]) -> Sequence[Taken]:
        items, causes = _apart(couriers)
        taken, messages = await take_couriers(conn, items, causes)
        if messages:
            await self._bus.publish(conn, messages)
        return taken


def _asked(items: Sequence[T]) -> list[_Asked[T]]:
    request_id = logs.request_id.get()
    return [(item, request_id) for item in items]


def _apart(asked: Sequence[_Asked[T]]) -> tuple[list[T], list[str]]:
    return [item for item, _ in asked], [request_id for _, request_id in asked]


def _unless_alone(results: Sequence[Taken]) -> Sequence[Taken]:
    """The results; a refusal that is the only one fails the call."""
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    return results


def _result(taken: Taken) -> route_service_pb2.UpsertResult:
    return route_service_pb2.UpsertResult(
        id=taken.id,
        revision=taken.revision,
        duplicate=taken.duplicate,
        error=None if taken.error is None else to_status(taken.error),
    )


def _all_duplicates(results: Sequence[Taken]) -> bool:
    return all(taken.duplicate for taken in results)
