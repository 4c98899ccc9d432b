"""plan_delivery: allocation, then eta and route beside each other, then a critique, as one workflow.

Every step goes through the dispatcher, so that each leaves an outcome that bears the workflow's id. A step
whose engine is away leaves its part of the plan out and says so; the plan is given all the same.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from waymesh.agent.v1.task_pb2 import (
    CourierRoute,
    DeliveryPlan,
    PlanDeliveryRequest,
    PlanDeliveryResponse,
    PlanStep,
)
from waymesh.eta.v1.eta_pb2 import EtaPrediction, EtaQuery
from waymesh.eta.v1.eta_service_pb2 import BatchPredictEtaRequest
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.route.v1.allocation_pb2 import Allocation
from waymesh.route.v1.route_pb2 import RoutePlan
from waymesh.route.v1.route_service_pb2 import (
    AllocateDriversRequest,
    AllocateDriversResponse,
    GetOrderRequest,
    OptimizeRouteRequest,
)

from services.agents import engines
from services.agents.ladder import worse
from services.agents.loop import Brief
from services.agents.tasks.context import Context, EngineAway
from services.agents.tools import Scope
from services.mesh.errors import MeshError
from services.mesh.feedback.agents import Partial
from services.mesh.feedback.workflow import WorkflowResult

NAME: Final = "plan_delivery"
AGENT: Final = "dispatcher"
_ASK: Final = "Judge this plan for the dispatcher: what is good, what is at risk, and what to watch."
_WORDING_S: Final = 0.05
# As many as one request for a route takes.
_MOST_ORDERS: Final = 4
_NOT_PLANNED: Final = "the engine that allocates did not answer"


@dataclass(slots=True)
class _Plan:
    """What the steps have found out so far."""

    allocations: dict[str, Allocation] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    predictions: dict[str, EtaPrediction] = field(default_factory=dict)
    routes: dict[str, RoutePlan] = field(default_factory=dict)
    critique: str = ""
    degradation: Degradation | None = None

    def lacks(self, degradation: Degradation | None) -> None:
        """Something of it is second best."""
        self.degradation = worse(self.degradation, degradation)


class _Step:
    """One agent of the workflow: what it does is a method of the run below."""

    agent_type = "engine"

    def __init__(self, name: str, work: Any) -> None:
        self.name = name
        self._work = work

    async def run(self, input_data: Any, context: Mapping[str, Any]) -> Any:
        """As the dispatcher calls it."""
        return await self._work()


def scope_of(request: PlanDeliveryRequest, scope: Scope) -> None:
    """The orders may be looked at, and the couriers they are given to."""
    scope.order_ids.update(request.order_ids)
    scope.allow_changes = request.commit


async def run(request: PlanDeliveryRequest, context: Context) -> PlanDeliveryResponse:
    """Raises the caller's faults as route told them."""
    return await _Run(request, context).run()


