"""Why a write is refused, as errors of the contract."""

from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_CONFLICTING_CONTENT,
    ERROR_REASON_COURIER_UNKNOWN,
    ERROR_REASON_INVALID_FIELD,
    ERROR_REASON_ORDER_UNKNOWN,
    ERROR_REASON_STALE_REVISION,
    ERROR_REASON_STATUS_CONFLICT,
)
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
    holder = holder_fault(Status(order.status), order.driver_id)
    return invalid(f"{path}.driver_id", holder) if holder else None
