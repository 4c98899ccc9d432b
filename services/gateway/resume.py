"""When a stream that broke is begun again: what the mesh's client leaves to whoever reads streams."""

import random

import grpc
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_BREAKER_OPEN, ERROR_REASON_DRAINING

from services.mesh import deadline
from services.mesh.errors import MeshError
from services.mesh.retry import RetryBudget, RetryPolicy, asked_wait_s


class Resume:
    """Whether and when the streams of one target that broke are begun again."""

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._budget = RetryBudget(policy)
        self._rng = rng

    def success(self) -> None:
        """A stream has begun, at the first attempt."""
        self._budget.success()

    def wait_s(self, error: MeshError, n: int) -> float | None:
        """Seconds until the n-th try without an event in between; None if there is to be none."""
        if error.code is not grpc.StatusCode.UNAVAILABLE or n > self._policy.retries:
            return None
        left_s = deadline.remaining()
        if error.reason == ERROR_REASON_DRAINING:  # its successor is there already
            wait_s, free = self._policy.hand_over_s(n, self._rng), True
        elif error.reason == ERROR_REASON_BREAKER_OPEN and error.retry_after_s is not None:
            wait_s, free = error.retry_after_s, False
        else:
            asked_s = asked_wait_s(error)
            wait_s, free = self._policy.wait_s(n, self._rng) if asked_s is None else asked_s, False
        if left_s is not None and wait_s + deadline.RESERVE_S >= left_s:
            return None  # the error at hand, now, is worth more than a passed deadline later
        return wait_s if free or self._budget.spend() else None
