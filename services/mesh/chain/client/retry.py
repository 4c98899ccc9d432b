"""Says whether a call is tried again: a failure that may pass, within policy, budget and deadline."""

import random
import time

from services.mesh import deadline, errors
from services.mesh.chain.client.call import ClientCall
from services.mesh.retry import RetryBudget, RetryPolicy, asked_wait_s, refused_unread, retryable


class RetryLink:
    """Unlike the others it has no before and after: the links inside of it run once per attempt."""

    name = "retry"

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._budget = RetryBudget(policy)
        self._rng = rng

    def success(self, n: int) -> None:
        """The call succeeded after `n` retries."""
        if n == 0:
            self._budget.success()

    def wait_s(self, call: ClientCall, error: BaseException, n: int) -> float | None:
        """Seconds until the n-th retry, or None if there is to be none."""
        if n > self._policy.retries or not call.method.idempotent:
            return None
        if not isinstance(error, errors.MeshError) or not retryable(error):
            return None
        if call.permit is not None and call.permit.probe:  # one probe means one
            return None
        free = refused_unread(error)
        wait_s = asked_wait_s(error)
        if wait_s is None:
            wait_s = (self._policy.hand_over_s if free else self._policy.wait_s)(n, self._rng)
        left_s = deadline.remaining()
        if call.own_at is not None:
            own_left_s = call.own_at - time.monotonic()
            left_s = own_left_s if left_s is None else min(left_s, own_left_s)
        if left_s is not None and wait_s + deadline.RESERVE_S >= left_s:
            return None  # the error at hand, now, is worth more than a passed deadline later
        return wait_s if free or self._budget.spend() else None
