"""What QueryMetrics answers."""

from collections.abc import Collection
from datetime import UTC
from typing import Final

from waymesh.feedback.v1 import metrics_pb2 as pb
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD

from services.feedback import metrics_store
from services.feedback.cursors import parse_place, place_token
from services.feedback.metrics_store import WindowFilter
from services.feedback.totals import total_of
from services.mesh import principal
from services.mesh.cursors import not_kept
from services.mesh.errors import FieldViolation, InvalidArgument
from services.mesh.principal import MESH_TENANT
from services.mesh.store import Store
from services.mesh.tenancy import plain

_PAGE: Final = 100


async def queried(
    database: Store, request: pb.QueryMetricsRequest, kept: Collection[str]
) -> pb.QueryMetricsResponse:
    """One page of windows, of a tenant or of all for the mesh; `kept` names those that are made now.

    Raises InvalidArgument for a token that is not ours, a window that there is not and what contradicts
    itself, OutOfRange for a token whose window is not kept any more.
    """
    tenant, token = principal.current().tenant, request.page_token
    if request.together_only and request.agent_names:
        raise _wrong("together_only", "must not be true where agent_names names some: leave out either")
    if (
        request.window
        and request.window not in kept
        and not await _is_stored(database, tenant, request.window)
    ):
        raise _wrong("window", f"must be one of {', '.join(kept)}, or empty for all")
    size = request.page_size or _PAGE
    before = None
    if token:
        place = parse_place(token, "page_token", request, tenant)
        before = await metrics_store.window_at(database.pool, place)
        if before is None:
            raise not_kept(token, "page_token")
    # The empty name stands for all agents of the tenant; the mesh says whose.
    total = "" if tenant == MESH_TENANT else total_of(tenant)
    wanted = WindowFilter(
        tenant=tenant,
        agents=[total] if request.together_only else [name or total for name in request.agent_names],
        together=request.together_only,
        window=request.window,
        start=request.start_time.ToDatetime(UTC) if request.HasField("start_time") else None,
        end=request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None,
    )
    # One more than asked for tells whether there is a next page.
    found = await metrics_store.newest(database.pool, wanted, size + 1, before)
    page = found[:size]
    return pb.QueryMetricsResponse(
        metrics=[_told(metrics, tenant) for _, metrics in page],
        next_page_token=place_token(page[-1][0], request, tenant) if len(found) > size else "",
    )


def _told(window: pb.AgentMetrics, tenant: str) -> pb.AgentMetrics:
    """A window with a qualified name; its identity is as plain as who asks will see the name."""
    if tenant != MESH_TENANT:
        window.metrics_id = window.metrics_id.removesuffix(window.agent_name) + plain(window.agent_name)
    return window


async def _is_stored(database: Store, tenant: str, window: str) -> bool:
    """Whether there are windows of a name that other settings gave."""
    wanted = WindowFilter(tenant=tenant, window=window)
    return bool(await metrics_store.newest(database.pool, wanted, 1, None))


def _wrong(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: {description}",
        reason=ERROR_REASON_INVALID_FIELD,
        violations=(FieldViolation(field, description),),
    )
