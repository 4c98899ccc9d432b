"""Whether intervals still hold what they promise: the share of deliveries between P10 and P90, over the
newest.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome

# 400 outcomes tell a share of 80% from one of 65% with near certainty, even if a few are from each order.
_NEWEST: Final = 400
_ENOUGH: Final = 100
# Outside of these it has drifted, inside of the others it is well again; 80% is what is promised.
_DRIFTED: Final = (0.65, 0.95)
_WELL: Final = (0.72, 0.90)


class Coverage:
    """A window over outcomes."""

    def __init__(self) -> None:
        self._held: deque[bool] = deque(maxlen=_NEWEST)
        self.drifted = False

    @property
    def share(self) -> float:
        """Share of the window's outcomes that fell between P10 and P90; 0 if there is none."""
        return sum(self._held) / max(len(self._held), 1)

    def add(self, outcomes: Iterable[DeliveryOutcome]) -> bool:
        """Take in outcomes, oldest first; true if `drifted` has changed."""
        self._held.extend(one.p10_minutes <= one.actual_minutes <= one.p90_minutes for one in outcomes)
        if len(self._held) < _ENOUGH:
            return False
        low, high = _WELL if self.drifted else _DRIFTED
        before, self.drifted = self.drifted, not low <= self.share <= high
        return before != self.drifted
