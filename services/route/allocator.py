"""One allocation from end to end: who waits, who is there, what eta says, who gets what, stored and told."""

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_OVERLOADED
from waymesh.order.v1.order_pb2 import ORDER_STATUS_ASSIGNED, Order
from waymesh.route.v1 import allocation_pb2
from waymesh.route.v1.route_pb2 import RouteLimits

from services.mesh import deadline, errors, principal
from services.mesh.events import EventBus
from services.mesh.store import Store
from services.mesh.tenancy import tenant_of
from services.route import announce, refusals, store, store_plans
from services.route.allocation import Outcome, Rules, Waiting, allocate
from services.route.at_work import AtWork, loaded
from services.route.bodies import from_body, to_body
from services.route.eta_client import EtaClient, Pair
from services.route.explain import nobody
from services.route.fleet import CourierState, OrderWork
from services.route.forecast import choose_pairs, corrections
from services.route.identity import Status
from services.route.limits import MAX_ORDERS
from services.route.pace import Pace, choose
from services.route.plan_rows import plan_write
from services.route.settings import RouteSettings
from services.route.shortlist import shortlist
from services.route.store import Connection, OrderRow
from services.route.translate import allocation, order_work, order_write
from services.route.workers import Workers

_log = logging.getLogger(__name__)

Clock = Callable[[], float]

# eta's limit for one call.
_MAX_PAIRS: Final = 1000
# Orders × couriers weighed from which a thread would hold up the loop for too long.
_HEAVY_PAIRS: Final = 300
# Of the time left, what waiting for a turn may take, then reading, and then eta.
_SHARE: Final = 0.5
# Of the time left after those, what computing may take, and then the store: there is to be an answer in time.
_LAST_SHARE: Final = 0.8
# With less time than this the worker process is used only if it is there already.
_COLD_START_S: Final = 5.0
_LOCK_POLL_S: Final = 0.05
NO_LIMITS: Final = RouteLimits()
PARTIAL: Final = "route.partial_allocation"
# Why an order waits that somebody else changed before the commit, or whose courier had another one by then.
_CHANGED: Final = "changed meanwhile"
# Looks at named orders, so that losing to a tick once or twice does not cost the caller an answer.
_ATTEMPTS: Final = 3
# Calls for named orders that one tenant may have under way here; the others wait for their turn.
_AT_ONCE: Final = 4


@dataclass(slots=True)
class Answer:
    """What an allocation came to."""

    allocations: list[allocation_pb2.Allocation] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    degradation: Degradation | None = None
    weighed: int = 0
    """Orders for which couriers were looked for."""

    def add(self, other: "Answer") -> None:
        """What another tenant's came to."""
        self.allocations += other.allocations
        self.waiting += other.waiting
        self.degradation = self.degradation or other.degradation
        self.weighed += other.weighed


@dataclass(frozen=True, slots=True)
class _View:
    """Waiting orders and couriers at work, as they were read."""

    rows: Mapping[str, OrderRow]
    orders: Mapping[str, Order]
    works: Sequence[OrderWork]
    couriers: Mapping[str, CourierState]
    """Those listed, with what they have on hand."""
    listed: Mapping[str, Sequence[str]]
    """By order_id the couriers worth weighing for it."""
    nobody: Sequence[Waiting]
    """Orders for which there is no such courier."""
    left_out: Sequence[str]


class _ColdError(Exception):
    """The worker process has to be started first."""


class _LateError(Exception):
    """A share of the time left is over."""


