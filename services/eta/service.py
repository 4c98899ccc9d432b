"""EtaService: proto in, domain call, proto out."""
# ruff: noqa: N802 - the methods' names are the contract's

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.eta_service_pb2 import (
    BatchPredictEtaRequest,
    BatchPredictEtaResponse,
    BatchPredictEtaResult,
    PredictEtaRequest,
    PredictEtaResponse,
    WatchEtaRequest,
    WatchEtaResponse,
)
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceServicer
from waymesh.eta.v1.gps_stream_pb2 import (
    GetGpsStatsRequest,
    GetGpsStatsResponse,
    RejectedFix,
    ReportGpsRequest,
    ReportGpsResponse,
    StreamGpsRequest,
    StreamGpsResponse,
)
from waymesh.eta.v1.travel_time_pb2 import GetTravelTimesRequest, GetTravelTimesResponse

from services.eta import stats, travel
from services.eta.intake import Intake
from services.eta.learning import Learned
from services.eta.queries import EtaQueries
from services.eta.store import EtaStore
from services.eta.watch import PredictionWatch, cursor_of
from services.mesh import principal, tenancy
from services.mesh.errors import MeshError, to_status

# Pairs of places from which on a matrix is worked out beside the event loop.
_LARGE_MATRIX: Final = 10_000


class EtaServicer(EtaServiceServicer):
    """The RPCs of eta."""

    def __init__(
        self,
        *,
        intake: Intake,
        queries: EtaQueries,
        watch: PredictionWatch,
        store: EtaStore,
        learned: Callable[[], Learned],
    ) -> None:
        self._intake = intake
        self._queries = queries
        self._watch = watch
        self._store = store
        self._learned = learned

    async def PredictEta(self, request: PredictEtaRequest, context: Any) -> PredictEtaResponse:
        answers = await self._queries.predict([request.query])
        [result] = answers.results
        if isinstance(result, MeshError):
            raise result
        return PredictEtaResponse(prediction=result, degradation=answers.degradation)

    async def BatchPredictEta(self, request: BatchPredictEtaRequest, context: Any) -> BatchPredictEtaResponse:
        answers = await self._queries.predict(request.queries)
        return BatchPredictEtaResponse(
            results=[
                BatchPredictEtaResult(error=to_status(result))
                if isinstance(result, MeshError)
                else BatchPredictEtaResult(prediction=result)
                for result in answers.results
            ],
            degradation=answers.degradation,
        )

    async def WatchEta(self, request: WatchEtaRequest, context: Any) -> AsyncIterator[WatchEtaResponse]:
        seq = await self._watch.start_of(request.cursor)
        yield WatchEtaResponse(cursor=cursor_of(seq))
        async for one in self._watch.follow(seq, principal.current().tenant, request.order_ids):
            prediction = EtaPrediction.FromString(one.prediction)
            tenancy.qualify_message(prediction, tenancy.tenant_of(one.order_id))
            yield WatchEtaResponse(prediction=prediction, cursor=cursor_of(one.seq))

    async def ReportGps(self, request: ReportGpsRequest, context: Any) -> ReportGpsResponse:
        report = await self._intake.report(request.event)
        return ReportGpsResponse(event_id=report.event_id, duplicate=report.duplicate)

    async def StreamGps(
        self, request_iterator: AsyncIterator[StreamGpsRequest], context: Any
    ) -> AsyncIterator[StreamGpsResponse]:
        async for request in request_iterator:
            faults = await self._intake.take(request.events)
            yield StreamGpsResponse(
                cursor=request.cursor,
                accepted=len(request.events) - len(faults),
                rejected=[
                    RejectedFix(index=fault.row, field=fault.field, description=fault.description)
                    for fault in faults
                ],
            )

    async def GetGpsStats(self, request: GetGpsStatsRequest, context: Any) -> GetGpsStatsResponse:
        return stats.since(request.cursor, await self._store.totals(principal.current().tenant))

    async def GetTravelTimes(self, request: GetTravelTimesRequest, context: Any) -> GetTravelTimesResponse:
        arguments = request.origins, request.destinations, request.vehicle_type, self._learned()
        if len(request.origins) * len(request.destinations) > _LARGE_MATRIX:
            return await asyncio.to_thread(_travel_times, *arguments)
        return _travel_times(*arguments)


def _travel_times(*arguments: Any) -> GetTravelTimesResponse:
    seconds, metres = travel.matrix(*arguments)
    return GetTravelTimesResponse(durations_s=seconds.ravel().tolist(), distances_m=metres.ravel().tolist())
