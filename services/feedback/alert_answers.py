"""What ListAlerts and SilenceAlert answer."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from waymesh.feedback.v1 import alert_pb2 as pb
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD

from services.feedback import alert_store
from services.feedback.alert_store import AlertFilter
from services.feedback.cursors import parse_place, place_token
from services.mesh.errors import FieldViolation, InvalidArgument
from services.mesh.store import Store

_PAGE: Final = 100


async def listed(database: Store, request: pb.ListAlertsRequest) -> pb.ListAlertsResponse:
    """One page of alerts. Raises InvalidArgument for a token that is not ours."""
    size = request.page_size or _PAGE
    before = parse_place(request.page_token, "page_token", request) if request.page_token else None
    wanted = AlertFilter(
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
        next_page_token=place_token(page[-1][0], request) if len(found) > size else "",
    )


async def silenced(
    database: Store, request: pb.SilenceAlertRequest, rules: Collection[str]
) -> pb.SilenceAlertResponse:
    """Quiet from now on for as long as the request says, or no longer.

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
    now = datetime.now(UTC)
    until = now + timedelta(seconds=request.duration_s) if request.duration_s else None
    async with database.transaction() as connection:
        alert = await alert_store.silence(
            connection, request.alert_key, until, comment=request.comment, author=request.author, now=now
        )
    answer = pb.SilenceAlertResponse(alert_key=request.alert_key, alert=alert)
    if until is not None:
        answer.silenced_until.FromDatetime(until)
    return answer
