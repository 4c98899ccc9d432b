"""What ListAlerts and SilenceAlert answer."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from waymesh.feedback.v1 import alert_pb2 as pb
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD

from services.feedback import alert_store
from services.feedback.alert_rules import SIGNALS
from services.feedback.alert_store import AlertFilter
from services.feedback.cursors import parse_place, place_token
from services.mesh import principal
from services.mesh.errors import FieldViolation, InvalidArgument
from services.mesh.principal import MESH_TENANT
from services.mesh.redact import redact_text
from services.mesh.store import Store
from services.mesh.tenancy import qualify

_PAGE: Final = 100


async def listed(database: Store, request: pb.ListAlertsRequest) -> pb.ListAlertsResponse:
    """One page of alerts of the caller's tenant, or of all for the mesh.

    Raises InvalidArgument for a token that is not ours.
    """
    size, tenant, token = request.page_size or _PAGE, principal.current().tenant, request.page_token
    before = parse_place(token, "page_token", request, tenant) if token else None
    wanted = AlertFilter(
        tenant=tenant,
        states=request.states,
        rule=request.rule,
        subject=request.subject,
        start=request.start_time.ToDatetime(UTC) if request.HasField("start_time") else None,
        end=request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None,
    )
    # One more than asked for tells whether there is a next page.
    found = await alert_store.newest(database.pool, wanted, size + 1, before, datetime.now(UTC))
    page = found[:size]
    return pb.ListAlertsResponse(
        alerts=[alert for _, alert in page],
        next_page_token=place_token(page[-1][0], request, tenant) if len(found) > size else "",
    )


async def silenced(
    database: Store, request: pb.SilenceAlertRequest, rules: Collection[str]
) -> pb.SilenceAlertResponse:
    """Quiet from now on for as long as the request says, or no longer; for the caller's tenant alone.

    Raises InvalidArgument for a key of none of the rules: its silence would keep nothing quiet.
    """
    rule, _, about = request.alert_key.partition("/")
    if rule not in rules or not about:
        wanted = (
            f"must be RULE/AGENT, or RULE/SOURCE/SUBJECT for signals; rules are {', '.join(rules) or 'none'}"
        )
        raise InvalidArgument(
            f"alert_key: {wanted}",
            reason=ERROR_REASON_INVALID_FIELD,
            violations=(FieldViolation("alert_key", wanted),),
        )
    tenant, now = principal.current().tenant, datetime.now(UTC)
    of_mesh = tenant == MESH_TENANT
    key = request.alert_key if of_mesh else _kept_key(tenant, rule, about)
    until = now + timedelta(seconds=request.duration_s) if request.duration_s else None
    async with database.transaction() as connection:
        alert = await alert_store.silence(
            connection,
            key,
            until,
            comment=redact_text(request.comment),
            author=redact_text(request.author),
            now=now,
            of_mesh=of_mesh,
        )
    answer = pb.SilenceAlertResponse(alert_key=request.alert_key, alert=alert)
    if until is not None:
        answer.silenced_until.FromDatetime(until)
    return answer


def _kept_key(tenant: str, rule: str, about: str) -> str:
    """The key that the tenant's alerts are kept by: the agent or subject that it ends with is qualified."""
    source, slash, subject = about.partition("/") if rule in SIGNALS else ("", "", about)
    return f"{rule}/{source}{slash}{qualify(tenant, subject)}"
