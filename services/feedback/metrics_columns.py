"""Outcomes as columns, which is how windows take them in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

# A time that is not there, in `started` and `ended`.
ABSENT: Final = int(np.iinfo(np.int64).min)
# The contract's bounds of milliseconds and of costs. Outcomes of before there were any may be beyond them.
MOST_MS: Final = 1e12
MOST_COST: Final = 1e9


@dataclass(frozen=True, slots=True)
class Columns:
    """Outcomes in the order of their numbers, one per place of each column. Times are Unix microseconds."""

    number: Ints
    at: Ints
    """The outcome's own time."""
    stored_at: Ints
    status: Ints
    """Numbers of OutcomeStatus."""
    severity: Ints
    latency_ms: Floats
    tokens_used: Ints
    cost_estimate: Floats
    started: Ints
    ended: Ints
    agent_name: Sequence[str]
    error_type: Sequence[str]
    """Empty: none; as is workflow_id."""
    workflow_id: Sequence[str]

    def __len__(self) -> int:
        return len(self.number)

    def bounded(self) -> Self:
        """The same with amounts that the contract allows, whatever was stored: sums of them are finite."""
        return replace(
            self,
            latency_ms=_within(self.latency_ms, MOST_MS),
            cost_estimate=_within(self.cost_estimate, MOST_COST),
        )

    def part(self, start: int, end: int) -> Self:
        """Those from `start` to before `end`."""
        return type(self)(*(getattr(self, name)[start:end] for name in self.__slots__))

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Those that are chosen."""
        places = np.flatnonzero(chosen).tolist()

        def of(values: Any) -> Any:
            return values[chosen] if isinstance(values, np.ndarray) else [values[n] for n in places]

        return type(self)(*(of(getattr(self, name)) for name in self.__slots__))


def _within(values: Floats, most: float) -> Floats:
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=most), 0.0, most)
