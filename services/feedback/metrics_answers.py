"""What QueryMetrics answers."""

from datetime import UTC
from typing import Final

from waymesh.feedback.v1 import metrics_pb2 as pb

from services.feedback import metrics_store
from services.feedback.cursors import parse_place, place_token
from services.feedback.metrics_store import WindowFilter
from services.feedback.windows import TOGETHER
from services.mesh.cursors import not_kept
from services.mesh.store import Store

_PAGE: Final = 100


async def queried(database: Store, request: pb.QueryMetricsRequest) -> pb.QueryMetricsResponse:
    """One page of windows.

    Raises InvalidArgument for a token that is not ours, OutOfRange for one whose window is not kept any more.
    """
    size = request.page_size or _PAGE
    before = None
    if request.page_token:
        place = parse_place(request.page_token, "page_token")
        before = await metrics_store.window_at(database.pool, place)
        if before is None:
            raise not_kept(request.page_token, "page_token")
    wanted = WindowFilter(
        agents=[TOGETHER] if request.together_only else request.agent_names,
        window=request.window,
        start=request.start_time.ToDatetime(UTC) if request.HasField("start_time") else None,
        end=request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None,
    )
    # One more than asked for tells whether there is a next page.
    found = await metrics_store.newest(database.pool, wanted, size + 1, before)
    page = found[:size]
    return pb.QueryMetricsResponse(
        metrics=[metrics for _, metrics in page],
        next_page_token=place_token(page[-1][0]) if len(found) > size else "",
    )
