"""How far intervals reach, told from how often the last of them held.

Adaptive conformal inference (Gibbs & Candès 2021) by a factor on the distance from the median instead of on
the level, apart for each kind of prediction and each end: an end that is missed more often than one time in
ten moves away a little with each miss, one that is missed less often comes nearer.
"""

from typing import Any, Final

import numpy as np

from services.roads.great_circle import Floats

# P10 and P90 are each to be missed so often.
_MISSES: Final = 0.1
# An outcome's part. Outcomes of one order are alike, and what they teach comes when others are under way: no
# single trip may matter much, but some hundred that are alike do.
_STEP: Final = 0.02
# A factor of two either way. What is off by more is not the reach, but a median that has to be learned.
_FURTHEST: Final = float(np.log(2))


class Reach:
    """Factors on what lies below and above the median, by group and place among the predicted minutes."""

    def __init__(self, groups: int, places: int) -> None:
        # Logarithms: a step out and a step back cancel out.
        self._logs = np.zeros((groups, places, 2))

    def learn(self, group: int, near: Floats, p10: float, p90: float, actual: float) -> None:
        """Take in what became of one prediction, in any unit; `near`: how much of it each place is told.

        One without an interval says nothing.
        """
        if not p10 < p90:
            return
        missed = np.array([actual < p10, actual > p90])
        steps = _STEP * near[:, None] * (missed - _MISSES)
        self._logs[group] = np.clip(self._logs[group] + steps, -_FURTHEST, _FURTHEST)

    def stretched(self, group: int, place: int, quantiles: Floats, median: float) -> Floats:
        """Quantiles, moved away from their median or towards it."""
        below, above = np.exp(self._logs[group, place]).tolist()
        off = quantiles - median
        return np.asarray(median + np.where(off < 0, below, above) * off)

    def dump(self) -> list[list[list[float]]]:
        """The logarithms, for the store."""
        logs: list[list[list[float]]] = np.round(self._logs, 5).tolist()
        return logs

    @classmethod
    def restore(cls, groups: int, places: int, dumped: Any) -> "Reach":
        """What `dump` gave; what it does not know has not been judged yet."""
        reach = cls(groups, places)
        for group, logs in enumerate(dumped[:groups]):
            known = np.asarray(logs, dtype=np.float64).reshape(-1, 2)[:places]
            reach._logs[group, : len(known)] = np.clip(known, -_FURTHEST, _FURTHEST)
        return reach
