"""Taking in orders, couriers and cancellations: judged, stored and published in one transaction per group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import Cancellation
from waymesh.order.v1.order_pb2 import ORDER_STATUS_CANCELLED, Order

from services.mesh import logs
from services.mesh.errors import MeshError
from services.mesh.events import Message
from services.mesh.redact import redact_labels
from services.mesh.request_id import serving
from services.route import announce, refusals, store
from services.route.bodies import from_body, to_body
from services.route.identity import OPEN, Known, Status, Verdict, judge, may_cancel
from services.route.progress import advance, of_stage
from services.route.store import Connection, CourierWrite, OrderWrite
from services.route.translate import courier_write, digest, order_write

Change = Order | Cancellation


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one item. `order` is its newest state, if it was an order and is known."""

    id: str
    revision: int
    duplicate: bool = False
    error: MeshError | None = None
    order: Order | None = None


class _Orders:
    """The orders of one group, as they change from item to item."""

    def __init__(self, newest: dict[str, Order], known: dict[str, Known]) -> None:
        self.newest = newest
        self.known = known
        self.writes: list[OrderWrite] = []
        self.messages: list[Message] = []
        # Request that each order was last changed by.
        self.causes: dict[str, str] = {}

    def take(self, change: Change, cause: str) -> Taken:
        self.causes[change.order_id] = cause
        if isinstance(change, Cancellation):
            return self._cancel(change)
        return self._upsert(change)

    def _upsert(self, order: Order) -> Taken:
        if order.context.labels:
            redact_labels(order.context.labels)
        order_id, known = order.order_id, self.known.get(order.order_id)
        status = Status(order.status)
        verdict = judge(known, order.revision, digest(to_body(order, order_id)), status)
        if known is None or verdict is Verdict.ACCEPT:
            self.accept(order)
            return Taken(order_id, order.revision, order=order)
        newest = self.newest[order_id]
        match verdict:
            case Verdict.DUPLICATE:
                return Taken(order_id, known.revision, duplicate=True, order=newest)
            case Verdict.CONFLICT:
                error = refusals.conflict(order_id, order.revision)
            case Verdict.STALE:
                error = refusals.stale("order_id", order_id, order.revision, known.revision)
            case _:
                error = refusals.wrong_status(order_id, Status(newest.status), status.name.lower())
        return Taken(order_id, known.revision, error=error)

    def _cancel(self, cancellation: Cancellation) -> Taken:
        order_id, known = cancellation.order_id, self.known.get(cancellation.order_id)
        if known is None:
            return Taken(order_id, 0, error=refusals.unknown_order(order_id))
        order = self.newest[order_id]
        status = Status(order.status)
        if status is Status.CANCELLED:
            return Taken(order_id, known.revision, duplicate=True, order=order)
        if not may_cancel(status):
            return Taken(order_id, known.revision, error=refusals.wrong_status(order_id, status, "cancelled"))
        revision = cancellation.revision or known.revision + 1
        if revision <= known.revision:
            error = refusals.stale("order_id", order_id, revision, known.revision)
            return Taken(order_id, known.revision, error=error)
        cancelled = Order()
        cancelled.CopyFrom(order)
        cancelled.revision = revision
        cancelled.status = ORDER_STATUS_CANCELLED
        cancelled.cancel_reason = cancellation.reason
        self.accept(cancelled)
        return Taken(order_id, revision, order=cancelled)

    def accept(self, order: Order) -> None:
        write = order_write(order)
        known = self.known.get(order.order_id)
        digests = {**(known.digests if known else {}), order.revision: write.digest}
        self.known[order.order_id] = Known(order.revision, write.status, digests)
        self.newest[order.order_id] = order
        self.writes.append(write)
        with serving(self.causes[order.order_id]):
            self.messages.append(announce.order_changed(order))


async def take_orders(
    conn: Connection, changes: Sequence[Change], causes: Sequence[str] | None = None
) -> tuple[list[Taken], list[Message]]:
    """Judges and stores changes of orders in the order given; the caller publishes the messages last.

    `causes` are the ids of the requests that ask for them; without, that is the request at hand. Writes to
    the same order from elsewhere wait until the transaction ends.
    """
    ids = {change.order_id for change in changes}
    rows = await store.lock_orders(conn, ids, {c.order_id for c in changes if isinstance(c, Order)})
    known = await store.known(conn, "o", {row.order_id: (row.revision, row.status) for row in rows.values()})
    newest = {row.order_id: from_body(Order, row.body, row.order_id) for row in rows.values()}
    state = _Orders(newest, known)
    results = [state.take(change, cause) for change, cause in zip(changes, _causes(causes), strict=False)]
    await _catch_up(conn, state)
    results = [
        replace(taken, revision=state.known[taken.id].revision, order=state.newest[taken.id])
        if taken.error is None
        else taken
        for taken in results
    ]
    await store.write_orders(conn, state.writes)
    refused = ids - state.known.keys()
    if refused:
        await store.drop_empty(conn, refused)
    return results, state.messages


async def _catch_up(conn: Connection, state: _Orders) -> None:
    """Fixes may have come before their order: what the newest of them says holds at once."""
    open_ids = [w.order_id for w in state.writes if w.status in OPEN]
    if not open_ids:
        return
    fixes = await store.fixes_for(conn, open_ids)
    couriers = await store.known_couriers(conn, [fix[1] for fix in fixes]) if fixes else set()
    for order_id, driver_id, stage, at_us in fixes:
        step = of_stage(stage, at_us)
        moved = advance(state.newest[order_id], driver_id, step, courier_known=driver_id in couriers)
        if moved is not None:
            state.accept(moved)


async def take_couriers(
    conn: Connection, couriers: Sequence[Courier], causes: Sequence[str] | None = None
) -> tuple[list[Taken], list[Message]]:
    """Judges and stores couriers in the order given, as `take_orders` does."""
    ids = {courier.driver_id for courier in couriers}
    revisions = await store.lock_couriers(conn, ids)
    known = await store.known(conn, "c", {id_: (revision, None) for id_, revision in revisions.items()})
    writes: list[CourierWrite] = []
    messages: list[Message] = []
    results: list[Taken] = []
    for courier, cause in zip(couriers, _causes(causes), strict=False):
        driver_id, before = courier.driver_id, known.get(courier.driver_id)
        write = courier_write(courier)
        verdict = judge(before, courier.revision, write.digest)
        if before is None or verdict is Verdict.ACCEPT:
            digests = {**(before.digests if before else {}), courier.revision: write.digest}
            known[driver_id] = Known(courier.revision, None, digests)
            writes.append(write)
            with serving(cause):
                messages.append(announce.courier_changed(courier))
            results.append(Taken(driver_id, courier.revision))
        elif verdict is Verdict.DUPLICATE:
            results.append(Taken(driver_id, before.revision, duplicate=True))
        elif verdict is Verdict.CONFLICT:
            error = refusals.conflict(driver_id, courier.revision)
            results.append(Taken(driver_id, before.revision, error=error))
        else:
            error = refusals.stale("driver_id", driver_id, courier.revision, before.revision)
            results.append(Taken(driver_id, before.revision, error=error))
    await store.write_couriers(conn, writes)
    await store.drop_empty_couriers(conn, ids - known.keys())
    return results, messages


def _causes(given: Sequence[str] | None) -> Iterable[str]:
    return repeat(logs.request_id.get()) if given is None else given