class Allocator:
    """Allocates waiting orders: all of them once at a time among all replicas, named ones at any time.

    What is read is not locked while couriers are weighed: the commit leaves out what changed meanwhile, so a
    request for three orders need not wait for a tick over hundreds.
    One tenant after the other: no courier of one carries, or is weighed for, an order of another.
    """

    def __init__(
        self,
        database: Store,
        bus: EventBus,
        eta: EtaClient,
        workers: Workers,
        settings: RouteSettings,
        clock: Clock = time.time,
        timer: Clock = time.monotonic,
    ) -> None:
        self._database = database
        self._bus = bus
        self._eta = eta
        self._workers = workers
        self._settings = settings
        self._clock = clock
        self._timer = timer
        self._pace = Pace()
        # Of a tick: what others wait for while one tenant's orders are allocated.
        self._share_s = settings.allocation_tick_s / 2
        self._at_work = AtWork(settings.courier_silent_s)
        self._one_at_a_time = asyncio.Lock()
        # By tenant. More at once would take from each other what they then look for again.
        self._named: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def any_waiting(self) -> bool:
        """Whether there is an order to allocate."""
        async with self._database.pool.acquire() as conn:
            return await store.any_waiting(conn)

    def again_s(self) -> float | None:
        """In how many seconds a tick is due for whom the last one has passed over; None if for nobody."""
        until = self._pace.passed_over_until
        return None if until is None else max(0.0, until - self._timer())

    async def tick(self) -> Answer | None:
        """Allocates all waiting orders unless somebody else is at it; None then."""
        try:
            return await self._tick(cold=False)
        except _ColdError:
            # Nobody else's allocation is to wait while a process starts.
            await self._workers.warm_up()
            return await self._tick(cold=True)

    async def _tick(self, *, cold: bool) -> Answer | None:
        async with self._database.pool.acquire() as conn:
            tenants = await store.tenants_waiting(conn)
        answer = Answer()
        failed: list[Exception] = []
        for place, tenant in enumerate(self._pace.rested(tenants, self._timer())):
            # A turn for each, so that who asks does not wait for all of them.
            async with self._turn(wait=place > 0) as mine:
                if not mine:
                    return None
                began, own = self._timer(), Answer()
                try:
                    own = await self._allocate(tenant, (), cold=cold, within_s=self._share_s)
                except _ColdError:
                    raise
                except Exception as error:  # one tenant's trouble is not the others'
                    _log.warning("the orders of tenant %s wait on: %s", tenant, type(error).__name__)
                    failed.append(error)
                answer.add(own)
                self._pace.took(tenant, own.weighed, began, self._timer())
        if failed:
            raise failed[0]
        return answer

    async def on_demand(
        self, order_ids: Sequence[str], *, dry_run: bool, limits: RouteLimits = NO_LIMITS
    ) -> Answer:
        """Allocates these orders, or all if none are named; with `dry_run` only says what would be done.

        Those of the tenant at hand, that is: for the mesh, of whoever has the orders named or has orders that
        wait. `limits` go before the default ones. Raises NotFound if the only order named is not known.
        """
        if dry_run or order_ids:
            return await self._of_tenants(order_ids, dry_run=dry_run, limits=limits)
        async with self._turn(wait=True):
            return await self._of_tenants((), dry_run=False, limits=limits)

    async def _of_tenants(self, order_ids: Sequence[str], *, dry_run: bool, limits: RouteLimits) -> Answer:
        allocate_those = (
            self._allocate_named if order_ids and not dry_run else partial(self._allocate, dry_run=dry_run)
        )
        tenant = principal.current().tenant
        if tenant != principal.MESH_TENANT:
            return await allocate_those(tenant, order_ids, limits=limits)
        async with self._database.pool.acquire() as conn:
            named = dict.fromkeys(map(tenant_of, order_ids))
            tenants = list(named) if named else await store.tenants_waiting(conn)
        answer = Answer()
        for each in tenants:
            own = [order_id for order_id in order_ids if tenant_of(order_id) == each]
            answer.add(await allocate_those(each, own, limits=limits))
        return answer

    async def _allocate_named(self, tenant: str, order_ids: Sequence[str], *, limits: RouteLimits) -> Answer:
        """These orders, looked at again while what was found for them goes to others first."""
        places = self._named.setdefault(tenant, asyncio.Semaphore(_AT_ONCE))
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with _share_of_time(_SHARE):
                    await stack.enter_async_context(places)
            except _LateError:
                return await self._as_they_stand(tenant, order_ids)
            for _ in range(_ATTEMPTS):
                answer = await self._allocate(tenant, order_ids, limits=limits)
                if all(waiting.reason != _CHANGED for waiting in answer.waiting):
                    break
        return answer

    async def _as_they_stand(self, tenant: str, order_ids: Sequence[str]) -> Answer:
        """These orders with the couriers they have; those without are left for the next tick."""
        answer = Answer()
        async with self._reading() as conn:
            await _answer_for_others(conn, order_ids, answer)
            rows = await store.waiting_orders(conn, tenant, order_ids, self._settings.allocation_max_orders)
        if rows:
            _leave(answer, [row.order_id for row in rows])
        return answer

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        """A connection that sees everything as of one moment: an order that is given away between two
        statements would be in neither's answer. Raises Unavailable if there is too little time."""
        try:
            async with (
                _share_of_time(_SHARE),
                self._database.pool.acquire() as conn,
                conn.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield conn
        except _LateError:
            raise _no_time("the store has not answered in time") from None

    @contextlib.asynccontextmanager
    async def _turn(self, *, wait: bool) -> AsyncIterator[bool]:
        """The right to allocate all that wait, among the tasks of this process and then among replicas."""
        if not wait and self._one_at_a_time.locked():
            yield False
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with _share_of_time(_SHARE):
                    await stack.enter_async_context(self._one_at_a_time)
                    conn = await stack.enter_async_context(self._database.pool.acquire())
                    # It may be another process that has it.
                    while not (mine := await store_plans.try_lock_allocating(conn)) and wait:  # noqa: ASYNC110
                        await asyncio.sleep(_LOCK_POLL_S)
            except _LateError:
                raise _no_time("other allocations are under way") from None
            try:
                yield mine
            finally:
                # A lost connection has given the lock back already.
                if mine and not conn.is_closed():
                    await store_plans.unlock_allocating(conn)

    async def _allocate(
        self,
        tenant: str,
        order_ids: Sequence[str],
        *,
        dry_run: bool = False,
        cold: bool = True,
        within_s: float | None = None,
        limits: RouteLimits = NO_LIMITS,
    ) -> Answer:
        """One tenant's orders to its couriers.

        With `cold` unset, raises _ColdError where the worker process is needed and is not there. `within_s`
        is what it should take: orders that do not fit are left for the next tick.
        """
        now = self._clock()
        answer = Answer()
        rules = Rules(hold_wait_s=self._settings.hold_wait_s)
        async with self._reading() as conn:
            await _answer_for_others(conn, order_ids, answer)
            view = await self._view(conn, tenant, order_ids, now, limits, within_s, rules)
        answer.weighed = len(view.works)
        if view.left_out:
            _leave(answer, view.left_out)
        answer.waiting += view.nobody
        works = [work for work in view.works if view.listed[work.order_id]]
        if not works:
            return answer
        heavy = (
            sum(map(len, view.listed.values())) > _HEAVY_PAIRS
            # Each further order of a courier makes its route several times as long to plan.
            or max(courier.most_orders for courier in view.couriers.values()) > MAX_ORDERS
        )
        if heavy and not (cold or self._workers.warm):
            raise _ColdError
        pairs = choose_pairs(view.listed, _MAX_PAIRS)
        forecasts, degradation = await self._eta.forecasts(
            [Pair(view.orders[order_id], view.couriers[driver_id]) for order_id, driver_id in pairs], now
        )
        answer.degradation = answer.degradation or degradation
        by = corrections({work.order_id: work for work in works}, view.couriers, forecasts, now)
        left = deadline.remaining()
        heavy = heavy and (self._workers.warm or left is None or left > _COLD_START_S)
        try:
            async with _share_of_time(_LAST_SHARE):
                outcome = await self._workers.run(
                    heavy, allocate, works, list(view.couriers.values()), view.listed, now, by=by, rules=rules
                )
            if dry_run:
                answer.allocations += [allocation(assignment, now) for assignment in outcome.assignments]
            elif outcome.assignments:
                answer.add(await self._stored(view, outcome, now))
        except _LateError:
            _leave(answer, [work.order_id for work in works])
            return answer
        answer.waiting += outcome.waiting
        if answer.allocations and not dry_run:
            _log.info("%d orders have a courier now, %d wait", len(answer.allocations), len(answer.waiting))
        return answer

    async def _view(
        self,
        conn: Connection,
        tenant: str,
        order_ids: Sequence[str],
        now: float,
        limits: RouteLimits,
        within_s: float | None,
        rules: Rules,
    ) -> _View:
        rows = await store.waiting_orders(conn, tenant, order_ids, self._settings.allocation_max_orders)
        left = deadline.remaining()
        times = [time for time in (within_s, None if left is None else left * _SHARE) if time is not None]
        rows, others = choose(rows, min(map(self._pace.fits, times), default=len(rows)))
        left_out = [row.order_id for row in others]
        orders = {row.order_id: from_body(Order, row.body, row.order_id) for row in rows}
        works = [order_work(order) for order in orders.values()]
        fleet = await self._at_work.couriers(conn, tenant, now, limits) if rows else []
        listed = await self._workers.run(False, shortlist, works, fleet, rules.shortlist_size)
        couriers = await loaded(
            conn, fleet, {driver_id for drivers in listed.values() for driver_id in drivers}
        )
        return _View(
            {row.order_id: row for row in rows},
            orders,
            works,
            {courier.driver_id: courier for courier in couriers},
            listed,
            [
                Waiting(work.order_id, nobody(work, fleet, listed=False))
                for work in works
                if not listed[work.order_id]
            ],
            left_out,
        )

    async def _stored(self, view: _View, outcome: Outcome, now: float) -> Answer:
        """What of an outcome holds, which is stored. Raises _LateError if nothing is, for lack of time."""
        # Not around the commit itself, of which nobody would know whether it came before the end.
        async with contextlib.AsyncExitStack() as stack, _share_of_time(_LAST_SHARE):
            conn = await stack.enter_async_context(self._database.transaction())
            return await self._commit(conn, view, outcome, now)

    async def _commit(
        self,
        conn: Connection,
        view: _View,
        outcome: Outcome,
        now: float,
    ) -> Answer:
        """Stores and publishes what still holds. An order or courier that changed meanwhile is left as it
        is."""
        answer = Answer()
        drivers = {assignment.driver_id for assignment in outcome.assignments}
        at_work = await store_plans.lock_couriers_at_work(conn, list(drivers))
        rows = await store.lock_orders(conn, [a.order_id for a in outcome.assignments])
        on_hand: dict[str, set[str]] = {driver_id: set() for driver_id in drivers}
        for row in await store.carried(conn, list(drivers)):
            on_hand[row.driver_id].add(row.order_id)
        steady = {
            driver_id
            for driver_id in at_work
            if on_hand[driver_id] == {order.order_id for order in view.couriers[driver_id].orders}
        }
        given, told, messages = [], [], []
        broken: set[str] = set()
        for assignment in outcome.assignments:
            before, found = view.rows[assignment.order_id], rows.get(assignment.order_id)
            unchanged = found is not None and (found.revision, found.status) == (
                before.revision,
                Status.PLACED,
            )
            if not unchanged or assignment.driver_id not in steady:
                broken.add(assignment.driver_id)
                answer.waiting.append(Waiting(assignment.order_id, _CHANGED))
                continue
            order = Order()
            order.CopyFrom(view.orders[assignment.order_id])
            order.revision += 1
            order.status = ORDER_STATUS_ASSIGNED
            order.driver_id = assignment.driver_id
            said = allocation(assignment, now)
            answer.allocations.append(said)
            given.append(order_write(order))
            told.append((order.order_id, order.driver_id, to_body(said, order.order_id)))
            messages += [announce.order_changed(order), announce.allocated(said, order.revision)]
        if not given:
            return answer
        await store.write_orders(conn, given)
        await store_plans.write_allocations(conn, told)
        plans = [
            plan_write(driver_id, view.couriers[driver_id].position, route.orders, route.plan, now)
            for driver_id, route in outcome.routes.items()
            if driver_id not in broken
        ]
        await store_plans.write_plans(conn, plans)
        await self._bus.publish(conn, messages)
        return answer


@contextlib.asynccontextmanager
async def _share_of_time(share: float) -> AsyncIterator[None]:
    """Raises _LateError within once this share of the time left is over."""
    left = deadline.remaining()
    bound = asyncio.timeout(None if left is None else left * share)
    try:
        async with bound:
            yield
    except TimeoutError:
        if not bound.expired():
            raise
        raise _LateError from None


def _no_time(why: str) -> errors.Unavailable:
    return errors.Unavailable(why, reason=ERROR_REASON_OVERLOADED, retry_after_s=errors.DEFAULT_RETRY_AFTER_S)


def _leave(answer: Answer, order_ids: Sequence[str]) -> None:
    """These orders are for the next tick, which has more time."""
    answer.waiting += (Waiting(order_id, "left for the next tick: too little time") for order_id in order_ids)
    answer.degradation = Degradation(
        source=PARTIAL, reason=f"deadline: {len(order_ids)} orders left for the next tick"
    )


async def _answer_for_others(conn: Connection, order_ids: Sequence[str], answer: Answer) -> None:
    """Orders named that do not wait: those with a courier are told as they stand, so that a repeat of a
    request has the same answer; the others with the reason."""
    if not order_ids:
        return
    rows = await store.orders(conn, order_ids)
    if len(order_ids) == 1 and not rows:
        raise refusals.unknown_order(order_ids[0])
    standing = await store_plans.allocations(conn, [row.order_id for row in rows.values()])
    for order_id in order_ids:
        row = rows.get(order_id)
        if row is None:
            answer.waiting.append(Waiting(order_id, "not known"))
        elif order_id in standing and row.status is Status.ASSIGNED:
            answer.allocations.append(from_body(allocation_pb2.Allocation, standing[order_id], order_id))
        elif row.status is not Status.PLACED:
            answer.waiting.append(Waiting(order_id, f"is {row.status.name.lower()}"))
