"""Which writes to an order or a courier are new, which repeat, which are refused. Pure.

A write is known by its id and revision. The same again changes nothing; the same revision with other
content, or an older one that never was, is refused. Revisions are shared between clients and route itself
(an allocation makes a new one), so a client that meets a newer state reads it and writes on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Status(IntEnum):
    """How far an order has come; the numbers are those of waymesh.order.v1.OrderStatus."""

    PLACED = 1
    ASSIGNED = 2
    PICKED_UP = 3
    DELIVERED = 4
    CANCELLED = 5


# Steps may be skipped, since the fixes that would have told of them may be missing. An assigned order may
# go back to waiting; what is picked up can only be delivered; delivered and cancelled orders stay as they
# are.
_NEXT: Final[Mapping[Status, frozenset[Status]]] = {
    Status.PLACED: frozenset(Status),
    Status.ASSIGNED: frozenset(Status),
    Status.PICKED_UP: frozenset({Status.PICKED_UP, Status.DELIVERED}),
    Status.DELIVERED: frozenset(),
    Status.CANCELLED: frozenset(),
}
OPEN: Final = frozenset({Status.PLACED, Status.ASSIGNED, Status.PICKED_UP})
CARRIED: Final = frozenset({Status.ASSIGNED, Status.PICKED_UP})


class Verdict(IntEnum):
    """What becomes of a write."""

    ACCEPT = 0
    DUPLICATE = 1
    CONFLICT = 2
    STALE = 3
    STATUS = 4


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored: the newest revision, its status (orders only), and digests of the revisions so far."""

    revision: int
    status: Status | None
    digests: Mapping[int, bytes]


def judge(known: Known | None, revision: int, digest: bytes, status: Status | None = None) -> Verdict:
    """What becomes of a write of `revision` with content `digest` (and, for an order, `status`)."""
    if known is None:
        return Verdict.ACCEPT
    before = known.digests.get(revision)
    if before is not None:
        return Verdict.DUPLICATE if before == digest else Verdict.CONFLICT
    if revision <= known.revision:
        return Verdict.STALE
    if known.status is not None and status is not None and status not in _NEXT[known.status]:
        return Verdict.STATUS
    return Verdict.ACCEPT


def may_cancel(status: Status) -> bool:
    """Whether an order can still be cancelled: not once somebody carries it or it is over."""
    return status in (Status.PLACED, Status.ASSIGNED)


def holder_fault(status: Status, driver_id: str) -> str:
    """What is wrong with the courier an order names; empty if nothing is."""
    if status is Status.PLACED and driver_id:
        return "must be empty while the order is placed"
    if status in CARRIED and not driver_id:
        return f"must name the courier of an order that is {status.name.lower()}"
    return ""
