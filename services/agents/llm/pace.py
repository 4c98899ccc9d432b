"""Shares the time there is among the models that may be asked.

All of a `complete` ends within 60 s and within the caller's deadline less the reserve in which the caller
makes an answer of its own. A model may use what is left, less what is held back for each model after it: the
time of one call, but no more than an equal share. So with a call's 30 s and two models, 60 s give the first
30 and keep 30; 10 s give 5 and keep 5; 10 s with a call's 2 s give the first 8 and keep 2. What a model does
not use falls to those after it. One whose breaker is open has nothing held back for it.
"""

import time
from typing import Final

from services.mesh import deadline
from services.mesh.deadline import Clock

LONGEST_S: Final = 60.0
# With less than this, asking is not worth what it may cost.
LEAST_CALL_S: Final = 0.02


class Pace:
    """The time of one `complete`."""

    def __init__(self, reserve_s: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        left = deadline.remaining(clock)
        total = LONGEST_S if left is None else min(LONGEST_S, left - reserve_s)
        self.began = clock()
        self._ends = self.began + total

    def left_s(self) -> float:
        """Seconds until all must be over."""
        return self._ends - self._clock()

    def share_s(self, timeout_s: float, after: int) -> float:
        """Seconds for a model with `after` more behind it, all its tries and waits together."""
        left = self.left_s()
        return left - after * min(timeout_s, left / (after + 1))

    def since_ms(self, at: float | None = None) -> float:
        """Milliseconds since `at`, or since the beginning."""
        return (self._clock() - (self.began if at is None else at)) * 1000
