"""What QueryMetrics answers."""

from collections.abc import Collection
from datetime import UTC
from typing import Final

from waymesh.feedback.v1 import metrics_pb2 as pb
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD

from services.feedback import metrics_store
from services.feedback.cursors import parse_place, place_token
from services.feedback.metrics_store import WindowFilter
from services.feedback.windows import TOGETHER
from services.mesh.cursors import not_kept
from services.mesh.errors import FieldViolation, InvalidArgument
from services.mesh.store import Store

_PAGE: Final = 100


async def queried(
    database: Store, request: pb.QueryMetricsRequest, kept: Collection[str]
) -> pb.QueryMetricsResponse:
    """One page of windows; `kept` names those that are made now.

    Raises InvalidArgument for a token that is not ours, a window that there is not and what contradicts
    itself, OutOfRange for a token whose window is not kept any more.
    """
    if request.together_only and request.agent_names:
        raise _wrong("together_only", "must not be true where agent_names names some: leave out either")
    if request.window and request.window not in kept and not await _is_stored(database, request.window):
        raise _wrong("window", f"must be one of {', '.join(kept)}, or empty for all")
    size = request.page_size or _PAGE
    before = None
    if request.page_token:
        place = parse_place(request.page_token, "page_token", request)
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
        next_page_token=place_token(page[-1][0], request) if len(found) > size else "",
    )


async def _is_stored(database: Store, window: str) -> bool:
    """Whether there are windows of a name that other settings gave."""
    return bool(await metrics_store.newest(database.pool, WindowFilter(window=window), 1, None))


def _wrong(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: {description}",
        reason=ERROR_REASON_INVALID_FIELD,
        violations=(FieldViolation(field, description),),
    )