class _Run:
    def __init__(self, request: PlanDeliveryRequest, context: Context) -> None:
        self._request = request
        self._context = context
        self._plan = _Plan()
        self._results: list[WorkflowResult] = []

    async def run(self) -> PlanDeliveryResponse:
        await self._do([_Step("allocation", self._allocate)])
        await self._do([_Step("eta", self._predict), _Step("route", self._route)], parallel=True)
        await self._do([_Step("critique", self._judge)])
        plan, context = self._plan, self._context
        return PlanDeliveryResponse(
            run_id=context.run_id,
            workflow_id=context.workflow_id,
            plans=self._plans(),
            routes=[CourierRoute(driver_id=driver, plan=way) for driver, way in plan.routes.items()],
            critique=plan.critique,
            steps=[PlanStep(**entry) for result in self._results for entry in result.outputs],
            usage=context.journal.usage,
            degradation=plan.degradation,
        )

    async def _do(self, steps: Sequence[_Step], *, parallel: bool = False) -> None:
        """Runs steps of the workflow. Raises what they raised: the caller's fault, or ours."""
        context = self._context
        told = {"workflow_id": context.workflow_id, "run_id": context.run_id}
        if self._results:
            told["parent_event_id"] = self._results[-1].outputs[-1]["event_id"]
        result = await context.dispatcher.execute_workflow(
            steps, _Task(list(self._request.order_ids)), (NAME,), parallel=parallel, context=told
        )
        self._results.append(result)
        for one in result.results:
            if one.error is not None:
                raise one.error

    async def _allocate(self) -> object:
        request, plan = self._request, self._plan
        asked = AllocateDriversRequest(order_ids=request.order_ids, dry_run=not request.commit)
        try:
            reply: AllocateDriversResponse = await self._context.engine(
                "route.allocate_drivers", lambda: self._context.peers.route.AllocateDrivers(asked)
            )
        except EngineAway as away:
            plan.lacks(away.degradation)
            plan.reasons = dict.fromkeys(request.order_ids, _NOT_PLANNED)
            return Partial(None, away.degradation.reason)
        plan.allocations = {one.order_id: one for one in reply.allocations}
        plan.reasons = {one.order_id: one.reason for one in reply.unallocated}
        self._context.scope.driver_ids.update(one.assigned_driver_id for one in reply.allocations)
        if reply.HasField("degradation"):
            plan.lacks(reply.degradation)
        return {"allocated": len(reply.allocations), "waiting": len(reply.unallocated)}

    async def _predict(self) -> object:
        queries = [
            EtaQuery(order_id=order, driver_id=one.assigned_driver_id)
            for order, one in self._plan.allocations.items()
        ]
        if not queries:
            return {"predicted": 0}
        try:
            reply = await self._context.engine(
                "eta.batch_predict_eta",
                lambda: self._context.peers.eta.BatchPredictEta(BatchPredictEtaRequest(queries=queries)),
            )
        except EngineAway as away:
            self._plan.lacks(away.degradation)
            return Partial(None, away.degradation.reason)
        for query, result in zip(queries, reply.results, strict=True):
            if result.HasField("prediction"):
                self._plan.predictions[query.order_id] = result.prediction
        if reply.HasField("degradation"):
            self._plan.lacks(reply.degradation)
        return {"predicted": len(self._plan.predictions)}

    async def _route(self) -> object:
        orders: dict[str, list[str]] = {}
        for order, one in self._plan.allocations.items():
            orders.setdefault(one.assigned_driver_id, []).append(order)
        await asyncio.gather(*(self._route_of(driver, own) for driver, own in orders.items()))
        if len(self._plan.routes) < len(orders):
            return Partial({"routes": len(self._plan.routes)}, "not every courier's way is known")
        return {"routes": len(self._plan.routes)}

    async def _route_of(self, driver: str, orders: Sequence[str]) -> None:
        """The courier's way: with all the orders the courier has, or of a proposal with its new ones."""
        context, route = self._context, self._context.peers.route
        try:
            request = OptimizeRouteRequest(driver_id=driver)
            if not self._request.commit:
                found = await asyncio.gather(
                    *(
                        context.engine(
                            "route.get_order", partial(route.GetOrder, GetOrderRequest(order_id=order))
                        )
                        for order in orders[:_MOST_ORDERS]
                    )
                )
                request.orders.extend(one.order for one in found)
            reply = await context.engine("route.optimize_route", lambda: route.OptimizeRoute(request))
        except EngineAway as away:
            self._plan.lacks(away.degradation)
        except MeshError as error:  # such as a courier whose position is not known: the plan stands without
            reason = f"{driver}: {error.reason_name or error.code.name}"
            self._plan.lacks(Degradation(source="route.optimize_route", reason=reason))
        else:
            self._plan.routes[driver] = reply.plan

    async def _judge(self) -> object:
        plans = self._plans()
        routes = [CourierRoute(driver_id=driver, plan=way) for driver, way in self._plan.routes.items()]
        data = {"plan": PlanDeliveryResponse(plans=plans, routes=routes)}

        async def template() -> str:
            return engines.critique(plans, routes, committed=self._request.commit)

        if not self._plan.allocations:  # there is nothing to judge
            self._plan.critique = await template()
        else:
            words = await self._context.words(
                Brief(NAME, _ASK, data, words_count=False), template, engine_s=_WORDING_S
            )
            self._plan.critique = words.text
            self._plan.lacks(words.degradation)
        return {"characters": len(self._plan.critique)}

    def _plans(self) -> list[DeliveryPlan]:
        plan = self._plan
        return [
            DeliveryPlan(
                order_id=order,
                allocation=plan.allocations.get(order),
                unallocated_reason="" if order in plan.allocations else plan.reasons.get(order, _NOT_PLANNED),
                prediction=plan.predictions.get(order),
            )
            for order in self._request.order_ids
        ]


class _Task(list[str]):
    """The orders of a workflow, which is recorded as what it is."""

    action_type = NAME
