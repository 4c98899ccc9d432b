"""How much of the time each tenant's ticks get: orders that fit a share of it, then a rest. Pure."""

import random
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

# What an allocation takes beside its orders, in seconds.
OVERHEAD_S: Final = 0.1
# What an order takes, in seconds: until it was seen, and at least.
_PER_ORDER_S: Final = 0.01
_LEAST_S: Final = 0.001


class Pace:
    """What ticks took lately. A tenant with more orders than can be carried slows down itself alone.

    It rests as long as its allocation took, so that allocating has half of a process and not all of it while
    hundreds of orders wait for good; and one allocation is no longer than what the others may wait for.
    """

    def __init__(self) -> None:
        self._per_order_s = _PER_ORDER_S
        self._rests: dict[str, float] = {}
        self.passed_over_until: float | None = None
        """When the first of those rests ends that `rested` has passed over last."""

    def fits(self, seconds: float) -> int:
        """How many orders are allocated in so much time; one at least."""
        return max(1, int((seconds - OVERHEAD_S) / self._per_order_s))

    def took(self, tenant: str, orders: int, began: float, ended: float) -> None:
        """A tick over so many of a tenant's orders, on a monotonic clock."""
        self._rests[tenant] = ended + (ended - began)
        if orders:
            seen = max(0.0, ended - began - OVERHEAD_S) / orders
            self._per_order_s = max(_LEAST_S, (self._per_order_s + seen) / 2)

    def rested(self, tenants: Sequence[str], now: float) -> list[str]:
        """Those of them whose turn it may be."""
        self._rests = {tenant: until for tenant, until in self._rests.items() if until > now}
        self.passed_over_until = min(
            (self._rests[each] for each in tenants if each in self._rests), default=None
        )
        return [tenant for tenant in tenants if tenant not in self._rests]


def choose(found: Sequence[T], count: int) -> tuple[list[T], list[T]]:
    """So many of them, and the others; `found` has the most urgent first.

    Half of those chosen are the most urgent. The other half are any: orders that nobody can carry would keep
    all others from being looked at.
    """
    if count >= len(found):
        return list(found), []
    urgent = (count + 1) // 2
    chosen = {*range(urgent), *random.sample(range(urgent, len(found)), count - urgent)}
    return (
        [each for place, each in enumerate(found) if place in chosen],
        [each for place, each in enumerate(found) if place not in chosen],
    )
