"""AgentService: requests to runs, runs to answers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import task_pb2
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceServicer

from services.agents.runner import Runner
from services.agents.runs.cursors import page_token, parse_page_token
from services.agents.runs.live import LiveRuns
from services.agents.runs.record import RunFilter, unknown
from services.agents.runs.streams import RunStreams
from services.agents.tasks.kinds import KINDS
from services.mesh import principal

_PAGE: Final = 100


class AgentServicer(AgentServiceServicer):
    """Translates; see protos/waymesh/agent/v1/agent_service.proto for what each RPC promises."""

    def __init__(self, runner: Runner, live: LiveRuns, streams: RunStreams) -> None:
        self._runner = runner
        self._live = live
        self._streams = streams

    async def RunTask(  # noqa: N802 - the contract's name
        self, request: task_pb2.RunTaskRequest, context: Any
    ) -> task_pb2.RunTaskResponse:
        answer: task_pb2.RunTaskResponse = await self._runner.answer(KINDS["run_task"], request)
        return answer

    async def Ask(  # noqa: N802 - the contract's name
        self, request: task_pb2.AskRequest, context: Any
    ) -> task_pb2.AskResponse:
        answer: task_pb2.AskResponse = await self._runner.answer(KINDS["ask"], request)
        return answer

    async def ExplainEta(  # noqa: N802 - the contract's name
        self, request: task_pb2.ExplainEtaRequest, context: Any
    ) -> task_pb2.ExplainEtaResponse:
        answer: task_pb2.ExplainEtaResponse = await self._runner.answer(KINDS["explain_eta"], request)
        return answer

    async def ExplainRoute(  # noqa: N802 - the contract's name
        self, request: task_pb2.ExplainRouteRequest, context: Any
    ) -> task_pb2.ExplainRouteResponse:
        answer: task_pb2.ExplainRouteResponse = await self._runner.answer(KINDS["explain_route"], request)
        return answer

    async def PlanDelivery(  # noqa: N802 - the contract's name
        self, request: task_pb2.PlanDeliveryRequest, context: Any
    ) -> task_pb2.PlanDeliveryResponse:
        answer: task_pb2.PlanDeliveryResponse = await self._runner.answer(KINDS["plan_delivery"], request)
        return answer

    async def StreamRun(  # noqa: N802 - the contract's name
        self, request: pb.StreamRunRequest, context: Any
    ) -> AsyncIterator[pb.StreamRunResponse]:
        tenant = principal.current().tenant
        if request.cursor:
            events = self._streams.stream(tenant, cursor=request.cursor)
        else:
            name = request.WhichOneof("start")
            assert name is not None  # a rule of the contract
            run_id = await self._runner.begin(KINDS[name], getattr(request, name))
            events = self._streams.stream(tenant, run_id=run_id)
        async for event in events:
            yield event

    async def CancelRun(  # noqa: N802 - the contract's name
        self, request: pb.CancelRunRequest, context: Any
    ) -> pb.CancelRunResponse:
        run, ended_before = await self._live.cancel(principal.current().tenant, request.run_id)
        return pb.CancelRunResponse(run=run, duplicate=ended_before)

    async def GetRun(  # noqa: N802 - the contract's name
        self, request: pb.GetRunRequest, context: Any
    ) -> pb.GetRunResponse:
        run = await self._live.store.get(principal.current().tenant, request.run_id)
        if run is None:
            raise unknown(request.run_id)
        return pb.GetRunResponse(run=run)

    async def ListRuns(  # noqa: N802 - the contract's name
        self, request: pb.ListRunsRequest, context: Any
    ) -> pb.ListRunsResponse:
        tenant = principal.current().tenant
        size = request.page_size or _PAGE
        before = parse_page_token(request.page_token, request, tenant) if request.page_token else None
        wanted = RunFilter(
            agent=request.agent,
            statuses=request.statuses,
            start=_time(request.HasField("start_time"), request.start_time),
            end=_time(request.HasField("end_time"), request.end_time),
        )
        # One more than asked for tells whether there is a next page.
        found = await self._live.store.page(tenant, wanted, size + 1, before)
        page = found[:size]
        more = len(found) > size
        return pb.ListRunsResponse(
            runs=[run for _, run in page],
            next_page_token=page_token(page[-1][0], request, tenant) if more else "",
        )

    async def GetSpending(  # noqa: N802 - the contract's name
        self, request: pb.GetSpendingRequest, context: Any
    ) -> pb.GetSpendingResponse:
        return await self._runner.spending()


def _time(present: bool, timestamp: Timestamp) -> datetime | None:
    return timestamp.ToDatetime(UTC) if present else None
