"""Why a write is refused, as errors of the contract."""

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_CONFLICTING_CONTENT,
    ERROR_REASON_COURIER_UNKNOWN,
    ERROR_REASON_INVALID_FIELD,
    ERROR_REASON_ORDER_UNKNOWN,
    ERROR_REASON_STALE_REVISION,
    ERROR_REASON_STATUS_CONFLICT,
)
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order

from services.mesh.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    MeshError,
    NotFound,
)
from services.route.identity import Status, holder_fault

# The years 1 to 9999, which is what RFC 3339 and the store can hold.
_FIRST_S: Final = round(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST_S: Final = round(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def conflict(id_: str, revision: int) -> MeshError:
    """The same revision came before with other content."""
    return AlreadyExists(
        f"revision {revision} of {id_} is there with other content",
        reason=ERROR_REASON_CONFLICTING_CONTENT,
        metadata={"id": f"{id_}@{revision}"},
    )


def stale(key: str, id_: str, revision: int, newest: int) -> MeshError:
    """A newer revision is there; `key` is `order_id` or `driver_id`."""
    return Aborted(
        f"revision {revision} of {id_} is older than the newest, {newest}",
        reason=ERROR_REASON_STALE_REVISION,
        metadata={key: id_, "revision": str(newest)},
    )


def wrong_status(order_id: str, status: Status, wanted: str) -> MeshError:
    """The order's status does not allow the step."""
    return FailedPrecondition(
        f"an order that is {status.name.lower()} cannot be {wanted}",
        reason=ERROR_REASON_STATUS_CONFLICT,
        metadata={"order_id": order_id, "status": status.name.lower()},
    )


def unknown_order(order_id: str) -> MeshError:
    """Nobody told of the order."""
    return NotFound(
        f"order {order_id} is not known", reason=ERROR_REASON_ORDER_UNKNOWN, metadata={"order_id": order_id}
    )


def unknown_courier(driver_id: str) -> MeshError:
    """Nobody told of the courier."""
    return NotFound(
        f"courier {driver_id} is not known",
        reason=ERROR_REASON_COURIER_UNKNOWN,
        metadata={"driver_id": driver_id},
    )


def invalid(field: str, description: str) -> InvalidArgument:
    """A field breaks a rule."""
    return InvalidArgument(
        f"{field}: {description}",
        reason=ERROR_REASON_INVALID_FIELD,
        violations=[FieldViolation(field, description)],
    )


def order_fault(order: Order, path: str) -> InvalidArgument | None:
    """What is wrong with an order that the contract's rules cannot say; `path` is where it stands."""
    if (fault := text_fault(order.order_id)) is not None:
        return invalid(f"{path}.order_id", fault)
    if (fault := text_fault(order.driver_id)) is not None:
        return invalid(f"{path}.driver_id", fault)
    if holder := holder_fault(Status(order.status), order.driver_id):
        return invalid(f"{path}.driver_id", holder)
    window = order.promised_window
    for name, stamp in (
        ("placed_at", order.placed_at),
        ("ready_at", order.ready_at),
        ("promised_window.earliest", window.earliest),
        ("promised_window.latest", window.latest),
        ("picked_up_at", order.picked_up_at),
        ("delivered_at", order.delivered_at),
    ):
        if (fault := time_fault(stamp)) is not None:
            return invalid(f"{path}.{name}", fault)
    return None


def courier_fault(courier: Courier, path: str) -> InvalidArgument | None:
    """What is wrong with a courier that the contract's rules cannot say."""
    if (fault := text_fault(courier.driver_id)) is not None:
        return invalid(f"{path}.driver_id", fault)
    for name, stamp in (
        ("shift.earliest", courier.shift.earliest),
        ("shift.latest", courier.shift.latest),
        ("position_at", courier.position_at),
    ):
        if (fault := time_fault(stamp)) is not None:
            return invalid(f"{path}.{name}", fault)
    return None


def text_fault(text: str) -> str | None:
    """What is wrong with an id: the store cannot hold the character U+0000."""
    return "must not hold the character U+0000" if "\0" in text else None


def time_fault(stamp: Timestamp) -> str | None:
    """What is wrong with a time."""
    if not _FIRST_S <= stamp.seconds <= _LAST_S or not 0 <= stamp.nanos < 10**9:
        return "must be within the years 1 to 9999"
    return None
