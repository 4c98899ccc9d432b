"""FeedbackService: messages in, records out and back."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.alert_pb2 import (
    ListAlertsRequest,
    ListAlertsResponse,
    SilenceAlertRequest,
    SilenceAlertResponse,
)
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceServicer
from waymesh.feedback.v1.metrics_pb2 import QueryMetricsRequest, QueryMetricsResponse
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback import alert_answers, metrics_answers, outcome_stream, store
from services.feedback.cursors import number_token, parse_number, parse_place, place_token
from services.feedback.intake import Intake, conflict
from services.feedback.owners import sent, shown
from services.feedback.records import DELIVERIES
from services.feedback.store import Fate, Filter
from services.mesh import principal
from services.mesh.cursors import not_kept
from services.mesh.errors import to_status
from services.mesh.store import Store

_PAGE: Final = 100
_WATCH_BATCH: Final = 500
# Outcomes stored by another replica are seen at the latest after this long, in seconds.
_POLL_S: Final = 0.5
_DEFAULT_SPAN: Final = timedelta(hours=1)
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["FeedbackService"]
# Their handlers take records with plain ids, as they are stored.
AS_THEY_ARE: Final = tuple(
    f"/{_SERVICE.full_name}/{name}"
    for name in (
        "RecordOutcome",
        "RecordOutcomes",
        "StreamOutcomes",
        "RecordDeliveryOutcomes",
        "RecordSignals",
    )
)


class FeedbackServicer(FeedbackServiceServicer):
    """Translates; see protos/waymesh/feedback/v1/feedback_service.proto for what each RPC promises."""

    def __init__(
        self, database: Store, intake: Intake, *, windows: Collection[str], rules: Collection[str]
    ) -> None:
        """`windows` and `rules`: the names of those that this feedback keeps."""
        self._database = database
        self._intake = intake
        self._windows = windows
        self._rules = rules

    async def RecordOutcome(  # noqa: N802 - the contract's name
        self, request: pb.RecordOutcomeRequest, context: Any
    ) -> pb.RecordOutcomeResponse:
        sender = principal.current().tenant
        one = sent(sender, request.event.event_id)
        told = _results([one], await self._intake.outcomes([request.event], sender))
        return pb.RecordOutcomeResponse(event_id=one, duplicate=told["duplicate"])

    def StreamOutcomes(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.StreamOutcomesRequest], context: Any
    ) -> AsyncIterator[pb.StreamOutcomesResponse]:
        return outcome_stream.answers(request_iterator, self._intake)

    async def RecordOutcomes(  # noqa: N802 - the contract's name
        self, request: pb.RecordOutcomesRequest, context: Any
    ) -> pb.RecordOutcomesResponse:
        sender = principal.current().tenant
        ids = [sent(sender, event.event_id) for event in request.events]
        return pb.RecordOutcomesResponse(**_results(ids, await self._intake.outcomes(request.events, sender)))

    async def RecordDeliveryOutcomes(  # noqa: N802 - the contract's name
        self, request: pb.RecordDeliveryOutcomesRequest, context: Any
    ) -> pb.RecordDeliveryOutcomesResponse:
        sender = principal.current().tenant
        ids = [sent(sender, outcome.outcome_id) for outcome in request.outcomes]
        fates = await self._intake.deliveries(request.outcomes, sender)
        return pb.RecordDeliveryOutcomesResponse(**_results(ids, fates))

    async def RecordSignals(  # noqa: N802 - the contract's name
        self, request: pb.RecordSignalsRequest, context: Any
    ) -> pb.RecordSignalsResponse:
        sender = principal.current().tenant
        ids = [sent(sender, one.signal_id) for one in request.signals]
        return pb.RecordSignalsResponse(**_results(ids, await self._intake.signals(request.signals, sender)))

    async def ListOutcomes(  # noqa: N802 - the contract's name
        self, request: pb.ListOutcomesRequest, context: Any
    ) -> pb.ListOutcomesResponse:
        size, tenant, token = request.page_size or _PAGE, principal.current().tenant, request.page_token
        before = parse_place(token, "page_token", request, tenant) if token else None
        wanted = Filter(
            tenant=tenant,
            statuses=request.statuses,
            agent_name=request.agent_name,
            workflow_id=request.workflow_id,
            start=_time(request.HasField("start_time"), request.start_time),
            end=_time(request.HasField("end_time"), request.end_time),
        )
        # One more than asked for tells whether there is a next page.
        found = await store.newest_outcomes(self._database.pool, wanted, size + 1, before)
        page = found[:size]
        return pb.ListOutcomesResponse(
            events=[shown(OutcomeEvent, one.tenant, one.body) for one in page],
            next_page_token=place_token(page[-1].place, request, tenant) if len(found) > size else "",
        )

    async def ListDeliveryOutcomes(  # noqa: N802 - the contract's name
        self, request: pb.ListDeliveryOutcomesRequest, context: Any
    ) -> pb.ListDeliveryOutcomesResponse:
        size, tenant, token = request.page_size or _PAGE, principal.current().tenant, request.page_token
        after = await self._reached(token, "page_token", DELIVERIES.name) if token else 0
        found = await store.deliveries_after(
            self._database.pool,
            after,
            size + 1,
            tenant=tenant,
            order_id=request.order_id,
            driver_id=request.driver_id,
            start=_time(request.HasField("start_time"), request.start_time),
            end=_time(request.HasField("end_time"), request.end_time),
        )
        page = found[:size]
        last = page[-1].number if page else after
        return pb.ListDeliveryOutcomesResponse(
            outcomes=[shown(DeliveryOutcome, one.tenant, one.body) for one in page],
            next_page_token=number_token(last, tenant) if last else "",
            has_more=len(found) > size,
        )

    async def QueryMetrics(  # noqa: N802 - the contract's name
        self, request: QueryMetricsRequest, context: Any
    ) -> QueryMetricsResponse:
        return await metrics_answers.queried(self._database, request, self._windows)

    async def ListAlerts(  # noqa: N802 - the contract's name
        self, request: ListAlertsRequest, context: Any
    ) -> ListAlertsResponse:
        return await alert_answers.listed(self._database, request)

    async def SilenceAlert(  # noqa: N802 - the contract's name
        self, request: SilenceAlertRequest, context: Any
    ) -> SilenceAlertResponse:
        return await alert_answers.silenced(self._database, request, self._rules)

    async def ListFailureCounts(  # noqa: N802 - the contract's name
        self, request: pb.ListFailureCountsRequest, context: Any
    ) -> pb.ListFailureCountsResponse:
        start = _time(request.HasField("start_time"), request.start_time)
        counts = await store.failure_counts(
            self._database.pool,
            start or datetime.now(UTC) - _DEFAULT_SPAN,
            principal.current().tenant,
            request.agent_name,
        )
        return pb.ListFailureCountsResponse(agents=[pb.AgentCounts(**one._asdict()) for one in counts])

    async def WatchOutcomes(  # noqa: N802 - the contract's name
        self, request: pb.WatchOutcomesRequest, context: Any
    ) -> AsyncIterator[pb.WatchOutcomesResponse]:
        pool, tenant = self._database.pool, principal.current().tenant
        wanted = Filter(tenant=tenant, statuses=request.statuses, agent_name=request.agent_name)
        if request.cursor:
            seen = await self._reached(request.cursor, "cursor", store.OUTCOME)
        else:
            seen = await store.last_number(pool, store.OUTCOME)
        yield pb.WatchOutcomesResponse(cursor=number_token(seen, tenant))
        while True:
            found, upto = await store.outcomes_after(pool, seen, wanted, _WATCH_BATCH)
            for one in found:
                yield pb.WatchOutcomesResponse(
                    event=shown(OutcomeEvent, one.tenant, one.body), cursor=number_token(one.number, tenant)
                )
            seen = upto
            if len(found) < _WATCH_BATCH:
                await self._intake.stored.wait(_POLL_S)

    async def _reached(self, token: str, field: str, kind: str) -> int:
        """The number in a token. Raises InvalidArgument if it is not ours, OutOfRange if it is ahead."""
        number = parse_number(token, field, principal.current().tenant)
        if number > await store.last_number(self._database.pool, kind):
            raise not_kept(token, field)
        return number


def _results(ids: Sequence[str], fates: Sequence[Fate]) -> dict[str, Any]:
    """The fields that all answers to writes share. A single record in conflict fails the call."""
    conflicts = {place: conflict(ids[place]) for place, fate in enumerate(fates) if fate is Fate.CONFLICT}
    if conflicts and len(ids) == 1:
        raise conflicts[0]
    return {
        "stored": sum(fate is Fate.STORED for fate in fates),
        "duplicate": all(fate is Fate.DUPLICATE for fate in fates),
        "results": [
            pb.WriteResult(
                index=place,
                id=one,
                duplicate=fate is Fate.DUPLICATE,
                error=to_status(conflicts[place]) if place in conflicts else None,
            )
            for place, (one, fate) in enumerate(zip(ids, fates, strict=True))
        ],
    }


def _time(present: bool, timestamp: Timestamp) -> datetime | None:
    return timestamp.ToDatetime(UTC) if present else None
