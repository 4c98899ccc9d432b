"""How fixes move orders along: pure rules from what a courier says to the next state of an order."""

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.order.v1.order_pb2 import (
    ORDER_STATUS_ASSIGNED,
    ORDER_STATUS_DELIVERED,
    ORDER_STATUS_PICKED_UP,
    ORDER_STATUS_PLACED,
    Order,
)

from services.route.fixes import Progress, Stage
from services.route.identity import OPEN, Status


def of_stage(stage: int, at_us: int) -> Progress:
    """What a single fix says."""
    if stage == Stage.DELIVERED:
        return Progress(delivered_us=at_us)
    if stage >= Stage.TO_DESTINATION:
        return Progress(picked_up_us=at_us)
    return Progress(under_way_us=at_us if stage >= Stage.TO_PICKUP else None)


def concerns(status: Status, holder: str, driver_id: str, step: Progress) -> bool:
    """Whether what a courier says could move an order; cheap, so that whole batches can be asked."""
    if status not in OPEN or holder not in ("", driver_id):
        return False
    if step.delivered_us is not None:
        return True
    if step.picked_up_us is not None:
        return status is not Status.PICKED_UP
    return step.under_way_us is not None and status is Status.PLACED


def advance(order: Order, driver_id: str, step: Progress, *, courier_known: bool) -> Order | None:
    """The order's next state, one revision on, or None if nothing changes.

    Only the order's own courier moves it. An order that has no courier is taken by one who is known and
    says to be under way with it: what happens on the street is not ours to refuse.
    """
    if not concerns(Status(order.status), order.driver_id, driver_id, step):
        return None
    if not order.driver_id and not courier_known:
        return None
    moved = Order()
    moved.CopyFrom(order)
    moved.revision += 1
    moved.driver_id = driver_id
    if step.picked_up_us is not None and not moved.HasField("picked_up_at"):
        moved.picked_up_at.CopyFrom(_stamp(step.picked_up_us))
    if step.delivered_us is not None:
        moved.status = ORDER_STATUS_DELIVERED
        # Clocks differ, and fixes come in any order: what was handed over had been picked up by then.
        picked_up, delivered = moved.picked_up_at, _stamp(step.delivered_us)
        late = moved.HasField("picked_up_at") and picked_up.ToNanoseconds() > delivered.ToNanoseconds()
        moved.delivered_at.CopyFrom(picked_up if late else delivered)
    elif step.picked_up_us is not None:
        moved.status = ORDER_STATUS_PICKED_UP
    elif moved.status == ORDER_STATUS_PLACED:
        moved.status = ORDER_STATUS_ASSIGNED
    return moved


def _stamp(at_us: int) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(at_us)
    return made
