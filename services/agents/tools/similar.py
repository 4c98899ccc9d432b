"""Tool: how deliveries like one went, all together: no order, courier or text of another shows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Annotated, Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegKind
from waymesh.feedback.v1.feedback_service_pb2 import ListDeliveryOutcomesRequest
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TOOL_ARGUMENTS
from waymesh.route.v1.route_service_pb2 import GetOrderRequest

from services.agents.tools.desk import Desk
from services.agents.tools.orders import learn
from services.agents.tools.shapes import label
from services.agents.tools.signature import OrderId
from services.mesh import deadline
from services.mesh.errors import FieldViolation, InvalidArgument

_Test = Callable[[DeliveryOutcome], bool]

# Fewer tell of single deliveries rather than of deliveries.
_FEWEST: Final = 3
_DAYS: Final = 14
_PAGE: Final = 1000
_MOST_PAGES: Final = 10
# Hours of the day on either side that still count as the same time of day.
_SAME_HOUR: Final = 2
_US: Final = 60_000_000
_EARLY_ENOUGH_MIN: Final = 5.0
# A page that would come later than this before the end is not asked for, in seconds.
_PAGE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Like:
    """What deliveries have to be like; empty or None: whatever."""

    merchant_id: str
    area: str
    hour: int | None


async def find_similar_deliveries(
    desk: Desk,
    order_id: Annotated[OrderId | None, Field(description="An order that the caller named, or null.")] = None,
    merchant_id: Annotated[
        str | None, Field(description="A merchant that the caller named, or null.", pattern=r"^.{1,128}$")
    ] = None,
    area: Annotated[
        str | None, Field(description="An area that the caller named, or null.", pattern=r"^.{1,128}$")
    ] = None,
    hour: Annotated[int | None, Field(description="Hour of the day (UTC), or null.", ge=0, le=23)] = None,
) -> dict[str, Any]:
    """How deliveries like an order, or of a merchant, area or time of day, went of late: minutes they took
    (mean, P10/P50/P90), how far predictions were off, and minutes by leg. Never single deliveries."""
    like = await _like(desk, order_id, merchant_id, area, hour)
    outcomes, complete = await _recent(desk, order_id)
    tried: list[tuple[list[str], list[DeliveryOutcome]]] = []
    for by, matches in _ladder(like):
        tried.append((by, [one for one in outcomes if matches(one)]))
        if len(tried[-1][1]) >= _FEWEST:
            break
    by, found = tried[-1]
    told: dict[str, Any] = {"similar_by": by, "days": _DAYS, "complete": complete}
    if len(found) < _FEWEST:
        return told | {"known": False, "why": "too few deliveries to say anything"}
    return told | {"known": True, "count": len(found)} | _statistics(found)


async def _like(
    desk: Desk, order_id: str | None, merchant_id: str | None, area: str | None, hour: int | None
) -> _Like:
    if merchant_id is not None:
        desk.open_name(merchant_id, "a merchant")
    if area is not None:
        desk.open_name(area, "an area")
    if order_id is None:
        if merchant_id is None and area is None and hour is None:
            raise InvalidArgument(
                f"the arguments of {desk.tool} are wrong",
                reason=ERROR_REASON_TOOL_ARGUMENTS,
                metadata={"tool": desk.tool},
                violations=[FieldViolation("order_id", "name an order, a merchant, an area or an hour")],
            )
        return _Like(merchant_id or "", area or "", hour)
    desk.open_order(order_id)
    answer = await desk.route.GetOrder(GetOrderRequest(order_id=order_id))
    learn(desk, answer)
    order = answer.order
    placed = datetime.fromtimestamp(order.placed_at.seconds, UTC).hour
    return _Like(
        merchant_id or order.merchant.merchant_id or order.context.merchant_id,
        area or order.context.area,
        placed if hour is None else hour,
    )


async def _recent(desk: Desk, without: str | None) -> tuple[list[DeliveryOutcome], bool]:
    """Deliveries of the last days, one prediction each; newest days first, as many as there is time for."""
    found: dict[str, DeliveryOutcome] = {}
    end = desk.now() + timedelta(minutes=1)
    pages = 0
    for first, last in ((0, 1), (1, 3), (3, 7), (7, _DAYS)):
        token, more = "", True
        while more:
            left_s = deadline.remaining()
            if pages == _MOST_PAGES or (left_s is not None and left_s < _PAGE_S):
                return list(found.values()), False
            answer = await desk.feedback.ListDeliveryOutcomes(
                ListDeliveryOutcomesRequest(
                    page_size=_PAGE,
                    page_token=token,
                    start_time=_stamp(end - timedelta(days=last)),
                    end_time=_stamp(end - timedelta(days=first)),
                )
            )
            pages += 1
            for one in answer.outcomes:
                # An order is recorded with several of its predictions: the earliest tells of all the way.
                if one.order_id == without:
                    continue
                before = found.get(one.order_id)
                if before is None or one.predicted_at.ToNanoseconds() < before.predicted_at.ToNanoseconds():
                    found[one.order_id] = one
            token, more = answer.next_page_token, answer.has_more
    return list(found.values()), True


def _ladder(like: _Like) -> list[tuple[list[str], _Test]]:
    """Ways of being similar, the closest first."""

    def merchant(one: DeliveryOutcome) -> bool:
        return one.context.merchant_id == like.merchant_id

    def area(one: DeliveryOutcome) -> bool:
        return one.context.area == like.area

    def hour(one: DeliveryOutcome) -> bool:
        at = datetime.fromtimestamp(one.predicted_at.seconds, UTC).hour
        return like.hour is not None and min((at - like.hour) % 24, (like.hour - at) % 24) <= _SAME_HOUR

    known = [("merchant", merchant)] if like.merchant_id else []
    known += [("area", area)] if like.area else []
    known += [("hour", hour)] if like.hour is not None else []
    steps = [
        ([name for name, _ in known[:most]], _all_of([test for _, test in known[:most]]))
        for most in range(len(known), 0, -1)
    ]
    steps += [([name], test) for name, test in known[1:]]
    return steps or [(["all"], lambda one: True)]


def _all_of(tests: Sequence[_Test]) -> _Test:
    return lambda one: all(test(one) for test in tests)


def _statistics(found: Sequence[DeliveryOutcome]) -> dict[str, Any]:
    actual = sorted(one.actual_minutes for one in found)
    errors = [one.actual_minutes - one.p50_minutes for one in found]
    legs: dict[str, list[float]] = {}
    for one in found:
        for leg in one.legs:
            if leg.HasField("actual_minutes"):
                name = label(LegKind, leg.kind, "LEG_KIND_")
                legs.setdefault(name, []).append(leg.actual_minutes)
    inside = sum(one.p10_minutes <= one.actual_minutes <= one.p90_minutes for one in found)
    near = sum(abs(error) <= _EARLY_ENOUGH_MIN for error in errors)
    return {
        "actual": {
            "mean_minutes": fmean(actual),
            "p10_minutes": _quantile(actual, 0.1),
            "p50_minutes": _quantile(actual, 0.5),
            "p90_minutes": _quantile(actual, 0.9),
        },
        "mean_error_minutes": fmean(errors),
        "mean_absolute_error_minutes": fmean(abs(error) for error in errors),
        "late_share": sum(error > 0 for error in errors) / len(found),
        "inside_interval_share": inside / len(found),
        "near_prediction_share": near / len(found),
        "legs": [
            {"kind": name, "mean_minutes": fmean(minutes), "count": len(minutes)}
            for name, minutes in legs.items()
            if len(minutes) >= _FEWEST
        ],
    }


def _quantile(ordered: Sequence[float], level: float) -> float:
    """By linear interpolation between the two nearest, as PostgreSQL's percentile_cont."""
    at = level * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
